//! Bringing interfaces up and down by their configuration file, as `wg-quick(8)` does, over netlink.
//!
//! [`up`] checks everything before it touches anything, except for names, which are resolved after the commands of
//! `PreUp`; if a step fails it undoes what it did. It differs from `wg-quick` in this: it makes no firewall rules, so
//! where strict reverse-path filtering is on, a default route through the tunnel needs `rp_filter` set to 2; without
//! `MTU`, the interface's fits the way to every endpoint, where that of `wg-quick` fits the widest, and where there is
//! no way to any and no IPv4 default route, the IPv6 one counts, where `wg-quick` takes 1420; and when `up` fails after
//! it has begun to run commands, those that clean up after them are run too (`PreDown` only if `PostUp` had begun).

mod dns;
mod machine;
mod steps;

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::conf::{ConfError, Config, Table};
use crate::netlink::{Netlink, NetlinkError};
use crate::uapi::{self, ClientError};

use machine::Linux;

/// The folder of the files of interfaces that are given by name.
const DIRECTORY: &str = "/etc/wireguard";

/// The least MTU with which a link has IPv6 (RFC 8200, §5).
const IPV6_MTU: u16 = 1280;

/// Starts the daemon of an interface, and returns when it answers. An error of the kind `Other` is that of a daemon
/// which has told by itself why it ended.
pub type Start<'a> = &'a mut dyn FnMut(&str) -> io::Result<()>;

/// An interface and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The interface's name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

impl Location {
    /// From what a user gives: the name of an interface, whose file is then in `/etc/wireguard`, or a file `NAME.conf`.
    ///
    /// # Errors
    /// [`QuickError::Name`].
    pub fn new(argument: &str) -> Result<Self, QuickError> {
        let path = Path::new(argument);
        let is_path = argument.contains('/') || path.extension().is_some_and(|extension| extension == "conf");
        let (name, path) = if is_path {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".conf"));
            let name =
                name.ok_or_else(|| QuickError::Name(format!("found {argument:?}, expected a file NAME.conf")))?;
            (name, path.to_owned())
        } else {
            (argument, Path::new(DIRECTORY).join(format!("{argument}.conf")))
        };
        match crate::name_refusal(name) {
            Some(refusal) => Err(QuickError::Name(refusal)),
            None => Ok(Self { name: name.to_owned(), path }),
        }
    }

    /// The configuration in the file. Warns where others can read it.
    ///
    /// # Errors
    /// [`QuickError::Conf`].
    pub fn read(&self) -> Result<Config, QuickError> {
        let config = Config::read(&self.path)?;
        let is_open = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0);
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if is_open(&self.path) && is_open(folder) {
            let file = self.path.display();
            tracing::warn!("others can read {file}, with the keys in it; to change that: chmod 600 {file}");
        }
        Ok(config)
    }

    /// Keeps others from bringing the interface up or down by this file, until what is returned is dropped. Goes without
    /// where the file cannot be locked, or is not there.
    fn lock(&self) -> Result<Option<fs::File>, QuickError> {
        // It is not waited for who writes to it, if it is a pipe.
        let opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path);
        let Ok(file) = opened else { return Ok(None) };
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Err(QuickError::Busy(self.path.clone())),
            Err(fs::TryLockError::Error(error)) => {
                tracing::debug!(%error, "{} cannot be locked", self.path.display());
                Ok(None)
            }
        }
    }
}

/// Makes an interface as its file says.
///
/// # Errors
/// [`QuickError`]; then nothing is left of it.
pub fn up(location: &Location, start: Start<'_>) -> Result<(), QuickError> {
    let _lock = location.lock()?;
    let config = location.read()?;
    if let Some(mtu) = config.interface.mtu.filter(|&mtu| mtu < IPV6_MTU) {
        let is_v6 = |net: &IpNet| net.addr().is_ipv6();
        if config.interface.table != Table::Off && steps::routes(&config).iter().any(is_v6) {
            return Err(QuickError::Mtu { path: location.path.clone(), mtu });
        }
        if config.interface.addresses.iter().any(is_v6) {
            tracing::warn!("below MTU = {IPV6_MTU} the kernel takes the IPv6 addresses of Address away");
        }
    }
    let name = &location.name;
    steps::up(&mut Linux::open(start)?, name, &config, resolve).map_err(|error| error.of(name))
}

/// Ends an interface that was made by its file.
///
/// # Errors
/// [`QuickError`]; what can be undone has been. So it is, once, where there is no such interface any more since its
/// daemon ended in another way: the name servers and the rules of a default route are removed, and the commands of
/// `PostDown` run.
pub fn down(location: &Location) -> Result<(), QuickError> {
    let _lock = location.lock()?;
    let name = &location.name;
    let config = location.read().inspect_err(|_| {
        if Netlink::open().and_then(|mut netlink| netlink.link(name)).is_ok() {
            tracing::warn!("if it is a tunnel, {name} ends without its file as well, by: ip link delete dev {name}");
        }
    })?;
    let mut no_start = |_: &str| Err(io::ErrorKind::Unsupported.into());
    steps::down(&mut Linux::open(&mut no_start)?, name, &config, |config| replace(&location.path, config))
        .map_err(|error| error.of(name))
}

/// Why an interface was not brought up or down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuickError {
    /// The interface's name, or its file's.
    #[error("{0}")]
    Name(String),
    /// The file.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// Another process.
    #[error("{}: found another `adit up` or `adit down` of this file at work: wait for it, or end it", .0.display())]
    Busy(PathBuf),
    /// The name servers.
    #[error("cannot set the name servers of DNS: {0}; expected the resolvconf of openresolv or systemd-resolved")]
    Dns(String),
    /// A peer's host.
    #[error("cannot resolve the endpoint {endpoint}: {source}")]
    Resolve {
        /// As the file has it.
        endpoint: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The MTU of the file, and IPv6.
    #[error(
        "{}: found MTU = {mtu}, expected {IPV6_MTU} or more, since AllowedIPs have IPv6, which the kernel turns off \
         below that", path.display()
    )]
    Mtu {
        /// The file.
        path: PathBuf,
        /// What it says.
        mtu: u16,
    },
    /// The port of the file is in use.
    #[error("UDP port {0} of ListenPort is in use by another program: see ss -lunp")]
    Port(u16),
    /// There is another route to an allowed IP.
    #[error(
        "there is another route to {net} in table {table}, which AllowedIPs have too: remove it, or make none for them by \
         Table = off"
    )]
    Route {
        /// Where it leads.
        net: IpNet,
        /// The table.
        table: u32,
    },
    /// There is such an interface already.
    #[error("the interface {0} exists already; if it is a tunnel, end it first: adit down {0}")]
    Exists(String),
    /// There is no such interface, or it is not one of WireGuard's.
    #[error("{0} is not the interface of a running WireGuard daemon")]
    Missing(String),
    /// It may be there, but this process may not ask.
    #[error("the daemon of {name} cannot be asked at {}: {source}{}", path.display(), uapi::advice(name, source))]
    Unasked {
        /// The interface.
        name: String,
        /// Of the socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The daemon.
    #[error("{}", why_not_started(name, source))]
    Start {
        /// The interface.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The daemon does not end.
    #[error("the daemon of {0} has not ended though its interface is gone: see its log, or end the process")]
    Stop(String),
    /// Asking the daemon.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Asking the kernel.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Asking the kernel, which knows the interface by its index.
    #[error("{name}: {source}")]
    Link {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: NetlinkError,
    },
    /// A command of the file.
    #[error("{hook} failed: {why}")]
    Hook {
        /// Which one.
        hook: String,
        /// How it ended.
        why: String,
    },
    /// Something else.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The user.
    #[error("interrupted")]
    Interrupted,
}

impl QuickError {
    /// With the interface's name, where it has the index alone.
    fn of(self, name: &str) -> Self {
        match self {
            Self::Netlink(source) => Self::Link { name: name.to_owned(), source },
            named => named,
        }
    }
}

/// A daemon that was started has told by itself why it ended.
fn why_not_started(name: &str, source: &io::Error) -> String {
    match source.get_ref() {
        Some(ended) if source.kind() == io::ErrorKind::Other => format!("{ended}; the reason is given above"),
        Some(why) => why.to_string(),
        None => format!("cannot start the daemon of {name}: {source}"),
    }
}

fn resolve(config: &Config, is_wanted: &dyn Fn() -> bool) -> Result<Vec<Option<SocketAddr>>, QuickError> {
    let resolve = |endpoint: &crate::conf::Endpoint| {
        endpoint.resolve(is_wanted).map_err(|source| QuickError::Resolve { endpoint: endpoint.to_string(), source })
    };
    config.peers.iter().map(|peer| peer.endpoint.as_ref().map(resolve).transpose()).collect()
}

/// Replaces a file such that there is a whole one at any time.
fn replace(path: &Path, config: &Config) -> Result<(), QuickError> {
    // What the user sees as the file may be a link to it.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let new = path.with_extension("conf.new");
    let text: Zeroizing<String> = config.to_text();
    let write = || {
        let _ = fs::remove_file(&new);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&new);
        QuickError::Io { action: format!("save {}", path.display()), source }
    })
}

#[cfg(test)]
mod tests {
    use super::up as up_by;
    use super::*;
    use crate::netlink::testing::in_new_namespace;
    use crate::scratch::Scratch;

    #[test]
    fn a_name_stands_for_a_file_in_the_usual_folder() {
        let location = Location::new("wg0").unwrap();
        assert_eq!((location.name.as_str(), location.path.as_path()), ("wg0", Path::new("/etc/wireguard/wg0.conf")));
        for file in ["/tmp/home.conf", "./home.conf", "home.conf"] {
            let location = Location::new(file).unwrap();
            assert_eq!((location.name.as_str(), location.path.as_path()), ("home", Path::new(file)));
        }
    }

    #[test]
    fn what_names_no_interface_is_refused() {
        for argument in ["", "../wg0", "/tmp/wg0", "/tmp/.conf", "/tmp/name-of-17-letters.conf", "a b", "/tmp/a b.conf"]
        {
            assert!(matches!(Location::new(argument), Err(QuickError::Name(_))), "{argument}");
        }
    }

    #[test]
    fn a_file_by_which_an_interface_is_being_brought_up_or_down_is_left_to_who_does_it() {
        let scratch = Scratch::new();
        let path = scratch.join("no-such.conf");
        fs::write(&path, "[Interface]\n").unwrap();
        let location = Location::new(path.to_str().unwrap()).unwrap();
        let lock = location.lock().unwrap();
        assert!(matches!(up_by(&location, &mut |_| panic!("a daemon is started")), Err(QuickError::Busy(_))));
        assert!(matches!(down(&location), Err(QuickError::Busy(_))));
        drop(lock);
        in_new_namespace(|| assert!(matches!(down(&location), Err(QuickError::Missing(_)))));
    }

    #[test]
    fn an_mtu_below_that_of_ipv6_is_refused_where_there_would_be_ipv6_routes_before_anything_is_touched() {
        let scratch = Scratch::new();
        let path = scratch.join("wg0.conf");
        let location = Location::new(path.to_str().unwrap()).unwrap();
        let peer = format!("[Peer]\nPublicKey = {}\nAllowedIPs", adit::PublicKey::from_bytes([9; 32]).to_base64());
        let up = |text: &str| {
            fs::write(&path, format!("[Interface]\nMTU = 1279\nAddress = 10.0.0.1/24, fd00::1/64\n{text}")).unwrap();
            // It goes on until the daemon is to be started.
            let mut up = Ok(());
            in_new_namespace(|| up = up_by(&location, &mut |_| Err(io::ErrorKind::Other.into())));
            up.unwrap_err()
        };
        let error = up(&format!("{peer} = 10.0.0.0/8, ::/0\n")).to_string();
        assert!(error.contains("wg0.conf: found MTU = 1279, expected 1280 or more"), "{error}");
        for text in ["", &format!("Table = off\n{peer} = ::/0\n"), &format!("{peer} = 0.0.0.0/0\n")] {
            let error = up(text);
            assert!(matches!(error, QuickError::Start { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn an_interface_that_the_kernel_refuses_to_change_is_named() {
        // No interface has this index.
        let refused = Netlink::open().unwrap().set_mtu(i32::MAX as u32, 1420).unwrap_err();
        let said = refused.to_string();
        assert_eq!(QuickError::from(refused).of("wg7").to_string(), format!("wg7: {said}"));
    }

    #[test]
    fn a_daemon_that_could_not_start_has_said_why_and_one_that_was_not_begun_has_not() {
        let said = |source| QuickError::Start { name: "wg7".into(), source }.to_string();
        let ended = said(io::Error::other("the daemon of wg7 could not start (exit status: 1)"));
        assert_eq!(ended, "the daemon of wg7 could not start (exit status: 1); the reason is given above");
        let refused = said(io::Error::new(io::ErrorKind::WouldBlock, "cannot start the daemon of wg7: too many"));
        assert_eq!(refused, "cannot start the daemon of wg7: too many");
        let missing = said(io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(missing, "cannot start the daemon of wg7: No such file or directory (os error 2)");
    }

    #[test]
    fn a_saved_file_is_its_owners_and_whole() {
        let scratch = Scratch::new();
        let path = scratch.join("wg0.conf");
        fs::write(&path, "[Interface]\nMTU = 1280\n").unwrap();
        let mut config = Config::read(&path).unwrap();
        config.interface.mtu = Some(1400);
        replace(&path, &config).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Config::read(&path).unwrap(), config);
        assert!(!path.with_extension("conf.new").exists());
    }
}
