//! A whole tunnel: two engines, a handshake under load with its cookie, and packets both ways.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use adit::{Bounds, Datagrams, Ecn, Instant, Interface, Packets, Path, PeerId, PresharedKey, PrivateKey};
use rand_chacha::ChaCha8Rng;
use rand_core::{SeedableRng, TryCryptoRng, TryRng};

use super::{Allowed, Expected, Probe, bytes};
use crate::memcheck::{are_secret, classify, declassify};

pub(super) const PROBES: &[&Probe] = &[&Probe {
    name: "two handshakes under load and the packets between",
    run: || RUNS.into_iter().for_each(tunnel),
    allowed: ALLOWED,
    expected: Expected::Quiet,
}];

const VERDICT: &str = "whether a message is authentic, which shows in what becomes of it";
const NAME: &str = "who an authentic initiation is from: the public key is looked for among the peers";
const ORDER: &str = "whether an authentic initiation is older than the last one";
const SMALL: &str = "whether a shared secret is zero: then a public key was of small order";

/// In the order in which a handshake comes by.
const ALLOWED: &[Allowed] = &[
    Allowed {
        place: "adit/src/handshake/admission.rs",
        line: "mac2_is_good(",
        why: "whether the sender has a cookie of ours, which shows in what we answer",
    },
    Allowed { place: "/src/cipher.rs", line: "if self.mac", why: VERDICT },
    Allowed { place: "adit/src/noise.rs", line: "if !crypto::open(", why: VERDICT },
    Allowed { place: "adit/src/cookie.rs", line: "if !crypto::xopen(", why: VERDICT },
    Allowed { place: "adit/src/key.rs", line: "pub struct PublicKey", why: NAME },
    Allowed { place: "adit/src/handshake.rs", line: "timestamp <= latest", why: ORDER },
    Allowed { place: "adit/src/time.rs", line: "PartialOrd", why: ORDER },
    #[cfg(not(feature = "aws-lc-rs"))]
    Allowed { place: "adit/src/crypto.rs", line: "was_contributory", why: SMALL },
    Allowed { place: "adit/src/batch.rs", line: "if authentic", why: VERDICT },
    Allowed { place: "adit-aead/src/short.rs", line: "if packet.authentic", why: VERDICT },
    // With AWS-LC it is AWS-LC that opens a single packet, if it is not short.
    #[cfg(not(feature = "aws-lc-rs"))]
    Allowed { place: "adit-aead/src/avx2/long.rs", line: "if !packets[i].authentic", why: VERDICT },
    #[cfg(feature = "aws-lc-rs")]
    Allowed { place: "/p_x25519.c", line: "pkey_x25519_derive", why: SMALL },
    #[cfg(feature = "aws-lc-rs")]
    Allowed {
        place: "/cbs.c",
        line: "",
        why: "the initiator's public key, in which the library looks for a format first",
    },
    #[cfg(feature = "aws-lc-rs")]
    Allowed { place: "/e_chacha20poly1305.c", line: "chacha20_poly1305_open_gather", why: VERDICT },
];

/// Something that a tunnel keeps to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Secret {
    PrivateKeys,
    PresharedKey,
    Random,
    Texts,
}

/// What is secret in one run.
type Secrets = &'static [Secret];

/// All at once; then each that goes into a session's keys alone, since any of them makes those secret.
const RUNS: [Secrets; 4] = [
    &[Secret::PrivateKeys, Secret::PresharedKey, Secret::Random, Secret::Texts],
    &[Secret::PrivateKeys],
    &[Secret::PresharedKey],
    &[Secret::Random],
];

impl Secret {
    /// From here on these bytes are secret, if this is among the secrets.
    fn mark(self, secrets: Secrets, bytes: &[u8]) {
        if secrets.contains(&self) {
            classify(bytes);
        }
    }
}

/// A generator whose numbers are secret where they become keys: those are asked for as 32 bytes.
struct SecretRng(ChaCha8Rng, Secrets);

impl TryRng for SecretRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.0.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0.try_next_u64()
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.try_fill_bytes(bytes)?;
        if bytes.len() == 32 {
            Secret::Random.mark(self.1, bytes);
        }
        Ok(())
    }
}

impl TryCryptoRng for SecretRng {}

/// One end of the tunnel.
struct End {
    secrets: Secrets,
    interface: Interface,
    peer: PeerId,
    address: SocketAddr,
    inside: u8,
}

impl End {
    fn new(secrets: Secrets, now: Instant, own: u8, other: u8) -> Self {
        let mut bounds = Bounds::default();
        // Always under load, so that every initiation needs a cookie.
        bounds.handshakes_per_second = 0;
        let rng = Box::new(SecretRng(ChaCha8Rng::seed_from_u64(own.into()), secrets));
        let mut interface = Interface::with_bounds(now, Duration::from_secs(1_700_000_000), rng, bounds);
        // The key becomes secret where it lies, after what is public about it has been computed.
        interface.set_private_key(Some(PrivateKey::from_bytes(bytes(own))));
        Secret::PrivateKeys.mark(secrets, interface.private_key().expect("was set").as_bytes());
        let peer = interface.add_peer(PrivateKey::from_bytes(bytes(other)).public_key()).expect("another key");
        let psk = PresharedKey::from_bytes(bytes(99));
        Secret::PresharedKey.mark(secrets, psk.as_bytes());
        interface.set_preshared_key(peer, Some(psk)).expect("a peer");
        interface.add_allowed_ip(peer, "10.0.0.0/8".parse().expect("a prefix")).expect("a peer");
        interface.set_endpoint(peer, Some(address(other))).expect("a peer");
        interface.set_mtu(1420);
        Self { secrets, interface, peer, address: address(own), inside: own }
    }

    /// A packet to the other end, whose contents after the headers may be secret.
    fn packet(&self, to: &Self, len: usize) -> Vec<u8> {
        let mut packet = vec![0x33; len];
        packet[..20].fill(0);
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[12..20].copy_from_slice(&[10, 0, 0, self.inside, 10, 0, 0, to.inside]);
        Secret::Texts.mark(self.secrets, &packet[HEADERS..]);
        packet
    }

    /// Everything that is to be sent; whoever listens may read it.
    fn sends(&mut self, now: Instant) -> Vec<Vec<u8>> {
        while let Some(work) = self.interface.poll_handshake(now) {
            let mut next = Some(work);
            while let Some(work) = next {
                next = self.interface.finish_handshake(now, work.compute());
            }
        }
        let mut datagrams = Vec::new();
        let mut buffer = vec![0; 65_536];
        while let Some(transmit) = self.interface.poll_transmit(now, &mut buffer).expect("room") {
            let sent = &buffer[transmit.range];
            declassify(sent);
            datagrams.extend(sent.chunks(transmit.segment_size).map(<[u8]>::to_vec));
        }
        datagrams
    }

    /// Takes a datagram, and returns how many bytes came out of the tunnel.
    fn receives(&mut self, now: Instant, datagram: Vec<u8>, from: SocketAddr) -> usize {
        let (mut burst, mut buffer) = (Datagrams::new(), datagram);
        assert!(burst.push(0..buffer.len(), &Path::to(from), Ecn::NotEct));
        let opened = self.interface.begin_open(now, burst, &buffer).open(&mut buffer);
        // By its addresses a packet finds its way; what it carries stays secret.
        declassify(buffer.get(16..16 + HEADERS).unwrap_or_default());
        let delivered = self.interface.commit(now, opened, &mut buffer);
        let ranges = delivered.packets().map(|(_, range)| range);
        ranges
            .inspect(|range| {
                let is_secret = are_secret(&buffer[range.clone()][HEADERS..]);
                assert!(is_secret, "not opened with a key that depends on {:?}", self.secrets);
            })
            .map(|range| range.len())
            .sum()
    }
}

/// What of a packet is read to find its way.
const HEADERS: usize = 20;

fn address(end: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, end], 51_820))
}

fn tunnel(secrets: Secrets) {
    let mut now = Instant::from_nanos(0);
    let (mut a, mut b) = (End::new(secrets, now, 1, 2), End::new(secrets, now, 2, 1));
    let packet = a.packet(&b, 500);
    let mut buffer = vec![0; 2_048];
    assert_eq!(a.interface.handle_packet(now, &packet, &mut buffer), Ok(None), "there is no session yet");
    assert_eq!(shake_hands(&mut now, &mut a, &mut b), 500, "the packet has not arrived");
    assert_eq!(burst(now, &mut a, &mut b, 700), 8 * 700);
    assert_eq!(burst(now, &mut b, &mut a, 60), 8 * 60);

    // Old enough to be renewed: the second handshake has the first to compare with.
    now += Duration::from_secs(125);
    assert_eq!(burst(now, &mut a, &mut b, 700), 8 * 700);
    shake_hands(&mut now, &mut a, &mut b);
    assert_eq!(burst(now, &mut a, &mut b, 1400), 8 * 1400);

    let mut forged = vec![7; 100];
    forged[..4].copy_from_slice(&[4, 0, 0, 0]);
    assert_eq!(b.receives(now, forged, a.address), 0);
}

/// A handshake, in which each end must first be told a cookie; how many bytes came out of the tunnel.
fn shake_hands(now: &mut Instant, a: &mut End, b: &mut End) -> usize {
    let mut arrived = 0;
    for _ in 0..3 {
        arrived += exchange(*now, a, b);
        *now += Duration::from_secs(6);
        a.interface.handle_timeout(*now);
        b.interface.handle_timeout(*now);
    }
    arrived
}

/// Carries datagrams until nobody has any left; how many bytes came out of the tunnel.
fn exchange(now: Instant, a: &mut End, b: &mut End) -> usize {
    let mut arrived = 0;
    loop {
        let (from_a, from_b) = (a.sends(now), b.sends(now));
        if from_a.is_empty() && from_b.is_empty() {
            return arrived;
        }
        arrived += from_a.into_iter().map(|datagram| b.receives(now, datagram, a.address)).sum::<usize>();
        arrived += from_b.into_iter().map(|datagram| a.receives(now, datagram, b.address)).sum::<usize>();
    }
}

/// Eight packets in one burst; how many bytes came out.
fn burst(now: Instant, from: &mut End, to: &mut End, len: usize) -> usize {
    let (mut packets, mut buffer) = (Packets::new(1420), vec![0; 8 * 2_048]);
    let mut start = 0;
    for _ in 0..8 {
        let packet = from.packet(to, len);
        buffer[start + 16..][..len].copy_from_slice(&packet);
        start = packets.push(start, len).expect("room");
    }
    let sealed = from.interface.begin_seal(now, packets, &buffer).seal(&mut buffer);
    let mut arrived = 0;
    for transmit in sealed.transmits() {
        assert_eq!(transmit.peer, Some(from.peer));
        declassify(&buffer[transmit.range.clone()]);
        for datagram in transmit.datagrams(&buffer) {
            arrived += to.receives(now, datagram.to_vec(), from.address);
        }
    }
    arrived
}
