//! The configuration changes, or the link goes down, while other threads are between two steps.

use adit::DropReason;

use super::{initiation, response, sealed};
use crate::world::{A, B, C, Outcome, Shared, explore, hear, id, key, now, packet, transmits};

fn to_b() -> Vec<Vec<u8>> {
    [0, 1].map(|number| packet(A, B, number)).into()
}

/// All of a burst if it came before the change, and nothing of it if it came after.
fn assert_until_the_change(outcome: &Outcome, all: usize) {
    assert_eq!(outcome.bytes.len(), if outcome.is_changed { 0 } else { all });
}

#[test]
fn for_a_peer_that_was_removed_nothing_is_delivered_and_nothing_sealed_though_it_is_added_again() {
    explore(
        |_, b| sealed(b, 0..2),
        |[a, mut b], datagrams| {
            let shared = Shared::new(a);
            let opener = shared.spawn(move |shared| shared.open(B, &datagrams));
            let sealer = shared.spawn(|shared| shared.seal(&to_b()));
            let control = shared.spawn(|shared| {
                shared.change(|a| {
                    let (gone, prefix) = (id(a, B), "10.0.0.1/32".parse().unwrap());
                    assert!(a.remove_peer(gone));
                    let again = a.add_peer(key(B).public_key()).unwrap();
                    a.add_allowed_ip(again, prefix).unwrap();
                });
            });
            let (opened, sealed) = (opener.join().unwrap(), sealer.join().unwrap());
            control.join().unwrap();
            assert_until_the_change(&opened, 2);
            assert_until_the_change(&sealed, 2);
            assert_eq!(hear(&mut b, now(), A, sealed.bytes.clone()).len(), sealed.bytes.len());
        },
    );
}

#[test]
fn a_prefix_that_goes_to_another_peer_goes_at_once_for_bursts_in_both_directions() {
    explore(
        |_, b| sealed(b, 0..2),
        |[a, _], datagrams| {
            let shared = Shared::new(a);
            let opener = shared.spawn(move |shared| shared.open(B, &datagrams));
            let sealer = shared.spawn(|shared| shared.seal(&to_b()));
            let control = shared.spawn(|shared| {
                shared.change(|a| {
                    let (before, after) = (id(a, B), id(a, C));
                    assert_eq!(a.add_allowed_ip(after, "10.0.0.1/32".parse().unwrap()), Ok(Some(before)));
                });
            });
            let (opened, sealed) = (opener.join().unwrap(), sealer.join().unwrap());
            control.join().unwrap();
            assert_until_the_change(&opened, 2);
            assert_until_the_change(&sealed, 2);
            let refused = shared.with(|a| a.drops().get(DropReason::WrongSource));
            assert_eq!(refused, if opened.is_changed { 2 } else { 0 });
        },
    );
}

#[test]
fn after_another_private_key_nothing_is_sealed_and_no_answer_makes_a_session() {
    explore(response, |[a, mut b], response| {
        let shared = Shared::new(a);
        assert!(shared.open(B, &response).bytes.is_empty());
        let sealer = shared.spawn(|shared| shared.seal(&to_b()));
        let handshakes = shared.spawn(Shared::handshakes);
        shared.change(|a| a.set_private_key(Some(key(7))));
        let sealed = sealer.join().unwrap();
        handshakes.join().unwrap();
        assert_until_the_change(&sealed, 2);
        assert_eq!(hear(&mut b, now(), A, sealed.bytes.clone()).len(), sealed.bytes.len());
        shared.with(|a| assert!(!a.peer(now(), id(a, B)).unwrap().has_session));
    });
}

#[test]
fn after_another_private_key_what_comes_in_by_a_session_that_the_old_one_answered_for_counts() {
    explore(
        |_, b| (sealed(b, 0..1), initiation(b)).1,
        |[a, mut b], initiation| {
            let shared = Shared::new(a);
            assert!(shared.open(B, &initiation).bytes.is_empty());
            let handshakes = shared.spawn(|shared| {
                shared.handshakes();
                shared.with(|a| transmits(a, now()))
            });
            shared.change(|a| a.set_private_key(Some(key(7))));
            let answers = handshakes.join().unwrap();
            hear(&mut b, now(), A, answers);
            let datagrams = [transmits(&mut b, now()), sealed(&mut b, 1..2)].concat();
            let delivered = shared.open(B, &datagrams).bytes;
            // Without an answer B still has the old session, and what it sends there counts as well.
            assert_eq!(delivered.len(), 1);
            shared.with(|a| assert!(!a.peer(now(), id(a, B)).unwrap().has_session));
        },
    );
}

#[test]
fn a_link_that_has_gone_down_has_no_session_and_sends_nothing_whatever_was_being_computed() {
    explore(
        |_, b| (sealed(b, 0..2), initiation(b)),
        |[a, _], (datagrams, initiation)| {
            let shared = Shared::new(a);
            assert!(shared.open(B, &initiation).bytes.is_empty());
            assert!(shared.seal(&[packet(A, C, 0)]).bytes.is_empty(), "a session is wanted");
            let opener = shared.spawn(move |shared| shared.open(B, &datagrams));
            let handshakes = shared.spawn(Shared::handshakes);
            shared.change(|a| a.link_down());
            let opened = opener.join().unwrap();
            handshakes.join().unwrap();
            assert_until_the_change(&opened, 2);
            shared.with(|a| {
                assert_eq!((transmits(a, now()), a.poll_timeout()), (vec![], None));
                assert!(a.peers(now()).all(|peer| !peer.has_session));
            });
        },
    );
}
