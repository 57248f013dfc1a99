//! Joining packets: whatever they are, who cuts the runs apart sees the packets that there were.

use adit_device::offload::{Joiner, Offloads, VnetHeader};
use arbitrary::{Result, Unstructured};

use crate::segments::{Flow, Spec, cut, is_sound};

const MAX_BYTES: usize = 200_000;

/// A batch of packets of few flows, some of them changed.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let offloads = match input.arbitrary::<u8>().unwrap_or(0) {
        bits @ 0..=15 => {
            Offloads { checksum: bits & 1 != 0, tcp4: bits & 2 != 0, tcp6: bits & 4 != 0, udp: bits & 8 != 0 }
        }
        _ => Offloads::ALL,
    };
    let mut packets = Vec::new();
    while !input.is_empty() && packets.iter().map(Vec::len).sum::<usize>() < MAX_BYTES {
        if more(&mut input, &mut packets).is_err() {
            break;
        }
    }
    packets.retain(|packet| !packet.is_empty());
    check(&packets, offloads);
    overlapping(&packets, offloads);
}

/// The segments of a longer packet, one packet by itself, a changed copy of one before, or any bytes.
fn more(input: &mut Unstructured<'_>, packets: &mut Vec<Vec<u8>>) -> Result<()> {
    let kind: u8 = input.arbitrary()?;
    match kind & 3 {
        0 => {
            let size = usize::from(input.arbitrary::<u8>()?) + 1;
            let spec: Spec = input.arbitrary()?;
            packets.extend(spec.segments(size.max(spec.payload.len() / 200)));
        }
        1 => packets.push(input.arbitrary::<Spec>()?.build()),
        2 => {
            let Some(last) = packets.len().checked_sub(1) else { return Ok(()) };
            let mut packet = packets[last - usize::from(kind >> 4).min(last)].clone();
            let (place, value): (u8, u8) = input.arbitrary()?;
            if let Some(byte) = packet.get_mut(usize::from(place)) {
                *byte = value;
            } else if kind & 4 == 0 {
                packet.truncate(usize::from(value));
            } else if place >= 0xf0 {
                // The other way to write a checksum that comes out as zero.
                let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
                let at = if is_v4 { 10 } else { 56 };
                if let Some(zero) = packet.get_mut(at..at + 2).filter(|bytes| *bytes == [0, 0]) {
                    zero.fill(0xff);
                }
            }
            if kind & 8 == 0 { packets.push(packet) } else { packets.insert(last, packet) }
        }
        _ => {
            let len = usize::from(input.arbitrary::<u8>()?).min(input.len());
            packets.push(input.bytes(len)?.to_vec());
        }
    }
    Ok(())
}

fn check(packets: &[Vec<u8>], offloads: Offloads) {
    let (mut arena, mut places) = (vec![0xee; 7], Vec::new());
    for packet in packets {
        places.push(arena.len()..arena.len() + packet.len());
        arena.extend(packet);
        arena.extend([0xee; 5]);
    }
    // Places outside the arena are passed over.
    places.push(arena.len()..arena.len() + 1);
    places.push(usize::MAX - 1..usize::MAX);
    let mut joiner = Joiner::new();
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for run in joiner.join(&mut arena, places, offloads) {
        let written: Vec<u8> =
            run.with_slices(true, |slices| slices.iter().flat_map(|slice| slice.iter()).copied().collect());
        let (header, packet) = written.split_first_chunk().expect("a header");
        assert_eq!((VnetHeader::from_bytes(header), packet.len()), (run.vnet(), run.len()));
        assert!(run.count() == 1 || is_asked_for(packet, offloads), "what the device lacks");
        let mut packet = packet.to_vec();
        let cut = cut(&run.vnet(), &mut packet).expect("a run can be cut");
        assert_eq!(cut.len(), run.count());
        seen.extend(cut);
    }
    assert_eq!(seen.len(), packets.len(), "as many as before");

    let mut place_of = Vec::new();
    let mut is_taken = vec![false; seen.len()];
    for packet in packets {
        let is_it = |place: &usize| !is_taken[*place] && is_same(packet, &seen[*place]);
        let place = (0..seen.len()).find(is_it).unwrap_or_else(|| panic!("gone: {packet:02x?}"));
        is_taken[place] = true;
        place_of.push(place);
    }
    for (second, packet) in packets.iter().enumerate() {
        let Some(flow) = Flow::of(packet) else { continue };
        for first in 0..second {
            let is_kept = place_of[first] < place_of[second];
            let must_be = Flow::of(&packets[first]).is_some_and(|first| first.keeps_order_with(&flow));
            assert!(is_kept || !must_be, "packets {first} and {second} have changed places");
        }
    }
}

/// The same bytes, or the same but for what may differ: checksums that are right, and the identification of a packet
/// that may not be fragmented.
fn is_same(before: &[u8], after: &[u8]) -> bool {
    if before == after {
        return true;
    }
    let zeroed = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        let (ip, udp) = if packet[0] >> 4 == 4 { (Some(10), packet[9] == 17) } else { (None, packet[6] == 17) };
        let transport = if ip.is_some() { 20 } else { 40 } + if udp { 6 } else { 16 };
        // Where a packet may not be fragmented its identification means nothing, and the kernel counts it on.
        let id = ip.filter(|_| packet[6] & 0x40 != 0).map(|_| 4);
        for at in ip.into_iter().chain(id).chain([transport]) {
            packet.get_mut(at..at + 2).into_iter().for_each(|checksum| checksum.fill(0));
        }
        packet
    };
    before.len() == after.len() && is_sound(before) && is_sound(after) && zeroed(before) == zeroed(after)
}

fn is_asked_for(packet: &[u8], offloads: Offloads) -> bool {
    let (is_v4, protocol) = if packet[0] >> 4 == 4 { (true, packet[9]) } else { (false, packet[6]) };
    offloads.checksum
        && match (protocol, is_v4) {
            (17, _) => offloads.udp,
            (_, true) => offloads.tcp4,
            (_, false) => offloads.tcp6,
        }
}

/// Places that no caller should give: nothing is promised of what comes out, but that something does.
fn overlapping(packets: &[Vec<u8>], offloads: Offloads) {
    let mut arena: Vec<u8> = packets.concat();
    let mut start = 0;
    let mut places = Vec::new();
    for packet in packets {
        places.push(start..start + packet.len());
        places.push(start / 2..start + packet.len() / 2);
        start += packet.len() - packet.len() / 3;
    }
    let mut joiner = Joiner::new();
    for run in joiner.join(&mut arena, places, offloads) {
        let length: usize = run.parts().map(<[u8]>::len).sum();
        assert_eq!(length, run.len());
    }
}
