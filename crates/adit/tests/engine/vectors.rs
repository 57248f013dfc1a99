//! The handshake against an independent implementation of the Noise protocol framework: over real
//! messages, in both directions, and on into the session.

use std::time::Duration;

use adit::{Ecn, Instant, Interface, Path, PresharedKey, PrivateKey, PublicKey};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use snow::{Builder, HandshakeState, StatelessTransportState};

use crate::sim::{forge, packet};

const NOW: Instant = Instant::from_nanos(77);
/// The index by which the framework wants to be addressed when it is the responder.
const THEIR_INDEX: [u8; 4] = [1, 2, 3, 4];
const PROTOCOL: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// 2023-11-14 22:13:20 UTC, on a multiple of 2^24 ns.
const UNIX_TIME: Duration = Duration::new(1_700_000_000, 3 << 24);

fn keys() -> [PrivateKey; 2] {
    [[0x11; 32], [0x22; 32]].map(PrivateKey::from_bytes)
}

fn path() -> Path {
    Path::to("192.0.2.2:51820".parse().unwrap())
}

/// Our end, with the other one as its peer.
fn engine(preshared_key: Option<[u8; 32]>) -> Interface {
    let [own, other] = keys();
    let mut interface = Interface::new(NOW, UNIX_TIME, Box::new(ChaCha8Rng::seed_from_u64(5)));
    interface.set_private_key(Some(own));
    let peer = interface.add_peer(other.public_key()).unwrap();
    interface.set_preshared_key(peer, preshared_key.map(PresharedKey::from_bytes)).unwrap();
    interface.set_endpoint(peer, Some(path().remote)).unwrap();
    interface.add_allowed_ip(peer, "0.0.0.0/0".parse().unwrap()).unwrap();
    interface
}

/// The other end, in the hands of the framework.
fn framework(preshared_key: Option<[u8; 32]>, is_initiator: bool) -> HandshakeState {
    let [other, own] = keys();
    let (psk, other) = (preshared_key.unwrap_or_default(), *other.public_key().as_bytes());
    let builder = Builder::new(PROTOCOL.parse().unwrap())
        .local_private_key(own.as_bytes())
        .and_then(|builder| builder.psk(2, &psk))
        .and_then(|builder| builder.prologue(PROLOGUE))
        .unwrap();
    if is_initiator {
        builder.remote_public_key(&other).and_then(Builder::build_initiator).unwrap()
    } else {
        builder.build_responder().unwrap()
    }
}

fn data() -> Vec<u8> {
    packet::v4(packet::inside(0), packet::inside(1), b"over the tunnel")
}

/// The next datagram that our end sends.
fn poll(interface: &mut Interface) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    let transmit = interface.poll_transmit(NOW, &mut buffer).unwrap().expect("a datagram");
    buffer[transmit.range].to_vec()
}

fn arrive(interface: &mut Interface, datagram: &[u8]) -> Option<Vec<u8>> {
    let mut datagram = datagram.to_vec();
    interface.handle_datagram(NOW, &path(), Ecn::NotEct, &mut datagram).map(|(_, packet)| packet.to_vec())
}

/// The framework, which has read our initiation, answers it.
fn answer(ours: &mut Interface, mut theirs: HandshakeState, initiation: &[u8]) -> StatelessTransportState {
    let mut message = [0; 256];
    let len = theirs.write_message(&[], &mut message).unwrap();
    assert_eq!(len, 48);
    let mut response = [&[2, 0, 0, 0], &THEIR_INDEX[..], &initiation[4..8], &message[..48], &[0; 32]].concat();
    forge::put_mac1(&mut response, &keys()[0].public_key());
    assert_eq!(arrive(ours, &response), None);
    theirs.into_stateless_transport_mode().unwrap()
}

/// The framework opens one of our transport messages.
fn open(session: &StatelessTransportState, datagram: &[u8]) -> Vec<u8> {
    let counter = u64::from_le_bytes(datagram[8..16].try_into().unwrap());
    let mut text = vec![0; datagram.len()];
    let len = session.read_message(counter, &datagram[16..], &mut text).unwrap();
    text.truncate(len);
    text
}

/// A transport message of the framework's.
fn seal(session: &StatelessTransportState, receiver_index: &[u8], counter: u64, text: &[u8]) -> Vec<u8> {
    let mut datagram = [&[4, 0, 0, 0], receiver_index, &counter.to_le_bytes()].concat();
    let mut sealed = vec![0; text.len() + 16];
    let len = session.write_message(counter, text, &mut sealed).unwrap();
    datagram.extend(&sealed[..len]);
    datagram
}

#[test]
fn our_initiation_is_answered_by_an_independent_responder_and_the_session_carries_both_ways() {
    for preshared_key in [None, Some([0x33; 32])] {
        let (mut ours, mut theirs) = (engine(preshared_key), framework(preshared_key, false));
        let mut out = [0; 256];
        assert_eq!(ours.handle_packet(NOW, &data(), &mut out), Ok(None));
        let initiation = poll(&mut ours);
        assert_eq!(initiation.len(), 148);

        let mut payload = [0; 256];
        let len = theirs.read_message(&initiation[8..116], &mut payload).unwrap();
        // TAI64N: 2^62 and the seconds, TAI being 10 s ahead at the epoch, then the nanoseconds.
        let seconds = (1_u64 << 62) + 10 + UNIX_TIME.as_secs();
        let timestamp = [&seconds.to_be_bytes()[..], &UNIX_TIME.subsec_nanos().to_be_bytes()].concat();
        assert_eq!(payload[..len], timestamp);
        let [own, other] = keys();
        assert_eq!(theirs.get_remote_static(), Some(&own.public_key().as_bytes()[..]));

        let session = answer(&mut ours, theirs, &initiation);
        let sent = poll(&mut ours);
        assert_eq!((&sent[..4], &sent[4..8], &sent[8..16]), (&[4, 0, 0, 0][..], &THEIR_INDEX[..], &[0; 8][..]));
        let text = open(&session, &sent);
        assert_eq!(text[..data().len()], data());
        assert_eq!((text.len(), &text[data().len()..]), (48, &[0; 13][..]), "padding is zeros");
        let back = seal(&session, &initiation[4..8], 0, &data());
        assert_eq!(arrive(&mut ours, &back), Some(data()));
        drop(other);
    }
}

#[test]
fn an_independent_initiator_is_answered_and_the_session_carries_both_ways() {
    for preshared_key in [None, Some([0x44; 32])] {
        let (mut ours, mut theirs) = (engine(preshared_key), framework(preshared_key, true));
        let mut message = [0; 256];
        let len = theirs.write_message(&[0x40, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1], &mut message).unwrap();
        assert_eq!(len, 108);
        let their_index = [9, 8, 7, 6];
        let mut initiation = [&[1, 0, 0, 0], &their_index, &message[..len], &[0; 32]].concat();
        let own: PublicKey = keys()[0].public_key();
        forge::put_mac1(&mut initiation, &own);
        assert_eq!(arrive(&mut ours, &initiation), None);

        let response = poll(&mut ours);
        assert_eq!((response.len(), &response[..4], &response[8..12]), (92, &[2, 0, 0, 0][..], &their_index[..]));
        let mut payload = [0; 256];
        assert_eq!(theirs.read_message(&response[12..60], &mut payload).unwrap(), 0);

        let session = theirs.into_stateless_transport_mode().unwrap();
        let mut out = [0; 256];
        assert_eq!(ours.handle_packet(NOW, &data(), &mut out), Ok(None), "not before the initiator has spoken");
        let first = seal(&session, &response[4..8], 0, &[]);
        assert_eq!(arrive(&mut ours, &first), None);
        let sent = poll(&mut ours);
        assert_eq!(open(&session, &sent)[..data().len()], data());
        let second = seal(&session, &response[4..8], 1, &data());
        assert_eq!(arrive(&mut ours, &second), Some(data()));
    }
}

#[test]
fn what_stands_behind_a_packet_is_zeros_whatever_was_in_the_buffer() {
    let (mut ours, mut theirs) = (engine(None), framework(None, false));
    let inside = [0, 1].map(packet::inside);
    let packets: Vec<_> = (0..16).map(|len| packet::v4(inside[0], inside[1], &vec![0x55; len])).collect();
    let mut buffer = [0xaa; 2_048];
    // These wait for the session.
    for packet in &packets {
        assert_eq!(ours.handle_packet(NOW, packet, &mut buffer), Ok(None));
    }
    let initiation = poll(&mut ours);
    theirs.read_message(&initiation[8..116], &mut [0; 256]).unwrap();
    let session = answer(&mut ours, theirs, &initiation);
    let mut datagrams = Vec::new();
    buffer.fill(0xaa);
    while let Some(transmit) = ours.poll_transmit(NOW, &mut buffer).unwrap() {
        let size = transmit.segment_size;
        datagrams.extend(buffer[transmit.range].chunks(size).map(<[u8]>::to_vec));
        buffer.fill(0xaa);
    }
    // And these find it.
    for packet in &packets {
        buffer.fill(0xaa);
        let transmit = ours.handle_packet(NOW, packet, &mut buffer).unwrap().expect("there is a session");
        datagrams.push(buffer[transmit.range].to_vec());
    }
    assert_eq!(datagrams.len(), 2 * packets.len());
    for (datagram, packet) in datagrams.iter().zip(packets.iter().chain(&packets)) {
        let mut expected = packet.clone();
        expected.resize(packet.len().next_multiple_of(16), 0);
        assert_eq!(open(&session, datagram), expected);
    }
}
