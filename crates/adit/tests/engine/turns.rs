//! Who is sent a cookie while more strangers ask for one than can be answered.

use std::net::SocketAddr;

use adit::{Bounds, Datagrams, DropReason, Ecn, Path};

use crate::cookies::{address, junk};
use crate::sim::{B, Calls, Sim, millis, secs};

/// Whether B answers this source while it is under load and `waiting` of the hundred cookie replies that it has room
/// for are taken.
fn is_answered(sim: &mut Sim, waiting: u64, source: SocketAddr) -> bool {
    let now = sim.now;
    let sent = sim.drops(B, DropReason::CookieSent);
    let ask = |sim: &mut Sim, source: SocketAddr| {
        let mut message = junk(sim, B, 1);
        assert_eq!(sim[B].interface.handle_datagram(now, &Path::to(source), Ecn::NotEct, &mut message), None);
        sim.drops(B, DropReason::CookieSent) - sent
    };
    let mut others = 1_000_000..2_000_000;
    while ask(sim, address(others.next().unwrap())) < waiting {}
    let is_answered = ask(sim, source) > waiting;
    let mut buffer = [0; 148];
    while sim[B].interface.poll_transmit(now, &mut buffer).unwrap().is_some() {}
    is_answered
}

fn with_room_for_a_hundred_replies(seed: u64) -> Sim {
    let mut bounds = Bounds::default();
    bounds.handshakes_per_second = 0;
    bounds.outgoing = 100;
    Sim::group_with(seed, 2, Calls::Single, bounds)
}

/// Lets one message of each of these sources arrive at B, all in one burst.
fn arrive_together(sim: &mut Sim, sources: &[SocketAddr]) {
    let message = junk(sim, B, 1);
    each_sends(sim, sources, &message);
}

/// Lets the same message arrive at B from each of these sources, all in one burst.
fn each_sends(sim: &mut Sim, sources: &[SocketAddr], message: &[u8]) {
    let (now, mut buffer) = (sim.now, message.repeat(sources.len()));
    let mut burst = Datagrams::new();
    for (number, source) in sources.iter().enumerate() {
        assert!(burst.push(number * 148..(number + 1) * 148, &Path::to(*source), Ecn::NotEct));
    }
    let opened = sim[B].interface.begin_open(now, burst, &buffer).open(&mut buffer);
    assert_eq!(sim[B].interface.commit(now, opened, &mut buffer).packets().count(), 0);
}

#[test]
fn the_less_room_there_is_for_cookies_the_fewer_addresses_have_their_turn() {
    let mut sim = with_room_for_a_hundred_replies(27);
    for (waiting, expected) in [(10, 100), (50, 100), (60, 80), (75, 50), (90, 20)] {
        let answered = (0..100).filter(|&source| is_answered(&mut sim, waiting, address(source))).count();
        assert!(answered.abs_diff(expected) <= 15 * usize::from(expected < 100), "{answered} of 100 behind {waiting}");
    }
}

#[test]
fn the_room_that_is_left_is_reckoned_within_a_burst_as_well() {
    let mut sim = with_room_for_a_hundred_replies(31);
    arrive_together(&mut sim, &(0..120).map(address).collect::<Vec<_>>());
    // The first fifty are answered, and of the other seventy some three in four of whom it is the turn then.
    let answered = sim.drops(B, DropReason::CookieSent);
    assert!((80..97).contains(&answered), "{answered} of 120");
}

#[test]
fn no_stranger_is_passed_over_three_times_while_more_than_two_of_five_are_answered() {
    let mut sim = with_room_for_a_hundred_replies(28);
    let mut passed_over = [0; 3];
    for source in 0..60 {
        for times in &mut passed_over {
            if is_answered(&mut sim, 78, address(source)) {
                break;
            }
            *times += 1;
            sim.run_for(millis(5_000 + u64::from(source) * 5));
        }
    }
    assert!(passed_over[0] > 20 && passed_over[2] == 0, "{passed_over:?}");
}

/// A flood may be more than can be looked at; a cookie, or the claim to have one, is looked at all the same.
#[test]
fn only_who_could_be_answered_costs_a_look_at_mac1() {
    let mut sim = with_room_for_a_hundred_replies(33);
    let counted =
        |sim: &Sim| [DropReason::BadMac1, DropReason::CookieSent, DropReason::ReplyQueueFull].map(|r| sim.drops(B, r));
    // No reply leaves meanwhile.
    let arrives = |sim: &mut Sim, change: fn(&mut [u8])| {
        let (mut message, before, now) = (junk(sim, B, 1), counted(sim), sim.now);
        change(&mut message);
        let _ = sim[B].interface.handle_datagram(now, &Path::to(address(7)), Ecn::NotEct, &mut message);
        let after = counted(sim);
        [0, 1, 2].map(|reason| after[reason] - before[reason])
    };
    let wrong_mac1 = |message: &mut [u8]| message[116] ^= 1;
    assert_eq!(arrives(&mut sim, wrong_mac1), [1, 0, 0], "while there is room for an answer");
    arrive_together(&mut sim, &(1_000..1_400).map(address).collect::<Vec<_>>());
    while arrives(&mut sim, |_| {}) != [0, 0, 1] {}
    assert_eq!(arrives(&mut sim, wrong_mac1), [0, 0, 1]);
    assert_eq!(arrives(&mut sim, |message| (message[116], message[132]) = (message[116] ^ 1, 1)), [1, 0, 0]);
    assert_eq!(arrives(&mut sim, |message| message[132] = 1), [0, 0, 1], "the claim is false");
    sim.now += secs(1);
    assert_eq!(arrives(&mut sim, wrong_mac1), [1, 0, 0], "load is over, though replies wait still");
}

#[test]
fn nobody_is_passed_over_who_comes_from_a_network_that_asks_for_few_cookies() {
    let mut sim = with_room_for_a_hundred_replies(29);
    // Each from another network.
    let newcomer = |number: u8| SocketAddr::from(([11 + number, 0, 0, 1], 51_820));
    // Until enough was asked for to tell who crowds in, all take turns.
    let at_first = (0..20).filter(|&number| is_answered(&mut sim, 78, newcomer(number))).count();
    let mut others = 0..;
    while sim.drops(B, DropReason::CookieSent) + sim.drops(B, DropReason::ReplyQueueFull) < 66_000 {
        assert!(!is_answered(&mut sim, 100, address(others.next().unwrap())));
    }
    // Anybody can claim to have a cookie. Of those who crowd in few are believed to be worth a look.
    let mut claim = junk(&sim, B, 1);
    (claim[116], claim[132]) = (claim[116] ^ 1, 1);
    let [loud, quiet] = [(0..100).map(address).collect::<Vec<_>>(), (20..120).map(newcomer).collect()];
    let sent = sim.drops(B, DropReason::CookieSent);
    while sim.drops(B, DropReason::CookieSent) - sent < 100 {
        arrive_together(&mut sim, &[address(others.next().unwrap())]);
    }
    let mut looked_at = |sources: &[SocketAddr]| {
        let before = sim.drops(B, DropReason::BadMac1);
        each_sends(&mut sim, sources, &claim);
        sim.drops(B, DropReason::BadMac1) - before
    };
    assert_eq!(looked_at(&[&loud[..], &quiet].concat()), 16 + 100);
    let (now, mut buffer) = (sim.now, [0; 148]);
    while sim[B].interface.poll_transmit(now, &mut buffer).unwrap().is_some() {}

    let then = (20..120).filter(|&number| is_answered(&mut sim, 78, newcomer(number))).count();
    assert!(at_first < 20 && then > 95, "{at_first} of 20, {then} of 100");
    assert!(!is_answered(&mut sim, 100, newcomer(120)), "there is no room");

    // Nor at the end of a burst, at whose beginning there was room for all.
    let newcomers: Vec<_> = (130..150).map(newcomer).collect();
    let sources: Vec<_> = (0..80).map(address).chain(newcomers.iter().copied()).collect();
    arrive_together(&mut sim, &sources);
    let answers = std::iter::from_fn(|| sim[B].interface.poll_transmit(now, &mut buffer).unwrap());
    let count = answers.filter(|answer| newcomers.contains(&answer.path.remote)).count();
    assert!(count > 18, "{count} of 20");
}
