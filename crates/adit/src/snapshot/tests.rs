mod changes;

use std::time::Duration;

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::codec::CRITICAL;
use super::*;
use crate::path::Ecn;

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
const LATER: Instant = Instant::from_nanos(1_001_000_000_000);

fn chance(seed: u64) -> Box<ChaCha8Rng> {
    Box::new(ChaCha8Rng::seed_from_u64(seed))
}

fn restore(snapshot: &Snapshot) -> Result<Interface, SnapshotError> {
    let snapshot = Snapshot(snapshot.0.clone());
    Interface::restore(snapshot, LATER, Duration::from_secs(1_700_000_001), chance(9), Bounds::default())
}

fn packet(to: u8) -> [u8; 20] {
    let mut packet = [0; 20];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 20]);
    packet[12..].copy_from_slice(&[10, 0, 0, 9, 10, 0, 0, to]);
    packet
}

/// Carries what both have to say to and fro until neither has anything left.
fn converse(ends: &mut [Interface; 2], addresses: [core::net::SocketAddr; 2]) {
    let mut buffer = [0; 2048];
    let mut carried = true;
    while carried {
        carried = false;
        for (from, to) in [(0, 1), (1, 0)] {
            while let Some(transmit) = ends[from].poll_transmit(NOW, &mut buffer).unwrap() {
                carried = true;
                let mut path = Path::to(addresses[from]);
                (path.local, path.ifindex) = (Some(addresses[to].ip()), 3);
                let _ = ends[to].handle_datagram(NOW, &path, Ecn::NotEct, &mut buffer[transmit.range]);
            }
        }
    }
}

/// An interface that has something of everything: three sessions with a peer, a handshake under way
/// with another, packets that wait, cookies, IPv6, drops, and datagrams on their way in and out.
/// The peers have the slots 0, 1 and 2, and the public keys of the private keys 2, 3 and 10.
fn eventful() -> Interface {
    let unix_time = Duration::from_secs(1_700_000_000);
    let addresses = ["192.0.2.1:51820".parse().unwrap(), "[2001:db8::2]:51820".parse().unwrap()];
    let keys = [1, 2].map(|byte| PrivateKey::from_bytes([byte; 32]));
    let mut ends = [0, 1].map(|own| {
        let mut end = Interface::new(NOW, unix_time, chance(own as u64));
        end.set_private_key(Some(keys[own].clone()));
        let peer = end.add_peer(keys[1 - own].public_key()).unwrap();
        end.add_allowed_ip(peer, "10.0.0.0/24".parse().unwrap()).unwrap();
        end.add_allowed_ip(peer, "fd00::/64".parse().unwrap()).unwrap();
        end.set_endpoint(peer, Some(addresses[1 - own])).unwrap();
        end.set_persistent_keepalive(NOW, peer, 25).unwrap();
        end
    });
    let mut buffer = [0; 2048];
    let _staged = ends[0].handle_packet(NOW, &packet(1), &mut buffer).unwrap();
    converse(&mut ends, addresses);
    let [mut end, mut other] = ends;
    let id = end.peer_id(&keys[1].public_key()).unwrap();
    // As many sessions as a peer can have, and each flag set.
    end.set_roaming(id, false).unwrap();
    let (of, way) = end.poll_source().unwrap();
    assert!(of == id && !end.judge_source(id, &way, true).unwrap());
    assert!(end.judge_source(id, &way, false).unwrap());
    let peer = end.peers.get_mut(id).unwrap();
    let current = peer.keypairs.current.as_mut().unwrap();
    assert!(current.replay.accept(9_000));
    let copies = [1, 2].map(|by| {
        let keys = crate::noise::SessionKeys::new(current.keys.bytes.clone());
        let mut copy =
            crate::keypair::Keypair::new(NOW, keys, current.local_index ^ by, 7, crate::keypair::Role::Responder);
        assert!(copy.replay.accept(70) && copy.replay.accept(9_000));
        copy.counter = 5;
        Box::new(copy)
    });
    let [previous, next] = copies;
    let indices = [previous.local_index, next.local_index];
    (peer.keypairs.previous, peer.keypairs.next) = (Some(previous), Some(next));
    (peer.keypairs.next_is_preferred, peer.keypairs.next_is_overtaken) = (true, true);
    peer.timers.data_received(NOW);
    peer.timers.data_received(NOW);
    peer.timers.renewed_on_receipt = true;
    peer.latest_timestamp = Some(Tai64n::from_unix(unix_time));
    peer.sent_timestamp = Some(Tai64n::from_unix(unix_time).successor());
    peer.last_initiation_received = Some(NOW);
    (peer.cookie.cookie, peer.cookie.last_mac1) = (Some(([5; 16], NOW)), Some([6; 16]));
    for index in indices {
        end.indices.insert(index, id);
    }
    // Somebody who does not answer.
    let silent = end.add_peer(PrivateKey::from_bytes([3; 32]).public_key()).unwrap();
    end.add_allowed_ip(silent, "10.0.1.0/24".parse().unwrap()).unwrap();
    end.set_endpoint(silent, Some("203.0.113.3:1".parse().unwrap())).unwrap();
    end.set_preshared_key(silent, Some(crate::key::PresharedKey::from_bytes([4; 32]))).unwrap();
    let mut to_silent = packet(1);
    to_silent[18] = 1;
    let _staged = end.handle_packet(NOW, &to_silent, &mut buffer).unwrap();
    end.drop_many(Some(id), DropReason::BadMac1, 3);
    end.set_drop_events(true);
    let checker = alloc::sync::Arc::get_mut(end.checker.as_mut().unwrap()).unwrap();
    checker.set_parts((&[8; 32], NOW));
    let third = end.add_peer(PrivateKey::from_bytes([10; 32]).public_key()).unwrap();
    end.peers.get_mut(third).unwrap().wants_initiation = true;
    end.wanted.push_back(third);
    other.want_session(LATER + Duration::from_secs(9), other.peer_id(&keys[0].public_key()).unwrap());
    other.run_handshakes(LATER + Duration::from_secs(9));
    let transmit = other.poll_transmit(LATER, &mut buffer).unwrap().unwrap();
    end.incoming.extend(Incoming::new(Path::to(addresses[1]), &buffer[transmit.range]));
    // Packets that waited for a session and have one, and an answer to a stranger.
    for len in [20, 19] {
        end.peers.get_mut(id).unwrap().staged.push(&packet(7)[..len]);
    }
    end.staged_bytes += end.peers.get(id).unwrap().staged.bytes();
    end.send_staged(id);
    end.cookie_replies.extend(Outgoing::new(None, Path::to(addresses[0]), 0, &[3; 64]));
    end
}

/// Within one version two interfaces are equal, field by field, if the bytes of their snapshots are.
#[test]
fn what_is_restored_is_what_was_taken() {
    let interface = eventful();
    let taken = interface.snapshot(NOW);
    let restored = restore(&taken).unwrap();
    assert_eq!(restored.snapshot(NOW).as_bytes(), taken.as_bytes());
    // And the bytes are not equal merely because they lack these values.
    for value in [
        [&[5; 16][..], &NOW.as_nanos().to_le_bytes()].concat(),
        [6; 16].into(),
        [8; 32].into(),
        [1; 30].into(),
        [4; 32].into(),
        b"bad_mac1".to_vec(),
        to_vec(&interface.peers.iter().next().unwrap().1.keypairs.current.as_ref().unwrap().keys.bytes[1]),
    ] {
        assert!(taken.as_bytes().windows(value.len()).any(|window| window == value), "{value:x?}");
    }
}

fn to_vec(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

#[test]
fn a_restored_interface_finds_its_peers_by_index_and_address_and_has_its_deadlines() {
    let mut interface = eventful();
    let mut restored = restore(&interface.snapshot(NOW)).unwrap();
    let indices = |interface: &Interface| {
        let mut indices: Vec<_> = interface
            .indices
            .iter()
            .map(|(&index, &id)| (index, interface.peers.get(id).unwrap().public_key))
            .collect();
        indices.sort();
        indices
    };
    assert!(interface.indices.len() >= 4);
    assert_eq!(indices(&restored), indices(&interface));
    assert_eq!(restored.poll_timeout(), interface.poll_timeout());
    assert_eq!(restored.staged_bytes, interface.staged_bytes);
    for (id, peer) in restored.peers.iter() {
        // Whoever stands in a queue is not put there again.
        assert_eq!(peer.wants_initiation, restored.wanted.contains(&id));
        assert_eq!(peer.is_ready, restored.ready.contains(&id));
    }
    assert_eq!((restored.wanted.len(), restored.ready.len()), (1, 1));
    let id = restored.route("10.0.1.7".parse().unwrap()).unwrap();
    assert_eq!(restored.peers.get(id).unwrap().public_key, PrivateKey::from_bytes([3; 32]).public_key());
}

#[test]
fn under_narrower_bounds_no_more_waits_than_they_allow_and_the_rest_is_counted() {
    let mut interface = eventful();
    let incoming = Incoming::new(Path::to("192.0.2.9:1".parse().unwrap()), &[1; 148]).unwrap();
    interface.incoming.push_back(incoming);
    let (first, key) = interface.peers.iter().next().map(|(id, peer)| (id, peer.public_key)).unwrap();
    assert_eq!(interface.peers.get(first).unwrap().staged.bytes(), 20 + 19 + 2 * 64);
    for _ in 0..3 {
        interface.send(Outgoing::new(Some(first), Path::to("192.0.2.9:1".parse().unwrap()), 0, &[4; 32]));
        interface.cookie_replies.extend(Outgoing::new(None, Path::to("192.0.2.9:1".parse().unwrap()), 0, &[3; 64]));
    }
    let (outgoing, replies) = (interface.outgoing.len(), interface.cookie_replies.len());
    // Room for the shorter and younger of the two packets.
    let narrow = Bounds { staged_bytes_per_peer: 90, outgoing: 2, handshake_queue: 1, ..Bounds::default() };
    let taken = Snapshot(interface.snapshot(NOW).0.clone());
    let restored = Interface::restore(taken, LATER, Duration::ZERO, chance(9), narrow).unwrap();
    let staged = |interface: &Interface| {
        let peer = interface.peers.get(interface.peer_id(&key).unwrap()).unwrap();
        peer.staged.iter().map(<[u8]>::len).collect::<Vec<_>>()
    };
    assert_eq!((staged(&interface), staged(&restored)), (alloc::vec![20, 19], alloc::vec![19]));
    // The other peer's packet, of 20 bytes, waits too.
    assert_eq!(restored.staged_bytes, 2 * 64 + 19 + 20);
    assert_eq!((restored.incoming.len(), restored.outgoing.len(), restored.cookie_replies.len()), (1, 2, 2));
    let lost = |reason| restored.drops().get(reason) - interface.drops().get(reason);
    assert_eq!((lost(DropReason::StagedOverflow), lost(DropReason::HandshakeQueueFull)), (1, 1));
    assert_eq!(lost(DropReason::ReplyQueueFull), (outgoing - 2 + replies - 2) as u64);
}

#[test]
fn every_cut_and_every_altered_byte_is_refused() {
    let taken = eventful().snapshot(NOW);
    for len in 0..taken.as_bytes().len() {
        assert!(Snapshot::from_bytes(Zeroizing::new(taken.as_bytes()[..len].to_vec())).is_err(), "cut at {len}");
    }
    for place in 0..taken.as_bytes().len() {
        let mut bytes = Zeroizing::new(taken.as_bytes().to_vec());
        bytes[place] ^= 0x10;
        assert!(Snapshot::from_bytes(bytes).is_err(), "altered at {place}");
    }
}

/// A snapshot of an empty interface with more fields in it.
fn with_fields(write: impl FnOnce(&mut Writer)) -> Snapshot {
    let mut out = Writer::default();
    out.put(MAGIC);
    out.put(&VERSION.to_le_bytes());
    write(&mut out);
    Snapshot::finish(out)
}

#[test]
fn an_unknown_field_is_passed_over_unless_it_must_be_understood() {
    let key = [7; 32];
    let newer = |unknown: u16| {
        with_fields(|out| {
            out.bytes(unknown, b"news");
            out.field(tag::PEER, |value| {
                value.bytes(unknown, b"news");
                value.bytes(1, &key);
            });
        })
    };
    let restored = restore(&newer(0x0777)).unwrap();
    assert!(restored.peer_id(&PublicKey::from_bytes(key)).is_some());
    let refused = restore(&newer(CRITICAL | 0x0777)).err();
    assert_eq!(refused, Some(SnapshotError::UnknownField { tag: 0x8777 }));
}

#[test]
fn a_peer_without_a_key_and_a_packet_longer_than_any_are_refused() {
    let of_peer = |write: fn(&mut Writer)| restore(&with_fields(|out| out.field(tag::PEER, write))).err();
    let no_key = Some(SnapshotError::Malformed("a peer without a key"));
    assert_eq!(of_peer(|_| {}), no_key);
    assert_eq!(of_peer(|value| value.put(&[1, 0, 32])), no_key, "a field that ends early");
    let staged = |len| {
        let write = |out: &mut Writer| {
            out.field(tag::PEER, |value| {
                value.bytes(1, &[7; 32]);
                value.bytes(21, &alloc::vec![0x45; len]);
            });
        };
        restore(&with_fields(write)).err()
    };
    assert_eq!(staged(crate::limits::MAX_PACKET_LEN), None);
    assert_eq!(staged(crate::limits::MAX_PACKET_LEN + 1), Some(SnapshotError::Malformed("a packet too long")));
}

/// A vector that grows by itself does not wipe the memory that it leaves.
#[test]
fn a_writer_grows_before_its_vector_has_to() {
    let mut out = Writer::default();
    out.put(&[1; 100]);
    let capacity = out.into_bytes().capacity();
    assert!(capacity >= 4_096, "{capacity}");
}

#[test]
fn a_version_that_is_not_known_is_refused_by_its_number() {
    let mut bytes = Zeroizing::new(with_fields(|_| {}).as_bytes().to_vec());
    bytes[MAGIC.len()] = 2;
    assert_eq!(Snapshot::from_bytes(bytes).err(), Some(SnapshotError::Version { found: 2 }));
    let other = Zeroizing::new(b"something else".to_vec());
    assert_eq!(Snapshot::from_bytes(other).err(), Some(SnapshotError::NotASnapshot));
}

#[test]
fn a_snapshot_from_the_future_is_of_another_clock() {
    let taken = eventful().snapshot(LATER + Duration::from_nanos(1));
    assert_eq!(restore(&taken).err(), Some(SnapshotError::ClockBehind));
}

#[test]
fn a_shorter_window_lets_nothing_in_of_which_it_does_not_tell() {
    let mut window = crate::ReplayWindow::new();
    assert!(window.accept(1_000));
    let (next, words) = window.parts();
    let words: Vec<_> = words.take(2).collect();
    let shorter = crate::ReplayWindow::from_parts(next, words);
    // 1000 lies in word 15: what words 14 and 15 tell is known, what stood before is not.
    assert!(shorter.check(1_001) && shorter.check(900) && !shorter.check(1_000));
    assert!(!shorter.check(895) && !shorter.check(0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whoever can write a snapshot can do anything anyway; but an error must not become a crash.
    #[test]
    fn what_makes_no_sense_does_not_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let taken = eventful().snapshot(NOW);
        let mut body = taken.as_bytes()[..taken.as_bytes().len() - HASH_LEN].to_vec();
        for (place, byte) in changes {
            let place = HEADER_LEN + place.index(body.len() - HEADER_LEN);
            body[place] = byte;
        }
        if let Some(cut) = cut {
            body.truncate(HEADER_LEN + cut.index(body.len() - HEADER_LEN));
        }
        let mut out = Writer::default();
        out.put(&body);
        let snapshot = Snapshot::from_bytes(Snapshot::finish(out).0).unwrap();
        if let Ok(mut interface) = restore(&snapshot) {
            let mut buffer = alloc::vec![0; 65_536];
            for seconds in [0, 1, 20, 600] {
                let now = LATER + Duration::from_secs(seconds);
                for to in 0..3 {
                    let _sent = interface.handle_packet(now, &packet(to), &mut buffer);
                }
                interface.handle_timeout(now);
                while let Ok(Some(_)) = interface.poll_transmit(now, &mut buffer) {}
                let _again = interface.snapshot(now);
                let _states = interface.peers(now).count();
            }
        }
    }
}
