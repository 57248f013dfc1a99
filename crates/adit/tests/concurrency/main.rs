//! The steps of bursts and handshakes, taken by several threads, in every order in which they can take the lock.
//!
//! The engine's three steps are made for threads that hold the lock only during the first and the last, as the workers
//! of `adit-device` do. Between two steps of one thread the others may do anything that they can do. The model checker
//! `loom`, which has a mutex of its own, runs each test again and again, and leaves out no order except those in which
//! threads are interrupted more than [`world::PREEMPTIONS`] times.

mod changes;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use adit::{DropReason, Event, Interface};

use world::{A, B, Shared, explore, hear, now, packet, transmits};

/// Session and counter of a transport message, as they stand on the wire.
fn header(datagram: &[u8]) -> (u32, u64) {
    assert_eq!(datagram[..4], [4, 0, 0, 0], "a transport message");
    let index = u32::from_le_bytes(datagram[4..8].try_into().unwrap());
    (index, u64::from_le_bytes(datagram[8..16].try_into().unwrap()))
}

/// Packets from B, sealed in its present session.
fn sealed(b: &mut Interface, numbers: impl IntoIterator<Item = u8>) -> Vec<Vec<u8>> {
    let seal = |number| {
        let mut out = vec![0; 64];
        let transmit = b.handle_packet(now(), &packet(B, A, number), &mut out).unwrap().expect("there is a session");
        out[transmit.range].to_vec()
    };
    numbers.into_iter().map(seal).collect()
}

fn from_b(numbers: impl IntoIterator<Item = u8>) -> Vec<Vec<u8>> {
    numbers.into_iter().map(|number| packet(B, A, number)).collect()
}

/// Each of `found` is there once, and nothing else, in whatever order.
fn assert_each_once(mut found: Vec<Vec<u8>>, expected: Vec<Vec<u8>>) {
    found.sort_unstable();
    assert_eq!(found, expected);
}

/// How many packets were dropped, for whatever reason.
fn drops(interface: &Interface) -> u64 {
    interface.drops().iter().map(|(_, count)| count).sum()
}

/// B's answer to an initiation that A makes because its session is old.
fn response(a: &mut Interface, b: &mut Interface) -> Vec<Vec<u8>> {
    let mut out = [0; 64];
    let transmit = a.handle_packet(now(), &packet(A, B, 100), &mut out).unwrap().expect("the old session is good");
    assert_eq!(hear(b, now(), A, vec![out[transmit.range].to_vec()]).len(), 1);
    a.handle_timeout(now());
    let initiation = transmits(a, now());
    assert_eq!(hear(b, now(), A, initiation).len(), 0);
    let response = transmits(b, now());
    assert_eq!(response[0][0], 2);
    response
}

/// An initiation of B's, which has sent a packet and waits in vain for an answer.
fn initiation(b: &mut Interface) -> Vec<Vec<u8>> {
    let later = now() + Duration::from_secs(15);
    b.handle_timeout(later);
    let initiation = transmits(b, later);
    assert_eq!((initiation.len(), initiation[0][0]), (1, 1));
    initiation
}

#[test]
fn workers_that_seal_for_one_peer_share_no_counter_and_each_keeps_its_order() {
    explore(
        |_, _| (),
        |[a, mut b], ()| {
            let shared = Shared::new(a);
            let workers = [0, 1].map(|worker| {
                shared.spawn(move |shared| {
                    let burst = |numbers: [u8; 2]| shared.seal(&numbers.map(|n| packet(A, B, 10 * worker + n))).bytes;
                    [burst([0, 1]), burst([2, 3])].concat()
                })
            });
            let sent = workers.map(|worker| worker.join().unwrap());
            for of_one in &sent {
                assert!(of_one.is_sorted_by_key(|datagram| header(datagram)), "as they were read");
            }
            let sent = sent.concat();
            assert_eq!(sent.iter().map(|datagram| header(datagram)).collect::<BTreeSet<_>>().len(), 8);
            let expected = [0, 1, 2, 3, 10, 11, 12, 13].map(|number| packet(A, B, number));
            assert_eq!(hear(&mut b, now(), A, sent), expected);
        },
    );
}

#[test]
fn a_datagram_in_the_hands_of_several_workers_is_delivered_once() {
    explore(
        |_, b| sealed(b, 0..3),
        |[a, _], datagrams| {
            let shared = Shared::new(a);
            let workers = [0..2, 0..3, 1..3].map(|range| {
                let datagrams = datagrams[range].to_vec();
                shared.spawn(move |shared| shared.open(B, &datagrams).bytes)
            });
            let delivered = workers.map(|worker| worker.join().unwrap()).concat();
            assert_each_once(delivered, from_b(0..3));
            assert_eq!(shared.with(|a| a.drops().get(DropReason::Replay)), 4);
        },
    );
}

#[test]
fn what_is_sealed_while_a_session_takes_the_place_of_another_opens_at_the_other_end() {
    explore(response, |[a, mut b], response| {
        let shared = Shared::new(a);
        assert!(shared.open(B, &response).bytes.is_empty());
        let sealer = shared
            .spawn(|shared| [0, 2].map(|first| shared.seal(&[packet(A, B, first), packet(A, B, first + 1)]).bytes));
        shared.handshakes();
        let by_itself = shared.with(|a| transmits(a, now()));
        let bursts = sealer.join().unwrap();

        for burst in &bursts {
            assert_eq!(header(&burst[0]).0, header(&burst[1]).0, "one burst, one session");
        }
        let sent = [bursts.concat(), by_itself].concat();
        let headers: BTreeSet<_> = sent.iter().map(|datagram| header(datagram)).collect();
        assert_eq!(headers.len(), sent.len(), "no counter of any session twice");
        assert_each_once(hear(&mut b, now(), A, sent), (0..4).map(|number| packet(A, B, number)).collect());
    });
}

#[test]
fn what_is_opened_while_a_session_takes_the_place_of_another_is_delivered_once() {
    explore(
        |a, b| (sealed(b, 0..2), response(a, b)),
        |[a, _], (datagrams, response)| {
            let before = drops(&a);
            let shared = Shared::new(a);
            let both = datagrams.clone();
            let first = shared.spawn(move |shared| shared.open(B, &both).bytes);
            let with_response = [response, datagrams].concat();
            let second = shared.spawn(move |shared| shared.open(B, &with_response).bytes);
            shared.handshakes();
            let delivered = [first.join().unwrap(), second.join().unwrap()].concat();
            assert_each_once(delivered, from_b(0..2));
            shared.with(|a| assert_eq!((a.drops().get(DropReason::Replay), drops(a) - before), (2, 2), "nothing else"));
        },
    );
}

#[test]
fn the_first_packets_of_a_session_confirm_it_once_whoever_opens_them() {
    explore(
        |a, b| {
            let old = sealed(b, 0..2);
            assert!(hear(a, now(), B, initiation(b)).is_empty());
            assert!(hear(b, now(), A, transmits(a, now())).is_empty());
            (old, sealed(b, 2..4))
        },
        |[a, mut b], (old, new)| {
            let shared = Shared::new(a);
            let openers = [[&new[0], &old[0]], [&new[0], &new[1]]].map(|burst| {
                let burst = burst.map(Clone::clone);
                shared.spawn(move |shared| shared.open(B, &burst).bytes)
            });
            let sealer =
                shared.spawn(|shared| [0, 1].map(|number| shared.seal(&[packet(A, B, number)]).bytes).concat());
            let mut delivered = openers.map(|opener| opener.join().unwrap()).concat();
            let sent = sealer.join().unwrap();
            delivered.extend(shared.open(B, &old[1..]).bytes);
            assert_each_once(delivered, from_b(0..4));
            assert_eq!(hear(&mut b, now(), A, sent), [packet(A, B, 0), packet(A, B, 1)]);
            let events: Vec<_> = shared.with(|a| std::iter::from_fn(|| a.poll_event()).collect());
            let completed = events.iter().filter(|event| matches!(event, Event::HandshakeCompleted { .. }));
            assert_eq!(completed.count(), 1);
        },
    );
}
