//! Cutting what the kernel gives, and joining the pieces again.

use adit_device::offload::{Joiner, Offloads, Split, VnetHeader};
use arbitrary::{Result, Unstructured};

use crate::segments::{ACK, PSH, Spec, cut, is_sound};

/// A header and a packet: any bytes, or sound ones of which few are changed.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let _ = match input.arbitrary::<u8>() {
        Ok(kind) if kind & 1 == 0 => sound(&mut input, kind),
        _ => raw(&mut input),
    };
}

fn raw(input: &mut Unstructured<'_>) -> Result<()> {
    let vnet = VnetHeader::from_bytes(&input.arbitrary()?);
    let mut packet = input.bytes(input.len())?.to_vec();
    anything(&vnet, &mut packet);
    Ok(())
}

/// What holds of any bytes: the pieces have the payload of the whole, and nothing reaches beyond its place.
fn anything(vnet: &VnetHeader, packet: &mut [u8]) {
    let before = packet.to_vec();
    if let Some(packets) = cut(vnet, packet) {
        if let [single] = packets.as_slice() {
            assert_eq!(single.len(), before.len());
            if !vnet.needs_checksum() {
                assert_eq!(*single, before, "a finished packet stays as it is");
            }
        } else {
            let size = usize::from(vnet.gso_size);
            let headers = packets[0].len() - size;
            let payload: Vec<u8> = packets.iter().flat_map(|packet| &packet[headers..]).copied().collect();
            assert_eq!(payload, before[headers..], "the payload of the whole");
            let lengths = packets.iter().map(Vec::len);
            assert!(lengths.clone().rev().skip(1).all(|length| length == headers + size));
        }
    }
    if let Ok(mut split) = Split::new(vnet, packet)
        && let Some(finished) = split.finish_in_place()
    {
        assert_eq!(finished.len(), before.len());
    }
}

fn sound(input: &mut Unstructured<'_>, kind: u8) -> Result<()> {
    let size = input.arbitrary::<u16>()?.max(1);
    let spec: Spec = input.arbitrary()?;
    // About 200 packets tell as much as 65,535.
    let size = size.max((spec.payload.len() / 200) as u16);
    let (mut vnet, mut packet) = (spec.vnet(size), spec.build_partial());
    if kind & 2 != 0 {
        change(input, &mut vnet, &mut packet)?;
        anything(&vnet, &mut packet);
        return Ok(());
    }
    let whole = packet.clone();
    let packets = cut(&vnet, &mut packet).expect("a sound packet can be cut");
    assert_eq!(packets, spec.segments(size.into()), "what a sender without offloads sends");
    assert!(packets.iter().all(|packet| is_sound(packet)));
    anything(&vnet, &mut packet);
    // Flags of TCP that mean more than "here is data" keep packets apart, and so do options of IP.
    let is_plain = spec.is_udp || spec.flags & !PSH == ACK;
    let most = if spec.is_udp { 64 } else { 128 };
    if is_plain && (2..=most).contains(&packets.len()) && whole.len() <= 65_535 {
        join(&vnet, &whole, &packets);
    }
    Ok(())
}

/// The pieces make the whole again.
fn join(vnet: &VnetHeader, whole: &[u8], packets: &[Vec<u8>]) {
    let (mut arena, mut places) = (Vec::new(), Vec::new());
    for packet in packets {
        places.push(arena.len()..arena.len() + packet.len());
        arena.extend(packet);
    }
    let mut joiner = Joiner::new();
    let runs: Vec<_> = joiner.join(&mut arena, places, Offloads::ALL).collect();
    assert_eq!(runs.len(), 1, "one run of {} packets", packets.len());
    let joined: Vec<u8> = runs[0].parts().flatten().copied().collect();
    assert_eq!((runs[0].vnet(), joined.as_slice()), (*vnet, whole), "cut and joined");
}

/// A few bytes somewhere in what the kernel gave, or its end cut off.
fn change(input: &mut Unstructured<'_>, vnet: &mut VnetHeader, packet: &mut Vec<u8>) -> Result<()> {
    let mut header = vnet.to_bytes();
    for _ in 0..input.int_in_range(1..=4)? {
        let (place, value): (u8, u8) = input.arbitrary()?;
        let place = usize::from(place);
        if let Some(byte) = header.get_mut(place) {
            *byte = value;
        } else if place == 0xff {
            packet.truncate(usize::from(value));
        } else if let Some(byte) = packet.get_mut(place - header.len()) {
            *byte = value;
        }
    }
    *vnet = VnetHeader::from_bytes(&header);
    Ok(())
}
