//! The five timers, by exact deadlines.

use std::time::Duration;

use adit::{Bounds, DropReason, Event, Instant, Packets};

use crate::sim::{A, B, Calls, DELAY, Kind, RTT, START, Sent, Sim, millis, packet, secs};

/// The times between one datagram and the next.
fn gaps(sent: &[Sent]) -> Vec<Duration> {
    sent.windows(2).map(|pair| pair[1].at.saturating_since(pair[0].at)).collect()
}

/// A session without traffic for 20 s: no deadline is left but that for erasing the keys.
fn quiet_session(seed: u64) -> Sim {
    let mut sim = Sim::pair(seed);
    sim.connect(A, B);
    sim.run_for(secs(20));
    sim.wire.clear();
    sim
}

#[test]
fn an_initiation_is_repeated_every_5_s_and_up_to_333_ms_until_90_s_have_gone_by() {
    let mut sim = Sim::pair(1);
    sim.network.cut(A, B);
    sim.send(A, B);
    sim.run_for(secs(300));
    let sent = sim.sent(A, Kind::Initiation);
    let gaps = gaps(&sent);
    assert!(gaps.iter().all(|gap| (secs(5)..=millis(5_333)).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap != gaps[0]), "jitter that is always the same is none");
    let last = sent.last().unwrap().at.saturating_since(START);
    assert!(last < secs(90) && last + millis(5_333) >= secs(90), "the last one after {last:?}");
    assert_eq!(sim.wire.len(), sent.len());
}

#[test]
fn jitter_keeps_two_nodes_from_repeating_in_step() {
    let gap_of = |seed| {
        let mut sim = Sim::pair(seed);
        sim.network.cut(A, B);
        sim.send(A, B);
        sim.run_for(secs(6));
        gaps(&sim.sent(A, Kind::Initiation))[0]
    };
    let gaps: Vec<_> = (0..40).map(gap_of).collect();
    let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
    assert!(*least < millis(5_060) && *most > millis(5_270), "from {least:?} to {most:?}");
}

#[test]
fn what_waited_is_dropped_and_counted_when_90_s_brought_no_answer() {
    let mut sim = Sim::pair(2);
    sim.network.cut(A, B);
    sim.send_many(A, B, 7);
    sim.run_for(secs(89));
    assert_eq!((sim[A].events(), sim.drops(A, DropReason::HandshakeGaveUp)), (vec![], 0));
    sim.run_for(secs(7));
    assert_eq!(sim[A].events(), [Event::HandshakeGaveUp { peer: sim.id(A, B) }]);
    assert_eq!(sim.drops(A, DropReason::HandshakeGaveUp), 7);
    // The response to the last initiation would come too late.
    let last = sim.last_sent(A, Kind::Initiation);
    sim.replay(B, &last);
    sim.run_for(RTT);
    assert_eq!(sim.drops(A, DropReason::UnknownIndex), 1);
    assert!(sim[B].arrived.is_empty());
}

#[test]
fn after_giving_up_nothing_is_sent_until_there_is_new_data() {
    let mut sim = Sim::pair(3);
    sim.network.cut(A, B);
    sim.send(A, B);
    sim.run_for(secs(100));
    let before = sim.wire.len();
    sim.run_for(secs(3_600));
    assert_eq!(sim.wire.len(), before);
    sim.network.heal();
    let packet = sim.send(A, B);
    sim.run_for(RTT * 2);
    assert!(sim[B].has_arrived(&packet));
    assert_eq!(sim[B].arrived.len(), 1, "and not what was given up");
}

#[test]
fn what_came_just_before_giving_up_is_not_followed_by_an_empty_packet_either() {
    let mut sim = quiet_session(32);
    sim.network.cut(A, B);
    sim.send(A, B);
    // Nothing comes back.
    sim.run_for(secs(15));
    let began = sim.now;
    let gives_up = loop {
        let deadline = sim[A].interface.poll_timeout().unwrap();
        if deadline >= began + secs(90) {
            break deadline;
        }
        sim.run_until(deadline);
    };
    // The last initiation has just left. The session would last beyond the 10 s of silence.
    sim.run_for(secs(3));
    let packet = sim.send(B, A);
    sim.run_for(DELAY);
    assert!(sim[A].has_arrived(&packet));
    sim.network.cut(B, A);
    let _ = sim[A].events();
    sim.run_until(gives_up);
    assert_eq!(sim[A].events(), [Event::HandshakeGaveUp { peer: sim.id(A, B) }]);
    let sent = |sim: &Sim| sim.wire.iter().filter(|sent| sent.from == A).count();
    let before = sent(&sim);
    sim.run_for(secs(3_600));
    assert_eq!(sent(&sim), before);
    sim.network.heal();
    let packet = sim.send(A, B);
    sim.run_for(RTT * 2);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn new_data_gives_the_attempt_another_90_s() {
    let mut sim = Sim::pair(4);
    sim.network.cut(A, B);
    sim.send(A, B);
    sim.run_for(secs(80));
    sim.send(A, B);
    sim.run_for(secs(85));
    assert_eq!((sim[A].events(), sim.drops(A, DropReason::HandshakeGaveUp)), (vec![], 0));
    sim.run_for(secs(20));
    assert_eq!(sim.drops(A, DropReason::HandshakeGaveUp), 2);
}

#[test]
fn an_answer_ends_the_repetition() {
    let mut sim = Sim::pair(5);
    sim.connect(A, B);
    sim.run_for(secs(100));
    assert_eq!((sim.count(A, Kind::Initiation), sim.count(B, Kind::Initiation)), (1, 0));
}

#[test]
fn received_data_is_followed_by_an_empty_packet_after_10_s_of_silence() {
    let mut sim = quiet_session(6);
    sim.send(A, B);
    let start = sim.now;
    sim.run_for(secs(60));
    let kinds: Vec<_> = sim.wire.iter().map(|sent| (sent.from, sent.kind())).collect();
    // And the keepalive is not answered by a keepalive.
    assert_eq!(kinds, [(A, Kind::Data), (B, Kind::Keepalive)]);
    assert_eq!(sim.wire[1].at, start + DELAY + secs(10));
}

#[test]
fn the_passive_keepalive_waits_from_the_first_data_and_another_follows_for_what_came_later() {
    let mut sim = quiet_session(7);
    let start = sim.now;
    sim.send(A, B);
    sim.run_for(secs(6));
    sim.send(A, B);
    sim.run_for(secs(60));
    let times: Vec<_> = sim.sent(B, Kind::Keepalive).iter().map(|sent| sent.at).collect();
    assert_eq!(times, [start + DELAY + secs(10), start + DELAY + secs(20)]);
}

#[test]
fn data_in_answer_makes_the_passive_keepalive_needless() {
    let mut sim = quiet_session(8);
    sim.send(A, B);
    sim.run_for(secs(9));
    sim.send(B, A);
    sim.run_for(secs(1) + DELAY * 3);
    assert_eq!(sim.count(B, Kind::Keepalive), 0);
    sim.run_for(secs(60));
    assert_eq!((sim.count(B, Kind::Keepalive), sim.count(A, Kind::Keepalive)), (0, 1));
}

#[test]
fn data_that_comes_with_the_handshake_is_followed_by_a_keepalive_too() {
    let mut sim = Sim::pair(9);
    let packet = sim.send(A, B);
    sim.run_for(secs(60));
    assert!(sim[B].has_arrived(&packet));
    assert_eq!(
        sim.sent(B, Kind::Keepalive).iter().map(|sent| sent.at).collect::<Vec<_>>(),
        [START + DELAY * 3 + secs(10)]
    );
    assert_eq!(sim.count(A, Kind::Initiation), 1, "which the initiator takes for a sign of life");
}

#[test]
fn data_that_finds_no_echo_for_15_s_is_followed_by_a_new_handshake() {
    let mut sim = quiet_session(10);
    sim.network.cut(A, B);
    let start = sim.now;
    sim.send(A, B);
    sim.run_for(secs(3));
    sim.send(A, B);
    sim.run_for(secs(12) - Duration::from_nanos(1));
    assert_eq!(sim.count(A, Kind::Initiation), 0);
    sim.run_for(Duration::from_nanos(1));
    assert_eq!(sim.last_sent(A, Kind::Initiation).at, start + secs(15));
}

#[test]
fn data_right_after_the_handshake_is_watched_for_15_s_as_well() {
    let mut sim = Sim::pair(11);
    sim.network.lose(|sent| sent.from == B && sent.kind() != Kind::Response);
    sim.send(A, B);
    sim.run_for(secs(60));
    let initiations = sim.sent(A, Kind::Initiation);
    // The first data left a round trip after the first initiation.
    assert_eq!(initiations[1].at, START + RTT + secs(15));
}

#[test]
fn any_sign_of_life_makes_the_new_handshake_needless() {
    for answers_with_data in [true, false] {
        let mut sim = quiet_session(12);
        sim.send(A, B);
        sim.run_for(secs(9));
        if answers_with_data {
            sim.send(B, A);
        }
        sim.run_for(secs(30));
        assert_eq!(sim.count(A, Kind::Initiation), 0);
    }
}

#[test]
fn a_keepalive_is_not_data_and_needs_no_echo() {
    let mut sim = quiet_session(13);
    let (now, b) = (sim.now, sim.id(A, B));
    sim.network.cut(B, A);
    sim[A].interface.set_persistent_keepalive(now, b, 7).unwrap();
    sim.run_for(secs(80));
    assert!(sim.count(A, Kind::Keepalive) > 10);
    assert_eq!((sim.count(A, Kind::Initiation), sim.count(B, Kind::Keepalive)), (0, 0));
}

#[test]
fn all_key_material_is_erased_when_540_s_brought_no_new_session() {
    let mut sim = Sim::pair(14);
    sim.connect(A, B);
    let data = sim.last_sent(A, Kind::Data);
    let _ = (sim[A].events(), sim[B].events());
    // The responder made its keys when the initiation came, after one delay.
    let made = START + DELAY;
    sim.run_until(made + secs(540));
    let expired = |event: &Event| matches!(event, Event::SessionExpired { .. });
    assert_eq!(
        (sim[A].events().iter().any(expired), sim[B].events()),
        (false, vec![Event::SessionExpired { peer: sim.id(B, A) }])
    );
    // Before, the index was known and the session too old; now there is no such index.
    sim.replay(B, &data);
    assert_eq!((sim.drops(B, DropReason::UnknownIndex), sim.drops(B, DropReason::SessionExpired)), (1, 0));
    sim.run_for(DELAY);
    assert!(sim[A].events().iter().any(expired));
    assert_eq!(sim[A].interface.poll_timeout(), None);
    assert_eq!(sim[B].interface.poll_timeout(), None);
}

#[test]
fn keys_are_erased_no_sooner_than_after_540_s_and_a_new_session_puts_it_off() {
    let mut sim = Sim::pair(15);
    sim.connect(A, B);
    let data = sim.last_sent(A, Kind::Data);
    sim.run_until(START + (DELAY + secs(540) - Duration::from_nanos(1)));
    sim.replay(B, &data);
    assert_eq!((sim.drops(B, DropReason::UnknownIndex), sim.drops(B, DropReason::SessionExpired)), (0, 1));
    sim.connect(A, B);
    let _ = (sim[A].events(), sim[B].events());
    sim.run_for(secs(530));
    assert_eq!((sim[A].events(), sim[B].events()), (vec![], vec![]));
}

#[test]
fn a_handshake_that_is_under_way_when_old_keys_are_erased_goes_on() {
    let mut sim = Sim::pair(28);
    sim.connect(A, B);
    let _ = sim[A].events();
    sim.run_until(START + (RTT + secs(540) - millis(1)));
    let packet = sim.send(A, B);
    sim.run_for(RTT * 2);
    let peer = sim.id(A, B);
    assert_eq!(sim[A].events(), [Event::SessionExpired { peer }, Event::HandshakeCompleted { peer }]);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn a_packet_that_asks_for_a_session_just_before_old_keys_are_erased_is_kept() {
    // Before the initiation is begun, and while it is computed.
    for (seed, is_begun) in [(29, false), (30, true)] {
        let mut sim = Sim::group_with(seed, 2, Calls::Steps, Bounds::default());
        sim.connect(A, B);
        sim.run_for(secs(30));
        // The machine sleeps, and so does whoever looks at the deadlines.
        sim[A].is_asleep = true;
        sim.run_for(secs(600));
        sim[A].is_asleep = false;
        let packet = packet::v4(packet::inside(A), packet::inside(B), &[7; 100]);
        let mut buffer = [&[0; 16], &packet[..], &[0; 64]].concat();
        let mut burst = Packets::new(1420);
        burst.push(0, packet.len()).unwrap();
        let (now, interface) = (sim.now, &mut sim[A].interface);
        assert_eq!(interface.begin_seal(now, burst, &buffer).seal(&mut buffer).transmits().count(), 0);
        let work = is_begun.then(|| interface.poll_handshake(now).unwrap());
        interface.expire(now);
        if let Some(work) = work {
            assert!(interface.finish_handshake(now, work.compute()).is_none());
        }
        sim.flush(A);
        sim.run_for(RTT * 2);
        assert!(sim[B].has_arrived(&packet), "begun: {is_begun}");
        assert_eq!(sim.drops(A, DropReason::HandshakeGaveUp), 0);
    }
}

#[test]
fn when_more_is_due_than_may_wait_to_be_sent_each_has_its_turn() {
    let mut bounds = Bounds::default();
    bounds.outgoing = 2;
    let mut sim = Sim::group_with(31, 9, Calls::Single, bounds);
    for other in 1..9 {
        let (now, peer) = (sim.now, sim.id(A, other));
        sim[A].interface.set_persistent_keepalive(now, peer, 25).unwrap();
    }
    sim.run_for(RTT);
    assert_eq!((sim.count(A, Kind::Initiation), sim.drops(A, DropReason::ReplyQueueFull)), (8, 0));
}

#[test]
fn key_material_is_erased_540_s_after_a_handshake_was_given_up_and_no_deadline_is_left() {
    let mut sim = Sim::pair(16);
    sim.network.cut(A, B);
    sim.send(A, B);
    let peer = sim.id(A, B);
    sim.run_until_done(secs(100), |sim| sim.drops(A, DropReason::HandshakeGaveUp) > 0).expect("it is given up");
    assert_eq!(sim[A].events(), [Event::HandshakeGaveUp { peer }]);
    sim.run_for(secs(540) - Duration::from_nanos(1));
    assert_eq!(sim[A].events(), []);
    sim.run_for(Duration::from_nanos(1));
    assert_eq!(sim[A].events(), [Event::SessionExpired { peer }]);
    assert_eq!(sim[A].interface.poll_timeout(), None);
}

#[test]
fn a_tunnel_without_traffic_is_silent() {
    let mut sim = quiet_session(17);
    sim.run_for(secs(86_400));
    assert!(sim.wire.is_empty());
}

#[test]
fn an_interface_that_has_done_nothing_has_no_deadline() {
    let mut sim = Sim::pair(18);
    assert_eq!(sim[A].interface.poll_timeout(), None);
}

#[test]
fn the_persistent_keepalive_is_sent_every_interval_to_the_nanosecond() {
    let mut sim = quiet_session(19);
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 25).unwrap();
    sim.run_for(secs(90));
    let times: Vec<_> = sim.sent(A, Kind::Keepalive).iter().map(|sent| sent.at).collect();
    assert_eq!(times, [0, 25, 50, 75].map(|after| now + secs(after)));
}

#[test]
fn any_authenticated_traffic_in_either_direction_puts_the_persistent_keepalive_off() {
    let mut sim = quiet_session(20);
    let (start, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(start, b, 8).unwrap();
    sim.run_for(secs(3));
    let keepalives = |sim: &Sim| -> Vec<Instant> { sim.sent(A, Kind::Keepalive).iter().map(|sent| sent.at).collect() };
    assert_eq!(keepalives(&sim), [start]);
    // Sent data, at 3 s.
    sim.send(A, B);
    sim.run_for(secs(7));
    assert_eq!(keepalives(&sim), [start]);
    // Received data, at 10 s and one delay.
    sim.send(B, A);
    sim.run_for(secs(7));
    assert_eq!(keepalives(&sim), [start]);
    sim.run_for(secs(2));
    assert_eq!(keepalives(&sim), [start, start + secs(18) + DELAY]);
}

#[test]
fn forged_datagrams_do_not_put_the_persistent_keepalive_off() {
    let mut sim = quiet_session(21);
    let (start, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(start, b, 20).unwrap();
    sim.run_for(secs(10));
    sim.send(B, A);
    let mut forged = sim.last_sent(B, Kind::Data);
    sim.network.cut(B, A);
    sim.run_for(millis(5));
    forged.bytes[30] ^= 1;
    let before = sim[A].interface.poll_timeout();
    sim.replay(A, &forged);
    assert_eq!((sim.drops(A, DropReason::BadTag), sim[A].interface.poll_timeout()), (1, before));
}

#[test]
fn an_interval_of_zero_turns_the_persistent_keepalive_off() {
    let mut sim = quiet_session(22);
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 5).unwrap();
    sim.run_for(secs(12));
    assert_eq!(sim.count(A, Kind::Keepalive), 3);
    let now = sim.now;
    sim[A].interface.set_persistent_keepalive(now, b, 0).unwrap();
    sim.run_for(secs(100));
    assert_eq!(sim.count(A, Kind::Keepalive), 3);
}

#[test]
fn a_shorter_interval_counts_from_now_and_setting_the_same_one_sends_nothing() {
    let mut sim = quiet_session(23);
    let (start, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(start, b, 60).unwrap();
    sim.run_for(secs(10));
    for seconds in [60, 5] {
        let now = sim.now;
        sim[A].interface.set_persistent_keepalive(now, b, seconds).unwrap();
        sim.run_for(millis(1));
        assert_eq!(sim.count(A, Kind::Keepalive), 1);
    }
    sim.run_for(secs(5));
    assert_eq!(sim.last_sent(A, Kind::Keepalive).at, start + secs(15) + millis(1));
}

#[test]
fn a_persistent_keepalive_brings_up_a_session_and_keeps_trying_while_nobody_answers() {
    let mut sim = Sim::pair(24);
    let (now, b) = (sim.now, sim.id(A, B));
    sim.network.cut(A, B);
    sim[A].interface.set_persistent_keepalive(now, b, 25).unwrap();
    sim.run_for(secs(1_000));
    assert!(sim.count(A, Kind::Initiation) > 150);
    sim.network.heal();
    sim.run_for(secs(26));
    assert!(sim.peer(A, B).has_session);
}

#[test]
fn a_caller_who_comes_late_finds_everything_due_done_once() {
    let mut sim = quiet_session(25);
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 1).unwrap();
    // A laptop that slept for an hour.
    sim.now += secs(3_600);
    let late = sim.now;
    sim.run_for(Duration::ZERO);
    assert!(sim.wire.len() <= 2, "{} datagrams", sim.wire.len());
    assert!(sim[A].interface.poll_timeout().is_some_and(|next| next > late));
}

#[test]
fn a_deadline_is_told_exactly_and_nothing_happens_before_it() {
    let mut sim = Sim::pair(26);
    sim.network.cut(A, B);
    sim.send(A, B);
    for _ in 0..10 {
        let deadline = sim[A].interface.poll_timeout().unwrap();
        let before = sim.wire.len();
        sim.now = Instant::from_nanos(deadline.as_nanos() - 1);
        let now = sim.now;
        sim[A].interface.handle_timeout(now);
        sim.flush(A);
        assert_eq!(sim.wire.len(), before);
        sim.run_until(deadline);
        assert_eq!(sim.wire.len(), before + 1);
    }
}

#[test]
fn a_session_wanted_right_after_answering_one_that_came_to_nothing_is_asked_for_5_s_later() {
    let mut sim = Sim::pair(27);
    // A asks, B answers, and A vanishes.
    sim.send(A, B);
    sim.network.cut_both(A, B);
    sim.run_for(secs(1));
    assert_eq!(sim.count(B, Kind::Response), 1);
    let answered = sim.last_sent(B, Kind::Response).at;
    sim.send(B, A);
    sim.run_for(secs(6));
    let initiation = sim.last_sent(B, Kind::Initiation).at;
    assert!((secs(5)..=millis(5_333)).contains(&initiation.saturating_since(answered)));
}
