//! Packets that stay alone for what their headers say. Every checksum is right: a wrong one would be reason enough.

use super::super::super::checksum::tests::naive;
use super::*;

/// The packet of this description after a change, with its checksums made right again.
fn changed(spec: &Spec, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut packet = spec.build_changed(&change);
    if !spec.v6 {
        packet[10..12].fill(0);
        let checksum = naive(&packet[..20]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

fn assert_alone(flow: &Spec, name: &str, change: impl Fn(&mut [u8])) {
    let packets: Vec<_> = flow.segments(100).iter().map(|segment| changed(segment, &change)).collect();
    assert_eq!(counts(&packets), [1, 1], "{name}: {flow:?}");
}

#[test]
fn options_of_ip_extension_headers_and_other_protocols_stay_alone() {
    assert_eq!(counts(&[0, 1].map(|i| changed(&Spec::udp4(200).segments(100)[i], |_| {}))), [2], "as they are");
    assert_alone(&Spec::udp4(200), "options", |packet| packet[0] = 0x46);
    assert_alone(&Spec::udp4(200), "another protocol", |packet| packet[9] = 1);
    assert_alone(&Spec::udp6(200), "an extension header", |packet| packet[6] = 0);
    let mut packets = built(&Spec::udp6(200).segments(100));
    packets.iter_mut().for_each(|packet| packet[0] = 0x50);
    assert_eq!(counts(&packets), [1, 1], "another version");
}

#[test]
fn fragments_stay_alone_wherever_they_are_from() {
    for flow in [Spec::udp4(200), Spec::tcp4(200)] {
        // All but "don't fragment".
        for bit in (0..16).filter(|bit| *bit != 14) {
            let [high, low] = (1u16 << bit).to_be_bytes();
            assert_alone(&flow, &format!("bit {bit}"), |packet| {
                packet[6] |= high;
                packet[7] |= low;
            });
        }
    }
}

#[test]
fn a_packet_that_is_not_as_long_as_its_headers_say_stays_alone() {
    for flow in [Spec::tcp4(200), Spec::udp4(200), Spec::tcp6(200), Spec::udp6(200)] {
        let at = if flow.v6 { 5 } else { 3 };
        assert_alone(&flow, "shorter in IP", |packet| packet[at] -= 1);
        assert_alone(&flow, "longer in IP", |packet| packet[at] += 1);
        if flow.udp {
            assert_alone(&flow, "shorter in UDP", |packet| packet[flow.l4() + 5] -= 1);
            assert_alone(&flow, "longer in UDP", |packet| packet[flow.l4() + 5] += 1);
        }
    }
}

#[test]
fn udp_without_a_checksum_stays_alone_though_zero_would_be_right() {
    // The last word of each payload is chosen so that the sum of everything is all ones without a checksum.
    let packets: Vec<_> = Spec::udp4(200)
        .segments(100)
        .into_iter()
        .map(|mut segment| {
            segment.payload[98..].fill(0);
            let checksum = segment.build()[26..28].to_vec();
            segment.payload[98..].copy_from_slice(&checksum);
            let mut packet = segment.build();
            assert_eq!(packet[26..28], [0xff, 0xff]);
            packet[26..28].fill(0);
            packet
        })
        .collect();
    let runs = join(&packets);
    assert_eq!((runs.len(), runs[0].1 == packets[0]), (2, true));
}
