//! Telling a service manager about the daemon's state: the protocol of `sd_notify(3)` and `sd_listen_fds(3)`.
//!
//! It is a few lines over a datagram socket. The socket is opened at the start and kept, since a confined process
//! cannot open one later; the libraries that exist open it for each message.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use socket2::SockRef;

use crate::handover::RELOAD_ENDING;
use crate::inherited::take_fd;

/// The number of the first file descriptor that a service manager hands over.
const FIRST_FD: RawFd = 3;
/// How long to wait while there is no room for a message.
const PATIENCE: Duration = Duration::from_secs(3);
/// More than any unit hands over.
const MAX_FDS: RawFd = 64;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier(UnixDatagram);

impl Notifier {
    /// The service manager (`NOTIFY_SOCKET`) that has started this process and waits to be told; `None` if there is
    /// none.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn from_env() -> io::Result<Option<Self>> {
        env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()).map(|address| Self::to(&address)).transpose()
    }

    /// The one at this address: a path, or `@` and an abstract name.
    fn to(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // While many services start there may be no room for a moment; but a manager that does not listen must not hold
        // a tunnel up.
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// The interface is there, and can be configured and used.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// Another process is about to take over, or has begun to.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=Handing over"));
    }

    /// The daemon is about to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Ending");
    }

    fn tell(&self, words: &str) {
        if let Err(error) = self.0.send(words.as_bytes()) {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}

/// What a service manager listens on for a daemon.
#[derive(Debug, Default)]
pub struct Activated {
    /// The UAPI socket.
    pub uapi: Option<OwnedFd>,
    /// Where reloads are asked for.
    pub reload: Option<OwnedFd>,
}

/// The listening sockets that a service manager hands over: those that `LISTEN_FDNAMES` calls `uapi` (all sockets of a
/// unit have one name), or the only one. The one for reloads is known by its path, which ends in `.reload`. Like
/// [`take_fd`], to be called before the program opens files of its own.
///
/// # Errors
/// Sockets are handed over, and it is not clear which is which, or one is not open.
pub fn activated_sockets() -> io::Result<Activated> {
    let variable = |name| env::var(name).ok();
    let numbers =
        activated(std::process::id(), variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"))?;
    let sockets = numbers.into_iter().map(take_fd).collect::<io::Result<_>>()?;
    sort(sockets)
}

fn sort(sockets: Vec<OwnedFd>) -> io::Result<Activated> {
    let mut sorted = Activated::default();
    for socket in sockets {
        let path = SockRef::from(&socket).local_addr().ok().and_then(|address| Some(address.as_pathname()?.to_owned()));
        let is_for_reloads = path.is_some_and(|path| path.extension() == Some(OsStr::new(RELOAD_ENDING)));
        let place = if is_for_reloads { &mut sorted.reload } else { &mut sorted.uapi };
        if place.replace(socket).is_some() {
            return Err(invalid("several sockets are handed over for the same purpose".to_owned()));
        }
    }
    Ok(sorted)
}

fn activated(
    pid: u32,
    listen_pid: Option<String>,
    listen_fds: Option<String>,
    names: Option<String>,
) -> io::Result<Vec<RawFd>> {
    // Variables that a parent was given, and left in the environment, are not meant for this process.
    if listen_pid.and_then(|value| value.parse::<u32>().ok()) != Some(pid) {
        return Ok(Vec::new());
    }
    let count = listen_fds.unwrap_or_default();
    let count = count.parse::<RawFd>().ok().filter(|count| (0..=MAX_FDS).contains(count));
    let count = count.ok_or_else(|| invalid("LISTEN_FDS: expected the number of sockets handed over".to_owned()))?;
    let names = names.unwrap_or_default();
    let called = names.split(':').zip(FIRST_FD..FIRST_FD + count).filter(|(name, _)| *name == "uapi");
    let numbers: Vec<RawFd> = called.map(|(_, number)| number).collect();
    match (numbers.is_empty(), count) {
        (true, 1) => Ok(vec![FIRST_FD]),
        (true, 2..) => {
            Err(invalid(format!("{count} sockets are handed over, and LISTEN_FDNAMES calls none of them \"uapi\"")))
        }
        _ => Ok(numbers),
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::scratch::Scratch;

    fn found(pid: &str, fds: &str, names: Option<&str>) -> Result<Vec<RawFd>, String> {
        activated(7, Some(pid.to_owned()), Some(fds.to_owned()), names.map(str::to_owned))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_sockets_called_uapi_or_the_only_one_are_taken() {
        assert_eq!(found("7", "1", None), Ok(vec![3]));
        assert_eq!(found("7", "1", Some("adit@wg0.socket")), Ok(vec![3]));
        assert_eq!(found("7", "3", Some("a:uapi:b")), Ok(vec![4]));
        assert_eq!(found("7", "3", Some("uapi:a:uapi")), Ok(vec![3, 5]));
        assert!(found("7", "2", Some("a:b")).unwrap_err().contains("uapi"));
        assert!(found("7", "2", Some("a:b:uapi")).is_err(), "a name without a socket");
    }

    #[test]
    fn what_is_meant_for_another_process_or_is_no_number_is_not_taken() {
        assert_eq!(found("8", "1", None), Ok(vec![]));
        assert_eq!(activated(7, None, Some("1".to_owned()), None).unwrap(), vec![]);
        assert_eq!(found("7", "0", None), Ok(vec![]));
        for wrong in ["", "-1", "many", "99999999999"] {
            assert!(found("7", wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_socket_for_reloads_is_known_by_its_path() {
        let folder = Scratch::new();
        let listen = |name: &str| OwnedFd::from(UnixListener::bind(folder.join(name)).unwrap());
        let path = |socket: Option<OwnedFd>| {
            let address = UnixListener::from(socket.unwrap()).local_addr().unwrap();
            address.as_pathname().unwrap().file_name().unwrap().to_owned()
        };
        let both = sort(vec![listen("wg0.reload"), listen("wg0.sock")]).unwrap();
        assert_eq!((path(both.uapi), path(both.reload)), ("wg0.sock".into(), "wg0.reload".into()));
        let one = sort(vec![listen("uapi")]).unwrap();
        assert!(one.reload.is_none() && path(one.uapi) == "uapi");
        assert!(sort(vec![listen("a.sock"), listen("b.sock")]).is_err());
    }

    #[test]
    fn every_word_is_one_datagram_in_the_managers_language() {
        let folder = Scratch::new();
        let path = folder.join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let abstract_name = format!("adit-notify-{}", std::process::id());
        let hidden = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
        for (manager, address) in
            [(manager, path.clone().into_os_string()), (hidden, format!("@{abstract_name}").into())]
        {
            let heard = || {
                let mut buffer = [0; 512];
                let len = manager.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..len].to_vec()).unwrap()
            };
            let notifier = Notifier::to(&address).unwrap();
            notifier.ready("wg0\nREADY=0");
            assert_eq!(heard(), "READY=1\nSTATUS=wg0 READY=0");
            notifier.reloading();
            let words = heard();
            assert!(words.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{words}");
            notifier.stopping();
            assert!(heard().starts_with("STOPPING=1\n"));
        }
    }
}
