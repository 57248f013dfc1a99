//! Tests of [`super`], each over real sockets, with clients that behave badly.

use std::io::{Read as _, Write as _};
use std::os::unix::net;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use adit::{PrivateKey, PublicKey};
use mio::{Events, Poll};

use super::*;
use crate::config::{AllowedIpChange, PeerState, PeerUpdate};
use crate::scratch::Scratch;
use crate::uapi::Client as Asking;
use crate::uapi::reply::write_state;
use crate::uapi::request::write_set;

mod crowds;
mod files;

/// An interface that keeps what it is told.
#[derive(Default)]
struct Recorder {
    updates: Vec<DeviceUpdate>,
    peers: Vec<PeerState>,
}

impl Handler for Recorder {
    fn get(&mut self) -> DeviceState {
        DeviceState { listen_port: self.updates.len() as u16, peers: self.peers.clone(), ..DeviceState::default() }
    }

    fn set(&mut self, update: DeviceUpdate) -> Result<(), SetError> {
        if update.fwmark == Some(666) {
            return Err(SetError { errno: libc::EADDRINUSE, message: "not this one".into() });
        }
        self.updates.push(update);
        Ok(())
    }
}

/// A server whose loop is driven by the test.
struct Rig {
    server: Server,
    poll: Poll,
    path: PathBuf,
    recorder: Recorder,
    _folder: Scratch,
}

impl Rig {
    fn new() -> Self {
        let folder = Scratch::new();
        let path = folder.join("wg0.sock");
        let mut server = Server::new(Listener::bind_at(&path).unwrap());
        let poll = Poll::new().unwrap();
        server.register(poll.registry(), 10..1000).unwrap();
        Self { server, poll, path, recorder: Recorder::default(), _folder: folder }
    }

    fn connect(&self) -> net::UnixStream {
        net::UnixStream::connect(&self.path).unwrap()
    }

    /// Handles everything that has happened, and tells how the last of it ended.
    fn run(&mut self) -> Status {
        let mut status = Status::Serving;
        let mut events = Events::with_capacity(128);
        loop {
            self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            if events.is_empty() {
                return status;
            }
            for event in &events {
                status = self.server.handle(event, &mut self.recorder);
            }
        }
    }

    /// Handles events until `done`, which happens elsewhere and wakes the poll.
    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let mut events = Events::with_capacity(128);
        while !done(self) {
            self.poll.poll(&mut events, Some(Duration::from_millis(100))).unwrap();
            for event in &events {
                let _ = self.server.handle(event, &mut self.recorder);
            }
        }
    }
}

/// What has been sent to a client, as far as it has.
fn received(mut stream: &net::UnixStream) -> String {
    stream.set_nonblocking(true).unwrap();
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    stream.set_nonblocking(false).unwrap();
    String::from_utf8(text).unwrap()
}

fn is_closed(mut stream: &net::UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    matches!(stream.read(&mut [0]), Ok(0))
        || matches!(stream.write(b"\n"), Err(error) if error.kind() == ErrorKind::BrokenPipe)
}

fn many_peers(count: u32) -> Vec<PeerUpdate> {
    let peer = |number: u32| {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        let mut peer = PeerUpdate::new(PublicKey::from_bytes(key));
        peer.endpoint = Some("[2001:db8::1]:51820".parse().unwrap());
        peer.allowed_ips = vec![
            AllowedIpChange::add(
                format!("10.{}.{}.{}/32", number >> 16 & 255, number >> 8 & 255, number & 255).parse().unwrap(),
            ),
            AllowedIpChange::add(format!("fd00::{number:x}/128").parse().unwrap()),
        ];
        peer
    };
    (0..count).map(peer).collect()
}

#[test]
fn requests_may_be_pipelined_and_the_replies_keep_their_order() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client
        .write_all(
            b"set=1\nlisten_port=1\n\nget=1\n\nset=1\nfwmark=x\n\nget=1\nx=\n\nset=1\nfwmark=666\n\nset=1\n\nget=1\n\n",
        )
        .unwrap();
    let _ = rig.run();
    let expected = format!(
        "errno=0\n\nlisten_port=1\nerrno=0\n\nerrno=-22\n\nerrno=22\n\nerrno=-{}\n\nerrno=0\n\nlisten_port=2\nerrno=0\n\n",
        libc::EADDRINUSE
    );
    assert_eq!(received(&client), expected);
}

#[test]
fn whoever_has_asked_before_another_process_takes_over_is_answered_though_no_event_has_told_of_it() {
    let mut rig = Rig::new();
    let (mut asks, mut gone, mut half, silent) = (rig.connect(), rig.connect(), rig.connect(), rig.connect());
    let _ = rig.run();
    asks.write_all(b"set=1\nlisten_port=1\n\n").unwrap();
    half.write_all(b"set=1\nlisten_po").unwrap();
    gone.write_all(b"get=1\n\n").unwrap();
    drop(gone);
    rig.server.serve_those_who_ask(&mut rig.recorder);
    rig.server.let_go();
    assert_eq!([&asks, &half, &silent].map(received), ["errno=0\n\n", "", ""]);
    assert_eq!(rig.recorder.updates.len(), 1);
}

#[test]
fn a_client_that_has_sent_half_a_request_blocks_nobody_else() {
    let mut rig = Rig::new();
    let mut slow = rig.connect();
    slow.write_all(b"set=1\nlisten_po").unwrap();
    let _ = rig.run();
    let mut quick = rig.connect();
    quick.write_all(b"get=1\n\n").unwrap();
    let _ = rig.run();
    assert_eq!(received(&quick), "listen_port=0\nerrno=0\n\n");
    slow.write_all(b"rt=7\n").unwrap();
    let _ = rig.run();
    assert_eq!((received(&slow).as_str(), rig.recorder.updates.len()), ("", 0));
    slow.write_all(b"\n").unwrap();
    let _ = rig.run();
    assert_eq!(received(&slow), "errno=0\n\n");
    assert_eq!(rig.recorder.updates, [DeviceUpdate { listen_port: Some(7), ..DeviceUpdate::default() }]);
}

#[test]
fn half_a_request_of_a_client_that_left_is_forgotten() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(b"set=1\nlisten_port=1\n").unwrap();
    let _ = rig.run();
    drop(client);
    let _ = rig.run();
    assert!(rig.recorder.updates.is_empty() && rig.server.clients.is_empty());
}

#[test]
fn a_client_may_close_its_side_and_still_be_answered() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(b"get=1\n\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = rig.run();
    assert_eq!(received(&client), "listen_port=0\nerrno=0\n\n");
    assert!(is_closed(&client));
}

#[test]
fn a_request_without_the_blank_line_at_its_end_is_refused_when_nothing_more_can_come() {
    for (request, reply) in [
        ("set=1\nlisten_port=1\n", format!("errno=-{}\n\n", libc::EPROTO)),
        ("set=1\nlisten_po", format!("errno=-{}\n\n", libc::EPROTO)),
        ("set=1\nfwmark=x\n", format!("errno=-{}\n\n", libc::EINVAL)),
        ("get=1\n", format!("errno={}\n\n", libc::EPROTO)),
        ("get=1\n\n", "listen_port=0\nerrno=0\n\n".to_owned()),
        ("", String::new()),
    ] {
        let mut rig = Rig::new();
        let mut client = rig.connect();
        client.write_all(request.as_bytes()).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = rig.run();
        assert_eq!(received(&client), reply, "{request:?}");
        assert!(is_closed(&client) && rig.recorder.updates.is_empty() && rig.server.clients.is_empty());
    }
}

#[test]
fn a_client_that_reads_slowly_is_sent_everything_and_blocks_nobody() {
    let mut rig = Rig::new();
    rig.recorder.peers = many_peers(5000).iter().map(|peer| PeerState::new(peer.public_key)).collect();
    let mut slow = rig.connect();
    slow.write_all(b"get=1\n\nget=1\n\n").unwrap();
    let _ = rig.run();
    let waiting: Vec<usize> = rig.server.clients.values().map(|client| client.output.len()).collect();
    assert_eq!(waiting.len(), 1);
    let mut quick = rig.connect();
    quick.write_all(b"set=1\n\n").unwrap();
    let _ = rig.run();
    assert_eq!(received(&quick), "errno=0\n\n");
    let mut text = String::new();
    while text.matches("errno=0\n\n").count() < 2 {
        let more = received(&slow);
        assert!(!more.is_empty());
        text.push_str(&more);
        let _ = rig.run();
    }
    assert_eq!(text.matches("public_key=").count(), 10_000);
    assert!(rig.server.clients.values().all(|client| client.output.is_empty()));
}

#[test]
fn a_server_that_is_replaced_finishes_replies_and_leaves_requests_that_are_not_whole() {
    let mut rig = Rig::new();
    rig.recorder.peers = many_peers(5000).iter().map(|peer| PeerState::new(peer.public_key)).collect();
    let (mut asks, mut changes, idle, deaf) = (rig.connect(), rig.connect(), rig.connect(), rig.connect());
    for mut client in [&asks, &deaf] {
        client.write_all(b"get=1\n\n").unwrap();
    }
    changes.write_all(b"set=1\nlisten_port=7\n").unwrap();
    asks.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = rig.run();
    let expected = write_state(&rig.recorder.get(), false);
    let mut reply = String::new();
    thread::scope(|scope| {
        // The time of the client that does not read ends, and the file is left.
        scope.spawn(|| rig.server.let_go());
        let mut part = vec![0; expected.len()];
        asks.read_exact(&mut part).unwrap();
        reply = String::from_utf8(part).unwrap();
    });
    assert!(reply == *expected, "the reply is not whole");
    let Rig { server, recorder, path, _folder, .. } = rig;
    drop(server);
    for mut client in [&asks, &changes, &idle] {
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0, "nothing more is said");
    }
    assert!(recorder.updates.is_empty(), "half a request changes nothing");
    assert!(path.exists(), "the file is for whoever serves next");
}

#[test]
fn ten_thousand_peers_are_one_request() {
    let mut rig = Rig::new();
    let update = DeviceUpdate {
        private_key: Some(Some(Box::new(PrivateKey::from_bytes([1; 32])))),
        peers: many_peers(10_000),
        ..DeviceUpdate::default()
    };
    let text = write_set(&update);
    assert!(text.len() > 1 << 20, "more than one turn of {TURN} bytes");
    let path = rig.path.clone();
    let client = thread::spawn(move || {
        let mut client = Asking::connect_at(&path).unwrap();
        client.set(&update).unwrap();
        (client.get().unwrap(), update)
    });
    rig.run_until(|_| client.is_finished());
    let (state, update) = client.join().unwrap();
    assert_eq!((state.listen_port, &rig.recorder.updates), (1, &vec![update]));
}

#[test]
fn what_no_request_may_be_is_refused_without_being_kept() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while sent < 4 << 20 {
        match client.write(&[b'x'; 4096]) {
            Ok(bytes) => sent += bytes,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                let _ = rig.run();
            }
        }
    }
    let _ = rig.run();
    client.set_nonblocking(false).unwrap();
    client.write_all(b"\n\nget=1\n\n").unwrap();
    let _ = rig.run();
    assert_eq!(received(&client), format!("errno=-{}\n\nlisten_port=0\nerrno=0\n\n", libc::EMSGSIZE));
}

#[test]
fn one_that_never_stops_asking_leaves_the_others_their_turn() {
    let mut rig = Rig::new();
    rig.recorder.peers = many_peers(20).iter().map(|peer| PeerState::new(peer.public_key)).collect();
    let path = rig.path.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = std::sync::mpsc::channel();
    let greedy = thread::spawn(move || {
        let mut stream = net::UnixStream::connect(path).unwrap();
        let mut reading = stream.try_clone().unwrap();
        let reader = thread::spawn(move || io::copy(&mut reading, &mut io::sink()).unwrap());
        let questions = b"get=1\n\n".repeat(1000);
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            stream.write_all(&questions).unwrap();
            let _ = begin.send(());
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        reader.join().unwrap()
    });
    rig.run_until(|_| begun.try_recv().is_ok());
    let path = rig.path.clone();
    let polite = thread::spawn(move || Asking::connect_at(&path).unwrap().get().unwrap());
    rig.run_until(|_| polite.is_finished());
    polite.join().unwrap();
    drop(stop);
    rig.run_until(|_| greedy.is_finished());
    assert!(greedy.join().unwrap() > 0);
}

#[test]
fn a_deleted_socket_is_noticed() {
    let mut rig = Rig::new();
    assert_eq!(rig.run(), Status::Serving);
    std::fs::remove_file(&rig.path).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut events = Events::with_capacity(8);
    rig.poll.poll(&mut events, deadline.checked_duration_since(Instant::now())).unwrap();
    let last = events.iter().map(|event| rig.server.handle(event, &mut rig.recorder)).last();
    assert_eq!(last, Some(Status::Deleted));
}

#[test]
fn a_socket_that_was_replaced_is_a_deleted_one() {
    let mut rig = Rig::new();
    std::fs::remove_file(&rig.path).unwrap();
    let other = Listener::bind_at(&rig.path).unwrap();
    assert_eq!(rig.run(), Status::Deleted);
    drop(other);
}

#[test]
fn facts_come_from_those_who_have_them_and_the_rest_from_all() {
    let mut rig = Rig::new();
    let path = rig.path.clone();
    let client = thread::spawn(move || Asking::connect_at(&path).unwrap().get_facts().unwrap());
    rig.run_until(|_| client.is_finished());
    assert_eq!(client.join().unwrap(), DeviceState::default());

    // One that closes the connection on what it does not know.
    let path = rig.path.with_extension("other");
    let other = net::UnixListener::bind(&path).unwrap();
    let asked = path.clone();
    let client = thread::spawn(move || Asking::connect_at(&asked).unwrap().get_facts().unwrap());
    drop(other.accept().unwrap());
    let (mut stream, _) = other.accept().unwrap();
    stream.write_all(b"listen_port=9\nerrno=0\n\n").unwrap();
    assert_eq!(client.join().unwrap().listen_port, 9);
}
