//! Telling a service manager how the daemon is: the protocol of `sd_notify(3)` and `sd_listen_fds(3)`.
//!
//! A few lines over a datagram socket. It is opened at the start and kept, since a confined process opens no way to the
//! outside any more; the libraries that there are open it for each word.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::inherited::take_fd;

/// The number of the first file descriptor that a service manager hands over.
const FIRST_FD: RawFd = 3;
/// More than any unit hands over.
const MAX_FDS: RawFd = 64;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier(UnixDatagram);

impl Notifier {
    /// The service manager that has started this process and waits to be told, by `NOTIFY_SOCKET`; `None` if none does.
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
        // Whoever does not listen must not hold a tunnel up.
        socket.set_nonblocking(true)?;
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

    /// This process is the service now, or another one of the service is.
    pub fn main_pid(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}"));
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

/// The listening UAPI socket that a service manager hands over: the one that `LISTEN_FDNAMES` calls `uapi`, or the only
/// one. To be called before the program opens files of its own, as [`take_fd`].
///
/// # Errors
/// Sockets are handed over, and it is not clear which it is, or it is not open.
pub fn activated_socket() -> io::Result<Option<OwnedFd>> {
    let variable = |name| env::var(name).ok();
    let Some(number) =
        activated(std::process::id(), variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"))?
    else {
        return Ok(None);
    };
    take_fd(number).map(Some)
}

fn activated(
    pid: u32,
    listen_pid: Option<String>,
    listen_fds: Option<String>,
    names: Option<String>,
) -> io::Result<Option<RawFd>> {
    // Variables that a parent was given, and left in the environment, are not meant for this process.
    if listen_pid.and_then(|value| value.parse::<u32>().ok()) != Some(pid) {
        return Ok(None);
    }
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
    let count = listen_fds.unwrap_or_default();
    let count = count.parse::<RawFd>().ok().filter(|count| (0..=MAX_FDS).contains(count));
    let count = count.ok_or_else(|| invalid("LISTEN_FDS: expected the number of sockets handed over".to_owned()))?;
    if count == 0 {
        return Ok(None);
    }
    let names = names.unwrap_or_default();
    match names.split(':').take(count.unsigned_abs() as usize).position(|name| name == "uapi") {
        Some(index) => Ok(RawFd::try_from(index).ok().map(|index| FIRST_FD + index)),
        None if count == 1 => Ok(Some(FIRST_FD)),
        None => {
            Err(invalid(format!("{count} sockets are handed over, and LISTEN_FDNAMES calls none of them \"uapi\"")))
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pid: &str, fds: &str, names: Option<&str>) -> Result<Option<RawFd>, String> {
        activated(7, Some(pid.to_owned()), Some(fds.to_owned()), names.map(str::to_owned))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_socket_called_uapi_or_the_only_one_is_taken() {
        assert_eq!(found("7", "1", None), Ok(Some(3)));
        assert_eq!(found("7", "1", Some("adit@wg0.socket")), Ok(Some(3)));
        assert_eq!(found("7", "3", Some("a:uapi:b")), Ok(Some(4)));
        assert!(found("7", "2", Some("a:b")).unwrap_err().contains("uapi"));
        assert!(found("7", "2", Some("a:b:uapi")).is_err(), "a name without a socket");
    }

    #[test]
    fn what_is_meant_for_another_process_or_is_no_number_is_not_taken() {
        assert_eq!(found("8", "1", None), Ok(None));
        assert_eq!(activated(7, None, Some("1".to_owned()), None).unwrap(), None);
        assert_eq!(found("7", "0", None), Ok(None));
        for wrong in ["", "-1", "many", "99999999999"] {
            assert!(found("7", wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_word_is_one_datagram_in_the_managers_language() {
        let path = env::temp_dir().join(format!("adit-notify-{}", std::process::id()));
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
            notifier.main_pid(42);
            assert_eq!(heard(), "MAINPID=42");
            notifier.stopping();
            assert!(heard().starts_with("STOPPING=1\n"));
        }
        std::fs::remove_file(path).unwrap();
    }
}
