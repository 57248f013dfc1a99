//! More clients than there are places, and more to send than is kept.

use std::io::{ErrorKind, Write as _};
use std::os::unix::net;
use std::time::Duration;

use super::super::client::Client;
use super::{Rig, is_closed, many_peers, received};
use crate::config::PeerState;
use crate::uapi::reply::write_state;
use crate::uapi::server::{GRACE, Handler as _, MAX_CLIENTS, MAX_KEPT, MAX_UNREAD, PATIENCE, Server};

/// As if a client had been still for so long, and how many there are.
fn age(rig: &mut Rig, by: Duration, is_meant: impl Fn(&Client) -> bool) -> usize {
    let meant = rig.server.clients.values_mut().filter(|client| is_meant(client));
    meant.map(|client| client.since -= by).count()
}

/// Clients that have asked for replies, of which there is room for some at a time only, and such a reply.
fn crowd(rig: &mut Rig, count: usize) -> (Vec<net::UnixStream>, String) {
    rig.recorder.peers = many_peers(20_000).iter().map(|peer| PeerState::new(peer.public_key)).collect();
    let clients: Vec<_> = (0..count).map(|_| rig.connect()).collect();
    for mut client in &clients {
        client.write_all(b"get=1\n\n").unwrap();
    }
    let _ = rig.run();
    let reply = rig.server.clients.values().map(Client::kept).max().unwrap();
    let kept = rig.server.kept_for_others(None);
    assert!(kept > reply && kept <= MAX_UNREAD + reply, "{kept} bytes are kept");
    (clients, write_state(&rig.recorder.get(), false).to_string())
}

fn read_all(rig: &mut Rig, client: &net::UnixStream, len: usize) -> String {
    let mut text = String::new();
    while text.len() < len {
        let more = received(client);
        assert!(!more.is_empty(), "it ends after {} of {len} bytes", text.len());
        text.push_str(&more);
        let _ = rig.run();
    }
    text
}

#[test]
fn more_clients_than_there_is_room_for_push_out_the_idlest() {
    let mut rig = Rig::new();
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| rig.connect()).collect();
    let _ = rig.run();
    clients[0].write_all(b"get=1\n\n").unwrap();
    let _ = rig.run();
    assert_eq!(received(&clients[0]), "listen_port=0\nerrno=0\n\n");
    let mut late = rig.connect();
    late.write_all(b"get=1\n\n").unwrap();
    let _ = rig.run();
    assert_eq!(received(&late), "", "the others have not had their time");
    assert!(rig.server.gives_way_in().is_some_and(|time| time <= GRACE));
    assert_eq!(age(&mut rig, GRACE, |_| true), MAX_CLIENTS);
    rig.server.give_way(&mut rig.recorder);
    let _ = rig.run();
    assert_eq!(received(&late), "listen_port=0\nerrno=0\n\n");
    let closed: Vec<usize> = (0..MAX_CLIENTS).filter(|&index| is_closed(&clients[index])).collect();
    assert_eq!(closed, [1], "the first spoke later than the second");
}

#[test]
fn more_clients_than_there_is_room_for_are_all_answered_if_they_have_asked() {
    let mut rig = Rig::new();
    let clients: Vec<_> = (0..2 * MAX_CLIENTS + 1).map(|_| rig.connect()).collect();
    for mut client in &clients {
        client.write_all(b"get=1\n\n").unwrap();
    }
    for _ in 0..3 {
        let _ = rig.run();
        age(&mut rig, GRACE, |_| true);
        rig.server.give_way(&mut rig.recorder);
    }
    let answered = clients.iter().filter(|client| received(client) == "listen_port=0\nerrno=0\n\n").count();
    assert_eq!(answered, clients.len());
}

#[test]
fn whoever_has_asked_keeps_its_place_though_no_event_has_told_of_it() {
    let mut rig = Rig::new();
    let clients: Vec<_> = (0..MAX_CLIENTS).map(|_| rig.connect()).collect();
    let _ = rig.run();
    for mut client in &clients {
        client.write_all(b"get=1\n\n").unwrap();
    }
    age(&mut rig, GRACE, |_| true);
    let late = rig.connect();
    rig.server.accept(Server::close_silent);
    assert_eq!(rig.server.clients.len(), MAX_CLIENTS);
    let _ = rig.run();
    assert!(clients.iter().all(|client| received(client) == "listen_port=0\nerrno=0\n\n"));
    drop(late);
}

#[test]
fn however_many_ask_for_long_replies_at_once_each_gets_its_own_though_few_are_kept() {
    let mut rig = Rig::new();
    let (clients, expected) = crowd(&mut rig, 40);
    for client in &clients {
        assert!(read_all(&mut rig, client, expected.len()) == expected);
        assert!(rig.server.kept_for_others(None) <= MAX_KEPT);
    }
    assert_eq!((rig.server.clients.len(), rig.server.gives_way_in()), (clients.len(), None));
}

#[test]
fn a_client_that_does_not_read_its_reply_is_closed_once_others_have_waited_for_the_room_it_takes() {
    let mut rig = Rig::new();
    let (clients, expected) = crowd(&mut rig, 8);
    let deaf = rig.server.clients.values().filter(|client| client.takes_room()).count();
    assert!(deaf > 1 && deaf < clients.len());
    assert!(rig.server.gives_way_in().is_some_and(|time| !time.is_zero()), "not yet");
    rig.server.give_way(&mut rig.recorder);
    assert_eq!(rig.server.clients.len(), clients.len());

    assert_eq!(age(&mut rig, PATIENCE, Client::takes_room), deaf);
    assert_eq!(rig.server.gives_way_in(), Some(Duration::ZERO));
    rig.server.give_way(&mut rig.recorder);
    assert_eq!(rig.server.clients.len(), clients.len() - 1, "no more than it takes");
    // Those who read are served to the end.
    for client in &clients[1..] {
        assert!(read_all(&mut rig, client, expected.len()) == expected);
    }
}

#[test]
fn whoever_waits_for_room_keeps_its_place() {
    let mut rig = Rig::new();
    let (clients, expected) = crowd(&mut rig, MAX_CLIENTS);
    let late = rig.connect();
    let _ = rig.run();
    assert!(age(&mut rig, PATIENCE, |client| !client.is_awaited()) > 1);
    rig.server.accept(Server::close_silent);
    assert_eq!(rig.server.clients.len(), MAX_CLIENTS);
    for client in &clients {
        assert!(read_all(&mut rig, client, expected.len()) == expected);
    }
    drop(late);
}

#[test]
fn requests_that_do_not_go_on_are_closed_from_the_stillest_on_before_too_much_is_kept_for_them() {
    let mut rig = Rig::new();
    let idle = rig.connect();
    let part = [b"set=1\n".as_slice(), &b"listen_port=7\n".repeat(400_000)].concat();
    let mut half = Vec::new();
    for _ in 0..MAX_CLIENTS / 2 {
        let client = rig.connect();
        client.set_nonblocking(true).unwrap();
        let mut rest = part.as_slice();
        while !rest.is_empty() {
            match (&client).write(rest) {
                Ok(bytes) => rest = &rest[bytes..],
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            let _ = rig.run();
        }
        half.push(client);
        assert!(rig.server.kept_for_others(None) <= MAX_KEPT + part.len());
    }
    let left = rig.server.clients.len() - 1;
    assert!(left > 1 && left < half.len(), "{left} of {}", half.len());
    let closed: Vec<bool> = half.iter().map(is_closed).collect();
    assert!(closed.is_sorted_by(|earlier, later| earlier >= later), "{closed:?}");
    assert!(!is_closed(&idle), "nothing is kept for it");
}
