mod order;
mod whole;

use proptest::prelude::*;

use super::super::testing::{ACK, CWR, ECE, FIN, PSH, RST, SYN, Spec, URG, any_spec};
use super::super::{NEEDS_CSUM, Split};
use super::*;

/// Packets with gaps between them, as they lie in an arena, and their places.
fn arena(packets: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut arena = vec![0xee; 16];
    let mut places = Vec::new();
    for packet in packets {
        places.push(arena.len()..arena.len() + packet.len());
        arena.extend(packet);
        arena.extend([0xee; 48]);
    }
    (arena, places)
}

/// What is written for these packets: of each run its header, its bytes and how many packets it is.
fn join_with(packets: &[Vec<u8>], offloads: Offloads) -> Vec<(VnetHeader, Vec<u8>, usize)> {
    let (mut arena, places) = arena(packets);
    let mut joiner = Joiner::new();
    let runs = joiner.join(&mut arena, places, offloads);
    runs.map(|run| {
        let written = run.with_slices(true, |slices| slices.iter().flat_map(|s| s.to_vec()).collect::<Vec<u8>>());
        let (header, packet) = written.split_at(VnetHeader::LEN);
        assert_eq!(header, run.vnet().to_bytes());
        assert_eq!((packet.len(), run.is_empty()), (run.len(), false));
        (run.vnet(), packet.to_vec(), run.count())
    })
    .collect()
}

fn join(packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>, usize)> {
    join_with(packets, Offloads::ALL)
}

fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
    join(packets).iter().map(|(.., count)| *count).collect()
}

/// What the receiver of the runs sees, if it cuts them apart.
fn seen(runs: Vec<(VnetHeader, Vec<u8>, usize)>) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    for (vnet, mut packet, _) in runs {
        let split = Split::new(&vnet, &mut packet).expect("a sound packet");
        for i in 0..split.count() {
            let mut out = vec![0; split.len(i)];
            split.write(i, &mut out).expect("room");
            seen.push(out);
        }
    }
    seen
}

fn built(specs: &[Spec]) -> Vec<Vec<u8>> {
    specs.iter().map(Spec::build).collect()
}

/// Two packets of 100 bytes that can be put together.
fn pair() -> [Spec; 2] {
    let mut segments = Spec::tcp4(200).segments(100).into_iter();
    [segments.next().expect("first"), segments.next().expect("second")]
}

#[test]
fn a_run_is_written_from_where_its_packets_lie() {
    let (mut arena, places) = arena(&built(&Spec::tcp4(10_000).segments(1_000)));
    let inside = arena.as_ptr_range();
    let mut runs = 0;
    for run in Joiner::new().join(&mut arena, places, Offloads::ALL) {
        assert_eq!(run.count(), 10);
        run.with_slices(true, |slices| {
            // The header of the device, the first packet, and the payloads of the others.
            assert_eq!(slices.len(), 11);
            assert!(slices[1..].iter().all(|slice| inside.contains(&slice.as_ptr())), "no copy");
        });
        runs += 1;
    }
    assert_eq!(runs, 1);
}

#[test]
fn a_run_of_tcp_is_one_packet_of_all_payloads_with_a_partial_checksum() {
    for (whole, gso_type, l4) in [(Spec::tcp4(250), 1, 20), (Spec::tcp6(250), 4, 40)] {
        let whole = Spec { options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], flags: ACK | PSH, ..whole };
        let runs = join(&built(&whole.segments(100)));
        let expected = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: l4 + 32,
            gso_size: 100,
            csum_start: l4,
            csum_offset: 16,
        };
        assert_eq!(runs, [(expected, whole.build_unfinished(Some(100)).1, 3)]);
    }
}

#[test]
fn a_run_of_udp_is_one_packet_of_all_payloads_with_a_partial_checksum() {
    for (whole, l4) in [(Spec::udp4(250), 20), (Spec::udp6(250), 40)] {
        let runs = join(&built(&whole.segments(100)));
        let expected = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: 5,
            hdr_len: l4 + 8,
            gso_size: 100,
            csum_start: l4,
            csum_offset: 6,
        };
        assert_eq!(runs, [(expected, whole.build_unfinished(Some(100)).1, 3)]);
    }
}

#[test]
fn a_packet_that_stays_alone_is_written_as_it_is() {
    let packet = Spec::tcp4(100).build();
    assert_eq!(join(std::slice::from_ref(&packet)), [(VnetHeader::default(), packet, 1)]);
}

#[test]
fn without_a_header_only_the_packet_is_written() {
    let (mut arena, places) = arena(&built(&pair()));
    let mut joiner = Joiner::new();
    for run in joiner.join(&mut arena, places, Offloads::NONE) {
        let length = run.with_slices(false, |slices| slices.iter().map(|slice| slice.len()).sum::<usize>());
        assert_eq!(length, run.len());
    }
}

#[test]
fn what_the_device_lacks_is_not_used() {
    let flows = [Spec::tcp4(200), Spec::tcp6(200), Spec::udp4(200), Spec::udp6(200)];
    let packets: Vec<_> = flows.iter().flat_map(|flow| built(&flow.segments(100))).collect();
    let table = [
        (Offloads::ALL, vec![2, 2, 2, 2]),
        (Offloads { udp: false, ..Offloads::ALL }, vec![2, 2, 1, 1, 1, 1]),
        (Offloads { tcp6: false, ..Offloads::ALL }, vec![2, 1, 1, 2, 2]),
        (Offloads { tcp4: false, ..Offloads::ALL }, vec![1, 1, 2, 2, 2]),
        (Offloads { checksum: false, ..Offloads::ALL }, vec![1; 8]),
        (Offloads::NONE, vec![1; 8]),
    ];
    for (offloads, expected) in table {
        let runs = join_with(&packets, offloads);
        assert_eq!(runs.iter().map(|(.., count)| *count).collect::<Vec<_>>(), expected, "{offloads:?}");
        assert_eq!(seen(runs), packets);
    }
}

#[test]
fn packets_that_differ_in_more_than_a_segment_may_stay_apart() {
    type Change = fn(&mut Spec);
    let table: [(&str, Change); 16] = [
        ("another host", |spec| spec.host += 1),
        ("another port", |spec| spec.port += 1),
        ("another traffic class", |spec| spec.tos ^= 0x20),
        ("a congestion mark", |spec| spec.tos ^= 3),
        ("another time to live", |spec| spec.ttl -= 1),
        ("may be fragmented", |spec| spec.dont_fragment = false),
        ("a gap in the ids", |spec| spec.id += 1),
        ("a gap in the sequence", |spec| spec.sequence += 1),
        ("the same data again", |spec| spec.sequence -= 100),
        ("another acknowledgement", |spec| spec.acknowledgement += 1),
        ("another window", |spec| spec.window += 1),
        ("an option", |spec| spec.options = vec![1; 4]),
        ("an echo of congestion", |spec| spec.flags |= ECE),
        ("no data", |spec| spec.payload.clear()),
        ("longer than the first", |spec| spec.payload.push(0)),
        ("the other protocol", |spec| spec.udp = true),
    ];
    assert_eq!(counts(&built(&pair())), [2], "the pair as it is");
    for (name, change) in table {
        let [first, mut second] = pair();
        change(&mut second);
        let packets = built(&[first, second]);
        let runs = join(&packets);
        assert_eq!(runs.len(), 2, "{name}");
        assert_eq!(seen(runs), packets, "{name}");
    }
}

#[test]
fn packets_of_each_protocol_that_differ_in_more_than_a_segment_may_stay_apart() {
    type Change = fn(&mut Spec);
    let table: [(&str, Change); 7] = [
        ("another host", |spec| spec.host += 1),
        ("another port", |spec| spec.port += 1),
        ("another class", |spec| spec.tos ^= 0x04),
        ("another precedence", |spec| spec.tos ^= 0x20),
        ("a congestion mark", |spec| spec.tos ^= 3),
        ("another time to live", |spec| spec.ttl -= 1),
        ("longer than the first", |spec| spec.payload.push(0)),
    ];
    let only_v4: [(&str, Change); 2] =
        [("may be fragmented", |spec| spec.dont_fragment = false), ("a gap in the ids", |spec| spec.id += 1)];
    for flow in [Spec::tcp4(200), Spec::tcp6(200), Spec::udp4(200), Spec::udp6(200)] {
        let segments = flow.segments(100);
        assert_eq!(counts(&built(&segments)), [2], "as they are: {flow:?}");
        for (name, change) in table.iter().chain(only_v4.iter().filter(|_| !flow.v6)) {
            let mut segments = segments.clone();
            change(&mut segments[1]);
            let packets = built(&segments);
            let runs = join(&packets);
            assert_eq!((runs.len(), seen(runs)), (2, packets), "{name}: {flow:?}");
        }
    }
}

#[test]
fn packets_that_differ_in_any_bit_that_segments_share_stay_apart() {
    // Bytes from the beginning of IPv6 and of TCP, and the bits in them.
    let flow_label =
        [(0, 0x0f, "traffic class"), (1, 0x0f, "flow label"), (2, 0xff, "flow label"), (3, 0xff, "flow label")];
    let all = |places: Range<usize>, name| places.map(move |place| (place, 0xff, name));
    let tcp: Vec<_> = [(12, 0x0e, "reserved bits"), (12, 0x01, "AE")]
        .into_iter()
        .chain(all(8..12, "acknowledgement").chain(all(14..16, "window")))
        .chain(all(18..20, "urgent pointer").chain(all(20..32, "options")))
        .collect();
    for flow in [Spec::tcp4(200), Spec::tcp6(200), Spec::udp6(200)] {
        let flow = Spec { options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], ..flow };
        let ip = flow_label.iter().filter(|_| flow.v6).copied();
        let tcp = tcp.iter().filter(|_| !flow.udp).map(|(place, bits, name)| (flow.l4() + place, *bits, *name));
        let segments = flow.segments(100);
        for (place, bits, name) in ip.chain(tcp) {
            for bit in (0..8).map(|bit| 1u8 << bit).filter(|bit| bit & bits != 0) {
                let changed = |spec: &Spec| spec.build_changed(|packet| packet[place] ^= bit);
                let packets = vec![segments[0].build(), changed(&segments[1])];
                let runs = join(&packets);
                assert_eq!((runs.len(), seen(runs)), (2, packets), "{name}, bit {bit:#x}: {flow:?}");
                let both: Vec<_> = segments.iter().map(changed).collect();
                assert_eq!(counts(&both), [2], "the same {name}, bit {bit:#x}, in both: {flow:?}");
            }
        }
    }
}

#[test]
fn flags_of_tcp_that_mean_more_than_data_keep_a_packet_alone() {
    for flag in [FIN, SYN, RST, URG, CWR] {
        let [first, second] = pair();
        let flagged = |spec: &Spec| Spec { flags: spec.flags | flag, ..spec.clone() };
        for packets in
            [[flagged(&first), second.clone()], [first.clone(), flagged(&second)], [flagged(&first), flagged(&second)]]
        {
            assert_eq!(counts(&built(&packets)), [1, 1], "{flag:#x}");
        }
    }
    let unacknowledged = pair().map(|spec| Spec { flags: 0, ..spec });
    assert_eq!(counts(&built(&unacknowledged)), [1, 1], "no ACK");
    let echo = pair().map(|spec| Spec { flags: ACK | ECE, ..spec });
    assert_eq!(counts(&built(&echo)), [2], "the same echo of congestion on both");
}

#[test]
fn a_push_ends_its_run_and_is_seen_on_the_last_packet_only() {
    let mut segments = Spec::tcp4(400).segments(100);
    segments[1].flags |= PSH;
    let packets = built(&segments);
    let runs = join(&packets);
    assert_eq!(runs.iter().map(|(.., count)| *count).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(seen(runs), packets);
}

#[test]
fn a_shorter_packet_ends_its_run() {
    for flow in [Spec::tcp4(250), Spec::udp4(250)] {
        let mut segments = flow.segments(100);
        let mut more = segments[2].clone();
        more.sequence += 50;
        more.id += 1;
        segments.push(more);
        assert_eq!(counts(&built(&segments)), [3, 1]);
    }
}

#[test]
fn a_packet_with_a_wrong_checksum_is_passed_on_alone_and_as_it_is() {
    for flow in [Spec::tcp4(300), Spec::tcp6(300), Spec::udp4(300), Spec::udp6(300)] {
        for (bad, expected) in [(0, vec![1, 2]), (1, vec![1, 1, 1]), (2, vec![2, 1])] {
            let mut packets = built(&flow.segments(100));
            *packets[bad].last_mut().expect("payload") ^= 1;
            let runs = join(&packets);
            assert_eq!(runs.iter().map(|(.., count)| *count).collect::<Vec<_>>(), expected, "packet {bad} of {flow:?}");
            assert_eq!(seen(runs), packets);
        }
    }
}

#[test]
fn a_packet_with_a_wrong_checksum_of_ipv4_is_passed_on_alone_and_as_it_is() {
    let mut packets = built(&Spec::tcp4(300).segments(100));
    packets[1][10] ^= 1;
    let runs = join(&packets);
    assert_eq!(runs.iter().map(|(.., count)| *count).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(seen(runs), packets);
}

#[test]
fn udp_without_a_checksum_stays_alone() {
    let mut packets = built(&Spec::udp4(200).segments(100));
    for packet in &mut packets {
        packet[26..28].fill(0);
    }
    assert_eq!(counts(&packets), [1, 1]);
}

#[test]
fn a_fragment_is_not_overtaken_by_a_later_packet_of_the_same_hosts() {
    let packets = built(&Spec::udp4(300).segments(100));
    let mut fragment = packets[1].clone();
    fragment[7] = 1;
    let order = [packets[0].clone(), fragment, packets[1].clone(), packets[2].clone()];
    assert_eq!(counts(&order), [1, 1, 2]);
    // Those of other hosts may be put together over it.
    let mut of_others = Spec { host: 8, ..Spec::udp4(100) }.build();
    of_others[7] = 1;
    let order = [packets[0].clone(), of_others, packets[1].clone(), packets[2].clone()];
    assert_eq!(counts(&order), [3, 1]);
}

#[test]
fn identifications_that_mean_nothing_may_be_all_the_same() {
    let same = |dont_fragment| {
        let mut segments = Spec { dont_fragment, ..Spec::udp4(300) }.segments(100);
        segments.iter_mut().for_each(|segment| segment.id = 0);
        counts(&built(&segments))
    };
    assert_eq!(same(true), [3]);
    assert_eq!(same(false), [1, 1, 1], "they tell fragments apart");
    let mut mixed = Spec::udp4(300).segments(100);
    mixed[2].id = mixed[1].id;
    assert_eq!(counts(&built(&mixed)), [2, 1], "counting up, then the same");
}

#[test]
fn interleaved_flows_are_each_put_together() {
    let flows: Vec<Vec<Vec<u8>>> = (0..16)
        .map(|i| {
            let flow = [Spec::tcp4(400), Spec::udp4(400), Spec::tcp6(400), Spec::udp6(400)][i % 4].clone();
            built(&Spec { port: i as u16, ..flow }.segments(100))
        })
        .collect();
    let packets: Vec<_> = (0..4).flat_map(|i| flows.iter().map(move |flow| flow[i].clone())).collect();
    let runs = join(&packets);
    assert_eq!(runs.iter().map(|(.., count)| *count).collect::<Vec<_>>(), [4; 16]);
    assert_eq!(seen(runs), flows.concat());
}

#[test]
fn more_flows_than_are_followed_at_once_lose_nothing() {
    let flows: Vec<Vec<Vec<u8>>> = (0..40).map(|port| built(&Spec { port, ..Spec::tcp4(300) }.segments(100))).collect();
    let packets: Vec<_> = (0..3).flat_map(|i| flows.iter().map(move |flow| flow[i].clone())).collect();
    let mut seen = seen(join(&packets));
    seen.sort();
    let mut packets = packets;
    packets.sort();
    assert_eq!(seen, packets);
}

#[test]
fn a_run_is_no_longer_than_a_packet_can_be() {
    for (flow, size) in [(Spec::tcp4(130_000), 1_400), (Spec::tcp6(130_000), 1_400), (Spec::udp4(130_000), 1_472)] {
        let mut flow = flow;
        let payload = std::mem::take(&mut flow.payload);
        let segments: Vec<Spec> = payload
            .chunks(size)
            .scan(flow, |flow, payload| {
                let segment = Spec { payload: payload.to_vec(), ..flow.clone() };
                flow.sequence += payload.len() as u32;
                flow.id += 1;
                Some(segment)
            })
            .collect();
        let packets = built(&segments);
        let runs = join(&packets);
        assert!(runs.iter().all(|(_, packet, _)| packet.len() <= 65_535));
        assert!(runs.len() <= 3, "{} runs", runs.len());
        assert_eq!(seen(runs), packets);
    }
}

#[test]
fn a_run_may_be_just_as_long_as_a_packet_can_be() {
    for kind in [Spec::tcp4, Spec::tcp6, Spec::udp4, Spec::udp6] {
        let room = 65_535 - kind(0).headers();
        let size = room / 5 + 1;
        let runs = join(&built(&kind(room).segments(size)));
        assert_eq!(runs.iter().map(|(_, packet, count)| (packet.len(), *count)).collect::<Vec<_>>(), [(65_535, 5)]);
        assert_eq!(counts(&built(&kind(room + 1).segments(size))), [4, 1], "a byte more");
    }
}

#[test]
fn a_run_of_udp_has_64_packets_at_most_and_one_of_tcp_128() {
    assert_eq!(counts(&built(&Spec::udp4(1_300).segments(10))), [64, 64, 2]);
    assert_eq!(counts(&built(&Spec::tcp4(1_300).segments(10))), [128, 2]);
}

#[test]
fn places_outside_of_the_arena_are_passed_over() {
    let mut joiner = Joiner::new();
    let mut arena = Spec::tcp4(10).build();
    let end = arena.len();
    #[allow(clippy::reversed_empty_ranges, reason = "the point of the test")]
    let places = [end..end + 1, usize::MAX - 1..usize::MAX, 5..3, 7..7, 0..end];
    assert_eq!(joiner.join(&mut arena, places, Offloads::ALL).map(|run| run.len()).collect::<Vec<_>>(), [end]);
}

proptest! {
    #[test]
    fn cutting_apart_what_was_put_together_gives_the_same_packets(
        flow in any_spec(1..2_000, PSH | ECE),
        size in 1usize..700,
    ) {
        let segments = flow.segments(size);
        let packets = built(&segments);
        let runs = join(&packets);
        if segments.len() > 1 && segments.len() <= 64 {
            prop_assert_eq!(runs.len(), 1);
            let whole = flow.build_unfinished(Some(size as u16));
            prop_assert_eq!(&runs[0].0, &whole.0);
            prop_assert_eq!(&runs[0].1, &whole.1);
        }
        prop_assert_eq!(seen(runs), packets);
    }

    #[test]
    fn within_a_flow_the_order_holds_whatever_arrives(
        choices in proptest::collection::vec((0u16..4, 0usize..6, any::<bool>()), 0..60),
    ) {
        // Four flows whose packets differ in length and sometimes leave a gap; each payload begins with its number.
        let mut flows: Vec<Spec> = (0..4).map(|port| Spec { port, udp: port % 2 == 1, ..Spec::tcp4(0) }).collect();
        let mut packets = Vec::new();
        for (number, (port, length, gap)) in choices.iter().enumerate() {
            let flow = &mut flows[usize::from(*port)];
            let mut payload = vec![number as u8; [4, 4, 4, 4, 2, 8][*length]];
            payload[0] = number as u8;
            packets.push(Spec { payload: payload.clone(), ..flow.clone() }.build());
            flow.sequence += payload.len() as u32 + u32::from(*gap);
            flow.id += 1;
        }
        let seen = seen(join(&packets));
        for port in 0..4u16 {
            let of_flow = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                packets.iter().filter(|packet| packet[22..24] == port.to_be_bytes()).cloned().collect()
            };
            prop_assert_eq!(of_flow(&seen), of_flow(&packets));
        }
    }

    #[test]
    fn no_bytes_cause_a_panic_or_are_lost(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..100), 0..20),
        first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
    ) {
        let mut packets = packets;
        packets.iter_mut().for_each(|packet| packet[0] = first);
        let written: usize = join(&packets).iter().map(|(.., count)| count).sum();
        prop_assert_eq!(written, packets.len());
    }

    #[test]
    fn no_damage_to_a_run_causes_a_panic_or_changes_what_is_seen(
        flow in any_spec(1..300, 0xff),
        size in 20usize..100,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut packets = built(&flow.segments(size));
        for (packet, place, value) in damage {
            let packet = packet.get(&packets).clone();
            let place = place.index(packet.len());
            packets.iter_mut().filter(|p| **p == packet).for_each(|p| p[place] = value);
        }
        let runs = join(&packets);
        prop_assert_eq!(runs.iter().map(|(.., count)| count).sum::<usize>(), packets.len());
        let mut seen = seen(runs);
        seen.sort();
        packets.sort();
        prop_assert_eq!(seen, packets);
    }
}
