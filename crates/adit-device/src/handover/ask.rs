//! Asking a daemon to reload, over a socket of its own: the language of the UAPI is WireGuard's alone.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::uapi::{Listener, advice, is_deserted, means_nobody, socket_path};

/// Longer than a daemon takes to say no.
const PATIENCE: Duration = Duration::from_secs(30);
/// The folder of the sockets, within that of the UAPI's: there are programs that take each socket there for an
/// interface, whatever its name.
const FOLDER: &str = "adit";
/// How the socket's path ends.
pub(crate) const RELOAD_ENDING: &str = "reload";

/// Makes the daemon of the interface `name` hand over to the program on disk, and waits until that one serves. Returns
/// the identifier of the process that does.
///
/// # Errors
/// There is no such daemon, or it goes on by itself; the error tells why.
pub fn reload(name: &str) -> io::Result<u32> {
    let path = reload_path(name);
    let mut stream = UnixStream::connect(&path).map_err(|error| {
        // A daemon that could not listen there, for instance as an ordinary user, still hears the signal.
        let advice = if means_nobody(&error) && !is_deserted(&socket_path(name)) {
            "; its daemon cannot be asked: if it is Adit, send SIGUSR2 to its process instead".to_owned()
        } else {
            advice(name, &error)
        };
        io::Error::new(error.kind(), format!("{}: {error}{advice}", path.display()))
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            let why = format!("the daemon has not answered within {} s; its log may tell why", PATIENCE.as_secs());
            io::Error::other(why)
        }
        _ => error,
    })?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", pid)) => pid.parse().map_err(|_| io::ErrorKind::InvalidData.into()),
        Some(("error", why)) => Err(io::Error::other(why.to_owned())),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon ended before it said what came of it")),
    }
}

/// Opens the socket for the interface `name`; without it there still is the signal.
pub(crate) fn listen(name: &str) -> Option<Listener> {
    let path = reload_path(name);
    let warn = |error: &io::Error| {
        let path = path.display();
        tracing::warn!(%error, "adit reload is not possible, only SIGUSR2: {path} cannot be made");
    };
    Listener::bind_in_its_folder(&path).inspect_err(warn).ok()
}

/// Where the daemon of the interface `name` is asked to reload.
pub(crate) fn reload_path(name: &str) -> PathBuf {
    socket_path(name).with_file_name(FOLDER).join(format!("{name}.{RELOAD_ENDING}"))
}
