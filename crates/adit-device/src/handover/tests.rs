use std::io::Read;
use std::os::fd::AsRawFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::channel::STATE;
use super::successor::Lines;
use super::*;
use crate::scratch::Scratch;

fn state(text: &str) -> State {
    let rng = Box::new(rand_core::UnwrapErr(getrandom::SysRng));
    let now = adit::Instant::from_nanos(1);
    let snapshot = adit::Interface::new(now, Duration::ZERO, rng).snapshot(now);
    State { text: text.to_owned(), snapshot, fds: Vec::new() }
}

#[test]
fn a_message_arrives_whole_with_its_open_files_in_order() {
    let (here, there) = UnixStream::pair().unwrap();
    let files: Vec<_> = (0..150).map(|_| UnixStream::pair().unwrap()).collect();
    let fds: Vec<_> = files.iter().map(|(file, _)| file.as_fd()).collect();
    let bytes = vec![7; 3 << 20];
    let message = std::thread::scope(|scope| {
        scope.spawn(|| Channel::patient(&here).send(Kind::State, "a=1\nb=2\n", &bytes, &fds).unwrap());
        Channel::patient(&there).receive(STATE).unwrap()
    });
    assert_eq!((message.kind, message.text.as_str(), &*message.bytes), (Kind::State, "a=1\nb=2\n", &bytes));
    assert_eq!(message.fds.len(), files.len());
    for (number, (fd, (_, other))) in message.fds.into_iter().zip(&files).enumerate() {
        let flags = rustix::io::fcntl_getfd(&fd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "file {}", fd.as_raw_fd());
        let mut file = UnixStream::from(fd);
        file.write_all(&[number as u8]).unwrap();
        let mut byte = [0];
        (&mut &*other).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [number as u8]);
    }
}

#[test]
fn what_is_no_message_is_an_error_and_not_a_wait() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"adi\x09\0\0\0\0\0\0\0\0\0\0\0\0",
        b"adi\x01\xff\xff\xff\xff\0\0\0\0\0\0\0\0",
        b"adi",
    ] {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(bytes).unwrap();
        drop(here);
        assert!(Channel::patient(&there).receive(STATE).is_err(), "{bytes:?}");
    }
}

#[test]
fn what_is_not_known_of_a_device_is_zero_and_what_is_too_much_is_passed_over() {
    let lines = Lines("port=51820\nportal=3\nnew=thing\nmtu=what\n");
    assert_eq!((lines.number::<u16>("port"), lines.number::<u16>("mtu"), lines.number::<u64>("none")), (51820, 0, 0));
    assert!(lines.is_set("portal") && !lines.is_set("por"));
}

#[test]
fn a_program_that_is_none_of_ours_ends_the_attempt_and_leaves_no_process() {
    for (program, expected) in [("/bin/false", "ended"), ("/nonexistent/adit", "/nonexistent/adit")] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let why = Prepared::start(Path::new(program), &state(""), ours, theirs).unwrap_err();
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn a_program_that_says_nothing_ends_with_the_process_that_was_to_be_replaced() {
    let folder = std::env::temp_dir().join(format!("adit-silent-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (program, started) = (folder.join("program"), folder.join("started"));
    rustix::fs::mkfifoat(rustix::fs::CWD, &started, rustix::fs::Mode::RWXU).unwrap();
    std::fs::write(&program, format!("#!/bin/sh\necho $$ > '{}'\nexec sleep 1000\n", started.display())).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut reloader = Reloader::new(Some(program), None, None);
    reloader.begin(Ok(state("")), || ()).unwrap();
    let process = std::fs::read_to_string(&started).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    drop(reloader);
    assert!(!Path::new("/proc").join(process.trim()).exists());
}

#[test]
fn a_process_that_says_that_it_has_taken_over_has_whatever_it_said_before() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    for kind in [Kind::Prepared, Kind::Prepared, Kind::Prepared, Kind::Taken] {
        Channel::patient(&theirs).send(kind, "", &[], &[]).unwrap();
    }
    let prepared = Prepared { child, stream: ours, has_said_taken: false, has_taken: false };
    let end = std::thread::spawn(move || {
        drop(Channel::patient(&theirs).receive(STATE));
        drop(theirs);
    });
    let failure = prepared.commit(Ok(state(""))).unwrap_err();
    end.join().unwrap();
    assert!(failure.was_taken, "{}", failure.why);
}

#[test]
fn a_state_without_a_device_is_refused_with_the_reason() {
    let (here, there) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let nothing = crate::confine::protect_memory(&crate::Confinement::NONE);
        scope.spawn(|| assert!(receive(&there, nothing).is_err()));
        let mut channel = Channel::patient(&here);
        state("workers=1\n").send(&mut channel).unwrap();
        let answer = channel.receive(ANSWER).unwrap();
        assert_eq!((answer.kind, answer.text.as_str()), (Kind::Refused, "a TUN queue is missing"));
    });
}

/// Does this in a process of its own: limits, and waiting for any child, concern all tests that run in one.
fn in_a_process(name: &str, body: impl FnOnce()) {
    const CHILD: &str = "ADIT_HANDOVER_TEST";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    let name = format!("handover::tests::{name}");
    let output = again.args(["--exact", &name, "--nocapture"]).env(CHILD, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && text.contains("1 passed");
    assert!(passed, "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// The streams by which a process is told of signals, and what tells it.
fn signals() -> [(UnixStream, UnixStream); 2] {
    [(); 2].map(|()| {
        let (told, tells) = UnixStream::pair().unwrap();
        told.set_nonblocking(true).unwrap();
        (told, tells)
    })
}

#[test]
fn once_another_process_serves_the_one_that_stays_takes_no_more_files() {
    in_a_process("once_another_process_serves_the_one_that_stays_takes_no_more_files", || {
        let [(end, _), (reload, _)] = &signals();
        let (guardian, link) = Guardian::new([end, reload]).unwrap();
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
        link.end();
        drop(link);
        let ended = guardian.stay([end, reload]);
        // What watches the process may need files at its end.
        setrlimit(Resource::Nofile, limit).unwrap();
        ended.expect("the interface has ended as it should");
    });
}

#[test]
fn signals_reach_whoever_holds_the_link_whatever_the_number_of_its_process() {
    in_a_process("signals_reach_whoever_holds_the_link_whatever_the_number_of_its_process", || {
        let [(end, tells_end), (reload, tells_reload)] = &signals();
        let (guardian, link) = Guardian::new([end, reload]).unwrap();
        let awaited = |link: &ToGuardian| {
            let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
            poll(&mut [PollFd::new(link, PollFlags::IN)], Some(&patience)).unwrap();
            link.hear()
        };
        std::thread::scope(|scope| {
            let stays = scope.spawn(|| guardian.stay([end, reload]));
            assert_eq!(link.hear(), Word::Nothing);
            // As if it had taken over: by another file, of the same socket.
            let next = ToGuardian::adopt(link.as_fd().try_clone_to_owned().unwrap());
            (&mut &*tells_reload).write_all(b"x").unwrap();
            assert_eq!(awaited(&next), Word::HandOver);
            assert_eq!([next.hear(), link.hear()], [Word::Nothing; 2], "it is said to one");
            (&mut &*tells_end).write_all(b"x").unwrap();
            assert_eq!(awaited(&next), Word::End);
            assert_eq!([next.hear(), link.hear()], [Word::End; 2], "it is said to all, for good");
            next.end();
            drop((link, next));
            stays.join().unwrap().expect("the interface has ended as it should");
        });
    });
}

#[test]
fn without_a_free_file_descriptor_somebody_waits_only_if_there_is_somebody() {
    in_a_process("without_a_free_file_descriptor_somebody_waits_only_if_there_is_somebody", || {
        let folder = Scratch::new();
        let path = folder.join("reload");
        let asks = Listener::bind_at(&path).unwrap();
        asks.set_nonblocking().unwrap();
        let mut reloader = Reloader::new(None, Some(asks), None);
        let limit = getrlimit(Resource::Nofile);
        let mut accepts_with = |files| {
            setrlimit(Resource::Nofile, Rlimit { current: files, ..limit }).unwrap();
            (reloader.accept(), reloader.must_be_looked_after())
        };
        // So many are open always.
        let none = accepts_with(Some(3));
        let many = accepts_with(limit.current);
        assert_eq!((none, many), ((false, false), (false, false)));
        let _somebody = UnixStream::connect(&path).unwrap();
        let none = accepts_with(Some(3));
        let many = accepts_with(limit.current);
        assert_eq!((none, many), ((false, true), (true, false)));
    });
}

#[test]
fn a_stream_that_a_signal_interrupts_is_emptied_all_the_same() {
    struct Interrupted<R>(R, bool);
    impl<R: Read> Read for Interrupted<R> {
        /// Every other time a signal comes first.
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { Err(ErrorKind::Interrupted.into()) } else { self.0.read(bytes) }
        }
    }
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.write_all(&[1; 40]).unwrap();
    assert!(drain(Interrupted(&ours, false)));
    assert!(!drain(Interrupted(&ours, false)), "there is nothing left");
}
