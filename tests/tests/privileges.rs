//! What the daemon gives up once it is set up, and that it still does everything: as root, as a user with
//! `CAP_NET_ADMIN` alone, without any right over a TUN device handed in, and as a service manager starts it.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adit_tests::Implementation::Adit;
use adit_tests::{Background, Host, Keys, Outer, Pair, Peer, Ping, ProcessStatus, Scratch, Side, eventually};
use nix::sys::signal::Signal;

/// Any user but root.
const NOBODY: u32 = 65_534;
const SOCKETS: &str = "/run/wireguard";
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// `CAP_NET_BIND_SERVICE`, and `CAP_IPC_LOCK`, which is kept where it alone permits memory to be locked.
const CAP_OTHERS_OF_ROOT: u64 = 1 << 10 | 1 << 14;

/// The measures of least privilege, as they are counted here.
const CAPABILITIES: usize = 0;
const NEW_PRIVILEGES: usize = 1;
const SECCOMP: usize = 2;
const LANDLOCK: usize = 3;
const CORE_DUMPS: usize = 4;
const LOCKED_MEMORY: usize = 5;

#[test]
fn as_root_only_what_serving_takes_is_left_and_everything_works() {
    let service = Service::start(Rights::Root, &[]);
    let status = service.status();
    assert_eq!(status.capabilities("CapEff") & !CAP_OTHERS_OF_ROOT, CAP_NET_ADMIN);
    for set in ["CapPrm", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(status.capabilities(set), status.capabilities("CapEff"), "{set}");
    }
    status.assert_confined();
    assert!(status.has_locked_memory());
    service.assert_everything_works(true);
    service.pair.a.set("listen-port 700");
    assert_eq!(service.pair.a.status().listen_port, 700, "a port below 1024");
    let shown = service.show();
    assert!(shown.contains("cap_net_admin") && shown.contains("locked memory"), "{shown}");
    service.assert_ends_and_leaves_nothing();
}

#[test]
fn a_user_with_the_network_right_alone_serves_as_root_does() {
    let service = Service::start(Rights::NetAdmin, &[]);
    let status = service.status();
    assert_eq!(status.value("Uid").split_whitespace().next(), Some("65534"));
    for set in ["CapEff", "CapPrm"] {
        assert_eq!(status.capabilities(set), CAP_NET_ADMIN, "{set}");
    }
    status.assert_confined();
    service.assert_everything_works(true);
    service.assert_ends_and_leaves_nothing();
}

#[test]
fn with_a_device_handed_in_no_right_at_all_is_needed() {
    let service = Service::start(Rights::None, &[]);
    let status = service.status();
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status.capabilities(set), 0, "{set}");
    }
    status.assert_confined();
    service.assert_everything_works(false);
    let refusal = service.pair.a.try_wg("set wg0 fwmark 5", "").failure();
    assert!(refusal.contains("not permitted"), "{refusal}");
    service.pair.assert_a_reaches_b();
    service.assert_ends_and_leaves_nothing();
}

#[test]
fn further_queues_of_a_device_handed_in_are_done_without_where_they_cannot_be_opened() {
    let service = Service::start(Rights::NoneOfSeveralQueues, &["--threads", "3"]);
    let log = service.log();
    assert!(log.contains("fewer threads serve than asked for") && log.contains("/dev/net/tun"), "{log}");
    service.status().assert_confined();
    service.pair.assert_a_reaches_b();
    service.pair.assert_b_reaches_a();
    service.assert_ends_and_leaves_nothing();
}

#[test]
fn each_measure_is_turned_off_by_its_word_alone_and_is_shown_to_be_off() {
    // Beside the words, what is shown then, and the measures that are off.
    let cases: [(&[&str], &[&str], &[usize]); 7] = [
        (&[], &[], &[]),
        (&["--keep-capabilities"], &["capabilities kept"], &[CAPABILITIES]),
        (
            &["--allow-new-privileges", "--no-seccomp", "--no-landlock"],
            &["new privileges possible", "no seccomp", "no landlock"],
            &[NEW_PRIVILEGES, SECCOMP, LANDLOCK],
        ),
        (&["--no-seccomp"], &["no seccomp"], &[SECCOMP]),
        (&["--no-landlock"], &["no landlock"], &[LANDLOCK]),
        (&["--allow-core-dumps"], &["core dumps possible"], &[CORE_DUMPS]),
        (&["--no-mlock"], &["memory not locked"], &[LOCKED_MEMORY]),
    ];
    let on = ["capabilities dropped", "no_new_privs", "seccomp", "landlock", "no core dumps", "locked memory"];
    for (words, shows, off) in cases {
        let service = Service::start(Rights::RootOfAnotherGroup, words);
        service.pair.assert_a_reaches_b();
        let shown = service.show();
        let shown: Vec<&str> = shown.split([':', ',']).skip(1).map(str::trim).collect();
        for word in shows {
            assert!(shown.contains(word), "{words:?}: {word:?} is missing in {shown:?}");
        }
        for (measure, word) in on.iter().enumerate() {
            let is_shown = shown.iter().any(|shown| *shown == *word || shown.starts_with(&format!("{word} (")));
            assert_eq!(is_shown, !off.contains(&measure), "{words:?}: {word:?} in {shown:?}");
        }
        let expected: Vec<bool> = (0..on.len()).map(|measure| !off.contains(&measure)).collect();
        assert_eq!(service.measures_in_force(), expected, "{words:?}: of {on:?}");
        service.assert_ends_and_leaves_nothing();
    }
}

#[test]
fn an_interface_moved_to_another_namespace_is_followed_without_the_right_to_enter_it() {
    let service = Service::start(Rights::Root, &[]);
    let pair = &service.pair;
    pair.assert_a_reaches_b();
    let inside = Host::new("inside");
    pair.a.host.ip(&format!("link set wg0 netns {}", inside.network_path()));
    inside.add_address(&format!("{}/24", Side::A.inner_v4()), "wg0");
    inside.ip("link set wg0 up");
    let to_b = Ping::to(Side::B.inner_v4());
    eventually("B is reached from inside", || to_b.from(&inside).all_answered().then_some(()));
    inside.ip("link set wg0 mtu 1281");
    eventually("the MTU there is heard of", || service.log().contains("mtu=1281").then_some(()));
    inside.ip("link set wg0 down");
    eventually("that the link is down is heard of", || service.log().contains("is_up=false").then_some(()));
    inside.ip("link set wg0 up");
    eventually("B is reached again", || to_b.from(&inside).all_answered().then_some(()));
    inside.ip(&format!("link set wg0 netns {}", pair.a.host.network_path()));
    pair.a.up(&[&format!("{}/24", Side::A.inner_v4())], 1420);
    eventually("B is reached from home", || pair.a_reaches_b().then_some(()));
    inside.ip("link show lo");
}

#[test]
fn the_process_that_stays_after_a_reload_has_no_right_left_and_still_passes_signals_on() {
    for rights in [Rights::Root, Rights::NetAdmin] {
        let service = Service::start(rights, &[]);
        let adit = Adit.binary();
        service.pair.a.host.run(adit.to_str().expect("a path"), &["reload", "wg0"]).success();
        let stays = service.status();
        eventually("it gives the rest up", || (stays.capabilities("CapPrm") == 0).then_some(()));
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(stays.capabilities(set), 0, "{set}");
        }
        assert!(!stays.has_locked_memory(), "it has no keys");
        let others = service.pair.a.host.processes().into_iter().filter(|process| *process != service.process.id());
        let serving: Vec<_> = others.map(ProcessStatus::of).collect();
        assert!(serving.iter().any(|status| status.capabilities("CapEff") & CAP_NET_ADMIN != 0), "one serves");
        service.assert_everything_works(true);
        service.assert_ends_and_leaves_nothing();
    }
}

#[test]
fn the_process_that_takes_over_is_confined_and_its_memory_protected_as_the_first_was() {
    for rights in [Rights::RootOfAnotherGroup, Rights::NetAdmin] {
        let service = Service::start(rights, &[]);
        let first = service.status();
        let has_locked_memory = first.has_locked_memory();
        let sets = ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"];
        let capabilities = sets.map(|set| first.capabilities(set));
        let adit = Adit.binary();
        service.pair.a.host.run(adit.to_str().expect("a path"), &["reload", "wg0"]).success();
        let mut processes = service.pair.a.host.processes();
        processes.retain(|process| *process != service.process.id());
        let [process] = processes[..] else { panic!("{processes:?}: one beside the first that serves") };
        let serving = ProcessStatus::of(process);
        serving.assert_confined();
        assert_eq!(sets.map(|set| serving.capabilities(set)), capabilities, "{sets:?}");
        assert_eq!(serving.group_of_memory(), 0, "it must not be looked at");
        assert_eq!(serving.has_locked_memory(), has_locked_memory);
        service.assert_ends_and_leaves_nothing();
    }
}

#[test]
fn a_service_manager_is_told_and_its_socket_is_used_and_left() {
    let mut service = Service::start(Rights::Service, &[]);
    let manager = service.manager.as_ref().expect("a service manager");
    assert_eq!(hear(manager), "READY=1\nSTATUS=Serving wg0");
    assert_eq!(service.status().capabilities("CapEff"), CAP_NET_ADMIN);
    service.status().assert_confined();
    service.assert_everything_works(true);
    // The folder of the sockets is not the daemon's, and no socket for this was handed in.
    let adit = Adit.binary();
    let why = service.pair.a.host.run(adit.to_str().expect("a path"), &["reload", "wg0"]).failure();
    assert!(why.contains("send SIGUSR2 to its process instead"), "{why}");
    service.process.signal(Signal::SIGTERM);
    assert!(service.process.wait().success());
    let manager = service.manager.as_ref().expect("a service manager");
    assert!(hear(manager).starts_with("STOPPING=1\n"));
    assert_eq!(service.pair.a.host.sockets(), ["wg0.sock"], "nothing but the service manager's socket is left");
    assert!(!service.pair.a.host.has_link("wg0"));
}

#[test]
fn who_cannot_hear_of_another_namespace_takes_an_interface_there_to_be_up() {
    let service = Service::start(Rights::NetAdmin, &[]);
    let pair = &service.pair;
    pair.assert_a_reaches_b();
    let inside = Host::new("inside");
    // It is down when it has just been moved, and that it is set up there is not heard.
    pair.a.host.ip(&format!("link set wg0 netns {}", inside.network_path()));
    eventually("it is seen to be gone", || service.log().contains("another network namespace now").then_some(()));
    inside.add_address(&format!("{}/24", Side::A.inner_v4()), "wg0");
    inside.ip("link set wg0 up");
    let to_b = Ping::to(Side::B.inner_v4());
    eventually("B is reached from inside", || to_b.from(&inside).all_answered().then_some(()));
    assert!(pair.a.try_wg("show wg0", "").is_success(), "it can still be asked");
    service.assert_ends_and_leaves_nothing();
}

/// Whom the daemon runs as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rights {
    Root,
    /// Root whose files are of another group than root's: what the kernel takes from him shows.
    RootOfAnotherGroup,
    /// A user with `CAP_NET_ADMIN`.
    NetAdmin,
    /// A user without any, with a device that root has opened.
    None,
    /// The same user with a device of several queues, one of which root has opened.
    NoneOfSeveralQueues,
    /// The same user as a service manager starts it: with `CAP_NET_ADMIN` and a socket, and to be told of.
    Service,
}

/// A pair whose node A is started in some way.
struct Service {
    pair: Pair,
    process: Background,
    manager: Option<UnixDatagram>,
    files: Files,
}

impl Service {
    #[track_caller]
    fn start(rights: Rights, words: &[&str]) -> Self {
        let mut pair = Pair::stopped(Adit, Adit);
        pair.b.start();
        let files = Files::new();
        let host = &pair.a.host;
        let daemon = files.daemon.to_str().expect("a path of text");
        let mut command = match rights {
            Rights::Root => Command::new(daemon),
            Rights::RootOfAnotherGroup => {
                let mut command = Command::new("setpriv");
                command.args(["--regid", "65534", "--clear-groups", "--", daemon]);
                command
            }
            Rights::NetAdmin => as_nobody(&["+net_admin"], daemon),
            Rights::None | Rights::NoneOfSeveralQueues => as_nobody(&[], daemon),
            Rights::Service => {
                // The process's own number is part of what a service manager says: a shell that becomes it knows it.
                let mut command = as_nobody(&["+net_admin"], "bash");
                command.args(["-c", "exec 3<&$ADIT_TEST_FD; LISTEN_PID=$$ exec \"$0\" \"$@\"", daemon]);
                command
            }
        };
        command.arg("-f").args(words).arg("wg0").env("LOG_LEVEL", "debug").env_remove("LD_LIBRARY_PATH");
        let log = File::create(&files.log).expect("a file for the log");
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log);

        // Inherited by what is started below.
        let mut handed_in: Option<OwnedFd> = None;
        let mut manager = None;
        match rights {
            Rights::Root | Rights::RootOfAnotherGroup => {}
            Rights::NetAdmin => {
                host.enter(|| chown(SOCKETS, Some(NOBODY), None)).expect("a folder for the socket");
                let_open_tun(host, "666");
            }
            Rights::None | Rights::NoneOfSeveralQueues => {
                host.enter(|| chown(SOCKETS, Some(NOBODY), None)).expect("a folder for the socket");
                let_open_tun(host, "600");
                let queues = if rights == Rights::None { 0 } else { libc::IFF_MULTI_QUEUE };
                let device = inheritable(host.enter(|| open_tun("wg0", queues)).into());
                command.env("WG_TUN_FD", device.as_raw_fd().to_string());
                handed_in = Some(device);
            }
            Rights::Service => {
                let_open_tun(host, "666");
                let socket = host.enter(|| UnixListener::bind("/run/wireguard/wg0.sock")).expect("a socket");
                let socket = inheritable(socket.into());
                command.env("ADIT_TEST_FD", socket.as_raw_fd().to_string());
                command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "uapi");
                let path = files.folder.join("notify");
                let listening = UnixDatagram::bind(&path).expect("a service manager's socket");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("its mode");
                listening.set_read_timeout(Some(Duration::from_secs(40))).expect("its patience");
                command.env("NOTIFY_SOCKET", &path);
                manager = Some(listening);
                handed_in = Some(socket);
            }
        }
        let process = host.start(command);
        drop(handed_in);
        let mut service = Self { pair, process, manager, files };
        eventually("the daemon answers", || {
            if let Some(status) = service.process.ended() {
                panic!("the daemon has ended: {status}\n{}", service.log());
            }
            let is_there = service.pair.a.host.has_link("wg0") && service.pair.a.host.has_socket("wg0");
            (is_there && service.pair.a.try_wg("show wg0", "").is_success()).then_some(())
        });
        service.pair.a.configure(Some(51820), &[service.pair.peer_b()]);
        service.pair.b.configure(Some(51820), &[service.pair.peer_a()]);
        for (side, node) in [(Side::A, &service.pair.a), (Side::B, &service.pair.b)] {
            node.up(&[&format!("{}/24", side.inner_v4())], 1420);
        }
        service
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.files.log).unwrap_or_default()
    }

    fn status(&self) -> ProcessStatus {
        ProcessStatus::of(self.process.id())
    }

    #[track_caller]
    fn show(&self) -> String {
        let shown = self.pair.a.host.run(self.files.daemon.to_str().expect("a path"), &["show", "wg0"]).success();
        let line = shown.lines().find(|line| line.starts_with("confinement: "));
        line.unwrap_or_else(|| panic!("no line of the confinement in\n{shown}")).to_owned()
    }

    /// Of each measure, in the order of the constants, whether it can be seen from outside. Puts an end to reloads.
    #[track_caller]
    fn measures_in_force(&self) -> Vec<bool> {
        let status = self.status();
        // A program that takes another one to run, from a folder that Landlock does not know.
        let script = self.files.folder.join("script");
        fs::write(&script, "#!/bin/sh\nexit 1\n").expect("a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("its mode");
        fs::rename(&script, &self.files.daemon).expect("put it in place");
        let adit = Adit.binary();
        let why = self.pair.a.host.run(adit.to_str().expect("a path"), &["reload", "wg0"]).failure();
        let is_refused = why.contains("Permission denied");
        assert!(is_refused || why.contains("the new program ended"), "{why}");
        fs::copy(&adit, &script).and_then(|_| fs::rename(&script, &self.files.daemon)).expect("put it back");

        let mut measures = vec![false; 6];
        measures[CAPABILITIES] = status.capabilities("CapEff") & CAP_SYS_ADMIN == 0;
        measures[NEW_PRIVILEGES] = status.value("NoNewPrivs") == "1";
        measures[SECCOMP] = status.value("Seccomp") == "2";
        measures[LANDLOCK] = is_refused;
        measures[CORE_DUMPS] = status.group_of_memory() == 0;
        measures[LOCKED_MEMORY] = status.has_locked_memory();
        measures
    }

    #[track_caller]
    fn assert_everything_works(&self, may_mark: bool) {
        let Pair { a, b } = &self.pair;
        self.pair.assert_a_reaches_b();
        self.pair.assert_b_reaches_a();
        adit_tests::tcp_transfer(&a.host, &b.host, Side::B.inner_v4(), 4 << 20);

        a.set("listen-port 40000");
        assert_eq!(a.status().listen_port, 40000);
        self.pair.assert_a_reaches_b();
        a.set("listen-port 51820");
        if may_mark {
            a.set("fwmark 7");
            assert_eq!(a.status().fwmark, "0x7");
        }
        let another = Keys::generate();
        a.set(&format!("peer {} allowed-ips 10.77.0.0/16", another.public));
        a.set(&format!("peer {} remove", another.public));

        // Without its peer, the next packet takes a handshake.
        a.set(&format!("peer {} remove", b.keys.public));
        let Peer { allowed_ips, .. } = self.pair.peer_b();
        let endpoint = Side::B.endpoint(Outer::V4);
        a.set(&format!("peer {} allowed-ips {allowed_ips} endpoint {endpoint}", b.keys.public));
        self.pair.assert_a_reaches_b();

        a.host.ip("link set wg0 mtu 1300");
        eventually("the MTU is followed", || self.log().contains("mtu=1300").then_some(()));
        a.host.ip("link set wg0 down");
        eventually("the link is followed", || self.log().contains("is_up=false").then_some(()));
        a.host.ip("link set wg0 up");
        eventually("A reaches B again", || self.pair.a_reaches_b().then_some(()));
    }

    #[track_caller]
    fn assert_ends_and_leaves_nothing(mut self) {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait();
        assert!(status.success(), "{status}\n{}", self.log());
        assert!(!self.pair.a.host.has_socket("wg0"), "the socket is left");
        assert!(!self.pair.a.host.has_link("wg0"), "the interface is left");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of the daemon\n{}", self.log());
        }
    }
}

/// The daemon's program where any user may start it, its log, and a service manager's socket.
struct Files {
    folder: Scratch,
    daemon: PathBuf,
    log: PathBuf,
}

impl Files {
    fn new() -> Self {
        let folder = Scratch::new();
        let daemon = folder.join("adit");
        fs::copy(Adit.binary(), &daemon).expect("a copy of the daemon");
        Self { log: folder.join("log"), daemon, folder }
    }
}

/// A command of an ordinary user's, with these capabilities and no others.
fn as_nobody(capabilities: &[&str], program: &str) -> Command {
    let set = [&["-all"], capabilities].concat().join(",");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.args(["--inh-caps", &set, "--ambient-caps", &set, "--bounding-set", &set, "--", program]);
    command
}

/// Gives the host a TUN driver of its own whose file has this mode. With udev any user may open it, but not every
/// machine has udev.
#[track_caller]
fn let_open_tun(host: &Host, mode: &str) {
    let script = "mknod -m $1 $0/tun c 10 200; mount --bind $0/tun /dev/net/tun; rm $0/tun";
    host.run("sh", &["-euc", script, SOCKETS, mode]).success();
}

/// What the service manager is told next.
#[track_caller]
fn hear(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 512];
    let length = manager.recv(&mut buffer).expect("a word to the service manager");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// A copy that programs started from here inherit; the original they do not.
fn inheritable(fd: OwnedFd) -> OwnedFd {
    // SAFETY: dup takes an integer and touches no memory of ours.
    let copy = unsafe { libc::dup(fd.as_raw_fd()) };
    assert!(copy >= 0, "no copy of a file descriptor: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just opened the descriptor for us, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(copy) }
}

/// A TUN device of this name, with room for offloads, and for several queues if `queues` says so.
fn open_tun(name: &str, queues: libc::c_int) -> File {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(Path::new("/dev/net/tun"));
    let file = file.expect("the TUN driver");
    // SAFETY: `ifreq` is a C struct of integers, pointers and unions of these, for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | queues;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    assert_eq!(result, 0, "no TUN device: {}", std::io::Error::last_os_error());
    file
}
