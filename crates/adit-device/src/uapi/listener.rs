//! The listening socket: where it is, who may use it, and whether it is still there.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, inotify};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// Where the sockets of every implementation are.
const DIRECTORY: &str = "/var/run/wireguard";

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The path of the socket of the interface `name`.
pub fn socket_path(name: &str) -> PathBuf {
    directory().join(format!("{name}.sock"))
}

/// The directory of every interface's socket.
pub(super) fn directory() -> &'static Path {
    Path::new(DIRECTORY)
}

/// A listening UAPI socket. Its file is removed when this is dropped, if it was made here and is still the same.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    file: Option<File>,
    is_ours: bool,
}

impl Listener {
    /// Listens on the socket of the interface `name`, for its owner alone.
    ///
    /// # Errors
    /// `AddrInUse` when somebody answers there; any other when the socket cannot be made.
    pub fn bind(name: &str) -> io::Result<Self> {
        let path = socket_path(name);
        Self::bind_in_its_folder(&path).map_err(|error| cannot_be_made(&path, error))
    }

    /// The same as [`Listener::bind_at`], in a folder that is made if need be, with mode 0755, and taken as it is if
    /// not.
    pub(crate) fn bind_in_its_folder(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        }
        Self::bind_at(path)
    }

    /// Listens on a socket at `path`, for its owner alone, and replaces a socket there on which nobody listens.
    ///
    /// # Errors
    /// `AddrInUse` when somebody answers there; any other when the socket cannot be made.
    pub fn bind_at(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // The file gets the mode of the socket: there is no moment in which others could open it.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        let address = SockAddr::unix(path)?;
        match socket.bind(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path, &address)?;
                socket.bind(&address)?;
            }
            result => result?,
        }
        // Whatever fails from here on, the file that was made does not stay.
        let file = File::watch(path).inspect_err(|_| drop(fs::remove_file(path)))?;
        let listener = Self { socket: OwnedFd::from(socket).into(), file: Some(file), is_ours: true };
        SockRef::from(&listener).listen(BACKLOG)?;
        Ok(listener)
    }

    /// Takes over a socket on which somebody else has made the kernel listen. Its file is left when this is dropped.
    ///
    /// # Errors
    /// `InvalidInput` when it is no listening Unix socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let socket = SockRef::from(&fd);
        if !(matches!(socket.domain(), Ok(Domain::UNIX)) && matches!(socket.is_listener(), Ok(true))) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the file that was handed over is no listening Unix socket",
            ));
        }
        let socket = UnixListener::from(fd);
        let file = match socket.local_addr()?.as_pathname() {
            Some(path) => File::watch(path).ok(),
            None => None,
        };
        Ok(Self { socket, file, is_ours: false })
    }

    /// The file that is removed when this is dropped, if any is.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().filter(|_| self.is_ours).map(|file| file.path.as_path())
    }

    /// The socket's file, whoever removes it.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// Takes charge of the socket's file: it is removed when this is dropped.
    pub(crate) fn own(&mut self) {
        self.is_ours = true;
    }

    /// Leaves the socket's file to another process.
    pub(crate) fn let_go(&mut self) {
        self.is_ours = false;
    }

    /// Whether the socket's file is gone or has been replaced, so that nobody can reach this one any more.
    pub fn is_deleted(&self) -> bool {
        self.file.as_ref().is_some_and(|file| !file.is_there())
    }

    /// A descriptor that becomes readable when [`Listener::is_deleted`] should be asked, if there is one.
    pub(super) fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref()?.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Whether there is a file, and no event will tell that it is gone.
    pub(super) fn is_unwatched(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.inotify.is_none())
    }

    /// Forgets why [`Listener::watch`] was readable.
    pub(super) fn drain_watch(&self) {
        let mut bytes = [0; 1024];
        if let Some(watch) = self.watch() {
            while matches!(rustix::io::read(watch, &mut bytes), Ok(1..)) {}
        }
    }

    /// Whether a connection waits.
    pub(crate) fn has_waiting(&self) -> bool {
        is_readable(&self.socket)
    }

    /// A connection that waits, made non-blocking.
    pub(crate) fn accept(&self) -> io::Result<mio::net::UnixStream> {
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        Ok(mio::net::UnixStream::from_std(stream))
    }

    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = self.file.as_ref().filter(|file| self.is_ours && file.is_there()) {
            // Nothing more can be done about a file that stays: the next one to listen replaces it.
            let _ = fs::remove_file(&file.path);
        }
    }
}

/// Whether there is something to read or to accept.
pub(super) fn is_readable(file: &impl AsFd) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// The socket's file, known by its inode.
#[derive(Debug)]
struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Without it (there may be no more of them) the file is looked at now and then.
    inotify: Option<OwnedFd>,
}

impl File {
    fn watch(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        let inotify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok();
        // A socket in use outlives its name: what is seen is that its link count changes.
        let events = inotify::WatchFlags::ATTRIB | inotify::WatchFlags::DELETE_SELF | inotify::WatchFlags::MOVE_SELF;
        let inotify = inotify.filter(|inotify| inotify::add_watch(inotify, path, events).is_ok());
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino(), inotify })
    }

    /// A file that may not be looked at, since somebody has closed the folder, is taken to be there: clients that may
    /// enter the folder still reach it.
    fn is_there(&self) -> bool {
        match fs::symlink_metadata(&self.path) {
            Ok(now) => (now.dev(), now.ino()) == (self.device, self.inode),
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }
}

/// The error of making an interface's socket, with the path, and what to do about it.
fn cannot_be_made(path: &Path, error: io::Error) -> io::Error {
    // One of our own tells the path already.
    if error.raw_os_error().is_none() {
        return error;
    }
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "; run it as root, or hand a socket over (WG_UAPI_FD)",
        _ => "",
    };
    io::Error::new(error.kind(), format!("{} cannot be made: {error}{advice}", path.display()))
}

/// Removes a socket on which nobody listens.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let in_use = |what: &str| io::Error::new(io::ErrorKind::AddrInUse, format!("{} {what}", path.display()));
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(in_use("is no socket and is left alone"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose queue is full would make connecting wait.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(in_use("is in use: another program answers there")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;
    use crate::refused::refuse;
    use crate::scratch::Scratch;

    #[test]
    fn a_socket_that_cannot_be_looked_for_is_not_taken_for_deleted() {
        let scratch = Scratch::new();
        let folder = scratch.join("run");
        fs::create_dir(&folder).unwrap();
        let listener = Listener::bind_at(&folder.join("wg0.sock")).unwrap();
        fs::rename(&folder, scratch.join("elsewhere")).unwrap();
        assert!(listener.is_deleted());
        // A way that leads nowhere stands for one that is closed, which it never is to root.
        std::os::unix::fs::symlink(&folder, &folder).unwrap();
        assert!(!listener.is_deleted());
        fs::remove_file(&folder).unwrap();
        fs::write(&folder, "").unwrap();
        assert!(listener.is_deleted(), "no folder any more");
    }

    #[test]
    fn the_socket_is_its_owners_and_goes_with_the_listener() {
        let scratch = Scratch::new();
        let path = scratch.join("wg0.sock");
        let listener = Listener::bind_at(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_nobody_listens_on_is_replaced_and_one_in_use_is_not() {
        let scratch = Scratch::new();
        let path = scratch.join("wg0.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = Listener::bind_at(&path).unwrap();
        assert_eq!(Listener::bind_at(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        drop(listener);
    }

    #[test]
    fn a_socket_that_cannot_be_made_is_named_and_who_lacks_permission_is_told_what_to_do() {
        let said = |errno| cannot_be_made(&socket_path("wg7"), io::Error::from_raw_os_error(errno)).to_string();
        assert_eq!(
            said(libc::EACCES),
            "/var/run/wireguard/wg7.sock cannot be made: Permission denied (os error 13); run it as root, or hand a \
             socket over (WG_UAPI_FD)"
        );
        assert_eq!(
            said(libc::EROFS),
            "/var/run/wireguard/wg7.sock cannot be made: Read-only file system (os error 30)"
        );
        let in_use = cannot_be_made(Path::new("a"), io::Error::new(io::ErrorKind::AddrInUse, "a is in use"));
        assert_eq!(in_use.to_string(), "a is in use");
    }

    #[test]
    fn a_socket_on_which_nothing_can_listen_or_that_cannot_be_looked_at_leaves_no_file() {
        for (call, argument, value) in [(libc::SYS_listen, 1, BACKLOG), (libc::SYS_statx, 0, libc::AT_FDCWD)] {
            let scratch = Scratch::new();
            let path = scratch.join("wg0.sock");
            let refused = thread::scope(|scope| {
                let bind = || {
                    refuse(call, argument, value, libc::ENOMEM);
                    Listener::bind_at(&path).map(drop).unwrap_err()
                };
                scope.spawn(bind).join().unwrap()
            });
            assert_eq!(refused.raw_os_error(), Some(libc::ENOMEM));
            assert!(fs::symlink_metadata(&path).is_err(), "call {call}");
        }
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let scratch = Scratch::new();
        let path = scratch.join("wg0.sock");
        fs::write(&path, "mine").unwrap();
        assert_eq!(Listener::bind_at(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn somebody_elses_new_socket_is_not_removed() {
        let scratch = Scratch::new();
        let path = scratch.join("wg0.sock");
        let first = Listener::bind_at(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Listener::bind_at(&path).unwrap();
        assert!(first.is_deleted() && !second.is_deleted());
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn an_inherited_socket_is_taken_and_its_file_left() {
        let scratch = Scratch::new();
        let path = scratch.join("wg0.sock");
        let listener = Listener::from_fd(UnixListener::bind(&path).unwrap().into()).unwrap();
        assert!(!listener.is_deleted());
        drop(listener);
        fs::remove_file(path).unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        assert_eq!(Listener::from_fd(stream.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
