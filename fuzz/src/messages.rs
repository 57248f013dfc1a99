//! The four messages: forged, altered, cut, repeated and genuine ones, given to an interface with a session, a
//! handshake of its own under way, and a peer that asks for another.

use std::net::SocketAddr;
use std::time::Duration;

use adit::{Bounds, Datagrams, DropReason, Ecn, Instant, Interface, Path, PublicKey};
use arbitrary::{Result, Unstructured};

use crate::packet;
use crate::reference::{START, cookie_reply, interface, private_key, put_mac1, socket};

/// Keys by number: the interface that all is given to, a peer with a session, and a peer that was asked for one.
const OWN: u8 = 0;
const PEER: u8 = 1;
const ASKED: u8 = 2;

/// A row of datagrams, one by one or in a burst.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let is_burst = input.arbitrary::<u8>().unwrap_or(0) & 1 != 0;
    let mut scene = Scene::set();
    let mut row = Vec::new();
    while !input.is_empty() && row.len() < 60 {
        let Ok(datagram) = scene.datagram(&mut input) else { break };
        row.push(datagram);
    }
    if is_burst {
        scene.give_burst(&row);
    } else {
        row.iter().for_each(|datagram| scene.give(datagram));
    }
}

struct Scene {
    now: Instant,
    interface: Interface,
    public_key: PublicKey,
    /// What the peers have really sent, and whether it was taken already.
    genuine: Vec<(Vec<u8>, bool)>,
    /// Indices that the interface knows.
    indices: Vec<[u8; 4]>,
}

/// A datagram, and the number of the genuine one that it is.
struct Datagram {
    bytes: Vec<u8>,
    source: SocketAddr,
    genuine: Option<usize>,
}

impl Scene {
    fn set() -> Self {
        let now = START;
        let own = private_key(OWN).public_key();
        let mut scene = interface(now, &private_key(OWN), 1, Bounds::default());
        for number in [PEER, ASKED] {
            let peer = scene.add_peer(private_key(number).public_key()).expect("another's key");
            scene.set_endpoint(peer, Some(socket(number * 2))).expect("the peer is there");
            scene.add_allowed_ip(peer, inside(number).into()).expect("the peer is there");
        }
        let mut genuine = Vec::new();

        // The peer makes a session and sends in it.
        let mut peer = other(now, PEER);
        let initiation = send(&mut peer, now, PEER).expect("an initiation");
        let response = exchange(&mut scene, now, &initiation, PEER).expect("a response");
        let first = exchange(&mut peer, now, &response, OWN).expect("the packet that waited");
        exchange(&mut scene, now, &first, PEER);
        genuine.push((first.clone(), true));
        genuine.extend((0..6).filter_map(|_| Some((send(&mut peer, now, PEER)?, false))));

        // Later it has forgotten everything and asks again.
        let now = now + Duration::from_secs(3);
        let mut again = interface(now, &private_key(PEER), 9, Bounds::default());
        introduce(&mut again);
        genuine.push((initiation.clone(), true));
        genuine.push((send(&mut again, now, PEER).expect("an initiation"), false));

        // The interface asks somebody else, who answers in two ways.
        let asked_packet = packet::build(inside(OWN), inside(ASKED), 0, b"waits");
        let mut buffer = [0; 256];
        assert!(scene.handle_packet(now, &asked_packet, &mut buffer).expect("there is room").is_none());
        let question = poll(&mut scene, now).expect("an initiation");
        let mut asked = other(now, ASKED);
        let answer = exchange(&mut asked, now, &question, OWN).expect("a response");
        let mac1 = question[116..132].try_into().expect("16 bytes");
        let index: [u8; 4] = question[4..8].try_into().expect("4 bytes");
        let cookie = cookie_reply(&private_key(ASKED).public_key(), index, mac1, [7; 24], [8; 16]);
        genuine.push((answer, false));
        genuine.push((cookie, false));
        let session = first[4..8].try_into().expect("4 bytes");
        Self { now, interface: scene, public_key: own, genuine, indices: vec![session, index] }
    }

    /// Anything at all, a message with some fields, or a genuine one, perhaps altered.
    fn datagram(&mut self, input: &mut Unstructured<'_>) -> Result<Datagram> {
        let (kind, from): (u8, u8) = input.arbitrary()?;
        let source = socket(from);
        let bytes = match kind & 3 {
            0 => {
                let len = usize::from(input.arbitrary::<u8>()?).min(input.len());
                input.bytes(len)?.to_vec()
            }
            1 => self.message(input)?,
            _ => {
                let which = usize::from(kind >> 3) % self.genuine.len();
                let mut bytes = self.genuine[which].0.clone();
                if kind & 4 == 0 {
                    return Ok(Datagram { bytes, source, genuine: Some(which) });
                }
                alter(&mut bytes, input, &self.public_key)?;
                bytes
            }
        };
        let genuine = self.genuine.iter().position(|(genuine, _)| self.is_as_good(&bytes, genuine));
        Ok(Datagram { bytes, source, genuine })
    }

    fn message(&self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let (shape, fill): (u8, u8) = input.arbitrary()?;
        let lengths = [148, 92, 64, 32, 48, 80, 0, 1_452];
        let mut bytes = vec![fill; lengths[usize::from(shape & 7)]];
        if shape & 8 != 0 {
            bytes.resize(input.arbitrary::<u8>()?.into(), fill);
        }
        let index = match shape >> 4 & 3 {
            0 => [fill; 4],
            1 => input.arbitrary()?,
            known => self.indices[usize::from(known - 2)],
        };
        let kind = [1, 2, 4, 3][usize::from(shape >> 6)];
        let header = [[kind, 0, 0, 0], index, index].concat();
        for (to, from) in bytes.iter_mut().zip(header) {
            *to = from;
        }
        if kind == 4 {
            // Any counter.
            let counter: u64 = input.arbitrary()?;
            bytes.get_mut(8..16).into_iter().for_each(|place| place.copy_from_slice(&counter.to_le_bytes()));
        }
        // In others it would be written over the header of a message as short as 32 bytes.
        if matches!(kind, 1 | 2) {
            put_mac1(&mut bytes, &self.public_key);
        }
        Ok(bytes)
    }

    fn give(&mut self, datagram: &Datagram) {
        let before = self.state();
        let drops_before = *self.interface.drops();
        let expected = match datagram.genuine {
            Some(which) if !self.genuine[which].1 => None,
            _ => Some(self.reason(&datagram.bytes)),
        };
        let mut bytes = datagram.bytes.clone();
        let delivered = self.interface.handle_datagram(self.now, &Path::to(datagram.source), Ecn::NotEct, &mut bytes);
        let delivered = delivered.map(|(_, packet)| packet.to_vec());
        let counted: Vec<DropReason> =
            DropReason::ALL.iter().copied().filter(|&d| self.interface.drops().get(d) > drops_before.get(d)).collect();
        let mut sent = 0;
        while let Some(datagram) = poll(&mut self.interface, self.now) {
            sent += datagram.len();
        }
        match (expected, datagram.genuine) {
            (Some(reasons), _) => {
                assert_eq!((delivered, sent), (None, 0), "of what is not genuine");
                assert_eq!(self.state(), before, "a forged message leaves no trace");
                assert!(counted.len() == 1 && reasons.contains(&counted[0]), "{counted:?} instead of {reasons:?}");
            }
            (None, Some(which)) => {
                let genuine = &mut self.genuine[which];
                genuine.1 = true;
                assert_eq!(delivered.is_some(), genuine.0[0] == 4, "a packet is delivered once");
                assert!(delivered.is_none_or(|packet| packet == from_peer(PEER)), "as it was sent");
                // A response may come to a session that is used no more; nothing else is refused.
                assert!(counted.is_empty(), "{counted:?} of what is genuine");
                if genuine.0[0] == 1 {
                    assert_eq!(sent, 92, "a response");
                }
            }
            (None, None) => unreachable!("only what is genuine is expected to be taken"),
        }
    }

    /// Every datagram ends in one of three ways: it is delivered, taken or counted.
    fn give_burst(&mut self, row: &[Datagram]) {
        let mut burst = Datagrams::new();
        let mut buffer = Vec::new();
        for datagram in row {
            let start = buffer.len();
            buffer.extend(&datagram.bytes);
            assert!(burst.push(start..buffer.len(), &Path::to(datagram.source), Ecn::NotEct));
        }
        let total = |interface: &Interface| interface.drops().iter().map(|(_, count)| count).sum::<u64>();
        let before = total(&self.interface);
        let opened = self.interface.begin_open(self.now, burst, &buffer).open(&mut buffer);
        let delivered = self.interface.commit(self.now, opened, &mut buffer);
        let places: Vec<_> = delivered.packets().collect();
        let packets = row.iter().filter(|datagram| datagram.bytes.first() == Some(&4));
        let mut fresh: Vec<usize> = packets.filter_map(|datagram| datagram.genuine).collect();
        fresh.sort_unstable();
        fresh.dedup();
        fresh.retain(|&which| !self.genuine[which].1);
        assert_eq!(places.len(), fresh.len(), "each packet once");
        assert!(places.iter().all(|(_, range)| buffer[range.clone()] == from_peer(PEER)), "as it was sent");
        let mut taken = places.len() as u64;
        while let Some(work) = self.interface.poll_handshake(self.now) {
            taken += 1;
            let mut next = Some(work);
            let dropped = total(&self.interface);
            while let Some(work) = next {
                next = self.interface.finish_handshake(self.now, work.compute());
            }
            // Those are counted as both.
            taken -= (total(&self.interface) - dropped).min(1);
        }
        let cookies = row.iter().any(|datagram| datagram.genuine.is_some_and(|which| self.genuine[which].0[0] == 3));
        taken += u64::from(cookies);
        assert_eq!(taken + total(&self.interface) - before, row.len() as u64, "each in one way");
    }

    /// Why something that is not genuine, or was there before, is refused.
    fn reason(&self, bytes: &[u8]) -> Vec<DropReason> {
        let Some(kind) = bytes.first_chunk::<4>() else { return vec![DropReason::BadLength] };
        let is_length = match kind {
            [1, 0, 0, 0] => bytes.len() == 148,
            [2, 0, 0, 0] => bytes.len() == 92,
            [3, 0, 0, 0] => bytes.len() == 64,
            [4, 0, 0, 0] => bytes.len() >= 32,
            _ => return vec![DropReason::BadType],
        };
        if !is_length {
            return vec![DropReason::BadLength];
        }
        match kind[0] {
            1 | 2 if !self.has_right_mac1(bytes) => vec![DropReason::BadMac1],
            1 => vec![
                DropReason::BadHandshake,
                DropReason::UnknownPeer,
                DropReason::ReplayedInitiation,
                DropReason::InitiationFlood,
            ],
            2 => vec![DropReason::UnknownIndex, DropReason::BadHandshake],
            3 => vec![DropReason::UnknownIndex, DropReason::BadCookieReply],
            _ => vec![DropReason::UnknownIndex, DropReason::BadTag, DropReason::Replay, DropReason::SessionExpired],
        }
    }

    /// Whether the datagram is the genuine one, but for what nothing authenticates: the sender's index, which only mac1
    /// covers, and mac2, at which nobody looks who is not under load.
    fn is_as_good(&self, bytes: &[u8], genuine: &[u8]) -> bool {
        if bytes.len() != genuine.len() || !matches!(genuine[0], 1 | 2) {
            return bytes == genuine;
        }
        let macs = bytes.len() - 32;
        bytes[..4] == genuine[..4] && bytes[8..macs] == genuine[8..macs] && self.has_right_mac1(bytes)
    }

    fn has_right_mac1(&self, bytes: &[u8]) -> bool {
        let mut right = bytes.to_vec();
        put_mac1(&mut right, &self.public_key);
        // mac2 comes after it.
        right[..right.len() - 16] == bytes[..bytes.len() - 16]
    }

    /// All that is told of the peers.
    fn state(&mut self) -> String {
        let deadline = self.interface.poll_timeout();
        format!("{:?} {deadline:?}", self.interface.peers(self.now).collect::<Vec<_>>())
    }
}

/// A few bytes changed, the end cut off or prolonged; mac1 put right again or not.
fn alter(bytes: &mut Vec<u8>, input: &mut Unstructured<'_>, receiver: &PublicKey) -> Result<()> {
    let (shape, place, value): (u8, u8, u8) = input.arbitrary()?;
    match shape & 3 {
        0 => bytes.truncate(place.into()),
        1 => bytes.extend(std::iter::repeat_n(value, place.into())),
        _ => {
            let place = usize::from(place) % bytes.len();
            bytes[place] = value;
        }
    }
    if shape & 4 == 0 && matches!(bytes.first(), Some(1 | 2)) {
        put_mac1(bytes, receiver);
    }
    Ok(())
}

fn inside(number: u8) -> std::net::IpAddr {
    [10, 0, 0, number + 1].into()
}

fn from_peer(number: u8) -> Vec<u8> {
    packet::build(inside(number), inside(OWN), 0, b"from the peer")
}

/// An interface that knows the one under test and where it is.
fn other(now: Instant, number: u8) -> Interface {
    let mut other = interface(now, &private_key(number), u64::from(number) + 1, Bounds::default());
    introduce(&mut other);
    other
}

fn introduce(other: &mut Interface) {
    let peer = other.add_peer(private_key(OWN).public_key()).expect("another's key");
    other.set_endpoint(peer, Some(socket(OWN))).expect("the peer is there");
    other.add_allowed_ip(peer, inside(OWN).into()).expect("the peer is there");
}

/// What leaves when the peer has a packet for the interface under test.
fn send(from: &mut Interface, now: Instant, number: u8) -> Option<Vec<u8>> {
    let mut buffer = [0; 256];
    let sent = from.handle_packet(now, &from_peer(number), &mut buffer).expect("there is room");
    match sent {
        Some(transmit) => Some(buffer[transmit.range].to_vec()),
        None => poll(from, now),
    }
}

/// The answer to a datagram.
fn exchange(to: &mut Interface, now: Instant, datagram: &[u8], from: u8) -> Option<Vec<u8>> {
    let mut datagram = datagram.to_vec();
    let _ = to.handle_datagram(now, &Path::to(socket(from * 2)), Ecn::NotEct, &mut datagram);
    poll(to, now)
}

fn poll(interface: &mut Interface, now: Instant) -> Option<Vec<u8>> {
    let mut buffer = [0; 2_048];
    let transmit = interface.poll_transmit(now, &mut buffer).expect("there is room")?;
    Some(buffer[transmit.range].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_type_and_of_its_length_are_made() {
        let scene = Scene::set();
        let made = |shape: u8| scene.message(&mut Unstructured::new(&[shape, 5, 0, 0, 0, 0, 0, 0, 0, 1])).unwrap();
        let all: Vec<(u8, usize)> = (0..=u8::MAX).map(made).filter_map(|m| Some((*m.first()?, m.len()))).collect();
        for one in [(1, 148), (2, 92), (3, 64), (4, 32)] {
            assert!(all.contains(&one), "type and length {one:?}");
        }
    }
}
