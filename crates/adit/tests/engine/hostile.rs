//! What strangers may send, and what a careless caller may do: nothing panics, everything is
//! counted, and what is forged leaves no trace.

use std::net::SocketAddr;

use adit::{Datagrams, DropReason, Ecn, Error, Packets, Path, PublicKey};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::sim::{A, B, DELAY, Kind, RTT, Sent, Sim, forge, millis, packet, secs};

fn stranger() -> SocketAddr {
    "203.0.113.66:666".parse().unwrap()
}

fn all_drops(sim: &Sim, node: usize) -> u64 {
    sim[node].interface.drops().iter().map(|(_, count)| count).sum()
}

#[test]
fn datagrams_of_every_length_are_dropped_and_counted_with_their_reason() {
    let mut sim = Sim::pair(1);
    sim.connect(A, B);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut injected = 0;
    let events = sim[B].events();
    for len in 0..=2_000_usize {
        for first in
            [None, Some([0, 0, 0, 0]), Some([1, 0, 0, 0]), Some([2, 0, 0, 0]), Some([3, 0, 0, 0]), Some([4, 0, 0, 0])]
        {
            let mut bytes = vec![0; len];
            rng.fill_bytes(&mut bytes);
            if let Some(first) = first {
                let head = first.len().min(len);
                bytes[..head].copy_from_slice(&first[..head]);
            }
            assert_eq!(sim.inject(B, stranger(), &bytes), None);
            injected += 1;
            assert_eq!(all_drops(&sim, B), injected, "{len} bytes after {first:?}");
        }
    }
    // Exactly one length fits each handshake message, and mac1 was wrong. Any of 32 and more fits a transport message.
    assert_eq!(sim.drops(B, DropReason::BadMac1), 2);
    assert_eq!(sim.drops(B, DropReason::UnknownIndex), 1 + (2_000 - 31));
    assert_eq!(sim.drops(B, DropReason::BadLength), 2_000 + 2_000 + 2_000 + 32 + 2 * 4);
    assert_eq!(sim.drops(B, DropReason::BadType), 2 * (2_001 - 4));
    assert_eq!((events.len(), sim[B].events()), (1, vec![]));
    let packet = sim.send(A, B);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn the_largest_datagram_and_an_empty_one_are_dropped_and_counted() {
    let mut sim = Sim::pair(2);
    for bytes in [vec![], vec![0; 65_535], vec![4; 65_535]] {
        assert_eq!(sim.inject(A, stranger(), &bytes), None);
    }
    assert_eq!((sim.drops(A, DropReason::BadLength), sim.drops(A, DropReason::BadType)), (1, 2));
}

#[test]
fn reserved_bytes_must_be_zero_in_every_message() {
    let mut bounds = adit::Bounds::default();
    bounds.handshakes_per_second = 0;
    let mut loaded = Sim::group_with(3, 2, crate::sim::Calls::Single, bounds);
    loaded.network.cut(B, A);
    loaded.send(A, B);
    loaded.run_for(RTT);
    let mut sim = Sim::pair(3);
    sim.send(A, B);
    sim.run_for(millis(15));
    sim.network.cut_both(A, B);
    let messages = [
        (false, B, sim.last_sent(A, Kind::Initiation)),
        (false, A, sim.last_sent(B, Kind::Response)),
        (true, A, loaded.last_sent(B, Kind::CookieReply)),
    ];
    for (is_loaded, to, message) in &messages {
        let sim = if *is_loaded { &mut loaded } else { &mut sim };
        for place in 1..4 {
            for bit in 0..8 {
                let mut bytes = message.bytes.clone();
                bytes[place] ^= 1 << bit;
                if matches!(message.kind(), Kind::Initiation | Kind::Response) {
                    let key = sim[*to].private_key.public_key();
                    forge::put_mac1(&mut bytes, &key);
                }
                let before = sim.drops(*to, DropReason::BadType);
                sim.inject(*to, message.source, &bytes);
                assert_eq!(sim.drops(*to, DropReason::BadType), before + 1, "{:?}, byte {place}", message.kind());
            }
        }
    }
    let mut sim = Sim::pair(3);
    sim.connect(A, B);
    sim.network.cut(A, B);
    let packet = sim.send(A, B);
    let data = sim.last_sent(A, Kind::Data);
    for place in 1..4 {
        let mut bytes = data.bytes.clone();
        bytes[place] = 1;
        assert_eq!(sim.inject(B, data.source, &bytes), None);
    }
    assert_eq!(sim.drops(B, DropReason::BadType), 3);
    assert_eq!(sim.replay(B, &data), Some(packet));
}

/// All that can be seen of a node.
fn state(sim: &mut Sim, node: usize) -> String {
    let now = sim.now;
    let events = sim[node].events();
    let arrived = sim[node].arrived.len();
    let timeout = sim[node].interface.poll_timeout();
    let sent = sim.wire.iter().filter(|sent| sent.from == node).count();
    let peers: Vec<_> = sim[node].interface.peers(now).collect();
    format!("{events:?} {arrived} {timeout:?} {sent} {peers:?}")
}

/// Gives to a node every message that differs from this one in one bit of the first `len` bytes;
/// nothing may come of it but a count.
#[track_caller]
fn leave_no_trace(sim: &mut Sim, to: usize, message: &Sent, len: usize) {
    forgeries_leave_no_trace(sim, to, forge::one_bit_off(&message.bytes).take(len * 8));
}

/// As [`leave_no_trace`], for a handshake message whose mac1 the forger can put right.
#[track_caller]
fn leave_no_trace_with_mac1(sim: &mut Sim, to: usize, message: &Sent) {
    let key = sim[to].private_key.public_key();
    let covered = message.bytes.len() - 32;
    // Nothing but the MACs covers the sender's index, so a forger who puts mac1 right may change it.
    let forgeries = forge::one_bit_off(&message.bytes).filter(|(bit, _)| !(4..8).contains(&(bit / 8)));
    forgeries_leave_no_trace(
        sim,
        to,
        forgeries.take_while(|(bit, _)| *bit < covered * 8).map(|(bit, mut bytes)| {
            forge::put_mac1(&mut bytes, &key);
            (bit, bytes)
        }),
    );
}

#[track_caller]
fn forgeries_leave_no_trace(sim: &mut Sim, to: usize, forgeries: impl Iterator<Item = (usize, Vec<u8>)>) {
    let _ = sim[to].events();
    let (before, mut drops) = (state(sim, to), all_drops(sim, to));
    for (bit, bytes) in forgeries {
        assert_eq!(sim.inject(to, stranger(), &bytes), None);
        assert_eq!(state(sim, to), before, "bit {bit}");
        drops += 1;
        assert_eq!(all_drops(sim, to), drops, "bit {bit}");
    }
}

/// Two nodes that are never under load.
fn without_load(seed: u64) -> Sim {
    let mut bounds = adit::Bounds::default();
    bounds.handshakes_per_second = u32::MAX;
    Sim::group_with(seed, 2, crate::sim::Calls::Single, bounds)
}

#[test]
fn an_initiation_with_any_bit_changed_leaves_no_trace() {
    let mut sim = without_load(4);
    sim.network.cut(A, B);
    let packet = sim.send(A, B);
    let initiation = sim.last_sent(A, Kind::Initiation);
    // Without load mac2 means nothing.
    leave_no_trace(&mut sim, B, &initiation, 132);
    leave_no_trace_with_mac1(&mut sim, B, &initiation);
    assert!(sim.drops(B, DropReason::BadMac1) > 1_000 && sim.drops(B, DropReason::BadHandshake) > 800);
    // The genuine one is still good.
    sim.network.heal();
    sim.replay(B, &initiation);
    sim.run_for(RTT * 2);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn a_response_with_any_bit_changed_leaves_no_trace() {
    let mut sim = without_load(5);
    let packet = sim.send(A, B);
    sim.network.cut(B, A);
    sim.run_for(RTT);
    let response = sim.last_sent(B, Kind::Response);
    leave_no_trace(&mut sim, A, &response, 76);
    leave_no_trace_with_mac1(&mut sim, A, &response);
    assert!(sim.drops(A, DropReason::BadMac1) > 500 && sim.drops(A, DropReason::BadHandshake) == 48 * 8);
    sim.network.heal();
    sim.replay(A, &response);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn a_transport_message_with_any_bit_changed_leaves_no_trace() {
    let mut sim = Sim::pair(6);
    sim.connect(A, B);
    sim.network.cut(A, B);
    let packet = sim.send(A, B);
    let data = sim.last_sent(A, Kind::Data);
    leave_no_trace(&mut sim, B, &data, data.bytes.len());
    assert_eq!(sim.replay(B, &data), Some(packet));
}

#[test]
fn a_cookie_reply_with_any_bit_changed_leaves_no_trace() {
    let mut bounds = adit::Bounds::default();
    bounds.handshakes_per_second = 0;
    let mut sim = Sim::group_with(7, 2, crate::sim::Calls::Single, bounds);
    sim.network.cut(B, A);
    sim.send(A, B);
    sim.run_for(RTT);
    let reply = sim.last_sent(B, Kind::CookieReply);
    leave_no_trace(&mut sim, A, &reply, 64);
    assert_eq!(sim.drops(A, DropReason::BadCookieReply), 56 * 8);
    sim.replay(A, &reply);
    sim.run_for(secs(6));
    assert_ne!(sim.last_sent(A, Kind::Initiation).bytes[132..], [0; 16], "the genuine one was taken");
}

#[test]
fn a_message_cut_short_or_made_longer_leaves_no_trace() {
    let mut sim = Sim::pair(8);
    sim.connect(A, B);
    sim.network.cut(A, B);
    sim.send(A, B);
    let data = sim.last_sent(A, Kind::Data);
    let _ = sim[B].events();
    let before = state(&mut sim, B);
    for len in 0..data.bytes.len() {
        assert_eq!(sim.inject(B, stranger(), &data.bytes[..len]), None);
    }
    let mut longer = data.bytes.clone();
    for more in 0..40 {
        longer.push(more);
        assert_eq!(sim.inject(B, stranger(), &longer), None);
    }
    assert_eq!(state(&mut sim, B), before);
    assert!(sim.replay(B, &data).is_some());
}

#[test]
fn a_counter_that_no_session_may_use_is_refused_before_it_is_decrypted() {
    let mut sim = Sim::pair(9);
    sim.connect(A, B);
    let mut data = sim.last_sent(A, Kind::Data);
    // 2^64 - 2^13 - 1, from the paper, and the one below it.
    let reject_after_messages = 18_446_744_073_709_543_423_u64;
    for (counter, reason) in [
        (reject_after_messages, DropReason::SessionExpired),
        (u64::MAX, DropReason::SessionExpired),
        (reject_after_messages - 1, DropReason::BadTag),
    ] {
        let before = sim.drops(B, reason);
        data.bytes[8..16].copy_from_slice(&counter.to_le_bytes());
        assert_eq!(sim.replay(B, &data), None);
        assert_eq!(sim.drops(B, reason), before + 1, "{counter}");
    }
    // The forged counter did not move the window.
    let packet = sim.send(A, B);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn packets_from_inside_of_every_length_and_content_do_no_harm() {
    let mut sim = Sim::pair(10);
    sim.connect(A, B);
    let b = sim.id(A, B);
    sim[A].interface.add_allowed_ip(b, "0.0.0.0/0".parse().unwrap()).unwrap();
    sim[A].interface.add_allowed_ip(b, "::/0".parse().unwrap()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(10);
    let arrived = sim[B].arrived.len();
    for len in 0..=600 {
        for version in [0, 4, 6, 15] {
            let mut packet = vec![0; len];
            rng.fill_bytes(&mut packet);
            if let Some(first) = packet.first_mut() {
                *first = version << 4 | 5;
            }
            sim.send_packets(A, &[packet]);
        }
    }
    sim.run_for(DELAY);
    let sent = sim.count(A, Kind::Data) as u64 - 1;
    assert!(sent > 1_000);
    // Random sources are not A's, random lengths are wrong.
    assert_eq!(sim[B].arrived.len(), arrived);
    assert_eq!(sim.drops(B, DropReason::NotIp) + sim.drops(B, DropReason::WrongSource), sent);
}

#[test]
fn a_packet_longer_than_any_datagram_has_room_for_is_dropped_whatever_buffer_there_is() {
    let mut sim = Sim::pair(11);
    let mut packet = packet::v4(packet::inside(A), packet::inside(B), &[]);
    packet.resize(65_507 - 32 + 1, 0);
    let now = sim.now;
    let mut out = vec![0; 70_000];
    for (count, len) in [0, 65_507, 70_000].into_iter().enumerate() {
        assert_eq!(sim[A].interface.handle_packet(now, &packet, &mut out[..len]), Ok(None));
        assert_eq!(sim.drops(A, DropReason::TooLarge), 1 + count as u64);
    }
    packet.pop();
    assert_eq!(sim[A].interface.handle_packet(now, &packet, &mut out[..65_507]), Ok(None), "it waits");
    assert_eq!(sim.drops(A, DropReason::TooLarge), 3);
}

#[test]
fn a_buffer_too_short_for_a_packet_is_an_error_and_the_packet_is_not_taken() {
    let mut sim = Sim::pair(11);
    let packet = packet::v4(packet::inside(A), packet::inside(B), &[1; 80]);
    let now = sim.now;
    let mut out = [0; 144];
    for connected in [false, true] {
        for len in 0..144 {
            let found = sim[A].interface.handle_packet(now, &packet, &mut out[..len]);
            assert_eq!(found, Err(Error::BufferTooShort { found: len, expected: 144 }));
        }
        let timeout = sim[A].interface.poll_timeout();
        if connected {
            let before = sim.count(A, Kind::Data);
            let transmit = sim[A].interface.handle_packet(now, &packet, &mut out).unwrap().unwrap();
            let counter = u64::from_le_bytes(out[8..16].try_into().unwrap());
            assert_eq!((transmit.range, counter), (0..144, before as u64), "no counter was spent");
        } else {
            assert_eq!((timeout, sim[A].interface.has_handshakes()), (None, false));
            sim.connect(A, B);
        }
    }
}

#[test]
fn a_burst_that_does_not_fit_its_buffer_is_sealed_and_opened_as_far_as_it_does() {
    let mut sim = Sim::pair(12);
    sim.connect(A, B);
    let now = sim.now;
    let packet = packet::v4(packet::inside(A), packet::inside(B), &[1; 12]);
    let full = vec![0; 64 * 5];
    for len in (0..=full.len()).step_by(7) {
        let mut buffer = full.clone();
        let mut burst = Packets::new(1420);
        for number in 0..5 {
            buffer[number * 64 + 16..number * 64 + 48].copy_from_slice(&packet);
            assert_eq!(burst.push(number * 64, packet.len()), Some(number * 64 + 64));
        }
        buffer.truncate(len);
        let sealed = sim[A].interface.begin_seal(now, burst, &buffer).seal(&mut buffer);
        let bytes: usize = sealed.transmits().map(|transmit| transmit.range.len()).sum();
        assert_eq!(bytes, len / 64 * 64, "a buffer of {len} bytes");
    }
    for len in [0, 3, 16, 63, 64, 100, 319, 320] {
        // A pair of its own for each: what was let in once is a replay.
        let mut sim = Sim::pair(12);
        sim.connect(A, B);
        sim.network.cut(A, B);
        sim.send_many(A, B, 5);
        let (now, sent) = (sim.now, sim.sent(A, Kind::Data).split_off(1));
        let mut buffer = sent.iter().flat_map(|sent| sent.bytes.clone()).collect::<Vec<_>>();
        let mut burst = Datagrams::new();
        for number in 0..5 {
            assert!(burst.push(number * 64..number * 64 + 64, &Path::to(stranger()), Ecn::NotEct));
        }
        buffer.truncate(len);
        let opening = sim[B].interface.begin_open(now, burst, &buffer);
        let opened = opening.open(&mut buffer);
        let delivered = sim[B].interface.commit(now, opened, &mut buffer);
        assert_eq!(delivered.packets().count(), len / 64, "a buffer of {len} bytes");
    }
}

#[test]
fn a_buffer_that_shrinks_between_the_steps_does_no_harm() {
    let mut sim = Sim::pair(13);
    sim.connect(A, B);
    sim.network.cut(A, B);
    let now = sim.now;
    sim.send_many(A, B, 3);
    let sent = sim.sent(A, Kind::Data).split_off(1);
    for (first, second) in [(0, 0), (64, 64), (192, 0), (192, 100), (100, 192)] {
        let mut buffer = sent.iter().flat_map(|sent| sent.bytes.clone()).collect::<Vec<_>>();
        let mut burst = Datagrams::new();
        for number in 0..3 {
            assert!(burst.push(number * 64..number * 64 + 64, &Path::to(stranger()), Ecn::NotEct));
        }
        let opened = sim[B].interface.begin_open(now, burst, &buffer).open(&mut buffer[..first]);
        let delivered = sim[B].interface.commit(now, opened, &mut buffer[..second]);
        assert!(delivered.packets().all(|(_, range)| range.end <= second));
    }
}

#[test]
fn datagrams_and_packets_of_a_burst_may_not_overlap() {
    let path = Path::to(stranger());
    let mut datagrams = Datagrams::new();
    assert!(datagrams.push(10..20, &path, Ecn::NotEct));
    assert!(!datagrams.push(19..30, &path, Ecn::NotEct));
    assert!(!datagrams.push(0..5, &path, Ecn::NotEct));
    assert!(datagrams.push(20..20, &path, Ecn::NotEct));
    assert!(!datagrams.push(usize::MAX - 1..usize::MAX, &path, Ecn::NotEct));
    assert_eq!(datagrams.len(), 2);
    let mut packets = Packets::new(1420);
    assert_eq!(packets.push(5, 100), Some(5 + 144));
    assert_eq!(packets.push(148, 10), None);
    assert_eq!(packets.push(u32::MAX as usize, 10), None);
    assert_eq!(packets.len(), 1);
}

#[test]
fn a_place_that_no_buffer_has_is_refused_and_no_sum_overflows() {
    let path = Path::to(stranger());
    let last = u32::MAX as usize;
    for start in [last - 4, last, last + 1, usize::MAX - 40, usize::MAX] {
        assert!(!Datagrams::new().push(start..start.max(last), &path, Ecn::NotEct), "{start}");
        for len in [0, 10, last, usize::MAX] {
            assert_eq!(Packets::new(1420).push(start, len), None, "{len} bytes at {start}");
        }
    }
    assert_eq!(Packets::new(1420).push(0, usize::MAX), None);
}

#[test]
fn a_stranger_who_knows_the_public_key_gets_no_word_out_of_us() {
    let mut sim = Sim::pair(14);
    let key: PublicKey = sim[B].private_key.public_key();
    let mut rng = ChaCha8Rng::seed_from_u64(14);
    for len in [148, 92] {
        let mut bytes = vec![0; len];
        rng.fill_bytes(&mut bytes);
        bytes[..4].copy_from_slice(&[if len == 148 { 1 } else { 2 }, 0, 0, 0]);
        forge::put_mac1(&mut bytes, &key);
        sim.inject(B, stranger(), &bytes);
    }
    // An ephemeral of small order would make the secret known to everybody.
    let mut bytes = vec![0; 148];
    bytes[0] = 1;
    forge::put_mac1(&mut bytes, &key);
    sim.inject(B, stranger(), &bytes);
    assert_eq!((sim.drops(B, DropReason::BadHandshake), sim.drops(B, DropReason::UnknownIndex)), (2, 1));
    assert!(sim.wire.is_empty());
}

#[test]
fn a_clock_that_jumps_about_makes_nobody_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(15);
    let mut sim = Sim::pair(15);
    sim.connect(A, B);
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 1).unwrap();
    for _ in 0..2_000 {
        // From the clock's start to 146 years later; mostly near to where it was.
        let reach = [1 << 20, 1 << 30, 1 << 38, 1 << 62][rng.next_u32() as usize % 4];
        let from = sim.now.as_nanos().saturating_sub(reach / 2);
        sim.now = adit::Instant::from_nanos((from + rng.next_u64() % reach).min(1 << 62));
        let now = sim.now;
        match rng.next_u32() % 4 {
            0 => drop(sim.send(A, B)),
            1 => drop(sim.send(B, A)),
            2 => sim.run_for(RTT),
            _ => {
                for node in [A, B] {
                    sim[node].interface.handle_timeout(now);
                    sim.flush(node);
                }
            }
        }
    }
}

#[test]
fn a_clock_at_its_very_end_stops_no_loop() {
    let mut sim = Sim::pair(1);
    sim.connect(A, B);
    let (now, b) = (sim.now, sim.id(A, B));
    let a = &mut sim[A].interface;
    a.set_persistent_keepalive(now, b, 10).unwrap();
    // What is due is done once; after the end of the clock there is no "again".
    a.handle_timeout(adit::Instant::from_nanos(u64::MAX));
    assert_eq!(a.poll_timeout(), Some(adit::Instant::from_nanos(u64::MAX)));
    a.handle_timeout(adit::Instant::from_nanos(u64::MAX));
}
