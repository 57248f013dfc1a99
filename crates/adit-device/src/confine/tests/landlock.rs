//! What Landlock refuses by itself, without seccomp.
//!
//! Each thing is done once before, by the same process: so it is nobody else who refuses it.

use std::ffi::CString;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::{Resource, Rlimit, getppid, getrlimit, setrlimit, test_kill_process};
use rustix::thread::CapabilitySet;

use super::calls::{answer, call};
use super::*;

const LANDLOCK_ALONE: Confinement = Confinement { no_new_privileges: true, landlock: true, ..Confinement::NONE };
/// The first versions of Landlock that know of truncating, TCP, requests to devices, and signals and abstract sockets.
const TRUNCATES: i64 = 3;
const NETWORKS: i64 = 4;
const DEVICES: i64 = 5;
const SCOPES: i64 = 6;

/// The version of the kernel's Landlock; 0 if it has none.
fn version() -> i64 {
    const VERSION: i64 = 1;
    answer(libc::SYS_landlock_create_ruleset, [0, 0, VERSION, 0, 0, 0]).unwrap_or(0)
}

/// Whether the kernel has this version; says so if it lacks it.
fn has(needed: i64) -> bool {
    let found = version();
    if found < needed {
        eprintln!("skipped in part: this kernel has version {found} of Landlock, and {needed} is needed");
    }
    found >= needed
}

/// A folder with all that is to be tried on.
fn furnish(folder: &Path) {
    fs::create_dir(folder).unwrap();
    for file in ["file", "removed", "moved"] {
        fs::write(folder.join(file), "text").unwrap();
    }
    for below in ["folder", "empty"] {
        fs::create_dir(folder.join(below)).unwrap();
    }
}

fn make(folder: &Path, kind: FileType) -> io::Result<()> {
    // The device is that of `/dev/null`.
    Ok(mknodat(CWD, folder.join(format!("{kind:?}")), kind, Mode::RUSR, makedev(1, 3))?)
}

#[allow(unsafe_code, reason = "the standard library opens a file to cut it short")]
fn truncate(path: &Path, length: i64) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the kernel reads the text up to its end, which is there.
    if unsafe { libc::truncate(path.as_ptr(), length) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What can be done in a folder that does not concern the daemon, and the version of Landlock that refuses it.
type Deed = (&'static str, i64, fn(&Path) -> io::Result<()>);
const DEEDS: &[Deed] = &[
    ("read a file", 1, |folder| File::open(folder.join("file")).map(drop)),
    ("write to a file", 1, |folder| File::options().append(true).open(folder.join("file")).map(drop)),
    ("list a folder", 1, |folder| fs::read_dir(folder).map(drop)),
    ("remove a file", 1, |folder| fs::remove_file(folder.join("removed"))),
    ("remove a folder", 1, |folder| fs::remove_dir(folder.join("empty"))),
    ("make a file", 1, |folder| File::create_new(folder.join("new")).map(drop)),
    ("make a folder", 1, |folder| fs::create_dir(folder.join("new folder"))),
    ("make a socket", 1, |folder| UnixListener::bind(folder.join("socket")).map(drop)),
    ("make a pipe", 1, |folder| make(folder, FileType::Fifo)),
    ("make a symbolic link", 1, |folder| symlink("/etc/passwd", folder.join("link"))),
    ("make another name", 1, |folder| fs::hard_link(folder.join("file"), folder.join("name"))),
    ("rename a file", 1, |folder| fs::rename(folder.join("moved"), folder.join("folder/moved"))),
    ("cut a file short", TRUNCATES, |folder| truncate(&folder.join("file"), 0)),
    ("start a program", 1, |_| Command::new("/bin/sh").args(["-c", "true"]).status().map(drop)),
    ("listen for TCP", NETWORKS, |_| TcpListener::bind("127.0.0.1:0").map(drop)),
];
/// The same, for who may make devices.
const DEEDS_WITH_DEVICES: &[Deed] = &[
    ("make a character device", 1, |folder| make(folder, FileType::CharacterDevice)),
    ("make a block device", 1, |folder| make(folder, FileType::BlockDevice)),
];

/// What this process may do and this kernel's Landlock can refuse.
fn deeds() -> Vec<Deed> {
    let makes_devices = rustix::thread::capabilities(None).unwrap().effective.contains(CapabilitySet::MKNOD);
    let all = DEEDS.iter().chain(DEEDS_WITH_DEVICES.iter().filter(|_| makes_devices));
    let version = version();
    all.filter(|deed| version >= deed.1).copied().collect()
}

#[test]
fn landlock_alone_refuses_files_programs_and_tcp() {
    let output = in_a_process("landlock::landlock_alone_refuses_files_programs_and_tcp", || {
        if !has(1) {
            return;
        }
        let [before, after, run] = ["before", "after", "run"].map(|name| scratch().join(name));
        for folder in [&before, &after, &run] {
            furnish(folder);
        }
        for (what, _, deed) in deeds() {
            deed(&before).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        let null = File::open("/dev/null").unwrap();
        let ask = |file: &File| call(libc::SYS_ioctl, [file.as_raw_fd().into(), libc::TCGETS as i64, 0, 0, 0, 0]);
        assert_eq!(ask(&null), libc::ENOTTY);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        TcpStream::connect(address).unwrap();

        let report = give_up(&LANDLOCK_ALONE, Some(&run.join("wg0.sock")), false);
        assert!(report.landlock && report.words.contains("no seccomp"), "{report:?}");
        // In the folder of the daemon's own socket as well; there only names of files can be removed.
        for (what, _, deed) in deeds() {
            for folder in [&after, &run] {
                let error = deed(folder).err().and_then(|error| error.raw_os_error());
                let permitted = what == "remove a file" && folder == &run;
                assert_eq!(error, (!permitted).then_some(libc::EACCES), "{what} in {folder:?}");
            }
        }
        let connected = TcpStream::connect(address).map(drop).map_err(|error| error.raw_os_error());
        assert_eq!(connected, if has(NETWORKS) { Err(Some(libc::EACCES)) } else { Ok(()) });
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        assert_eq!(ask(&null), if has(DEVICES) { libc::EACCES } else { libc::ENOTTY });
        // Of devices no other, and of the folder that they are in nothing else.
        assert_refused(File::open("/dev/zero"));
        assert_refused(fs::read_dir("/dev"));
    });
    assert_ended_well(&output);
}

#[test]
fn the_programs_folder_can_be_read_and_run_and_not_changed() {
    let program = std::env::current_exe().unwrap();
    let beside = |process: u32| program.with_file_name(format!("adit-confined-test-{process}"));
    let output = in_a_process("landlock::the_programs_folder_can_be_read_and_run_and_not_changed", || {
        if !has(1) {
            return;
        }
        // Removed by the process that waits for this one.
        let folder = beside(std::os::unix::process::parent_id());
        furnish(&folder);
        let loader = files::LOADER_FILES.map(|path| (Path::new(path), fs::metadata(path).ok()));
        give_up(&LANDLOCK_ALONE, None, false);
        for (what, _, deed) in deeds() {
            let error = deed(&folder).err().and_then(|error| error.raw_os_error());
            assert_eq!(error, (what != "read a file").then_some(libc::EACCES), "{what}");
        }
        // What the loader reads first need not be there.
        for (path, metadata) in loader.iter().filter_map(|(path, metadata)| Some((path, metadata.as_ref()?))) {
            File::open(path).unwrap();
            assert_refused(File::options().append(true).open(path));
            // To the length that it has: nothing is lost if this is permitted.
            if has(TRUNCATES) {
                assert_refused(truncate(path, metadata.len().try_into().unwrap()));
            }
        }
        assert!(again("none").arg("--list").output().unwrap().status.success());
        UdpSocket::bind("127.0.0.1:0").unwrap();
    });
    let _ = fs::remove_dir_all(beside(std::process::id()));
    assert_ended_well(&output);
}

#[test]
fn without_reload_not_even_this_program_can_be_read() {
    let output = in_a_process("landlock::without_reload_not_even_this_program_can_be_read", || {
        if !has(1) {
            return;
        }
        give_up(&Confinement { reload: false, ..LANDLOCK_ALONE }, None, false);
        assert_refused(File::open(std::env::current_exe().unwrap()));
        assert_refused(File::open("/etc/ld.so.cache"));
        File::open("/dev/null").unwrap();
    });
    assert_ended_well(&output);
}

#[test]
fn rules_that_would_lack_a_path_for_want_of_files_are_not_in_force_and_not_said_to_be() {
    let name = "landlock::rules_that_would_lack_a_path_for_want_of_files_are_not_in_force_and_not_said_to_be";
    let output = in_a_process(name, || {
        if !has(1) {
            return;
        }
        let socket = scratch().join("wg0.sock");
        fs::write(&socket, "").unwrap();
        let free = File::open("/").unwrap().as_raw_fd() as u64;
        let limit = getrlimit(Resource::Nofile);
        let files = |more: u64| Rlimit { current: Some(free + more), ..limit };
        // One for the rules, and none for what they permit.
        setrlimit(Resource::Nofile, files(1)).unwrap();
        let report = give_up(&LANDLOCK_ALONE, Some(&socket), false);
        setrlimit(Resource::Nofile, files(2)).unwrap();
        let why = "no landlock (/dev/null: Too many open files (os error 24))";
        assert!(!report.landlock && report.words.contains(why), "{report:?}");
        File::open("/etc/passwd").unwrap();

        let report = give_up(&LANDLOCK_ALONE, Some(&socket), false);
        assert!(report.landlock, "each is closed before the next is opened: {report:?}");
        assert_refused(File::open("/etc/passwd"));
        fs::remove_file(&socket).unwrap();
    });
    assert_ended_well(&output);
}

/// Whether an abstract socket outside can be reached from a process that was started so, and whether a signal can be
/// sent outside.
fn reaches_outside(name: &str, notify: &str) {
    let output = in_a_process_with(name, notify, || {
        if !has(SCOPES) {
            return;
        }
        let outside = SocketAddr::from_abstract_name(format!("adit-outside-{}", std::process::id())).unwrap();
        let manager = UnixDatagram::bind_addr(&outside).unwrap();
        let (early, late) = (UnixDatagram::unbound().unwrap(), UnixDatagram::unbound().unwrap());
        early.connect_addr(&outside).unwrap();
        let parent = getppid().unwrap();
        test_kill_process(parent).unwrap();

        give_up(&LANDLOCK_ALONE, None, false);
        assert_eq!(test_kill_process(parent), Err(rustix::io::Errno::PERM), "a signal to another process");
        test_kill_process(rustix::process::getpid()).unwrap();
        let connected = late.connect_addr(&outside).map_err(|error| error.raw_os_error());
        assert_eq!(connected, if notify.starts_with('@') { Ok(()) } else { Err(Some(libc::EPERM)) });
        // Who was connected before stays so.
        early.send(b"x").unwrap();
        assert_eq!(manager.recv(&mut [0; 8]).unwrap(), 1);
    });
    assert_ended_well(&output);
}

#[test]
fn neither_a_signal_nor_an_abstract_socket_leads_outside() {
    reaches_outside("landlock::neither_a_signal_nor_an_abstract_socket_leads_outside", "");
}

#[test]
fn an_abstract_socket_is_reached_where_a_service_manager_has_one() {
    reaches_outside("landlock::an_abstract_socket_is_reached_where_a_service_manager_has_one", "@manager");
}
