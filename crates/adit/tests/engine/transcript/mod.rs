//! Handshakes and packets that were once exchanged with wireguard-go, replayed through the engine:
//! with the same keys, the same random numbers and the same time it must say the same words, and
//! understand the same answers.

mod record;

use std::time::Duration;

use adit::{Ecn, Instant, Interface, Path, PresharedKey, PrivateKey};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

const NOW: Instant = Instant::from_nanos(1_000_000_000);
const UNIX_TIME: Duration = Duration::from_secs(1_700_000_000);

/// What is the same in the recording and in every replay.
struct Keys {
    own: PrivateKey,
    theirs: PrivateKey,
    preshared: PresharedKey,
}

impl Keys {
    fn new() -> Self {
        Self {
            own: PrivateKey::from_bytes(*b"a private key of our end, seeded"),
            theirs: PrivateKey::from_bytes(*b"a private key for wireguard-go!!"),
            preshared: PresharedKey::from_bytes(*b"a preshared key that both know.."),
        }
    }
}

/// Our end. `seed` stands for all random numbers.
fn engine(seed: u64) -> Interface {
    let keys = Keys::new();
    let mut interface = Interface::new(NOW, UNIX_TIME, Box::new(ChaCha8Rng::seed_from_u64(seed)));
    interface.set_private_key(Some(keys.own));
    interface.set_mtu(1420);
    let peer = interface.add_peer(keys.theirs.public_key()).unwrap();
    interface.set_preshared_key(peer, Some(keys.preshared)).unwrap();
    interface.set_endpoint(peer, Some(path().remote)).unwrap();
    interface.add_allowed_ip(peer, "10.0.0.2/32".parse().unwrap()).unwrap();
    interface
}

fn path() -> Path {
    Path::to("127.0.0.1:51820".parse().unwrap())
}

/// One line of a transcript.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Line {
    /// A packet comes from the inside of our end.
    Inside(Vec<u8>),
    /// Our end sends this datagram.
    Sends(Vec<u8>),
    /// wireguard-go sends this datagram.
    Receives(Vec<u8>),
    /// This packet comes out of our end.
    Arrives(Vec<u8>),
}

impl Line {
    fn parse(text: &str) -> Self {
        let (word, hex) = text.split_once(' ').expect("a word and a number");
        let bytes = hex.as_bytes().chunks(2);
        let bytes = bytes.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        match word {
            "inside" => Self::Inside(bytes),
            "sends" => Self::Sends(bytes),
            "receives" => Self::Receives(bytes),
            "arrives" => Self::Arrives(bytes),
            other => panic!("no such word: {other}"),
        }
    }

    fn to_text(&self) -> String {
        let (word, bytes) = match self {
            Self::Inside(bytes) => ("inside", bytes),
            Self::Sends(bytes) => ("sends", bytes),
            Self::Receives(bytes) => ("receives", bytes),
            Self::Arrives(bytes) => ("arrives", bytes),
        };
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{word} {hex}\n")
    }
}

/// What our end does with one line of input.
fn react(interface: &mut Interface, input: &Line) -> Vec<Line> {
    let mut buffer = [0; 2_048];
    let mut output = Vec::new();
    match input {
        Line::Inside(packet) => {
            let transmit = interface.handle_packet(NOW, packet, &mut buffer).unwrap();
            output.extend(transmit.map(|transmit| Line::Sends(buffer[transmit.range].to_vec())));
        }
        Line::Receives(datagram) => {
            let mut datagram = datagram.clone();
            let arrived = interface.handle_datagram(NOW, &path(), Ecn::NotEct, &mut datagram);
            output.extend(arrived.map(|(_, packet)| Line::Arrives(packet.to_vec())));
        }
        Line::Sends(_) | Line::Arrives(_) => panic!("no input: {input:?}"),
    }
    while let Some(transmit) = interface.poll_transmit(NOW, &mut buffer).unwrap() {
        output.push(Line::Sends(buffer[transmit.range].to_vec()));
    }
    output
}

/// Replays a transcript: every input must lead to just the outputs that stand after it.
fn replay(transcript: &str, seed: u64) {
    let mut interface = engine(seed);
    let mut lines =
        transcript.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(Line::parse).peekable();
    let (mut sent, mut arrived) = (0, 0);
    while let Some(input) = lines.next() {
        for output in react(&mut interface, &input) {
            assert_eq!(Some(&output), lines.peek(), "after {input:?}");
            sent += u32::from(matches!(output, Line::Sends(_)));
            arrived += u32::from(matches!(output, Line::Arrives(_)));
            lines.next();
        }
    }
    assert!(sent >= 2 && arrived >= 2, "the transcript is too short: {sent} datagrams, {arrived} packets");
    assert_eq!(interface.drops().iter().count(), 0);
}

#[test]
fn as_initiator_with_wireguard_go_every_byte_is_as_recorded() {
    replay(include_str!("initiator.txt"), record::INITIATOR_SEED);
}

#[test]
fn as_responder_with_wireguard_go_every_byte_is_as_recorded() {
    replay(include_str!("responder.txt"), record::RESPONDER_SEED);
}
