//! Configuration acts in place: it changes what is named, and never costs a session.

use std::net::SocketAddr;

use adit::{Bounds, DropReason, Error, HandshakeWork, PresharedKey, PrivateKey};

use crate::sim::{A, B, C, DELAY, Kind, RTT, Sim, packet, secs};

#[test]
fn setting_an_existing_peer_changes_what_is_named_and_keeps_the_session() {
    let mut sim = Sim::pair(1);
    sim.connect(A, B);
    let (now, b, key) = (sim.now, sim.id(A, B), sim[B].private_key.public_key());
    let endpoint = Some(sim[B].address);
    let interface = &mut sim[A].interface;
    assert_eq!(interface.add_peer(key), Ok(b), "the same peer, not another one");
    interface.set_endpoint(b, endpoint).unwrap();
    interface.add_allowed_ip(b, "10.77.0.0/16".parse().unwrap()).unwrap();
    interface.set_preshared_key(b, Some(PresharedKey::from_bytes([1; 32]))).unwrap();
    interface.set_persistent_keepalive(now, b, 25).unwrap();
    interface.set_mtu(1300);
    let state = sim.peer(A, B);
    assert!(state.has_session && state.last_handshake.is_some());
    assert_eq!((state.persistent_keepalive, state.endpoint), (25, endpoint));
    let packet = sim.send(A, B);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet));
    assert_eq!(sim.count(A, Kind::Initiation), 1);
}

#[test]
fn setting_an_existing_peer_keeps_the_timestamp_that_refuses_replays() {
    let mut sim = Sim::pair(2);
    sim.connect(A, B);
    let key = sim[A].private_key.public_key();
    sim[B].interface.add_peer(key).unwrap();
    sim.introduce(B, A);
    sim.run_for(secs(1));
    let initiation = sim.last_sent(A, Kind::Initiation);
    sim.replay(B, &initiation);
    assert_eq!((sim.drops(B, DropReason::ReplayedInitiation), sim.count(B, Kind::Response)), (1, 1));
}

#[test]
fn a_peer_with_the_interfaces_own_key_is_refused_and_nothing_changes() {
    let mut sim = Sim::pair(3);
    let own = sim[A].private_key.public_key();
    assert_eq!(sim[A].interface.add_peer(own), Err(Error::OwnKey));
    assert_eq!((sim[A].interface.peer_count(), sim[A].interface.peer_id(&own)), (1, None));
}

#[test]
fn setting_the_private_key_of_a_peer_removes_that_peer_and_no_other() {
    let mut sim = Sim::group(4, 3);
    let (b, c) = (sim.id(A, B), sim.id(A, C));
    let key = sim[B].private_key.clone();
    sim[A].interface.set_private_key(Some(key));
    let now = sim.now;
    assert!(sim[A].interface.peer(now, b).is_none());
    assert!(sim[A].interface.peer(now, c).is_some());
    assert_eq!(sim[A].interface.allowed_ips(b).count(), 0);
}

#[test]
fn another_private_key_gives_up_the_sessions_and_makes_new_ones_by_itself() {
    let mut sim = Sim::pair(5);
    sim.connect(A, B);
    let key = PrivateKey::from_bytes([77; 32]);
    sim[A].interface.set_private_key(Some(key.clone()));
    sim[A].private_key = key;
    assert!(!sim.peer(A, B).has_session);
    let old = sim[B].interface.peers(sim.now).next().unwrap().id;
    sim[B].interface.remove_peer(old);
    sim.introduce(B, A);
    let packet = sim.send(A, B);
    sim.run_for(RTT * 2);
    assert!(sim[B].has_arrived(&packet));
    assert_eq!(sim.drops(B, DropReason::UnknownIndex), 0, "nothing was sent in the old session");
}

#[test]
fn what_was_on_its_way_when_the_private_key_changed_still_arrives() {
    let mut sim = Sim::pair(6);
    sim.connect(A, B);
    let packet = sim.send(B, A);
    sim[A].interface.set_private_key(Some(PrivateKey::from_bytes([77; 32])));
    sim.run_for(RTT);
    assert!(sim[A].has_arrived(&packet));
}

#[test]
fn after_another_private_key_every_session_receives_and_none_sends() {
    // A's two sessions: if A initiated, the previous and the current one; if B did, the current and the next one, in
    // which nothing has arrived yet.
    for (seed, initiator) in [(21, A), (22, B)] {
        let mut sim = Sim::pair(seed);
        sim.connect(initiator, 1 - initiator);
        sim.run_for(secs(121));
        sim.network.lose(|sent| sent.from == B && matches!(sent.kind(), Kind::Data | Kind::Keepalive));
        // Whichever of the two is the initiator renews the session.
        let before = sim.send(B, A);
        sim.send(A, B);
        sim.run_for(RTT * 2);
        let after = sim.send(B, A);
        let held = sim.sent(B, Kind::Data).split_off(1);
        assert_ne!(held[0].first_index(), held[1].first_index(), "of two sessions");

        sim[A].interface.set_private_key(Some(PrivateKey::from_bytes([77; 32])));
        let of_sessions = |sim: &Sim| sim.wire.iter().filter(|sent| sent.from == A && sent.bytes[0] == 4).count();
        let count = of_sessions(&sim);
        assert!(!sim.peer(A, B).has_session);
        let received: Vec<_> = held.iter().map(|sent| sim.replay(A, sent)).collect();
        assert_eq!(received, [Some(before), Some(after)]);
        assert!(!sim.peer(A, B).has_session);
        sim.send(A, B);
        sim.run_for(secs(60));
        assert_eq!(of_sessions(&sim), count);
    }
}

#[test]
fn setting_the_same_private_key_again_costs_no_session() {
    let mut sim = Sim::pair(7);
    sim.connect(A, B);
    let key = sim[A].private_key.clone();
    sim[A].interface.set_private_key(Some(key));
    assert!(sim.peer(A, B).has_session);
    let packet = sim.send(A, B);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet));
    assert_eq!(sim.count(A, Kind::Initiation), 1);
}

#[test]
fn without_a_private_key_handshakes_are_refused_and_packets_wait() {
    let mut sim = Sim::pair(8);
    sim.connect(A, B);
    sim[B].interface.set_private_key(None);
    assert!(sim[B].interface.public_key().is_none() && sim[B].interface.private_key().is_none());
    let packet = sim.send(B, A);
    sim.run_for(secs(1));
    assert!(!sim[A].has_arrived(&packet));
    sim.run_for(secs(130));
    sim.send(A, B);
    sim.run_for(secs(60));
    assert!(sim.drops(B, DropReason::NoPrivateKey) >= 2);
    assert_eq!((sim.count(B, Kind::Initiation), sim.count(B, Kind::Response)), (0, 1));
    // With the key back all is well.
    let key = sim[B].private_key.clone();
    sim[B].interface.set_private_key(Some(key));
    sim.run_for(secs(6));
    sim.connect(A, B);
}

#[test]
fn packets_that_wait_for_the_first_private_key_go_when_it_comes() {
    let mut sim = Sim::pair(18);
    let key = sim[A].private_key.clone();
    sim[A].interface.set_private_key(None);
    let packet = sim.send(A, B);
    // Longer than a handshake is tried.
    sim.run_for(secs(100));
    sim[A].interface.set_private_key(Some(key));
    sim.run_for(RTT * 2);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn a_persistent_keepalive_begins_when_what_it_lacked_is_there() {
    for (seed, lacks_key) in [(19, true), (20, false)] {
        let mut sim = Sim::pair(seed);
        let (now, b, key, address) = (sim.now, sim.id(A, B), sim[A].private_key.clone(), sim[B].address);
        if lacks_key {
            sim[A].interface.set_private_key(None);
        } else {
            sim[A].interface.set_endpoint(b, None).unwrap();
        }
        sim[A].interface.set_persistent_keepalive(now, b, 3_600).unwrap();
        sim.run_for(secs(10));
        assert!(sim.wire.is_empty());
        sim[A].interface.set_private_key(Some(key));
        sim[A].interface.set_endpoint(b, Some(address)).unwrap();
        sim.run_for(RTT + DELAY);
        assert!(sim.peer(A, B).has_session, "lacks key: {lacks_key}");
    }
}

#[test]
fn packets_that_wait_for_a_key_that_never_comes_are_erased_with_the_old_keys() {
    let mut sim = Sim::pair(17);
    sim.connect(A, B);
    sim[A].interface.set_private_key(None);
    sim.send_many(A, B, 4);
    sim.run_for(secs(541));
    assert_eq!(sim.drops(A, DropReason::HandshakeGaveUp), 4);
    assert_eq!(sim[A].interface.poll_timeout(), None);
}

#[test]
fn a_handshake_begun_with_the_old_private_key_comes_to_nothing() {
    let mut sim = Sim::pair(9);
    sim.network.lose_kind(Kind::Response);
    sim.send(A, B);
    sim.run_for(RTT);
    let response = sim.last_sent(B, Kind::Response);
    sim[A].interface.set_private_key(Some(PrivateKey::from_bytes([78; 32])));
    sim.replay(A, &response);
    assert_eq!(sim.drops(A, DropReason::BadMac1), 1);
    // Nor if the old key is set again.
    let old = sim[A].private_key.clone();
    sim[A].interface.set_private_key(Some(old));
    sim.replay(A, &response);
    assert_eq!(sim.drops(A, DropReason::UnknownIndex), 1);
    assert!(!sim.peer(A, B).has_session);
}

#[test]
fn a_removed_peer_is_gone_with_all_it_had() {
    let mut sim = Sim::group(10, 3);
    sim.connect(A, B);
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 5).unwrap();
    let data = sim.send(B, A);
    assert!(sim[A].interface.remove_peer(b));
    assert!(!sim[A].interface.remove_peer(b));
    sim.run_for(RTT);
    assert!(!sim[A].has_arrived(&data));
    assert_eq!(sim.drops(A, DropReason::UnknownIndex), 1);
    assert_eq!(sim[A].interface.poll_timeout(), None);
    let state = sim.send(A, B);
    assert_eq!((sim.drops(A, DropReason::NoRoute), sim[B].has_arrived(&state)), (1, false));
    // Its handle is good for nothing, and is not given to another one.
    let address: SocketAddr = "192.0.2.1:1".parse().unwrap();
    let key = sim[B].private_key.public_key();
    let interface = &mut sim[A].interface;
    let gone = Err(Error::NoSuchPeer);
    let again = interface.add_peer(key).unwrap();
    assert_ne!(again, b);
    assert_eq!(interface.set_endpoint(b, Some(address)), gone);
    assert_eq!(interface.set_preshared_key(b, None), gone);
    assert_eq!(interface.set_persistent_keepalive(now, b, 1), gone);
    assert_eq!(interface.forget_source(b), gone);
    assert_eq!(interface.clear_allowed_ips(b), gone);
    assert_eq!(interface.add_allowed_ip(b, "10.0.0.0/8".parse().unwrap()), Err(Error::NoSuchPeer));
    assert_eq!(interface.remove_allowed_ip(b, "10.0.0.0/8".parse().unwrap()), Err(Error::NoSuchPeer));
    assert!(interface.peer(now, b).is_none());
    let state = interface.peer(now, again).unwrap();
    assert_eq!((state.endpoint, state.persistent_keepalive, state.rx_bytes, state.has_session), (None, 0, 0, false));
}

#[test]
fn packets_that_wait_go_with_the_peer_that_is_removed() {
    let mut bounds = Bounds::default();
    bounds.staged_bytes = 10_000;
    let mut sim = Sim::group_with(11, 3, crate::sim::Calls::Single, bounds);
    sim.network.cut(A, B);
    sim.send_many(A, B, 100);
    let b = sim.id(A, B);
    sim[A].interface.remove_peer(b);
    // The removed peer's bytes are free for others.
    let packets = sim.send_many(A, C, 100);
    sim.run_for(RTT * 2);
    assert!(packets.iter().all(|packet| sim[C].has_arrived(packet)));
}

/// The initiator's two steps and the responder's three: of which node, and how many came before.
const STEPS: [(usize, usize); 5] = [(A, 0), (A, 1), (B, 1), (B, 2), (B, 0)];

/// Takes a handshake to each of `steps`. `interrupt` changes the interface while that step is being computed outside:
/// this must do no harm, and the step must come to nothing.
fn interrupted(steps: &[(usize, usize)], interrupt: impl Fn(&mut Sim, usize)) {
    for &(node, steps_before) in steps {
        let mut sim = Sim::pair(12);
        let now = sim.now;
        let (mut initiation, mut response) = (vec![0; 148], vec![0; 92]);
        sim.network.cut_both(A, B);
        sim.send(A, B);
        initiation.copy_from_slice(&sim.last_sent(A, Kind::Initiation).bytes);
        if (node, steps_before) == (A, 0) {
            // The first initiation is on its way; the interrupted one is the next.
            let deadline = sim[A].interface.poll_timeout().unwrap();
            sim.now = deadline;
            sim[A].interface.expire(deadline);
        } else if node == A {
            let source = sim[A].address;
            sim.inject(B, source, &initiation);
            response.copy_from_slice(&sim.last_sent(B, Kind::Response).bytes);
            give(&mut sim, A, B, &mut response);
        } else {
            give(&mut sim, B, A, &mut initiation);
        }
        let mut work = sim[node].interface.poll_handshake(now).expect("a first step");
        if node == B {
            for _ in 0..steps_before {
                work = step(&mut sim, B, work).expect("another step");
            }
        }
        let done = work.compute();
        interrupt(&mut sim, node);
        let before = sim.wire.len();
        let now = sim.now;
        assert!(sim[node].interface.finish_handshake(now, done).is_none());
        sim.flush(node);
        assert_eq!(sim.wire.len(), before, "node {node}, step {steps_before}");
        assert!(sim[node].interface.peers(now).all(|peer| !peer.has_session));
        assert_eq!(sim[node].events(), []);
    }
}

/// Lets a datagram arrive without computing anything.
fn give(sim: &mut Sim, to: usize, from: usize, bytes: &mut [u8]) {
    let (now, source) = (sim.now, sim[from].address);
    let mut burst = adit::Datagrams::new();
    assert!(burst.push(0..bytes.len(), &adit::Path::to(source), adit::Ecn::NotEct));
    let opened = sim[to].interface.begin_open(now, burst, bytes).open(bytes);
    assert_eq!(sim[to].interface.commit(now, opened, bytes).packets().count(), 0);
}

fn step(sim: &mut Sim, node: usize, work: HandshakeWork) -> Option<HandshakeWork> {
    let now = sim.now;
    sim[node].interface.finish_handshake(now, work.compute())
}

#[test]
fn a_handshake_whose_peer_is_removed_meanwhile_comes_to_nothing() {
    interrupted(&STEPS, |sim, node| {
        let peer = sim.id(node, 1 - node);
        assert!(sim[node].interface.remove_peer(peer));
    });
}

#[test]
fn a_handshake_whose_peer_is_removed_and_added_again_meanwhile_comes_to_nothing() {
    // In the responder's first step nobody knows yet which peer it is.
    interrupted(&STEPS[..4], |sim, node| {
        let peer = sim.id(node, 1 - node);
        assert!(sim[node].interface.remove_peer(peer));
        // Without an endpoint, so that it does not begin one of its own.
        let key = sim[1 - node].private_key.public_key();
        sim[node].interface.add_peer(key).unwrap();
    });
}

#[test]
fn a_handshake_whose_private_key_is_changed_meanwhile_comes_to_nothing() {
    interrupted(&STEPS, |sim, node| sim[node].interface.set_private_key(Some(PrivateKey::from_bytes([5; 32]))));
    interrupted(&STEPS, |sim, node| sim[node].interface.set_private_key(None));
}

#[test]
fn packets_of_a_peer_that_is_removed_while_they_are_opened_are_not_delivered() {
    let mut sim = Sim::pair(13);
    sim.connect(A, B);
    sim.network.cut(A, B);
    sim.send(A, B);
    let (now, a) = (sim.now, sim.id(B, A));
    let sent = sim.last_sent(A, Kind::Data);
    let mut buffer = sent.bytes.clone();
    let mut burst = adit::Datagrams::new();
    assert!(burst.push(0..buffer.len(), &adit::Path::to(sent.source), adit::Ecn::NotEct));
    let opened = sim[B].interface.begin_open(now, burst, &buffer).open(&mut buffer);
    sim[B].interface.remove_peer(a);
    assert_eq!(sim[B].interface.commit(now, opened, &mut buffer).packets().count(), 0);
    assert_eq!(sim.drops(B, DropReason::PeerGone), 1);
}

#[test]
fn debug_output_shows_no_secret() {
    let mut sim = Sim::pair(14);
    let secret = PrivateKey::from_bytes([0xab; 32]);
    let shared = PresharedKey::from_bytes([0xcd; 32]);
    sim[A].interface.set_private_key(Some(secret.clone()));
    let b = sim.id(A, B);
    sim[A].interface.set_preshared_key(b, Some(shared.clone())).unwrap();
    sim.send(A, B);
    let texts = [
        format!("{secret:?} {shared:?}"),
        format!("{:?}", sim[A].interface),
        format!("{:#?}", sim.peer(A, B)),
        format!("{:?}", sim[A].interface.private_key()),
    ];
    for text in texts {
        for byte in [secret.as_bytes(), shared.as_bytes()].map(|key| key[1]) {
            assert!(!text.contains(&format!("{byte:02x}{byte:02x}")), "{text}");
            assert!(!text.contains(&format!("{byte}, {byte}")), "{text}");
        }
        assert!(!text.contains(secret.to_base64().as_str()) && !text.contains(shared.to_base64().as_str()));
    }
}

#[test]
fn peers_are_told_with_all_that_was_set_and_all_that_happened() {
    let mut sim = Sim::pair(15);
    let (now, b) = (sim.now, sim.id(A, B));
    let shared = PresharedKey::from_bytes([4; 32]);
    for (one, other) in [(A, B), (B, A)] {
        let id = sim.id(one, other);
        sim[one].interface.set_preshared_key(id, Some(shared.clone())).unwrap();
    }
    sim[A].interface.set_persistent_keepalive(now, b, 30).unwrap();
    sim.run_for(DELAY * 5);
    let state = sim.peer(A, B);
    assert_eq!((state.id, *state.public_key), (b, sim[B].private_key.public_key()));
    assert_eq!((state.preshared_key, state.persistent_keepalive), (Some(&shared), 30));
    assert_eq!((state.endpoint, state.has_session), (Some(sim[B].address), true));
    assert_eq!((state.tx_bytes, state.rx_bytes), (148 + 32, 92));
}

#[test]
fn every_peer_is_told_of_and_not_only_the_first_few() {
    let mut sim = Sim::new(16);
    sim.add_node(Bounds::default());
    for number in 0..5_000_u32 {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        sim[A].interface.add_peer(adit::PublicKey::from_bytes(key)).unwrap();
    }
    assert_eq!(sim[A].interface.peers(sim.now).count(), 5_000);
}

#[test]
fn what_waits_for_a_handshake_that_another_key_undid_waits_for_one_with_that_key() {
    let mut sim = Sim::pair(17);
    let (now, mut buffer) = (sim.now, [0; 2_048]);
    let waiting = packet::v4(packet::inside(A), packet::inside(B), b"waits");
    let mut burst = adit::Packets::new(1420);
    buffer[16..16 + waiting.len()].copy_from_slice(&waiting);
    burst.push(0, waiting.len()).expect("room");
    assert_eq!(sim[A].interface.begin_seal(now, burst, &buffer).seal(&mut buffer).transmits().count(), 0);
    let work = sim[A].interface.poll_handshake(now).expect("an initiation");
    let done = work.compute();
    sim.change_key(A);
    sim.introduce(B, A);
    assert!(sim[A].interface.finish_handshake(now, done).is_none());
    let mut next = sim[A].interface.poll_handshake(now);
    while let Some(work) = next {
        next = step(&mut sim, A, work);
    }
    sim.flush(A);
    sim.run_for(RTT * 3);
    assert!(sim[B].has_arrived(&waiting));
}

#[test]
fn nothing_is_sent_to_a_peer_that_was_removed_before() {
    let mut sim = Sim::pair(18);
    let (now, b, mut buffer) = (sim.now, sim.id(A, B), [0; 2_048]);
    let waiting = packet::v4(packet::inside(A), packet::inside(B), b"waits");
    assert_eq!(sim[A].interface.handle_packet(now, &waiting, &mut buffer), Ok(None));
    sim[A].interface.handle_timeout(now);
    assert!(sim[A].interface.has_peer_transmits());
    sim[A].interface.remove_peer(b);
    assert_eq!(sim[A].interface.poll_transmit(now, &mut buffer), Ok(None));
}

#[test]
fn another_endpoint_in_place_of_a_known_one_sends_nothing_at_once() {
    let mut sim = Sim::pair(20);
    sim.connect(A, B);
    let (now, b, sent) = (sim.now, sim.id(A, B), |sim: &Sim| sim.wire.iter().filter(|sent| sent.from == A).count());
    sim[A].interface.set_persistent_keepalive(now, b, 25).unwrap();
    sim.run_for(secs(1));
    let before = sent(&sim);
    sim[A].interface.set_endpoint(b, Some("198.51.100.7:4242".parse().unwrap())).unwrap();
    sim.run_for(secs(8));
    assert_eq!(sent(&sim), before);
}

#[test]
fn bounds_without_room_for_a_message_still_leave_room_for_one() {
    let mut bounds = Bounds::default();
    bounds.outgoing = 0;
    let mut sim = Sim::group_with(19, 2, crate::sim::Calls::Single, bounds);
    sim.connect(A, B);
}

#[test]
fn a_handle_is_known_to_the_interface_that_gave_it_out_and_to_no_other() {
    let mut sim = Sim::pair(50);
    let (now, at_a) = (sim.now, sim.id(A, B));
    assert!(sim[A].interface.peer(now, at_a).is_some());
    assert!(sim[B].interface.peer(now, at_a).is_none());
    assert!(!sim[B].interface.remove_peer(at_a));
    assert!(sim[A].interface.remove_peer(at_a));
}
