//! What is given up is really refused: tried in processes of their own, which are this test program again.

mod arguments;
mod calls;
mod landlock;
mod rights;

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use socket2::{Domain, Protocol, Socket, Type};

use super::*;
use crate::scratch::Scratch;

const CHILD: &str = "ADIT_CONFINED_TEST";
const FOLDER: &str = "ADIT_CONFINED_TEST_FOLDER";
/// The signal that ends a process for a system call.
const SIGSYS: i32 = libc::SIGSYS;

/// The exit code by which a body says that it has come to its end: a run without any test would succeed too.
const DONE: i32 = 77;

/// Runs `body` in a process of its own, which ends with it; `name` is that of the test.
fn in_a_process(name: &str, body: impl FnOnce()) -> Output {
    in_a_process_with(name, "", body)
}

/// The same, started by a service manager that is to be told at this address.
fn in_a_process_with(name: &str, notify: &str, body: impl FnOnce()) -> Output {
    if is_child(name) {
        body();
        std::process::exit(DONE);
    }
    let folder = Scratch::new();
    again(name).env(FOLDER, &*folder).env("NOTIFY_SOCKET", notify).output().unwrap()
}

/// Whether this is the process started for the test of this name.
fn is_child(name: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == name)
}

/// This program, to run the test of this name as a child.
fn again(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = format!("confine::tests::{name}");
    command.args(["--exact", &test, "--nocapture", "--test-threads=1"]).env(CHILD, name);
    command.env_remove("NOTIFY_SOCKET");
    // Under AddressSanitizer: leaks are looked for by tracing the process at its end, which is refused as well.
    command.env("ASAN_OPTIONS", "detect_leaks=0");
    command
}

#[track_caller]
fn assert_ended_well(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(DONE), "{}\n{}{text}", output.status, String::from_utf8_lossy(&output.stdout));
}

#[track_caller]
fn assert_refused<T>(result: io::Result<T>) {
    match result {
        Ok(_) => panic!("it is permitted"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}"),
    }
}

/// The folder for the files of a process that was started by [`in_a_process`], which removes it: a confined process may
/// not.
fn scratch() -> PathBuf {
    std::env::var_os(FOLDER).expect("the parent's folder").into()
}

#[test]
fn files_programs_and_streams_are_refused_and_serving_goes_on() {
    let output = in_a_process("files_programs_and_streams_are_refused_and_serving_goes_on", || {
        let folder = scratch();
        let socket = folder.join("wg0.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let report = give_up(&Confinement::FULL, Some(&socket), false);
        for words in ["no_new_privs", "landlock", "seccomp", "no core dumps", "capabilities dropped ("] {
            assert!(report.words.contains(words), "{words:?} is missing in {report:?}");
        }
        assert_refused(File::open("/etc/passwd"));
        assert_refused(File::create(folder.join("new")));
        assert_refused(fs::read_dir("/"));
        assert_refused(Command::new("/bin/sh").arg("-c").arg("true").status());
        assert_refused(UnixStream::connect(&socket));
        assert_refused(TcpStream::connect("127.0.0.1:9"));
        assert_refused(fs::rename(&socket, folder.join("other")));
        assert_refused(fs::create_dir(folder.join("below")));
        for protocol in [Protocol::ICMPV4, Protocol::from(libc::IPPROTO_UDPLITE)] {
            assert_refused(Socket::new(Domain::IPV4, Type::DGRAM, Some(protocol)));
        }
        Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).unwrap();

        // A thread is made, and confined as well.
        std::thread::spawn(|| assert_refused(File::open("/etc/passwd"))).join().unwrap();
        let (ours, theirs) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        ours.send_to(b"x", theirs.local_addr().unwrap()).unwrap();
        assert_eq!(theirs.recv(&mut [0; 8]).unwrap(), 1);
        let sockets = crate::udp::bind(0, 1, 0, true).unwrap();
        assert!(sockets.iter().flat_map(|sockets| sockets.iter()).all(|socket| socket.is_coalescing()));
        crate::netlink::Netlink::open().unwrap().addresses(1).unwrap();
        File::options().write(true).open("/dev/null").unwrap();
        drop(listener);
        fs::remove_file(&socket).unwrap();
    });
    assert_ended_well(&output);
}

#[test]
fn no_memory_is_run_that_can_be_or_could_be_written() {
    let output = in_a_process("no_memory_is_run_that_can_be_or_could_be_written", || {
        give_up(&Confinement::FULL, None, false);
        map(ProtFlags::READ | ProtFlags::WRITE, ProtFlags::READ).unwrap();
        assert_refused(map(ProtFlags::WRITE | ProtFlags::EXEC, ProtFlags::READ));
        assert_refused(map(ProtFlags::READ | ProtFlags::WRITE, ProtFlags::EXEC));
        // A file in memory could be written by one way and run by another.
        assert_refused(memfd_create("code", MemfdFlags::empty()).map_err(io::Error::from));
    });
    assert_ended_well(&output);
}

/// Maps a page with these rights, and gives it others then.
#[allow(unsafe_code, reason = "pages are mapped in no other way")]
fn map(first: ProtFlags, then: ProtFlags) -> io::Result<()> {
    const PAGE: usize = 4096;
    // SAFETY: the kernel chooses a place where nothing is; nobody else knows of it until it is unmapped.
    unsafe {
        let page = mmap_anonymous(std::ptr::null_mut(), PAGE, first, MapFlags::PRIVATE)?;
        mprotect(page, PAGE, MprotectFlags::from_bits_retain(then.bits()))?;
        munmap(page, PAGE)?;
    }
    Ok(())
}

#[test]
fn the_program_can_be_started_again_and_knows_that_it_is_confined() {
    let output = in_a_process("the_program_can_be_started_again_and_knows_that_it_is_confined", || {
        assert!(!inherits_seccomp());
        // Opened before, it can be read afterwards.
        let mut status = File::open("/proc/thread-self/status").unwrap();
        let report = give_up(&Confinement::FULL, None, false);
        assert!(inherits_seccomp() && report.landlock);
        let filters = filters(&mut status);
        assert!(filters.starts_with("Seccomp_filters:"), "{filters}");
        let again = give_up(&Confinement::FULL, None, report.landlock);
        assert!(again.landlock && again.words.contains("landlock (inherited)"), "{again:?}");
        assert_eq!(self::filters(&mut status), filters, "the second time adds nothing");
        let again = Command::new(std::env::current_exe().unwrap()).arg("--list").env_remove(CHILD).output().unwrap();
        assert!(again.status.success(), "{again:?}");
    });
    assert_ended_well(&output);
}

#[test]
fn without_landlock_files_cannot_be_opened_for_writing() {
    let output = in_a_process("without_landlock_files_cannot_be_opened_for_writing", || {
        let path = scratch().join("file");
        fs::write(&path, "mine").unwrap();
        let report = give_up(&Confinement { landlock: false, ..Confinement::FULL }, None, false);
        assert!(inherits_seccomp() && !report.landlock);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_refused(File::options().write(true).open(&path));
        assert_refused(File::create(scratch().join("new")));
    });
    assert_ended_well(&output);
}

#[test]
fn whoever_asks_for_another_namespace_is_ended() {
    let output = in_a_process("whoever_asks_for_another_namespace_is_ended", || {
        give_up(&Confinement::FULL, None, false);
        let _ = crate::sys::unshare_network();
    });
    assert_eq!(output.status.signal(), Some(SIGSYS), "{}", output.status);
}

#[test]
fn without_reload_nothing_is_started_not_even_this_program() {
    let output = in_a_process("without_reload_nothing_is_started_not_even_this_program", || {
        give_up(&Confinement { reload: false, ..Confinement::FULL }, None, false);
        let started = Command::new(std::env::current_exe().unwrap()).arg("--list").env_remove(CHILD).status();
        assert!(started.is_err() || started.is_ok_and(|status| status.signal() == Some(SIGSYS)));
    });
    assert_ended_well(&output);
}

#[test]
fn nothing_is_given_up_unasked() {
    let output = in_a_process("nothing_is_given_up_unasked", || {
        let before = rustix::thread::capabilities(None).unwrap();
        let report = give_up(&Confinement::NONE, None, false);
        assert_eq!(rustix::thread::capabilities(None).unwrap(), before);
        assert!(report.words.contains("no seccomp") && report.words.contains("no landlock"), "{report:?}");
        assert!(!rustix::thread::no_new_privs().unwrap());
        File::open("/etc/passwd").unwrap();
    });
    assert_ended_well(&output);
}

/// The line that tells how many filters a thread has.
fn filters(status: &mut File) -> String {
    let mut text = String::new();
    status.rewind().and_then(|()| status.read_to_string(&mut text)).unwrap();
    text.lines().find(|line| line.starts_with("Seccomp_filters:")).unwrap_or_default().to_owned()
}
