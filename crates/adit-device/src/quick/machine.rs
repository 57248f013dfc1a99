//! What bringing interfaces up and down needs of the machine, so that the steps can be tested without one.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{QuickError, Start, dns};
use crate::config::{DeviceState, DeviceUpdate};
use crate::handover;
use crate::netlink::{Netlink, Route, RouteLookup, Rule};
use crate::uapi::reply::ReplyError;
use crate::uapi::{Client, ClientError, means_nobody, socket_path};

/// The environment variable that holds a hook for the shell that runs it.
const HOOK: &str = "ADIT_HOOK";

/// How long a daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

const SRC_VALID_MARK: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";

/// The machine. Interfaces are identified by their index.
pub(super) trait Machine {
    /// An error once the user has asked to end this.
    fn check_interrupted(&self) -> Result<(), QuickError>;
    fn exists(&mut self, name: &str) -> Result<bool, QuickError>;
    /// Whether an interface that is missing was not ended by [`stop`](Self::stop): a mark is left of it then, or a
    /// socket's file, on which nobody listens. Removes both.
    fn take_remains(&mut self, name: &str) -> bool;
    /// Makes the interface, by starting its daemon.
    fn start(&mut self, name: &str) -> Result<u32, QuickError>;
    /// The index of an interface whose daemon answers.
    fn find(&mut self, name: &str) -> Result<u32, QuickError>;
    /// Removes the interface and waits for the end of its daemon.
    fn stop(&mut self, name: &str, index: u32) -> Result<(), QuickError>;
    fn configure(&mut self, name: &str, update: &DeviceUpdate) -> Result<(), QuickError>;
    fn state(&mut self, name: &str) -> Result<DeviceState, QuickError>;
    fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), QuickError>;
    fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, QuickError>;
    /// The MTU of the way to an address, if there is one.
    fn mtu_towards(&mut self, address: IpAddr, mark: u32) -> Option<u32>;
    /// The MTU of the default route, if there is one.
    fn default_mtu(&mut self) -> Option<u32>;
    fn mtu(&mut self, index: u32) -> Result<u32, QuickError>;
    fn set_mtu_and_up(&mut self, index: u32, mtu: u32) -> Result<(), QuickError>;
    /// Whether name servers can be set.
    fn check_dns(&mut self) -> Result<(), QuickError>;
    fn set_dns(&mut self, name: &str, words: &[String]) -> Result<(), QuickError>;
    fn unset_dns(&mut self, name: &str) -> Result<(), QuickError>;
    /// Whether there is any route in a table.
    fn is_in_use(&mut self, table: u32) -> Result<bool, QuickError>;
    fn routes(&mut self, table: u32) -> Result<Vec<Route>, QuickError>;
    fn add_route(&mut self, route: &Route) -> Result<(), QuickError>;
    fn rules(&mut self, v6: bool) -> Result<Vec<Rule>, QuickError>;
    fn add_rule(&mut self, rule: &Rule) -> Result<(), QuickError>;
    fn remove_rule(&mut self, rule: &Rule) -> Result<(), QuickError>;
    /// Sets whether the mark counts when the kernel checks the source of IPv4 packets; returns whether it did before.
    fn set_src_valid_mark(&mut self, on: bool) -> Result<bool, QuickError>;
    fn run_hook(&mut self, name: &str, hook: &str, command: &str) -> Result<(), QuickError>;
}

/// This machine, in the network namespace of the thread that opened it.
pub(super) struct Linux<'a> {
    netlink: Netlink,
    start: Start<'a>,
    signals: Signals,
}

impl<'a> Linux<'a> {
    pub(super) fn open(start: Start<'a>) -> Result<Self, QuickError> {
        Ok(Self { netlink: Netlink::open()?, start, signals: Signals::watch()? })
    }

    fn mtu_of(&mut self, route: &RouteLookup) -> Option<u32> {
        route.mtu.or_else(|| Some(self.netlink.link_by_index(route.ifindex).ok()?.mtu))
    }
}

impl Machine for Linux<'_> {
    fn check_interrupted(&self) -> Result<(), QuickError> {
        if self.signals.arrived.load(Ordering::Relaxed) { Err(QuickError::Interrupted) } else { Ok(()) }
    }

    fn exists(&mut self, name: &str) -> Result<bool, QuickError> {
        match self.netlink.link(name) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(UnixStream::connect(socket_path(name)).is_ok()),
            Err(error) => Err(error.into()),
        }
    }

    fn take_remains(&mut self, name: &str) -> bool {
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        let was_left = |path: PathBuf| UnixStream::connect(&path).is_err_and(refused) && fs::remove_file(path).is_ok();
        let [was_killed, _] = [socket_path(name), handover::reload_path(name)].map(was_left);
        fs::remove_file(mark_file(name)).is_ok() || was_killed
    }

    fn start(&mut self, name: &str) -> Result<u32, QuickError> {
        (self.start)(name).map_err(|source| QuickError::Start { name: name.to_owned(), source })?;
        match self.netlink.link(name) {
            Ok(link) => {
                if let Err(error) = make_mark(name) {
                    let mark = mark_file(name);
                    tracing::warn!(%error, "without {} nothing is cleaned up should the daemon end", mark.display());
                }
                Ok(link.index)
            }
            Err(error) => {
                // The daemon ends when its socket is gone.
                let _ = fs::remove_file(socket_path(name));
                Err(error.into())
            }
        }
    }

    fn find(&mut self, name: &str) -> Result<u32, QuickError> {
        let missing = || QuickError::Missing(name.to_owned());
        let path = socket_path(name);
        match UnixStream::connect(&path) {
            Err(error) if means_nobody(&error) => return Err(missing()),
            Err(source) => return Err(QuickError::Unasked { name: name.to_owned(), path, source }),
            Ok(_) => {}
        }
        match self.netlink.link(name) {
            Err(error) if error.is_not_found() => Err(missing()),
            link => Ok(link?.index),
        }
    }

    fn stop(&mut self, name: &str, index: u32) -> Result<(), QuickError> {
        let _ = fs::remove_file(mark_file(name));
        // This connection carries nothing, but the daemon closes it when it ends.
        let connection = UnixStream::connect(socket_path(name));
        match self.netlink.delete_link(index) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        let Ok(mut connection) = connection else { return Ok(()) };
        let action = || format!("wait for the daemon of {name}");
        connection.set_read_timeout(Some(PATIENCE)).map_err(|source| QuickError::Io { action: action(), source })?;
        match connection.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(QuickError::Stop(name.to_owned())),
            _ => Ok(()),
        }
    }

    fn configure(&mut self, name: &str, update: &DeviceUpdate) -> Result<(), QuickError> {
        match (Client::connect(name)?.set(update), update.listen_port) {
            (Err(ClientError::Reply { source: ReplyError::Refused(libc::EADDRINUSE), .. }), Some(port)) => {
                Err(QuickError::Port(port))
            }
            (result, _) => Ok(result?),
        }
    }

    fn state(&mut self, name: &str) -> Result<DeviceState, QuickError> {
        Ok(Client::connect(name)?.get()?)
    }

    fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), QuickError> {
        Ok(self.netlink.add_address(index, address, false)?)
    }

    fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, QuickError> {
        Ok(self.netlink.addresses(index)?)
    }

    fn mtu_towards(&mut self, address: IpAddr, mark: u32) -> Option<u32> {
        let route = self.netlink.route_to(address, mark).ok()?;
        self.mtu_of(&route)
    }

    fn default_mtu(&mut self) -> Option<u32> {
        let route = self.netlink.default_route().ok()??;
        self.mtu_of(&route)
    }

    fn mtu(&mut self, index: u32) -> Result<u32, QuickError> {
        Ok(self.netlink.link_by_index(index)?.mtu)
    }

    fn set_mtu_and_up(&mut self, index: u32, mtu: u32) -> Result<(), QuickError> {
        self.netlink.set_mtu(index, mtu)?;
        Ok(self.netlink.set_up(index, true)?)
    }

    fn check_dns(&mut self) -> Result<(), QuickError> {
        dns::check()
    }

    fn set_dns(&mut self, name: &str, words: &[String]) -> Result<(), QuickError> {
        dns::set(name, words)
    }

    fn unset_dns(&mut self, name: &str) -> Result<(), QuickError> {
        dns::unset(name)
    }

    fn is_in_use(&mut self, table: u32) -> Result<bool, QuickError> {
        Ok(self.netlink.has_routes(table)?)
    }

    fn routes(&mut self, table: u32) -> Result<Vec<Route>, QuickError> {
        Ok(self.netlink.routes(table)?)
    }

    fn add_route(&mut self, route: &Route) -> Result<(), QuickError> {
        Ok(self.netlink.add_route(route)?)
    }

    fn rules(&mut self, v6: bool) -> Result<Vec<Rule>, QuickError> {
        Ok(self.netlink.rules(v6)?)
    }

    fn add_rule(&mut self, rule: &Rule) -> Result<(), QuickError> {
        Ok(self.netlink.add_rule(rule)?)
    }

    fn remove_rule(&mut self, rule: &Rule) -> Result<(), QuickError> {
        Ok(self.netlink.remove_rule(rule)?)
    }

    fn set_src_valid_mark(&mut self, on: bool) -> Result<bool, QuickError> {
        let failed = |source| QuickError::Io { action: format!("set {SRC_VALID_MARK}"), source };
        let was_on = fs::read_to_string(SRC_VALID_MARK).map_err(failed)?.trim() != "0";
        if was_on != on {
            fs::write(SRC_VALID_MARK, if on { "1" } else { "0" }).map_err(failed)?;
        }
        Ok(was_on)
    }

    fn run_hook(&mut self, name: &str, hook: &str, command: &str) -> Result<(), QuickError> {
        let failed = |why: String| QuickError::Hook { hook: hook.to_owned(), why };
        match run_in_shell(name, command) {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(failed(status.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// Runs a command of an interface's file as wg-quick does: in bash, with the interface's name in `INTERFACE`, and no
/// further than to the first command that fails.
fn run_in_shell(name: &str, command: &str) -> io::Result<ExitStatus> {
    // A hook may hold keys. Everybody can read a command line, but only the user an environment.
    let run = |shell: &str, options: &[&str]| {
        let unset_and_run = format!("hook=${HOOK}; unset {HOOK}; eval \"$hook\"");
        let mut shell = Command::new(shell);
        shell.args(options).arg("-c").arg(unset_and_run).env(HOOK, command).env("INTERFACE", name).status()
    };
    match run("bash", &["-e", "-o", "pipefail", "-O", "extglob"]) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => run("sh", &["-e"]),
        result => result,
    }
}

/// The file that stands for an interface from its start until it is ended: beside its socket, which the daemon takes
/// along whatever ends it.
fn mark_file(name: &str) -> PathBuf {
    socket_path(name).with_extension("up")
}

/// Never through a link, which in a service's folder might be of the service's making.
fn make_mark(name: &str) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(mark_file(name)) {
        // Of a daemon that ended in another way.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

/// While this lives, signals by which the user ends this are only remembered, so that none ends it in the middle of a
/// step.
struct Signals {
    arrived: Arc<AtomicBool>,
    registered: Vec<SigId>,
}

impl Signals {
    fn watch() -> Result<Self, QuickError> {
        let mut signals = Self { arrived: Arc::new(AtomicBool::new(false)), registered: Vec::new() };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let id = signal_hook::flag::register(signal, Arc::clone(&signals.arrived))
                .map_err(|source| QuickError::Io { action: "watch for signals".into(), source })?;
            signals.registered.push(id);
        }
        Ok(signals)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for &id in &self.registered {
            signal_hook::low_level::unregister(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::in_new_namespace;

    #[test]
    fn the_mtu_of_a_default_route_counts_more_than_that_of_its_link() {
        in_new_namespace(|| {
            let mut netlink = Netlink::open().unwrap();
            netlink.create_veth("a", "b", None).unwrap();
            for name in ["a", "b"] {
                let index = netlink.link(name).unwrap().index;
                netlink.set_up(index, true).unwrap();
            }
            let mut start = |_: &str| Ok(());
            let mut linux = Linux::open(&mut start).unwrap();
            assert_eq!(linux.default_mtu(), None);
            for (command, mtu) in [
                ("-6 route add default dev b mtu 1380", 1380),
                ("route add unreachable default", 1380),
                ("route replace default dev a", 1500),
                ("route replace default dev a mtu 1400", 1400),
                ("route replace default mtu 1300 nexthop dev a nexthop dev b", 1300),
            ] {
                assert!(Command::new("ip").args(command.split(' ')).status().unwrap().success(), "{command}");
                assert_eq!(linux.default_mtu(), Some(mtu), "{command}");
            }
        });
    }

    #[test]
    fn a_hook_goes_no_further_than_to_its_first_command_that_fails() {
        assert!(
            run_in_shell("wg7", "true; [[ a1 == a+([0-9]) ]]").unwrap().success(),
            "bash, with the patterns that wg-quick sets"
        );
        assert_eq!(run_in_shell("wg7", "exit 7").unwrap().code(), Some(7));
        for hook in ["false; true", "false | true", "(false); true"] {
            assert!(!run_in_shell("wg7", hook).unwrap().success(), "{hook}");
        }
    }

    #[test]
    fn a_hook_may_name_the_interface_by_a_variable_as_those_of_wg_quick_do() {
        assert!(run_in_shell("wg7", "[[ $INTERFACE == wg7 ]]").unwrap().success());
    }

    #[test]
    fn what_a_hook_says_is_on_no_command_line_and_not_in_the_environment_of_what_it_runs() {
        let hook = "if grep -q S3CRET /proc/$$/cmdline; then exit 3; fi; if env | grep -q S3CRET; then exit 4; fi";
        assert_eq!(run_in_shell("wg7", hook).unwrap().code(), Some(0));
    }
}
