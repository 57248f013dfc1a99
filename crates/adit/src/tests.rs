//! What only shows after more messages than a test can send: the counters are set from inside.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::key::{PrivateKey, PublicKey};
use crate::keypair::Keypair;
use crate::{Bounds, DropReason, Ecn, Event, Instant, Interface, Packets, Path, PeerId};

mod indices;

/// 2^60 and 2^64 − 2^13 − 1, from the paper.
const REKEY_AFTER_MESSAGES: u64 = 1_152_921_504_606_846_976;
const REJECT_AFTER_MESSAGES: u64 = 18_446_744_073_709_543_423;

const START: Instant = Instant::from_nanos(1_000_000_000_000);

/// Two interfaces with a session, of which the first is the initiator.
struct Pair {
    now: Instant,
    ends: [Interface; 2],
    peers: [PeerId; 2],
    /// By sender: the type of each message, and its counter if it has one.
    sent: Vec<(usize, u8, Option<u64>)>,
    arrived: [usize; 2],
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self::strangers();
        pair.send(0);
        pair.send(1);
        assert_eq!(pair.arrived, [1, 1]);
        // Far enough from the handshake for another one to be allowed.
        pair.now += Duration::from_secs(6);
        pair.sent.clear();
        pair
    }

    /// Without a session as yet.
    fn strangers() -> Self {
        let keys = [[1; 32], [2; 32]].map(PrivateKey::from_bytes);
        let mut ends = [0, 1].map(|own| {
            let rng = Box::new(ChaCha8Rng::seed_from_u64(own));
            let mut end = Interface::new(START, Duration::from_secs(1_700_000_000), rng);
            end.set_private_key(Some(keys[own as usize].clone()));
            end
        });
        let peers = [0, 1].map(|own| {
            let end = &mut ends[own];
            let peer = end.add_peer(keys[1 - own].public_key()).unwrap();
            end.add_allowed_ip(peer, "10.0.0.0/8".parse().unwrap()).unwrap();
            end.set_endpoint(peer, Some(path(1 - own).remote)).unwrap();
            peer
        });
        Self { now: START, ends, peers, sent: Vec::new(), arrived: [0; 2] }
    }

    fn keypair(&mut self, end: usize) -> &mut Keypair {
        let peer = self.ends[end].peers.get_mut(self.peers[end]).unwrap();
        peer.keypairs.current.as_mut().unwrap()
    }

    /// Sends a packet and carries all that comes of it.
    fn send(&mut self, from: usize) {
        let mut buffer = vec![0; 2_048];
        if let Some(transmit) = self.ends[from].handle_packet(self.now, &packet(), &mut buffer).unwrap() {
            self.deliver(from, &mut buffer[transmit.range]);
        }
        self.carry();
    }

    fn carry(&mut self) {
        let mut buffer = vec![0; 2_048];
        let mut carried = true;
        while carried {
            carried = false;
            for from in [0, 1] {
                while let Some(transmit) = self.ends[from].poll_transmit(self.now, &mut buffer).unwrap() {
                    carried = true;
                    for datagram in buffer[transmit.range].chunks_mut(transmit.segment_size) {
                        self.deliver(from, datagram);
                    }
                }
            }
        }
    }

    /// Loses whatever one end has to send.
    fn discard(&mut self, from: usize) {
        let mut buffer = vec![0; 2_048];
        while self.ends[from].poll_transmit(self.now, &mut buffer).unwrap().is_some() {}
    }

    /// Sends a packet from one end; it is lost, and so is all that comes of it.
    fn send_in_vain(&mut self, from: usize) {
        self.ends[from].handle_packet(self.now, &packet(), &mut [0; 64]).unwrap();
        self.discard(from);
    }

    /// Lets time pass for one end, whose datagrams are all lost, until it has nothing more to do; returns its events.
    fn let_time_pass(&mut self, end: usize) -> Vec<Event> {
        while let Some(next) = self.ends[end].poll_timeout() {
            self.now = next;
            self.ends[end].handle_timeout(next);
            self.discard(end);
        }
        core::iter::from_fn(|| self.ends[end].poll_event()).collect()
    }

    fn deliver(&mut self, from: usize, datagram: &mut [u8]) {
        let counter = (datagram[0] == 4).then(|| u64::from_le_bytes(datagram[8..16].try_into().unwrap()));
        self.sent.push((from, datagram[0], counter));
        let arrived = self.ends[1 - from].handle_datagram(self.now, &path(from), Ecn::NotEct, datagram);
        self.arrived[1 - from] += usize::from(arrived.is_some());
    }

    fn initiations(&self, from: usize) -> usize {
        self.sent.iter().filter(|(end, message_type, _)| (*end, *message_type) == (from, 1)).count()
    }

    /// The counters of what one end has sent.
    fn counters(&self, from: usize) -> Vec<u64> {
        self.sent.iter().filter(|sent| sent.0 == from).filter_map(|sent| sent.2).collect()
    }
}

fn path(of: usize) -> Path {
    Path::to(core::net::SocketAddr::from(([192, 0, 2, of as u8], 51820)))
}

fn packet() -> [u8; 20] {
    let mut packet = [0; 20];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 20]);
    packet[12..].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

#[test]
fn a_new_session_is_asked_for_after_2_to_the_60_messages_by_either_end() {
    for end in [0, 1] {
        let mut pair = Pair::new();
        pair.keypair(end).counter = REKEY_AFTER_MESSAGES - 1;
        pair.send(end);
        assert_eq!(pair.initiations(end), 0, "end {end} has sent 2^60 messages");
        pair.send(end);
        assert_eq!(pair.initiations(end), 1, "end {end} has sent one more");
        assert_eq!(pair.keypair(end).counter, 1, "the session is a new one");
        assert_eq!(pair.counters(end), [REKEY_AFTER_MESSAGES - 1, REKEY_AFTER_MESSAGES, 0]);
        assert_eq!(pair.arrived[1 - end], 3);
    }
}

#[test]
fn a_key_is_used_for_the_last_counter_below_the_limit_and_no_further() {
    let mut pair = Pair::new();
    pair.keypair(0).counter = REJECT_AFTER_MESSAGES - 1;
    // No other session comes about: the initiations go nowhere.
    let b = pair.peers[0];
    let mut buffer = vec![0; 2_048];
    let now = pair.now;
    let last = pair.ends[0].handle_packet(now, &packet(), &mut buffer).unwrap().expect("the last one");
    assert_eq!(buffer[8..16], (REJECT_AFTER_MESSAGES - 1).to_le_bytes());
    pair.deliver(0, &mut buffer[last.range]);
    assert_eq!(pair.arrived[1], 2, "the other end lets it in");
    assert!(!pair.ends[0].peer(now, b).unwrap().has_session);
    for _ in 0..3 {
        assert_eq!(pair.ends[0].handle_packet(now, &packet(), &mut buffer), Ok(None), "it waits");
    }
    // Once there is a new session what waited goes.
    pair.carry();
    assert_eq!(pair.counters(0), [REJECT_AFTER_MESSAGES - 1, 0, 1, 2]);
    assert_eq!(pair.arrived[1], 5);
}

#[test]
fn a_burst_that_crosses_the_limit_is_cut_there_and_the_rest_waits_in_order() {
    let mut pair = Pair::new();
    pair.keypair(0).counter = REJECT_AFTER_MESSAGES - 2;
    let mut buffer = vec![0; 64 * 5];
    let mut burst = Packets::new(0);
    for number in 0..5 {
        buffer[number * 64 + 16..number * 64 + 36].copy_from_slice(&packet());
        assert_eq!(burst.push(number * 64, 20), Some(number * 64 + 64));
    }
    let sealed = pair.ends[0].begin_seal(pair.now, burst, &buffer).seal(&mut buffer);
    let transmits: Vec<_> = sealed.transmits().collect();
    assert_eq!(transmits.len(), 1);
    assert_eq!((transmits[0].range.clone(), transmits[0].segment_size), (0..128, 64));
    assert!(pair.ends[0].has_handshakes());
    pair.ends[0].run_handshakes(pair.now);
    pair.carry();
    assert_eq!(pair.counters(0), [0, 1, 2], "in the new session");
    assert_eq!(pair.arrived[1], 4);
}

#[test]
fn a_message_with_a_counter_beyond_the_limit_is_refused_though_it_is_authentic() {
    let mut pair = Pair::new();
    let keys = pair.keypair(0).keys.clone();
    let remote_index = pair.keypair(0).remote_index;
    for (counter, arrived) in [(REJECT_AFTER_MESSAGES, 1), (REJECT_AFTER_MESSAGES - 1, 2)] {
        let mut datagram = vec![0; 64];
        let header = crate::message::Transport { receiver_index: remote_index, counter };
        datagram[..16].copy_from_slice(&header.to_bytes());
        datagram[16..36].copy_from_slice(&packet());
        adit_aead::seal(&mut [adit_aead::Packet::new(&keys.sending, counter, &mut datagram[16..]).unwrap()]);
        pair.deliver(0, &mut datagram);
        assert_eq!(pair.arrived[1], arrived, "{counter}");
    }
    assert_eq!(pair.ends[1].drops().get(DropReason::SessionExpired), 1);
}

#[test]
fn a_keepalive_spends_no_counter_beyond_the_limit() {
    let mut pair = Pair::new();
    pair.keypair(0).counter = REJECT_AFTER_MESSAGES;
    let (now, peer) = (pair.now, pair.peers[0]);
    pair.ends[0].set_persistent_keepalive(now, peer, 10).unwrap();
    pair.ends[0].handle_timeout(now);
    pair.carry();
    assert_eq!(pair.initiations(0), 1);
    assert_eq!(pair.counters(0), [0], "in a new session");
}

#[test]
fn counters_have_64_bits_whatever_the_machine_has() {
    let mut pair = Pair::new();
    pair.keypair(0).counter = (1 << 32) - 2;
    for _ in 0..4 {
        pair.send(0);
    }
    assert_eq!(pair.counters(0), [0xffff_fffe, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001]);
    assert_eq!(pair.arrived[1], 5);
    let at_the_end = crate::ReplayWindow::new().accept(REJECT_AFTER_MESSAGES - 1);
    assert!(at_the_end);
}

#[test]
fn an_interface_may_be_shared_by_threads_and_tasks() {
    fn assert<T: Send + Sync>(_: &T) {}
    assert(&Pair::strangers().ends[0]);
}

#[test]
fn what_is_remembered_of_strangers_is_bounded_whatever_is_asked_for() {
    let bounds = Bounds { rate_limited_sources: usize::MAX, ..Bounds::default() };
    let mut end = Interface::with_bounds(START, Duration::ZERO, Box::new(ChaCha8Rng::seed_from_u64(1)), bounds);
    assert!(end.limiter.allow(START, [192, 0, 2, 1].into()));
    end.crowd.note(START, [192, 0, 2, 1].into());
    assert_eq!(end.bounds.rate_limited_sources, 1 << 20);
}

#[test]
fn adding_a_peer_does_no_diffie_hellman() {
    let mut interface = Interface::new(START, Duration::ZERO, Box::new(ChaCha8Rng::seed_from_u64(1)));
    interface.set_private_key(Some(PrivateKey::from_bytes([1; 32])));
    for number in 0..100_000_u32 {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        let peer = interface.add_peer(PublicKey::from_bytes(key)).unwrap();
        interface.set_endpoint(peer, Some(path(1).remote)).unwrap();
    }
    // Nothing is computed, and nothing waits to be.
    assert!(interface.peers.iter().all(|(_, peer)| peer.static_static.is_none()));
    assert!(!interface.has_handshakes());
    // Nor when the private key changes.
    interface.set_private_key(Some(PrivateKey::from_bytes([2; 32])));
    assert!(interface.peers.iter().all(|(_, peer)| peer.static_static.is_none()));
}

#[test]
fn the_static_secret_is_computed_once_and_kept() {
    let mut pair = Pair::new();
    let secret = |pair: &Pair, end: usize| pair.ends[end].peers.get(pair.peers[end]).unwrap().static_static.clone();
    let before = [0, 1].map(|end| secret(&pair, end).expect("kept since the first handshake"));
    pair.now += Duration::from_secs(121);
    pair.send(0);
    assert_eq!(pair.initiations(0), 1);
    for end in [0, 1] {
        assert!(alloc::sync::Arc::ptr_eq(&before[end], &secret(&pair, end).unwrap()));
    }
}

#[test]
fn erasing_key_material_leaves_no_secret_but_the_configured_ones() {
    let mut pair = Pair::new();
    let end_of_all = pair.now + Duration::from_secs(600);
    while let Some(next) = pair.ends.iter_mut().filter_map(Interface::poll_timeout).min() {
        assert!(next < end_of_all);
        pair.now = next;
        pair.ends.iter_mut().for_each(|end| end.handle_timeout(next));
        pair.carry();
    }
    for (end, peer) in pair.ends.iter().zip(pair.peers) {
        let peer = end.peers.get(peer).unwrap();
        assert!(peer.keypairs.current.is_none() && peer.keypairs.previous.is_none() && peer.keypairs.next.is_none());
        assert!(peer.static_static.is_none() && peer.handshake.is_none());
    }
    let responder = pair.ends[1].peers.get(pair.peers[1]).unwrap();
    assert!(responder.latest_timestamp.is_some(), "what refuses replays stays");
}

#[test]
fn a_handshake_that_was_given_up_leaves_no_secret_for_longer_than_540_s() {
    let mut pair = Pair::strangers();
    pair.send_in_vain(0);
    let peer = pair.peers[0];
    let gave_up = loop {
        pair.now = pair.ends[0].poll_timeout().unwrap();
        pair.ends[0].handle_timeout(pair.now);
        pair.discard(0);
        if pair.ends[0].poll_event() == Some(Event::HandshakeGaveUp { peer }) {
            break pair.now;
        }
    };
    let is_erased = |pair: &Pair| {
        let peer = pair.ends[0].peers.get(pair.peers[0]).unwrap();
        peer.static_static.is_none() && peer.handshake.is_none()
    };
    assert!(!is_erased(&pair), "the peer may be tried again");
    assert_eq!(pair.let_time_pass(0), [Event::SessionExpired { peer }]);
    assert_eq!(pair.now, gave_up + Duration::from_secs(540));
    assert!(is_erased(&pair));
}

#[test]
fn a_handshake_whose_endpoint_is_taken_away_ends_with_its_timer_and_begins_anew_with_another() {
    let mut pair = Pair::strangers();
    let b = pair.peers[0];
    pair.send_in_vain(0);
    assert!(pair.ends[0].peers.get_mut(b).unwrap().handshake.is_some());
    pair.ends[0].set_endpoint(b, None).unwrap();
    let events = pair.let_time_pass(0);
    assert!(events.contains(&Event::HandshakeGaveUp { peer: b }), "{events:?}");
    let peer = pair.ends[0].peers.get_mut(b).unwrap();
    assert!(peer.handshake.is_none() && peer.staged.is_empty() && !peer.wants_initiation);

    pair.ends[0].set_endpoint(b, Some(path(1).remote)).unwrap();
    pair.send(0);
    assert_eq!(pair.arrived[1], 1);
}

#[test]
fn a_handshake_whose_endpoint_is_taken_away_just_before_it_is_begun_again_ends() {
    let mut pair = Pair::strangers();
    let b = pair.peers[0];
    pair.send_in_vain(0);
    pair.now += Duration::from_secs(6);
    pair.ends[0].expire(pair.now);
    pair.ends[0].set_endpoint(b, None).unwrap();
    assert!(pair.ends[0].poll_handshake(pair.now).is_none());
    let events: Vec<Event> = core::iter::from_fn(|| pair.ends[0].poll_event()).collect();
    assert!(events.contains(&Event::HandshakeGaveUp { peer: b }), "{events:?}");
    let peer = pair.ends[0].peers.get_mut(b).unwrap();
    assert!(peer.handshake.is_none() && peer.staged.is_empty());
    assert_eq!(pair.ends[0].poll_timeout(), Some(pair.now + Duration::from_secs(540)), "secrets are erased");
}

#[test]
fn data_that_finds_no_echo_asks_for_no_session_where_there_is_no_endpoint_any_more() {
    let mut pair = Pair::new();
    while pair.ends[0].poll_event().is_some() {}
    pair.send_in_vain(0);
    pair.ends[0].set_endpoint(pair.peers[0], None).unwrap();
    assert_eq!(pair.let_time_pass(0), [Event::SessionExpired { peer: pair.peers[0] }], "nothing was tried");
}

#[test]
fn a_session_that_nobody_confirms_is_erased_540_s_after_it_was_made() {
    let mut pair = Pair::strangers();
    let mut buffer = [0; 148];
    pair.ends[0].handle_packet(pair.now, &packet(), &mut buffer).unwrap();
    pair.ends[0].poll_transmit(pair.now, &mut buffer).unwrap().expect("an initiation");
    pair.deliver(0, &mut buffer);
    pair.discard(1);
    let made = pair.now;
    assert_eq!(pair.let_time_pass(1), [Event::SessionExpired { peer: pair.peers[1] }]);
    assert_eq!(pair.now, made + Duration::from_secs(540));
}

#[test]
fn a_packet_is_kept_when_old_keys_are_erased_just_before_its_session_is_asked_for_again() {
    let mut pair = Pair::new();
    let erased = pair.ends[0].peers.get(pair.peers[0]).unwrap().timers.deadlines[3].expect("keys are erased");
    // More than five seconds before, and less than the jitter more.
    pair.now = Instant::from_nanos(erased.as_nanos() - 5_000_100_000);
    pair.send_in_vain(0);
    pair.now = erased;
    pair.ends[0].handle_timeout(erased);
    assert_eq!(pair.ends[0].drops().get(DropReason::HandshakeGaveUp), 0);
    pair.now += Duration::from_secs(1);
    pair.ends[0].handle_timeout(pair.now);
    pair.carry();
    assert_eq!(pair.arrived[1], 2);
}

#[test]
fn a_peer_that_comes_takes_the_place_of_one_that_went_and_the_old_handle_is_nobodys() {
    let Pair { ends: [mut end, _], peers: [mut old, _], .. } = Pair::strangers();
    for number in 3..10 {
        assert!(end.remove_peer(old));
        let new = end.add_peer(PrivateKey::from_bytes([number; 32]).public_key()).unwrap();
        assert_eq!(new.slot, old.slot, "removed peers take no memory");
        assert!(!end.remove_peer(old));
        assert_eq!(end.peer_count(), 1);
        assert!(end.peer(START, new).is_some());
        old = new;
    }
}

#[test]
fn what_is_to_be_judged_does_not_grow_while_peers_come_and_go_and_nobody_asks_for_it() {
    let Pair { ends: [mut end, _], .. } = Pair::strangers();
    let key = PrivateKey::from_bytes([3; 32]).public_key();
    for number in 0..10 {
        let id = end.add_peer(key).unwrap();
        for local in [number, 100] {
            end.roam(id, &Path { local: Some([192, 0, 2, local].into()), ..path(1) });
        }
        assert_eq!(end.unjudged, [id]);
        end.remove_peer(id);
        assert!(end.unjudged.is_empty());
    }
}
