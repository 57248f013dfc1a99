//! Clients where no more files can be opened. The limit is the whole process's, so each test is in one of its own.

use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

/// Runs `body` in a process of its own, which is this program again; `name` is that of the test.
fn in_a_process(name: &str, body: impl FnOnce()) {
    const CHILD: &str = "ADIT_TEST_FILES";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let name = format!("uapi::server::tests::files::{name}");
    let mut again = Command::new(std::env::current_exe().unwrap());
    let output = again.args(["--exact", &name, "--nocapture"]).env(CHILD, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// Permits so many files beside those that there are, which need not have the lowest numbers.
fn permit_more(files: usize) {
    let next: Vec<_> = (0..=files).map(|_| std::fs::File::open("/").unwrap()).collect();
    let limit = next.last().map(|file| file.as_raw_fd() as u64);
    setrlimit(Resource::Nofile, Rlimit { current: limit, ..getrlimit(Resource::Nofile) }).unwrap();
}

#[test]
fn where_no_more_files_can_be_opened_the_client_that_came_last_is_served_and_the_next_one_after_it() {
    let name = "where_no_more_files_can_be_opened_the_client_that_came_last_is_served_and_the_next_one_after_it";
    in_a_process(name, || {
        let mut rig = Rig::new();
        let mut clients = [rig.connect(), rig.connect()];
        for client in &mut clients {
            client.write_all(b"get=1\n\n").unwrap();
        }
        let limit = getrlimit(Resource::Nofile);
        permit_more(1);
        let _ = rig.run();
        assert_eq!(received(&clients[0]), "listen_port=0\nerrno=0\n\n");
        assert_eq!(received(&clients[1]), "", "it waits");
        clients[0].shutdown(std::net::Shutdown::Both).unwrap();
        let _ = rig.run();
        assert_eq!(received(&clients[1]), "listen_port=0\nerrno=0\n\n");
        // One that only waits gives way to another.
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut late = rig.connect();
        permit_more(0);
        late.write_all(b"get=1\n\n").unwrap();
        let _ = rig.run();
        assert_eq!(received(&late), "listen_port=0\nerrno=0\n\n");
        assert!(is_closed(&clients[1]));
        // Nobody waits any more, though the kernel would not say so: nobody has to go.
        assert!(rig.server.must_be_looked_after());
        assert_eq!(rig.server.look(), Status::Serving);
        assert_eq!((rig.server.clients.len(), rig.server.must_be_looked_after()), (1, false));
    });
}

#[test]
fn a_client_behind_others_that_ask_nothing_is_served_as_soon_as_these_have_had_their_time() {
    let name = "a_client_behind_others_that_ask_nothing_is_served_as_soon_as_these_have_had_their_time";
    in_a_process(name, || {
        let mut rig = Rig::new();
        let crowd: Vec<_> = (0..40).map(|_| rig.connect()).collect();
        let (mut half, mut asks) = (&crowd[0], rig.connect());
        half.write_all(b"set=1\n").unwrap();
        asks.write_all(b"get=1\n\n").unwrap();
        // The first is in the midst of a request, and for the others there is room for three at a time.
        permit_more(4);
        let begun = Instant::now();
        let _ = rig.run();
        let mut events = Events::with_capacity(128);
        while received(&asks).is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(10), "nobody gives way");
            let left = rig.server.gives_way_in().expect("somebody can give way");
            rig.poll.poll(&mut events, Some(left)).unwrap();
            for event in &events {
                let _ = rig.server.handle(event, &mut rig.recorder);
            }
            rig.server.give_way(&mut rig.recorder);
        }
        let rounds = 40 / 3;
        assert!(begun.elapsed() >= GRACE * (rounds - 1), "each had its time");
        half.write_all(b"\n").unwrap();
        let _ = rig.run();
        assert_eq!(received(half), "errno=0\n\n", "a request under way is no silence");
    });
}

#[test]
fn where_nobody_waits_no_client_gives_way() {
    in_a_process("where_nobody_waits_no_client_gives_way", || {
        let mut rig = Rig::new();
        let clients = [rig.connect(), rig.connect()];
        permit_more(2);
        let _ = rig.run();
        let left = rig.server.gives_way_in().expect("the kernel does not say whether anybody waits");
        rig.poll.poll(&mut Events::with_capacity(8), Some(left)).unwrap();
        rig.server.give_way(&mut rig.recorder);
        assert_eq!((rig.server.clients.len(), rig.server.gives_way_in()), (2, None));
        assert!(!clients.iter().any(is_closed));
    });
}
