use proptest::prelude::*;

use super::super::checksum::tests::naive;
use super::super::testing::{ACK, CWR, ECE, FIN, PSH, Spec, URG, any_spec, assert_sound};
use super::*;

/// All packets, each written to a buffer of just its length.
fn split(vnet: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = packet.to_vec();
    let split = Split::new(vnet, &mut packet).expect("a sound packet");
    (0..split.count())
        .map(|i| {
            let mut out = vec![0xee; split.len(i)];
            assert_eq!(split.write(i, &mut out), Some(out.len()));
            out
        })
        .collect()
}

fn built(specs: &[Spec]) -> Vec<Vec<u8>> {
    specs.iter().map(Spec::build).collect()
}

#[test]
fn a_run_of_tcp_becomes_what_a_sender_without_offloads_sends() {
    for spec in [Spec::tcp4(2_500), Spec::tcp6(2_500)] {
        let spec = Spec { flags: ACK | PSH | FIN, sequence: u32::MAX - 1_500, id: 0xffff, ..spec };
        let (vnet, packet) = spec.build_unfinished(Some(1_000));
        let packets = split(&vnet, &packet);
        assert_eq!(packets.iter().map(|packet| packet.len() - spec.headers()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        packets.iter().for_each(|packet| assert_sound(packet));
        assert_eq!(packets, built(&spec.segments(1_000)));
    }
}

#[test]
fn fin_and_psh_are_on_the_last_segment_only_and_cwr_on_the_first_only() {
    let spec = Spec { flags: ACK | PSH | FIN | CWR | ECE | URG, ..Spec::tcp4(300) };
    let (mut vnet, packet) = spec.build_unfinished(Some(100));
    vnet.gso_type |= 0x80;
    let flags: Vec<u8> = split(&vnet, &packet).iter().map(|packet| packet[33]).collect();
    assert_eq!(flags, [ACK | CWR | ECE | URG, ACK | ECE | URG, ACK | PSH | FIN | ECE | URG]);
}

#[test]
fn ids_of_ipv4_count_up_and_wrap() {
    let spec = Spec { id: 0xfffe, ..Spec::udp4(40) };
    let (vnet, packet) = spec.build_unfinished(Some(10));
    let ids: Vec<u16> = split(&vnet, &packet).iter().map(|p| u16::from_be_bytes([p[4], p[5]])).collect();
    assert_eq!(ids, [0xfffe, 0xffff, 0, 1]);
}

#[test]
fn every_datagram_of_a_run_of_udp_has_its_own_length() {
    for spec in [Spec::udp4(25), Spec::udp6(25)] {
        let (vnet, packet) = spec.build_unfinished(Some(10));
        let packets = split(&vnet, &packet);
        let l4 = spec.l4();
        let lengths: Vec<u16> = packets.iter().map(|p| u16::from_be_bytes([p[l4 + 4], p[l4 + 5]])).collect();
        assert_eq!(lengths, [18, 18, 13]);
        assert_eq!(packets, built(&spec.segments(10)));
    }
}

#[test]
fn a_single_packet_gets_its_checksum_in_place_or_elsewhere() {
    for spec in [Spec::tcp4(99), Spec::tcp6(0), Spec::udp4(0), Spec::udp4(1), Spec::udp6(1_200)] {
        let (vnet, packet) = spec.build_unfinished(None);
        assert_ne!(packet, spec.build(), "unfinished at first");
        assert_eq!(split(&vnet, &packet), [spec.build()]);

        let mut packet = packet;
        let mut split = Split::new(&vnet, &mut packet).expect("a sound packet");
        assert_eq!(split.finish_in_place().expect("one packet"), spec.build());
        assert_eq!(split.finish_in_place().expect("once more"), spec.build(), "finished once only");
    }
}

#[test]
fn a_finished_packet_stays_as_it_is_even_if_its_checksum_is_wrong() {
    let mut packet = Spec::tcp4(10).build();
    packet[36] ^= 1;
    assert_eq!(split(&VnetHeader::default(), &packet), [packet]);
}

#[test]
fn a_checksum_that_the_kernel_has_found_right_is_not_completed() {
    let packet = Spec::tcp4(10).build();
    let vnet = VnetHeader { flags: 2, csum_start: 20, csum_offset: 16, ..VnetHeader::default() };
    assert_eq!(split(&vnet, &packet), [packet]);
}

#[test]
fn a_flag_that_is_not_known_does_not_hide_that_the_checksum_is_partial() {
    for size in [None, Some(100)] {
        let (vnet, packet) = Spec::tcp4(100).build_unfinished(size);
        assert_eq!(
            split(&VnetHeader { flags: vnet.flags | 6, ..vnet }, &packet),
            [Spec::tcp4(100).build()],
            "{size:?}"
        );
    }
}

#[test]
fn what_comes_in_one_piece_is_told_from_what_comes_in_several() {
    for (gso_type, is_segmented) in
        [(0, false), (0x80, false), (1, true), (0x81, true), (4, true), (5, true), (8, true)]
    {
        assert_eq!(VnetHeader { gso_type, ..VnetHeader::default() }.is_segmented(), is_segmented, "{gso_type:#x}");
    }
}

#[test]
fn a_run_is_not_finished_in_place() {
    let (vnet, mut packet) = Spec::tcp4(300).build_unfinished(Some(100));
    let before = packet.clone();
    assert_eq!(Split::new(&vnet, &mut packet).expect("a sound packet").finish_in_place(), None);
    assert_eq!(packet, before);
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_written_as_ones() {
    // The last word of the payload is chosen so that the sum of everything is all ones.
    let mut spec = Spec { payload: vec![0, 0], ..Spec::udp4(2) };
    let packet = spec.build();
    let checksum = u16::from_be_bytes([packet[26], packet[27]]);
    spec.payload = checksum.to_be_bytes().to_vec();
    for size in [None, Some(2)] {
        let (vnet, packet) = spec.build_unfinished(size);
        assert_eq!(split(&vnet, &packet)[0][26..28], [0xff, 0xff], "{size:?}");
    }
}

#[test]
fn a_tcp_checksum_that_comes_out_as_zero_stays_zero() {
    let mut spec = Spec { payload: vec![0, 0], ..Spec::tcp4(2) };
    let packet = spec.build();
    spec.payload = packet[36..38].to_vec();
    for size in [None, Some(2)] {
        let (vnet, packet) = spec.build_unfinished(size);
        assert_eq!(split(&vnet, &packet)[0][36..38], [0, 0], "{size:?}");
    }
}

#[test]
fn extension_headers_of_ipv6_are_copied_and_the_checksum_is_that_of_the_final_destination() {
    let spec = Spec::tcp6(50);
    let (vnet, packet) = spec.build_unfinished(Some(20));
    // A routing header, whose address the kernel put into the pseudo-header: here the one that the plain packet has.
    let mut routing = vec![6, 2, 4, 0, 0, 0, 0, 0];
    routing.extend(&packet[24..40]);
    let mut longer = packet[..40].to_vec();
    longer[6] = 43;
    longer[24..40].fill(0xaa);
    longer.extend(&routing);
    longer.extend(&packet[40..]);
    let length = (longer.len() - 40) as u16;
    longer[4..6].copy_from_slice(&length.to_be_bytes());
    let vnet = VnetHeader { csum_start: 64, ..vnet };

    let packets = split(&vnet, &longer);
    assert_eq!(packets.len(), 3);
    for (packet, expected) in packets.iter().zip(built(&spec.segments(20))) {
        assert_eq!(packet[40..64], routing);
        assert_eq!(packet[64..], expected[40..], "TCP as without the routing header");
        assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), packet.len() - 40);
    }
}

#[test]
fn options_of_ipv4_are_copied_and_covered_by_the_header_checksum() {
    let (vnet, packet) = Spec::tcp4(30).build_unfinished(Some(10));
    let mut longer = packet[..20].to_vec();
    longer[0] = 0x46;
    longer.extend([1, 1, 1, 0]);
    longer.extend(&packet[20..]);
    let vnet = VnetHeader { csum_start: 24, ..vnet };
    let packets = split(&vnet, &longer);
    assert_eq!(packets.len(), 3);
    for packet in packets {
        assert_eq!(packet[20..24], [1, 1, 1, 0]);
        assert_eq!(naive(&packet[..24]), 0);
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
    }
}

#[test]
fn segments_no_longer_than_one_are_one_packet() {
    for (payload, count) in [(0, 1), (1, 1), (100, 1), (101, 2), (200, 2)] {
        let (vnet, packet) = Spec::tcp4(payload).build_unfinished(Some(100));
        assert_eq!(split(&vnet, &packet).len(), count, "{payload} bytes");
    }
}

#[test]
fn what_there_is_no_room_for_is_not_written() {
    let (vnet, mut packet) = Spec::tcp4(250).build_unfinished(Some(100));
    let split = Split::new(&vnet, &mut packet).expect("a sound packet");
    assert_eq!(split.write(0, &mut [0; 139]), None, "one byte short");
    assert_eq!(split.write(3, &mut [0; 1_000]), None, "no such packet");
    assert_eq!((split.len(3), split.len(usize::MAX)), (0, 0));
    // Nor is there one behind the last where that is as long as the others, or where it is the only one.
    for (size, count) in [(Some(125), 2), (None, 1)] {
        let (vnet, mut packet) = Spec::tcp4(250).build_unfinished(size);
        let split = Split::new(&vnet, &mut packet).expect("a sound packet");
        assert_eq!((split.count(), split.len(count), split.write(count, &mut [0; 1_000])), (count, 0, None));
    }
    let mut out = [0xee; 200];
    assert_eq!(split.write(2, &mut out), Some(90));
    assert!(out[90..].iter().all(|&byte| byte == 0xee), "nothing is written behind the packet");
}

#[test]
fn what_does_not_fit_together_is_an_error_with_its_reason() {
    type Break = fn(&mut VnetHeader, &mut Vec<u8>);
    let table: [(Break, SplitError); 21] = [
        (|_, packet| packet.clear(), SplitError::Empty),
        (|vnet, _| vnet.gso_type = 3, SplitError::UnknownGso(3)),
        (|vnet, _| vnet.gso_type = 4, SplitError::BadVersion(4)),
        (|_, packet| packet[0] = 0x65, SplitError::BadVersion(6)),
        (|_, packet| packet.truncate(19), SplitError::Truncated { headers: 20, length: 19 }),
        (|_, packet| packet.truncate(39), SplitError::Truncated { headers: 40, length: 39 }),
        (|_, packet| packet[32] = 0xf0, SplitError::Truncated { headers: 80, length: 70 }),
        (|_, packet| packet[32] = 0x40, SplitError::BadHeaderLength(16)),
        (|_, packet| packet[0] = 0x44, SplitError::BadHeaderLength(16)),
        (|vnet, _| vnet.csum_start = 24, SplitError::BadHeaderLength(20)),
        (|_, packet| packet[9] = 17, SplitError::BadProtocol(17)),
        (|_, packet| packet[6] = 0x20, SplitError::Fragment),
        (|_, packet| packet[6] = 0x10, SplitError::Fragment),
        (|_, packet| packet[7] = 0x01, SplitError::Fragment),
        (|vnet, _| vnet.gso_size = 0, SplitError::NoSegmentSize),
        (|vnet, _| vnet.csum_offset = 6, SplitError::BadChecksumPlace),
        (|vnet, _| vnet.flags = 0, SplitError::BadChecksumPlace),
        // The flag of a checksum that the kernel has found right says nothing about one to be completed.
        (|vnet, _| vnet.flags = 2, SplitError::BadChecksumPlace),
        (|vnet, _| vnet.gso_type = 9, SplitError::UnknownGso(9)),
        (|_, packet| packet[0] = 0x46, SplitError::BadHeaderLength(24)),
        (|vnet, packet| (packet[0], vnet.csum_start) = (0x44, 16), SplitError::BadHeaderLength(16)),
    ];
    for (index, (break_it, expected)) in table.into_iter().enumerate() {
        let (mut vnet, mut packet) = Spec::tcp4(30).build_unfinished(Some(10));
        break_it(&mut vnet, &mut packet);
        assert_eq!(Split::new(&vnet, &mut packet).err(), Some(expected), "row {index}");
    }
}

#[test]
fn what_does_not_fit_together_in_ipv6_in_udp_and_in_a_single_packet_is_an_error_too() {
    type Break = fn(&mut VnetHeader, &mut Vec<u8>);
    let table: [(Spec, Break, SplitError); 6] = [
        (Spec::tcp6(30), |vnet, _| vnet.csum_start = 39, SplitError::BadHeaderLength(39)),
        (Spec::udp6(30), |vnet, _| vnet.csum_start = 20, SplitError::BadHeaderLength(20)),
        (Spec::udp6(30), |_, packet| packet.truncate(47), SplitError::Truncated { headers: 48, length: 47 }),
        (Spec::udp4(30), |_, packet| packet[9] = 6, SplitError::BadProtocol(6)),
        (Spec::udp4(30), |vnet, _| vnet.csum_offset = 16, SplitError::BadChecksumPlace),
        (Spec::udp4(30), |vnet, packet| (vnet.gso_type, *packet) = (0, Vec::new()), SplitError::Empty),
    ];
    for (index, (spec, break_it, expected)) in table.into_iter().enumerate() {
        let (mut vnet, mut packet) = spec.build_unfinished(Some(10));
        break_it(&mut vnet, &mut packet);
        assert_eq!(Split::new(&vnet, &mut packet).err(), Some(expected), "row {index}");
    }
}

#[test]
fn a_fragment_of_segments_is_an_error_wherever_it_is_from() {
    for bit in 0..13 {
        let (vnet, mut packet) = Spec::udp4(30).build_unfinished(Some(10));
        packet[6..8].copy_from_slice(&(0x4000u16 | 1 << bit).to_be_bytes());
        assert_eq!(Split::new(&vnet, &mut packet).err(), Some(SplitError::Fragment), "bit {bit}");
    }
}

#[test]
fn a_checksum_beyond_the_end_of_a_single_packet_is_an_error() {
    let (vnet, mut packet) = Spec::tcp4(0).build_unfinished(None);
    packet.truncate(37);
    let error = Split::new(&vnet, &mut packet).err();
    assert_eq!(error, Some(SplitError::Truncated { headers: 38, length: 37 }));
    let far = VnetHeader { csum_start: u16::MAX, csum_offset: u16::MAX, ..vnet };
    assert!(Split::new(&far, &mut packet).is_err());
}

#[test]
fn the_longest_packet_there_can_be_is_cut() {
    // The length field of IPv4 counts its header, that of IPv6 what follows it.
    for (kind, longest) in [
        (Spec::tcp4 as fn(usize) -> Spec, 65_535),
        (Spec::udp4, 65_535),
        (Spec::tcp6, 40 + 65_535),
        (Spec::udp6, 40 + 65_535),
    ] {
        let spec = kind(longest - kind(0).headers());
        let (vnet, packet) = spec.build_unfinished(Some(1_400));
        assert_eq!(packet.len(), longest);
        let packets = split(&vnet, &packet);
        assert!(packets == built(&spec.segments(1_400)), "{longest} bytes");
        let (vnet, mut packet) = kind(spec.payload.len() + 1).build_unfinished(Some(1_400));
        assert_eq!(Split::new(&vnet, &mut packet).err(), Some(SplitError::TooLong(longest + 1)));
    }
}

#[test]
fn a_packet_longer_than_a_packet_can_be_is_an_error() {
    let (vnet, mut packet) = Spec::tcp4(100).build_unfinished(Some(10));
    packet.resize(70_000, 0);
    assert_eq!(Split::new(&vnet, &mut packet).err(), Some(SplitError::TooLong(70_000)));
    packet.truncate(65_550);
    assert_eq!(Split::new(&vnet, &mut packet).err(), Some(SplitError::TooLong(65_550)));
}

proptest! {
    #[test]
    fn any_run_becomes_what_a_sender_without_offloads_sends(
        spec in any_spec(0..3_000, 0xf9),
        size in 1u16..1_500,
    ) {
        let (vnet, packet) = spec.build_unfinished(Some(size));
        prop_assert_eq!(split(&vnet, &packet), built(&spec.segments(usize::from(size))));
    }

    #[test]
    fn no_bytes_cause_a_panic(
        header in any::<[u8; 10]>(),
        kind in prop_oneof![Just(0u8), Just(1), Just(4), Just(5), any::<u8>()],
        mut packet in proptest::collection::vec(any::<u8>(), 0..200),
        first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
        start in prop_oneof![Just(20u16), Just(40), any::<u16>()],
    ) {
        let vnet = VnetHeader { gso_type: kind, csum_start: start, ..VnetHeader::from_bytes(&header) };
        if let Some(byte) = packet.first_mut() {
            *byte = first;
        }
        if let Ok(mut split) = Split::new(&vnet, &mut packet) {
            let mut out = [0; 300];
            for i in 0..split.count() + 1 {
                let length = split.len(i);
                prop_assert_eq!(split.write(i, &mut out), (length > 0).then_some(length));
            }
            split.finish_in_place();
        }
    }

    #[test]
    fn no_damage_to_a_sound_run_causes_a_panic(
        spec in any_spec(0..300, 0xff),
        size in 1u16..100,
        damage in proptest::collection::vec((0usize..110, any::<u8>()), 1..4),
    ) {
        let (vnet, packet) = spec.build_unfinished(Some(size));
        let mut bytes = vnet.to_bytes().to_vec();
        bytes.extend(packet);
        for (place, value) in damage {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = value;
            }
        }
        let vnet = VnetHeader::from_bytes(bytes.first_chunk().expect("ten bytes"));
        if let Ok(split) = Split::new(&vnet, &mut bytes[10..]) {
            let mut out = vec![0; 70_000];
            for i in 0..split.count() {
                prop_assert!(split.write(i, &mut out).is_some());
            }
        }
    }
}
