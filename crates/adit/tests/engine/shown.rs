//! When packets begin to leave from another address of this host, a peer that only sends must learn of it.

use std::net::IpAddr;

use crate::roaming::{local, reached_at};
use crate::sim::{A, B, Kind, Sim, millis, secs};

/// What B sends within a moment of a change that is no handshake message, and from where.
fn shown(sim: &mut Sim, change: impl FnOnce(&mut Sim)) -> Vec<(Kind, Option<IpAddr>)> {
    let sent = |sim: &Sim| [Kind::Keepalive, Kind::Data].map(|kind| sim.sent(B, kind));
    let before = sent(sim).map(|sent| sent.len());
    let initiations = sim.count(B, Kind::Initiation);
    change(sim);
    sim.run_for(millis(1));
    assert_eq!(sim.count(B, Kind::Initiation), initiations, "no session is asked for");
    let new = sent(sim).into_iter().zip(before).flat_map(|(sent, before)| sent.into_iter().skip(before));
    new.map(|sent| (sent.kind(), sent.path.local)).collect()
}

#[test]
fn a_peer_that_only_sends_is_shown_at_once_from_where_packets_leave_now() {
    let once = [(Kind::Keepalive, None)];
    assert_eq!(shown(&mut reached_at(local()), |sim| sim[B].interface.forget_sources()), once);
    assert_eq!(shown(&mut reached_at(local()), |sim| sim[B].interface.forget_source_address(local())), once);
    let other = "203.0.113.6".parse().unwrap();
    assert_eq!(shown(&mut reached_at(local()), |sim| sim[B].interface.forget_source_address(other)), []);
    let reject = |is_good| {
        move |sim: &mut Sim| {
            let (a, path) = sim[B].interface.paths().next().unwrap();
            sim[B].interface.judge_source(a, &path, is_good).unwrap();
        }
    };
    let mut sim = reached_at(local());
    assert_eq!(shown(&mut sim, reject(true)), []);
    assert_eq!(shown(&mut sim, reject(false)), once);
    sim.run_for(secs(10));
    assert_eq!(shown(&mut sim, reject(false)), once, "there may have been no way before");
    sim.run_for(secs(10));
    assert_eq!(shown(&mut sim, reject(true)), [(Kind::Keepalive, Some(local()))]);
    sim.run_for(secs(10));
    // Whatever is sent shows it as well.
    let with_data = |sim: &mut Sim| {
        sim[B].interface.forget_sources();
        sim.send(B, A);
    };
    assert_eq!(shown(&mut sim, with_data), [(Kind::Data, None)]);
}

#[test]
fn a_peer_is_shown_no_more_than_once_in_ten_seconds_and_the_last_change_in_the_end() {
    let change = |is_good| {
        move |sim: &mut Sim| {
            let (a, path) = sim[B].interface.paths().next().unwrap();
            sim[B].interface.judge_source(a, &path, is_good).unwrap();
        }
    };
    let mut sim = reached_at(local());
    assert_eq!(shown(&mut sim, change(false)), [(Kind::Keepalive, None)]);
    for number in 0..100 {
        assert_eq!(shown(&mut sim, change(number % 2 == 0)), []);
    }
    assert_eq!(shown(&mut sim, change(true)), []);
    assert_eq!(shown(&mut sim, |sim| sim.run_for(secs(10))), [(Kind::Keepalive, Some(local()))]);
}

#[test]
fn a_peer_that_has_been_silent_for_a_minute_or_has_no_session_is_shown_nothing() {
    let forget = |sim: &mut Sim| sim[B].interface.forget_sources();
    let mut sim = reached_at(local());
    sim.run_for(secs(61));
    assert_eq!(shown(&mut sim, forget), []);
    let mut sim = Sim::pair(13);
    assert_eq!(shown(&mut sim, forget), []);
    let mut sim = reached_at(local());
    sim[B].interface.link_down();
    assert_eq!(shown(&mut sim, forget), []);
}
