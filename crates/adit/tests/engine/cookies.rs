//! Under load: mac1, mac2, cookies and the share of each source.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use adit::{Bounds, Datagrams, DropReason, Ecn, Path};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::sim::{A, B, Kind, RTT, Sent, Sim, UNIX_START, forge, millis, secs};

/// Two nodes, of which `loaded` believes itself to be under load all the time.
fn under_load(seed: u64, loaded: usize) -> Sim {
    under_load_from(0, seed, loaded)
}

/// Two nodes, of which `loaded` is under load when more than so many handshakes come in a second.
fn under_load_from(number: u32, seed: u64, loaded: usize) -> Sim {
    let mut sim = Sim::new(seed);
    for node in [A, B] {
        let mut bounds = Bounds::default();
        if node == loaded {
            bounds.handshakes_per_second = number;
        }
        sim.add_node(bounds);
    }
    sim.introduce(A, B);
    sim.introduce(B, A);
    sim
}

fn mac2(message: &Sent) -> &[u8] {
    &message.bytes[message.bytes.len() - 16..]
}

/// A made-up address for each number.
pub(crate) fn address(number: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0xc633_6400 + number)), 1_000 + (number % 60_000) as u16)
}

/// An initiation with a right mac1 and nothing else that is right.
pub(crate) fn junk(sim: &Sim, to: usize, seed: u64) -> Vec<u8> {
    let mut message = vec![0; 148];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut message[4..]);
    message[0] = 1;
    message[132..].fill(0);
    forge::put_mac1(&mut message, &sim[to].private_key.public_key());
    message
}

#[test]
fn without_load_no_cookie_is_asked_for_and_mac2_is_zero() {
    let mut sim = Sim::pair(1);
    sim.connect(A, B);
    assert_eq!(sim.count(B, Kind::CookieReply), 0);
    assert_eq!(mac2(&sim.last_sent(A, Kind::Initiation)), [0; 16]);
    assert_eq!(mac2(&sim.last_sent(B, Kind::Response)), [0; 16]);
}

#[test]
fn under_load_the_initiator_is_sent_a_cookie_and_its_next_initiation_is_answered() {
    let mut sim = under_load(2, B);
    let packet = sim.send(A, B);
    sim.run_for(secs(4));
    assert_eq!((sim.count(B, Kind::CookieReply), sim.count(B, Kind::Response)), (1, 0));
    assert_eq!(sim.drops(B, DropReason::CookieSent), 1);
    assert_eq!(sim.last_sent(B, Kind::CookieReply).tos, 0x88, "AF41, as all that belongs to handshakes");
    // The cookie does not make the initiator send again any sooner than its timer would.
    assert_eq!(sim.count(A, Kind::Initiation), 1);
    sim.run_for(secs(2));
    assert_ne!(mac2(&sim.last_sent(A, Kind::Initiation)), [0; 16]);
    assert!(sim[B].has_arrived(&packet));
    assert_eq!(sim.count(B, Kind::CookieReply), 1);
}

#[test]
fn under_load_the_responder_is_sent_a_cookie_and_its_next_response_is_taken() {
    let mut sim = under_load(3, A);
    let packet = sim.send(A, B);
    sim.run_for(secs(4));
    assert_eq!((sim.count(A, Kind::CookieReply), sim.count(B, Kind::Response)), (1, 1));
    assert!(!sim.peer(A, B).has_session);
    sim.run_for(secs(2));
    assert_ne!(mac2(&sim.last_sent(B, Kind::Response)), [0; 16]);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn a_flood_from_many_forged_addresses_triggers_cookies() {
    let mut sim = Sim::pair(4);
    // Each address sends once, so the rate of a single source shows nothing.
    for number in 0..2_000 {
        let message = junk(&sim, B, number.into());
        sim.inject(B, address(number), &message);
    }
    assert_eq!((sim.drops(B, DropReason::BadHandshake), sim.count(B, Kind::CookieReply)), (2_000, 0));
    for number in 2_000..2_100 {
        let message = junk(&sim, B, number.into());
        sim.inject(B, address(number), &message);
    }
    assert_eq!((sim.drops(B, DropReason::BadHandshake), sim.count(B, Kind::CookieReply)), (2_000, 100));
    // A peer gets through with the cookie, though the flood goes on.
    let packet = sim.send(A, B);
    for number in 0..60 {
        sim.run_for(millis(100));
        for part in 0..220 {
            let message = junk(&sim, B, 10_000 + number * 220 + part);
            sim.inject(B, address((number * 220 + part) as u32), &message);
        }
    }
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn a_flood_that_goes_on_is_load_though_nothing_of_it_is_let_in() {
    let mut sim = Sim::pair(26);
    for number in 0..20_000 {
        if number % 400 == 0 {
            sim.run_for(millis(100));
        }
        let message = junk(&sim, B, number.into());
        sim.inject(B, address(number), &message);
    }
    // Five seconds at 4,000 a second: the first 2,000 were no load yet.
    assert_eq!((sim.drops(B, DropReason::BadHandshake), sim.count(B, Kind::CookieReply)), (2_000, 18_000));
}

#[test]
fn load_is_forgotten_when_it_is_over() {
    let mut sim = Sim::pair(5);
    for number in 0..2_100 {
        let message = junk(&sim, B, number.into());
        sim.inject(B, address(number), &message);
    }
    assert_eq!(sim.count(B, Kind::CookieReply), 100);
    sim.run_for(secs(2));
    sim.connect(A, B);
    assert_eq!(sim.count(B, Kind::CookieReply), 100);
}

#[test]
fn a_queue_that_fills_up_is_load() {
    let mut sim = Sim::pair(6);
    let now = sim.now;
    let path = Path::to(address(1));
    let messages: Vec<_> = (0..600).map(|number| junk(&sim, B, number)).collect();
    let mut burst = Datagrams::new();
    let buffer = messages.concat();
    for number in 0..messages.len() {
        assert!(burst.push(number * 148..(number + 1) * 148, &path, Ecn::NotEct));
    }
    // Nobody computes anything meanwhile: an eighth of 2,048 waits, the others are sent a cookie.
    let opening = sim[B].interface.begin_open(now, burst, &buffer);
    let mut buffer = buffer;
    let opened = opening.open(&mut buffer);
    let delivered = sim[B].interface.commit(now, opened, &mut buffer);
    assert_eq!(delivered.packets().count(), 0);
    assert_eq!(sim.drops(B, DropReason::CookieSent), 344);
    assert!(sim[B].interface.has_handshakes());
    assert_eq!(std::iter::from_fn(|| sim[B].interface.poll_handshake(now)).count(), 256);
}

#[test]
fn a_cookie_reply_can_be_read_by_whoever_follows_the_paper_and_its_cookie_is_the_key_of_mac2() {
    let mut sim = under_load(30, B);
    sim.send(A, B);
    sim.run_for(secs(6));
    let initiations = sim.sent(A, Kind::Initiation);
    let [first, second] = initiations.as_slice() else { panic!("{} initiations", initiations.len()) };
    let reply = sim.last_sent(B, Kind::CookieReply).bytes;
    assert_eq!((reply[..4].to_vec(), &reply[4..8]), (vec![3, 0, 0, 0], &first.bytes[4..8]), "to the sender's index");
    let mac1 = &first.bytes[116..132];
    let cookie = forge::open_cookie(&sim[B].private_key.public_key(), &reply, mac1).expect("a cookie");
    assert_eq!(mac2(second), forge::mac(&cookie, &second.bytes[..132]));
}

#[test]
fn a_cookie_is_bound_to_the_address_and_to_the_port() {
    let mut sim = under_load(7, B);
    sim.send(A, B);
    sim.run_for(RTT);
    sim.network.cut(A, B);
    sim.run_for(secs(6));
    let initiation = sim.last_sent(A, Kind::Initiation);
    assert_ne!(mac2(&initiation), [0; 16]);
    let home = initiation.source;
    let another_port = SocketAddr::new(home.ip(), home.port() + 1);
    let another_address = SocketAddr::new(address(9).ip(), home.port());
    for elsewhere in [another_port, another_address] {
        sim.inject(B, elsewhere, &initiation.bytes);
        assert_eq!(sim.count(B, Kind::Response), 0, "from {elsewhere}");
    }
    assert_eq!(sim.drops(B, DropReason::CookieSent), 3);
    sim.inject(B, home, &initiation.bytes);
    assert_eq!(sim.count(B, Kind::Response), 1);
}

/// When B has made a cookie for A, and A's initiation with that cookie, which does not arrive.
fn initiation_with_a_new_cookie(sim: &mut Sim) -> (adit::Instant, Sent) {
    sim.send(A, B);
    let made = sim.now + RTT / 2;
    sim.run_for(RTT);
    sim.network.cut(A, B);
    sim.run_for(secs(6));
    (made, sim.last_sent(A, Kind::Initiation))
}

#[test]
fn a_cookie_is_good_for_120_s_at_the_one_who_made_it() {
    for (age, responses) in [(119_999, 1), (120_000, 0)] {
        let mut sim = under_load(8, B);
        let (made, initiation) = initiation_with_a_new_cookie(&mut sim);
        sim.run_until(made + millis(age));
        let before = sim.drops(B, DropReason::CookieSent);
        sim.replay(B, &initiation);
        assert_eq!(sim.count(B, Kind::Response), responses, "after {age} ms");
        assert_eq!(sim.drops(B, DropReason::CookieSent) - before, 1 - responses as u64);
    }
}

#[test]
fn who_does_not_know_the_public_key_cannot_shorten_the_life_of_a_cookie() {
    let mut sim = under_load(24, B);
    let mut forged = junk(&sim, B, 1);
    forged[116] ^= 1;
    sim.inject_by(B, &Path::to(address(1)), Ecn::NotEct, &forged);
    assert_eq!(sim.drops(B, DropReason::BadMac1), 1);
    sim.run_for(secs(60));
    // No cookie has been made yet: the secret for this one is new.
    let (made, initiation) = initiation_with_a_new_cookie(&mut sim);
    sim.run_until(made + millis(119_999));
    sim.replay(B, &initiation);
    assert_eq!(sim.count(B, Kind::Response), 1);
}

#[test]
fn a_cookie_is_used_for_120_s_by_the_one_who_got_it() {
    let mut sim = under_load(9, B);
    sim.send(A, B);
    sim.run_for(RTT);
    let got = sim.now;
    sim.network.cut(A, B);
    while sim.now < got + secs(140) {
        sim.send(A, B);
        sim.run_for(secs(1));
    }
    for initiation in sim.sent(A, Kind::Initiation).iter().skip(1) {
        let age = initiation.at.saturating_since(got);
        assert_eq!(mac2(initiation) != [0; 16], age < secs(120), "{age:?} after it came");
    }
}

#[test]
fn mac1_is_checked_before_anything_that_costs_more() {
    for mut sim in [Sim::pair(10), under_load(10, B)] {
        for number in 0..50 {
            let mut message = junk(&sim, B, number);
            message[116] ^= 1;
            sim.inject(B, address(1), &message);
        }
        assert_eq!(sim.drops(B, DropReason::BadMac1), 50);
        assert!(sim.wire.is_empty(), "no cookie for somebody who does not know the public key");
    }
}

#[test]
fn mac1_is_checked_by_the_receivers_key() {
    let mut sim = Sim::group(11, 3);
    let message = junk(&sim, crate::sim::C, 1);
    sim.inject(B, address(1), &message);
    assert_eq!(sim.drops(B, DropReason::BadMac1), 1);
}

#[test]
fn under_load_one_source_gets_a_burst_of_five_and_twenty_a_second() {
    let mut sim = under_load(12, B);
    sim.send(A, B);
    sim.run_for(RTT);
    sim.network.cut(A, B);
    sim.run_for(secs(6));
    let initiation = sim.last_sent(A, Kind::Initiation);
    let admitted = |sim: &Sim| sim.count(B, Kind::Response) as u64 + sim.drops(B, DropReason::ReplayedInitiation);
    for _ in 0..20 {
        sim.replay(B, &initiation);
    }
    assert_eq!((admitted(&sim), sim.drops(B, DropReason::RateLimited)), (5, 15));
    for _ in 0..1_000 {
        sim.run_for(millis(1));
        sim.replay(B, &initiation);
    }
    assert_eq!(admitted(&sim), 25);
}

#[test]
fn a_flood_takes_no_share_from_those_who_have_proven_their_address_until_too_many_of_them_come() {
    let mut sim = under_load_from(20, 27, B);
    let mut number = 0;
    let mut flood = |sim: &mut Sim| {
        for _ in 0..30 {
            number += 1;
            let message = junk(sim, B, number);
            sim.inject(B, address(number as u32), &message);
        }
    };
    flood(&mut sim);
    sim.send(A, B);
    sim.run_for(RTT);
    sim.network.cut(A, B);
    for _ in 0..12 {
        sim.run_for(millis(500));
        flood(&mut sim);
    }
    let initiation = sim.last_sent(A, Kind::Initiation);
    let admitted = |sim: &Sim| sim.count(B, Kind::Response) as u64 + sim.drops(B, DropReason::ReplayedInitiation);
    for number in 1..=20 {
        sim.replay(B, &initiation);
        assert_eq!((admitted(&sim), sim.drops(B, DropReason::RateLimited)), (number, 0));
    }
    // As many as are let in without load: from now on there are shares.
    for _ in 0..20 {
        sim.replay(B, &initiation);
    }
    assert_eq!((admitted(&sim), sim.drops(B, DropReason::RateLimited)), (20, 20), "this one has had more than its own");
}

#[test]
fn who_was_let_in_without_load_takes_no_share_from_those_who_have_proven_their_address() {
    let mut sim = under_load_from(20, 34, B);
    let let_in_without_load = |sim: &mut Sim| {
        for number in 0..20 {
            let message = junk(sim, B, number);
            sim.inject(B, address(number as u32), &message);
        }
    };
    let_in_without_load(&mut sim);
    sim.send(A, B);
    sim.run_for(RTT);
    assert_eq!(sim.drops(B, DropReason::CookieSent), 1);
    sim.network.cut(A, B);
    sim.run_for(secs(6));
    let initiation = sim.last_sent(A, Kind::Initiation);
    let_in_without_load(&mut sim);
    assert_eq!((sim.drops(B, DropReason::CookieSent), sim.drops(B, DropReason::BadHandshake)), (1, 40));
    for _ in 0..20 {
        sim.replay(B, &initiation);
    }
    assert_eq!((sim.count(B, Kind::Response), sim.drops(B, DropReason::ReplayedInitiation)), (1, 19));
}

#[test]
fn without_load_no_source_is_limited() {
    let mut sim = Sim::pair(13);
    for number in 0..500 {
        let message = junk(&sim, B, number);
        sim.inject(B, address(1), &message);
    }
    assert_eq!((sim.drops(B, DropReason::BadHandshake), sim.drops(B, DropReason::RateLimited)), (500, 0));
}

#[test]
fn a_cookie_reply_to_an_earlier_initiation_is_refused() {
    let mut sim = under_load(14, B);
    sim.network.cut(B, A);
    sim.send(A, B);
    sim.run_for(secs(6));
    let mut stale = sim.sent(B, Kind::CookieReply).swap_remove(0);
    assert_eq!(sim.count(A, Kind::Initiation), 2);
    sim.replay(A, &stale);
    assert_eq!(sim.drops(A, DropReason::UnknownIndex), 1);
    // With the index of the latest initiation it still is bound to the mac1 of the first one.
    let latest = sim.last_sent(A, Kind::Initiation);
    stale.bytes[4..8].copy_from_slice(&latest.bytes[4..8]);
    sim.replay(A, &stale);
    assert_eq!(sim.drops(A, DropReason::BadCookieReply), 1);
    sim.network.cut(A, B);
    sim.run_for(secs(6));
    assert_eq!(mac2(&sim.last_sent(A, Kind::Initiation)), [0; 16], "no cookie was taken");
}

#[test]
fn a_cookie_reply_is_taken_once() {
    let mut sim = under_load(15, B);
    sim.send(A, B);
    sim.run_for(RTT);
    let reply = sim.last_sent(B, Kind::CookieReply);
    sim.replay(A, &reply);
    assert_eq!(sim.drops(A, DropReason::BadCookieReply), 1);
}

#[test]
fn a_cookie_reply_that_nobody_asked_for_is_refused() {
    let mut sim = under_load(16, B);
    sim.send(A, B);
    sim.run_for(RTT);
    let reply = sim.last_sent(B, Kind::CookieReply);
    sim.replay(B, &reply);
    assert_eq!(sim.drops(B, DropReason::UnknownIndex), 1);
}

#[test]
fn a_response_that_answers_nothing_gets_no_cookie() {
    let mut sim = under_load(17, B);
    let mut message = vec![0x55; 92];
    message[..4].copy_from_slice(&[2, 0, 0, 0]);
    forge::put_mac1(&mut message, &sim[B].private_key.public_key());
    sim.inject(B, address(1), &message);
    assert_eq!(sim.drops(B, DropReason::UnknownIndex), 1);
    assert!(sim.wire.is_empty());
}

#[test]
fn a_response_to_a_session_that_is_there_already_gets_no_cookie() {
    let mut sim = under_load(21, A);
    sim.send(A, B);
    sim.run_for(secs(6));
    sim.send(B, A);
    let session = sim.last_index(B).to_le_bytes();
    sim.run_for(secs(121));
    // Another handshake is under way.
    sim.network.cut_both(A, B);
    sim.send(A, B);
    let mut message = vec![0x55; 92];
    message[..4].copy_from_slice(&[2, 0, 0, 0]);
    message[8..12].copy_from_slice(&session);
    forge::put_mac1(&mut message, &sim[A].private_key.public_key());
    let before = sim.count(A, Kind::CookieReply);
    sim.inject(A, address(1), &message);
    assert_eq!((sim.drops(A, DropReason::UnknownIndex), sim.count(A, Kind::CookieReply)), (1, before));
}

#[test]
fn no_two_cookie_replies_have_the_same_nonce() {
    let mut sim = under_load(23, B);
    let now = sim.now;
    let mut nonces = std::collections::BTreeSet::new();
    for burst in 0..3 {
        // The same message again and again: all that differs is the nonce.
        let message = junk(&sim, B, 1);
        let mut buffer = message.repeat(20);
        let mut datagrams = Datagrams::new();
        for number in 0..20 {
            assert!(datagrams.push(number * 148..(number + 1) * 148, &Path::to(address(1)), Ecn::NotEct));
        }
        let opened = sim[B].interface.begin_open(now, datagrams, &buffer).open(&mut buffer);
        assert_eq!(sim[B].interface.commit(now, opened, &mut buffer).packets().count(), 0);
        let mut reply = [0; 148];
        while let Some(transmit) = sim[B].interface.poll_transmit(now, &mut reply).unwrap() {
            nonces.insert(reply[transmit.range][8..32].to_vec());
        }
        assert_eq!(nonces.len(), 20 * (burst + 1));
    }
}

#[test]
fn cookies_work_without_knowing_anything_but_the_source_address() {
    // Elsewhere cookies were silently off when the caller gave no address; here it is not optional.
    let mut sim = under_load(20, B);
    let message = forge::initiation(&sim[A].private_key, sim[B].private_key.public_key(), UNIX_START, 1);
    let v6: SocketAddr = "[2001:db8::7]:9".parse().unwrap();
    for source in [address(1), v6] {
        sim.inject_by(B, &Path::to(source), Ecn::NotEct, &message);
        let reply = sim.last_sent(B, Kind::CookieReply);
        assert_eq!((reply.path.remote, reply.path.local), (source, None));
    }
}

#[test]
fn a_link_that_goes_down_gives_no_cookie_that_it_owed() {
    let mut sim = under_load(30, B);
    let message = junk(&sim, B, 1);
    let now = sim.now;
    let interface = &mut sim[B].interface;
    let _ = interface.handle_datagram(now, &Path::to(address(1)), Ecn::NotEct, &mut message.clone());
    assert!(interface.has_cookie_replies());
    interface.link_down();
    assert!(!interface.has_cookie_replies() && !interface.has_transmits());
    assert_eq!(interface.poll_transmit(now, &mut [0; 148]), Ok(None));
}
