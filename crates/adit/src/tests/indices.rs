//! The table of indices holds those of living sessions and handshakes, and no others, however these end.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Pair, packet, path};
use crate::key::{PrivateKey, PublicKey};
use crate::{Datagrams, DropReason, Ecn, Event, HandshakeWork, Interface};

/// The indices of the sessions and of the handshakes that were begun here.
fn living(end: &Interface) -> BTreeSet<u32> {
    let of_peer = |peer: &crate::peer::Peer| -> Vec<u32> {
        let keypairs = &peer.keypairs;
        let sessions = [&keypairs.current, &keypairs.previous, &keypairs.next];
        let begun = peer.handshake.iter().map(|begun| begun.local_index);
        sessions.into_iter().flatten().map(|session| session.local_index).chain(begun).collect()
    };
    end.peers.iter().flat_map(|(_, peer)| of_peer(peer)).collect()
}

/// How many indices the table holds; checks that they are the living ones.
#[track_caller]
fn count(end: &Interface) -> usize {
    assert_eq!(end.indices.keys().copied().collect::<BTreeSet<_>>(), living(end));
    end.indices.len()
}

/// Ends an interface's sessions and handshakes all at once.
type Change = fn(&mut Interface);

const REMOVAL: Change = |end| {
    let peers: Vec<_> = end.peers.iter().map(|(id, _)| id).collect();
    assert!(peers.into_iter().all(|id| end.remove_peer(id)));
};
const ANOTHER_KEY: Change = |end| end.set_private_key(Some(PrivateKey::from_bytes([77; 32])));
const LINK_DOWN: Change = Interface::link_down;

/// A packet from the inside of one end; the handshake that it asks for is to be computed by the caller.
fn begin(pair: &mut Pair, from: usize) -> HandshakeWork {
    let mut buffer = [0; 64];
    buffer[16..36].copy_from_slice(&packet());
    let mut burst = crate::Packets::new(0);
    burst.push(0, 20).unwrap();
    let now = pair.now;
    assert!(pair.ends[from].begin_seal(now, burst, &buffer).seal(&mut buffer).transmits().count() <= 1);
    pair.ends[from].poll_handshake(now).expect("a handshake")
}

/// The initiation that a packet from the inside of one end asks for; whatever else comes of it is lost.
fn initiation(pair: &mut Pair, from: usize) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    pair.ends[from].handle_packet(pair.now, &packet(), &mut buffer).unwrap();
    let transmit = pair.ends[from].poll_transmit(pair.now, &mut buffer).unwrap().expect("an initiation");
    let initiation = buffer[transmit.range].to_vec();
    pair.discard(from);
    initiation
}

/// Gives an initiation to an end, and computes all but the response.
fn begin_answer(pair: &mut Pair, to: usize, mut initiation: Vec<u8>) -> HandshakeWork {
    let mut burst = Datagrams::new();
    assert!(burst.push(0..initiation.len(), &path(1 - to), Ecn::NotEct));
    let (now, end) = (pair.now, &mut pair.ends[to]);
    let opened = end.begin_open(now, burst, &initiation).open(&mut initiation);
    assert_eq!(end.commit(now, opened, &mut initiation).packets().count(), 0);
    let identify = end.poll_handshake(now).expect("an initiation");
    let prove = end.finish_handshake(now, identify.compute()).expect("a known peer");
    end.finish_handshake(now, prove.compute()).expect("an initiation that counts")
}

/// Ends that have everything that an end can have: the current session, the previous one or one that the other end has
/// not confirmed, and a handshake under way.
fn full() -> [(Pair, usize); 2] {
    let mut with_previous = Pair::new();
    with_previous.now += Duration::from_secs(121);
    with_previous.send(0);
    with_previous.now += Duration::from_secs(121);
    with_previous.send_in_vain(0);
    assert_eq!(count(&with_previous.ends[0]), 3);

    let mut with_next = Pair::new();
    with_next.now += Duration::from_secs(121);
    let mut initiation = initiation(&mut with_next, 0);
    with_next.deliver(0, &mut initiation);
    with_next.discard(1);
    // The current session expires, and the unconfirmed one may not be used.
    with_next.now += Duration::from_secs(60);
    with_next.send_in_vain(1);
    assert_eq!(count(&with_next.ends[1]), 3);
    [(with_previous, 0), (with_next, 1)]
}

#[test]
fn a_handshake_that_is_given_up_gives_its_index_back_and_erased_sessions_give_back_theirs() {
    for (mut pair, end) in full() {
        let mut indices = Vec::new();
        while let Some(next) = pair.ends[end].poll_timeout() {
            pair.now = next;
            pair.ends[end].handle_timeout(next);
            pair.discard(end);
            while let Some(event) = pair.ends[end].poll_event() {
                indices.push((event, count(&pair.ends[end])));
            }
        }
        let peer = pair.peers[end];
        let last = [(Event::HandshakeGaveUp { peer }, 2), (Event::SessionExpired { peer }, 0)];
        assert_eq!(indices[indices.len() - 2..], last);
    }
}

#[test]
fn a_handshake_that_cannot_go_on_for_want_of_an_endpoint_is_erased_with_the_sessions() {
    for (mut pair, end) in full() {
        let peer = pair.peers[end];
        pair.ends[end].set_endpoint(peer, None).unwrap();
        assert_eq!(pair.let_time_pass(end).last(), Some(&Event::SessionExpired { peer }));
        assert_eq!(count(&pair.ends[end]), 0);
        assert!(pair.ends[end].peers.get(peer).unwrap().handshake.is_none());
    }
}

#[test]
fn a_handshake_that_is_not_needed_any_more_gives_its_index_back() {
    let mut pair = Pair::strangers();
    // Both begin at once, and what one of them has sent is lost.
    pair.send_in_vain(1);
    assert_eq!(count(&pair.ends[1]), 1);
    pair.send(0);
    assert_eq!([0, 1].map(|end| count(&pair.ends[end])), [1, 1], "the session alone");
    assert!(pair.ends[1].peers.get(pair.peers[1]).unwrap().handshake.is_none());
}

#[test]
fn each_repetition_of_an_initiation_gives_back_the_index_of_the_one_before() {
    let mut pair = Pair::strangers();
    pair.send_in_vain(0);
    for _ in 0..5 {
        let before = living(&pair.ends[0]);
        pair.now = pair.ends[0].poll_timeout().unwrap();
        pair.ends[0].handle_timeout(pair.now);
        pair.discard(0);
        assert_eq!(count(&pair.ends[0]), 1);
        assert_ne!(living(&pair.ends[0]), before);
    }
}

#[test]
fn when_the_link_goes_down_or_a_peer_is_removed_no_index_is_left() {
    for change in [LINK_DOWN, REMOVAL] {
        for (mut pair, end) in full() {
            change(&mut pair.ends[end]);
            assert_eq!(count(&pair.ends[end]), 0);
        }
    }
}

#[test]
fn with_another_key_the_sessions_keep_their_indices_while_packets_may_come_in_them() {
    for (mut pair, end) in full() {
        ANOTHER_KEY(&mut pair.ends[end]);
        assert_eq!(count(&pair.ends[end]), 2);
        pair.let_time_pass(end);
        assert_eq!(count(&pair.ends[end]), 0);
    }
}

#[test]
fn an_initiation_that_comes_to_nothing_while_it_is_computed_gives_its_index_back() {
    for change in [LINK_DOWN, REMOVAL, ANOTHER_KEY] {
        let mut pair = Pair::strangers();
        let work = begin(&mut pair, 0);
        change(&mut pair.ends[0]);
        let before = pair.ends[0].drops().get(DropReason::PeerGone);
        assert!(pair.ends[0].finish_handshake(pair.now, work.compute()).is_none());
        assert_eq!(pair.ends[0].drops().get(DropReason::PeerGone), before + 1);
        assert_eq!(count(&pair.ends[0]), 0);
    }
}

#[test]
fn an_initiation_to_a_key_of_small_order_gives_its_index_back() {
    let mut pair = Pair::strangers();
    let end = &mut pair.ends[0];
    let peer = end.add_peer(PublicKey::from_bytes([0; 32])).unwrap();
    end.set_endpoint(peer, Some(path(7).remote)).unwrap();
    end.add_allowed_ip(peer, "10.0.0.0/8".parse().unwrap()).unwrap();
    pair.send_in_vain(0);
    assert_eq!(pair.ends[0].drops().get(DropReason::HandshakeGaveUp), 1);
    assert_eq!(count(&pair.ends[0]), 0);
    let next = pair.ends[0].poll_timeout().expect("secrets are erased");
    assert_eq!(next, pair.now + Duration::from_secs(540), "it is not tried again by itself");
}

#[test]
fn a_response_that_comes_to_nothing_while_it_is_computed_gives_its_index_back() {
    for change in [LINK_DOWN, REMOVAL, ANOTHER_KEY] {
        let mut pair = Pair::strangers();
        let initiation = initiation(&mut pair, 0);
        let work = begin_answer(&mut pair, 1, initiation);
        change(&mut pair.ends[1]);
        assert!(pair.ends[1].finish_handshake(pair.now, work.compute()).is_none());
        assert_eq!(pair.ends[1].drops().get(DropReason::PeerGone), 1);
        assert_eq!(count(&pair.ends[1]), 0);
    }
}

#[test]
fn a_response_that_is_overtaken_while_it_is_computed_gives_its_index_back() {
    let mut pair = Pair::strangers();
    let first = initiation(&mut pair, 0);
    let work = begin_answer(&mut pair, 1, first);
    pair.now += Duration::from_secs(6);
    pair.ends[0].handle_timeout(pair.now);
    pair.carry();
    let living = living(&pair.ends[1]).len();
    assert!(pair.ends[1].finish_handshake(pair.now, work.compute()).is_none());
    assert_eq!((living, count(&pair.ends[1])), (1, 1), "that of the session that came about");
    assert_eq!(pair.ends[1].drops().get(DropReason::PeerGone), 1);
}

#[test]
fn an_initiation_whose_computation_is_lost_is_tried_again_and_its_index_given_back() {
    for change in [LINK_DOWN, REMOVAL, ANOTHER_KEY] {
        let mut pair = Pair::strangers();
        drop(begin(&mut pair, 0));
        for _ in 0..5 {
            // Nobody sends anything any more.
            pair.now = pair.ends[0].poll_timeout().expect("another attempt");
            pair.ends[0].expire(pair.now);
            drop(pair.ends[0].poll_handshake(pair.now).expect("a handshake"));
            assert_eq!(pair.ends[0].indices.len(), 1);
        }
        change(&mut pair.ends[0]);
        assert_eq!(count(&pair.ends[0]), 0);
    }
}

#[test]
fn a_handshake_of_which_every_computation_is_lost_is_given_up_with_its_index() {
    let mut pair = Pair::strangers();
    drop(begin(&mut pair, 0));
    while pair.ends[0].poll_event() != Some(Event::HandshakeGaveUp { peer: pair.peers[0] }) {
        pair.now = pair.ends[0].poll_timeout().expect("another attempt, or the end");
        pair.ends[0].expire(pair.now);
        drop(pair.ends[0].poll_handshake(pair.now));
    }
    assert_eq!(count(&pair.ends[0]), 0);
}

#[test]
fn an_initiation_that_is_computed_too_late_comes_to_nothing() {
    let mut pair = Pair::strangers();
    let work = begin(&mut pair, 0);
    pair.now = pair.ends[0].poll_timeout().expect("another attempt");
    pair.ends[0].handle_timeout(pair.now);
    let living = living(&pair.ends[0]);
    assert!(pair.ends[0].finish_handshake(pair.now, work.compute()).is_none());
    assert_eq!((count(&pair.ends[0]), living.len()), (1, 1), "that of the one which was begun last");
    pair.carry();
    assert_eq!(pair.arrived, [0, 1]);
}

#[test]
fn of_two_initiations_that_are_computed_at_once_the_one_begun_last_counts() {
    let mut pair = Pair::strangers();
    let first = begin(&mut pair, 0);
    pair.now = pair.ends[0].poll_timeout().expect("another attempt");
    pair.ends[0].expire(pair.now);
    let second = pair.ends[0].poll_handshake(pair.now).expect("a handshake");
    for work in [first, second] {
        assert!(pair.ends[0].finish_handshake(pair.now, work.compute()).is_none());
    }
    assert_eq!(pair.ends[0].drops().get(DropReason::PeerGone), 1);
    pair.carry();
    assert_eq!(pair.arrived, [0, 1]);
}

#[test]
fn of_two_responses_that_are_computed_at_once_the_one_to_the_last_initiation_counts() {
    let mut pair = Pair::strangers();
    let message = initiation(&mut pair, 0);
    let first = begin_answer(&mut pair, 1, message);
    pair.now += Duration::from_secs(6);
    pair.ends[0].handle_timeout(pair.now);
    let mut buffer = [0; 148];
    pair.ends[0].poll_transmit(pair.now, &mut buffer).unwrap().expect("another attempt");
    let second = begin_answer(&mut pair, 1, buffer.to_vec());
    for work in [first, second] {
        assert!(pair.ends[1].finish_handshake(pair.now, work.compute()).is_none());
    }
    assert_eq!(pair.ends[1].drops().get(DropReason::PeerGone), 1);
    pair.carry();
    assert_eq!(pair.arrived, [0, 1]);
}

/// Has the response to an initiation of the first end arrive there so many times at once; nothing is computed yet.
fn responses(pair: &mut Pair, count: usize) {
    let mut message = initiation(pair, 0);
    pair.deliver(0, &mut message);
    let mut buffer = [0; 148];
    let response = pair.ends[1].poll_transmit(pair.now, &mut buffer).unwrap().expect("a response").range;
    let len = response.len();
    let mut messages = buffer[response].repeat(count);
    let mut burst = Datagrams::new();
    for number in 0..count {
        assert!(burst.push(number * len..(number + 1) * len, &path(1), Ecn::NotEct));
    }
    let opened = pair.ends[0].begin_open(pair.now, burst, &messages).open(&mut messages);
    assert_eq!(pair.ends[0].commit(pair.now, opened, &mut messages).packets().count(), 0);
}

#[test]
fn a_response_that_comes_twice_at_once_is_computed_once_whatever_is_begun_meanwhile() {
    for begins_another in [false, true] {
        let mut pair = Pair::strangers();
        responses(&mut pair, 2);
        let work = pair.ends[0].poll_handshake(pair.now).expect("the response");
        assert!(pair.ends[0].finish_handshake(pair.now, work.compute()).is_none());
        if begins_another {
            pair.now += Duration::from_secs(6);
            pair.ends[0].initiate_handshake(pair.peers[0]).unwrap();
            pair.ends[0].expire(pair.now);
            // Not the second response.
            pair.ends[0].is_own_turn = false;
            let work = pair.ends[0].poll_handshake(pair.now).expect("an initiation");
            assert!(pair.ends[0].finish_handshake(pair.now, work.compute()).is_none());
        }
        assert!(pair.ends[0].poll_handshake(pair.now).is_none());
        assert_eq!(pair.ends[0].drops().get(DropReason::UnknownIndex), 1);
        assert_eq!(count(&pair.ends[0]), 1 + usize::from(begins_another));
    }
}

#[test]
fn a_response_that_is_computed_too_late_leaves_the_initiation_that_was_begun_meanwhile() {
    let mut pair = Pair::strangers();
    responses(&mut pair, 1);
    let work = pair.ends[0].poll_handshake(pair.now).expect("the response");
    pair.now += Duration::from_secs(6);
    pair.ends[0].handle_timeout(pair.now);
    assert!(pair.ends[0].finish_handshake(pair.now, work.compute()).is_none());
    assert_eq!(pair.ends[0].drops().get(DropReason::PeerGone), 1);
    pair.carry();
    assert_eq!(pair.arrived, [0, 1]);
}

#[test]
fn a_session_that_was_not_confirmed_gives_its_index_back_to_the_next_one() {
    let mut pair = Pair::strangers();
    for _ in 0..3 {
        let mut message = initiation(&mut pair, 0);
        pair.deliver(0, &mut message);
        pair.discard(1);
        assert_eq!(count(&pair.ends[1]), 1);
        pair.now += Duration::from_secs(6);
    }
}

#[test]
fn a_response_whose_computation_is_lost_gives_its_index_back() {
    for change in [LINK_DOWN, REMOVAL, ANOTHER_KEY] {
        let mut pair = Pair::strangers();
        for _ in 0..5 {
            let initiation = initiation(&mut pair, 0);
            drop(begin_answer(&mut pair, 1, initiation));
            assert_eq!(pair.ends[1].indices.len(), 1);
            pair.now += Duration::from_secs(6);
        }
        change(&mut pair.ends[1]);
        assert_eq!(count(&pair.ends[1]), 0);
    }
}

#[test]
fn indices_are_given_back_when_their_sessions_and_handshakes_end() {
    let mut pair = Pair::new();
    for _ in 0..20 {
        pair.now += Duration::from_secs(121);
        pair.send(0);
        pair.send(1);
        for end in &pair.ends {
            assert!((1..=3).contains(&end.indices.len()), "{} indices", end.indices.len());
        }
    }
    for (end, peer) in pair.ends.iter_mut().zip(pair.peers) {
        assert!(end.remove_peer(peer));
        assert!(end.indices.is_empty() && end.schedule.is_empty());
    }
}
