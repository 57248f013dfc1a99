//! An interface that goes on in another process: the wire does not show it, and no counter is used
//! twice, whichever of the two processes dies, and when.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit::{Bounds, DropReason, Instant, Interface, PrivateKey, Snapshot};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{SeedableRng, TryCryptoRng, TryRng};
use zeroize::Zeroizing;

use crate::first_sources::move_to_ipv6;
use crate::sim::{A, B, C, Kind, RTT, Sim, UNIX_START, millis, secs};

/// A random generator that outlives the interface it was given to.
#[derive(Clone)]
struct Chance(Arc<Mutex<ChaCha8Rng>>);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))))
    }
}

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.0.lock().unwrap().try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0.lock().unwrap().try_next_u64()
    }

    fn try_fill_bytes(&mut self, place: &mut [u8]) -> Result<(), Infallible> {
        self.0.lock().unwrap().try_fill_bytes(place)
    }
}

impl TryCryptoRng for Chance {}

/// What another process makes of a snapshot, with the bytes as they come out of its socket.
fn restore(snapshot: &Snapshot, now: Instant, chance: &Chance, bounds: Bounds) -> Interface {
    let snapshot = Snapshot::from_bytes(Zeroizing::new(snapshot.as_bytes().to_vec())).unwrap();
    let unix_time = UNIX_START + Duration::from_nanos(now.as_nanos() - crate::sim::START.as_nanos());
    // A new interface draws its own seeds; everything after that is to be as if it had not.
    let before = chance.0.lock().unwrap().clone();
    let restored = Interface::restore(snapshot, now, unix_time, Box::new(chance.clone()), bounds).unwrap();
    *chance.0.lock().unwrap() = before;
    restored
}

/// `count` nodes that know each other, and the random generator of each.
fn group(seed: u64, count: usize, bounds: Bounds) -> (Sim, Vec<Chance>) {
    let mut sim = Sim::new(seed);
    let mut chances = Vec::new();
    for number in 0..count {
        sim.add_node(bounds);
        let chance = Chance::new(seed.wrapping_mul(31) + number as u64);
        let mut interface = Interface::with_bounds(sim.now, UNIX_START, Box::new(chance.clone()), bounds);
        interface.set_private_key(Some(sim[number].private_key.clone()));
        interface.set_mtu(1420);
        sim[number].interface = interface;
        chances.push(chance);
    }
    for one in 0..count {
        for other in (0..count).filter(|&other| other != one) {
            sim.introduce(one, other);
        }
    }
    (sim, chances)
}

fn reload(sim: &mut Sim, node: usize, chances: &[Chance], bounds: Bounds) {
    let snapshot = sim[node].interface.snapshot(sim.now);
    let (now, restored) = (sim.now, restore(&snapshot, sim.now, &chances[node], bounds));
    sim[node].replace(now, restored);
}

#[test]
fn a_session_goes_on_both_ways_without_a_handshake() {
    let (mut sim, chances) = group(1, 2, Bounds::default());
    sim.connect(A, B);
    let before = (sim.peer(A, B).tx_bytes, sim.peer(A, B).rx_bytes, sim.peer(A, B).last_handshake);
    for node in [A, B, A, A] {
        reload(&mut sim, node, &chances, Bounds::default());
        let (there, back) = (sim.send(A, B), sim.send(B, A));
        sim.run_for(RTT);
        assert!(sim[B].has_arrived(&there) && sim[A].has_arrived(&back));
    }
    assert_eq!((sim.count(A, Kind::Initiation), sim.count(B, Kind::Initiation)), (1, 0));
    let after = sim.peer(A, B);
    assert!(after.tx_bytes > before.0 && after.rx_bytes > before.1 && after.last_handshake == before.2);
}

#[test]
fn a_response_finds_the_initiator_in_its_next_process_and_nothing_that_waited_is_lost() {
    let (mut sim, chances) = group(2, 2, Bounds::default());
    let packets = sim.send_many(A, B, 5);
    sim.run_for(RTT / 4);
    reload(&mut sim, A, &chances, Bounds::default());
    sim.run_for(RTT * 2);
    assert!(packets.iter().all(|packet| sim[B].has_arrived(packet)));
    assert_eq!(sim.count(A, Kind::Initiation), 1);
}

/// Each peer has room for 2 KiB whatever waits for others, so that more may wait than the bound for all says.
#[test]
fn nothing_that_waits_is_lost_though_together_it_is_more_than_the_bound_for_all_peers() {
    let mut bounds = Bounds::default();
    (bounds.staged_bytes_per_peer, bounds.staged_bytes) = (4 << 10, 4 << 10);
    let (mut sim, chances) = group(7, 3, bounds);
    let mut packets: Vec<_> = sim.send_many(A, C, 42).into_iter().map(|packet| (C, packet)).collect();
    packets.extend(sim.send_many(A, B, 21).into_iter().map(|packet| (B, packet)));
    assert_eq!(sim.drops(A, DropReason::StagedOverflow), 0);
    reload(&mut sim, A, &chances, bounds);
    assert_eq!(sim.drops(A, DropReason::StagedOverflow), 0);
    sim.run_for(RTT * 2);
    assert!(packets.iter().all(|(to, packet)| sim[*to].has_arrived(packet)));
}

#[test]
fn what_was_received_before_is_a_replay_after() {
    let (mut sim, chances) = group(3, 2, Bounds::default());
    sim.connect(A, B);
    sim.send_many(A, B, 70);
    sim.run_for(RTT);
    let (sent, arrived) = (sim.sent(A, Kind::Data), sim[B].arrived.len());
    reload(&mut sim, B, &chances, Bounds::default());
    for datagram in sent.iter().chain(&sim.sent(A, Kind::Initiation)) {
        assert_eq!(sim.replay(B, datagram), None);
    }
    assert_eq!(sim[B].arrived.len(), arrived);
    assert_eq!(sim.count(B, Kind::Response), 1, "a recorded initiation is not answered again");
}

#[test]
fn a_source_that_was_rejected_is_so_in_the_next_process_and_judged_anew_there() {
    let (mut sim, chances) = group(8, 2, Bounds::default());
    sim.connect(A, B);
    let (a, path) = sim[B].interface.poll_source().unwrap();
    assert_eq!(sim[B].interface.judge_source(a, &path, false), Ok(true));
    assert_eq!(sim[B].interface.poll_source(), None);
    reload(&mut sim, B, &chances, Bounds::default());
    sim.send(B, A);
    assert_eq!(sim.last_sent(B, Kind::Data).path, adit::Path::to(path.remote));
    assert_eq!(sim[B].interface.poll_source(), Some((sim.id(B, A), path)), "routes may have changed meanwhile");
}

#[test]
fn the_next_process_knows_whether_a_source_over_ipv6_was_good() {
    let (mut sim, chances) = group(8, 2, Bounds::default());
    move_to_ipv6(&mut sim);
    sim.connect(A, B);
    let path = sim[B].interface.paths().next().unwrap().1;
    for is_good in [false, true] {
        reload(&mut sim, B, &chances, Bounds::default());
        let a = sim.id(B, A);
        assert_eq!(sim[B].interface.judge_source(a, &path, is_good), Ok(false), "it is used as before");
    }
    reload(&mut sim, B, &chances, Bounds::default());
    let a = sim.id(B, A);
    assert_eq!(sim[B].interface.judge_source(a, &path, false), Ok(true));
}

#[test]
fn a_session_made_with_another_private_key_receives_and_does_not_send_in_the_next_process_either() {
    let (mut sim, chances) = group(5, 2, Bounds::default());
    sim.connect(A, B);
    sim.network.cut(B, A);
    let packet = sim.send(B, A);
    let held = sim.last_sent(B, Kind::Data);
    sim[A].interface.set_private_key(Some(PrivateKey::from_bytes([77; 32])));
    reload(&mut sim, A, &chances, Bounds::default());
    assert_eq!((sim.replay(A, &held), sim.peer(A, B).has_session), (Some(packet), false));
}

#[test]
fn timestamps_grow_though_the_next_process_has_the_right_time_and_this_one_had_a_later_one() {
    let (mut sim, chances) = group(6, 3, Bounds::default());
    let now = sim.now;
    sim[A].interface.set_unix_time(now, UNIX_START + secs(10 * 365 * 86_400));
    sim.connect(A, B);
    reload(&mut sim, A, &chances, Bounds::default());
    sim.connect(A, C);
    sim.run_for(secs(200));
    sim.connect(A, B);
    assert_eq!((sim.count(B, Kind::Response), sim.drops(B, DropReason::ReplayedInitiation)), (2, 0));
}

#[derive(Clone, Debug)]
enum Op {
    Send { from: usize, to: usize, count: usize },
    Run(Duration),
    Weather { loss: u64, duplication: u64, spread: Duration },
    Cut { from: usize, to: usize },
    Move(u8),
    Heal,
    Keepalive { node: usize, other: usize, seconds: u16 },
}

fn op() -> impl Strategy<Value = Op> {
    let pair = || prop_oneof![Just((A, B)), Just((B, A)), Just((A, C)), Just((C, B))];
    // Short enough to stop in the midst of a handshake; long enough for a session to grow old.
    let run = prop_oneof![6 => 1_u64..60, 2 => 60_u64..12_000, 1 => 12_000_u64..200_000].prop_map(millis);
    let spread = (0_u64..100).prop_map(millis);
    prop_oneof![
        8 => (pair(), 1_usize..8).prop_map(|((from, to), count)| Op::Send { from, to, count }),
        8 => run.prop_map(Op::Run),
        1 => (0_u64..400, 0_u64..300, spread)
            .prop_map(|(loss, duplication, spread)| Op::Weather { loss, duplication, spread }),
        1 => pair().prop_map(|(from, to)| Op::Cut { from, to }),
        1 => any::<u8>().prop_map(Op::Move),
        1 => Just(Op::Heal),
        1 => (pair(), 0_u16..30).prop_map(|((node, other), seconds)| Op::Keepalive { node, other, seconds }),
    ]
}

fn carry_out(sim: &mut Sim, op: &Op) {
    match *op {
        Op::Send { from, to, count } => {
            sim.send_many(from, to, count);
        }
        Op::Run(time) => sim.run_for(time),
        Op::Weather { loss, duplication, spread } => {
            (sim.network.loss, sim.network.duplication, sim.network.spread) = (loss, duplication, spread);
        }
        Op::Cut { from, to } => sim.network.cut(from, to),
        Op::Move(host) => sim[A].address.set_port(1_000 + u16::from(host)),
        Op::Heal => sim.network.heal(),
        Op::Keepalive { node, other, seconds } => {
            let (now, peer) = (sim.now, sim.id(node, other));
            sim[node].interface.set_persistent_keepalive(now, peer, seconds).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_run_with_reloads_at_any_moment_is_byte_for_byte_the_run_without(
        seed in any::<u64>(),
        under_load in any::<bool>(),
        steps in prop::collection::vec((op(), prop::option::of(0_usize..3)), 1..50),
    ) {
        let mut bounds = Bounds::default();
        if under_load {
            // Under load all the time, so that cookies are made, kept and checked.
            bounds.handshakes_per_second = 0;
        }
        let (mut plain, _) = group(seed, 3, bounds);
        let (mut reloaded, chances) = group(seed, 3, bounds);
        for (op, node) in &steps {
            carry_out(&mut plain, op);
            carry_out(&mut reloaded, op);
            if let Some(node) = *node {
                reload(&mut reloaded, node, &chances, bounds);
            }
        }
        for sim in [&mut plain, &mut reloaded] {
            sim.run_for(secs(30));
        }
        prop_assert_eq!(plain.wire.len(), reloaded.wire.len());
        for (one, other) in plain.wire.iter().zip(&reloaded.wire) {
            prop_assert_eq!((one.at, one.from, one.path, one.tos), (other.at, other.from, other.path, other.tos));
            prop_assert_eq!(&one.bytes, &other.bytes);
        }
        for node in [A, B, C] {
            prop_assert_eq!(arrived(&plain, node), arrived(&reloaded, node));
            prop_assert!(plain[node].interface.drops() == reloaded[node].interface.drops());
        }
    }
}

/// What has arrived at a node, when, and from which other.
fn arrived(sim: &Sim, node: usize) -> Vec<(Instant, usize, Vec<u8>)> {
    let from = |id| [A, B, C].into_iter().find(|&other| other != node && sim.id(node, other) == id).unwrap();
    sim[node].arrived.iter().map(|arrived| (arrived.at, from(arrived.from), arrived.packet.clone())).collect()
}

/// The steps of a hand-over, in the order in which they follow from each other.
///
/// The old process stops before it takes the snapshot, and goes on only if it knows that the new
/// one is dead and has not said yes. The new one says yes before it sends anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    OldStops,
    OldGivesSnapshot,
    NewRestores,
    NewSaysYes,
    NewSends,
    NewSendsMore,
}

const STEPS: [Step; 6] =
    [Step::OldStops, Step::OldGivesSnapshot, Step::NewRestores, Step::NewSaysYes, Step::NewSends, Step::NewSendsMore];

/// A process that may have died.
type Process = Option<Interface>;

/// Every order of deaths: the new one dies after any step, or is slow and the old one's patience
/// ends after any step, or the old one dies after any step. In each, every datagram of both
/// processes is collected: no two have the same session and counter.
#[test]
fn no_counter_is_used_twice_whoever_dies_and_when() {
    let mut cases = 0;
    let mut went_on = BTreeSet::new();
    for reloads in 1..=2 {
        for new_dies_after in STEPS.iter().map(Some).chain([None]) {
            for old_dies_after in STEPS.iter().map(Some).chain([None]) {
                for patience_ends_after in STEPS.iter().map(Some).chain([None]) {
                    let (mut sim, chances) = group(4, 2, Bounds::default());
                    sim.connect(A, B);
                    let mut used = Used::default();
                    let nobody = empty(sim.now);
                    let first = std::mem::replace(&mut sim[A].interface, nobody);
                    let mut process = Some(first);
                    for _ in 0..reloads {
                        let Some(old) = process.take() else { break };
                        let deaths = [new_dies_after, old_dies_after, patience_ends_after].map(Option::<&Step>::copied);
                        let (old, new) = hand_over(old, deaths, sim.now, &chances[A], &mut used);
                        went_on.insert((old.is_some(), new.is_some()));
                        assert!(old.is_none() || new.is_none(), "both go on: {deaths:?}");
                        process = old.or(new);
                    }
                    if let Some(survivor) = &mut process {
                        used.send(survivor, sim.now, 3);
                    }
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 2 * 7 * 7 * 7);
    let all = [(true, false), (false, true), (false, false)];
    assert_eq!(went_on, all.into(), "each outcome came about");
}

/// One hand-over; returns what is left of both processes.
fn hand_over(
    old: Interface,
    [new_dies_after, old_dies_after, patience_ends_after]: [Option<Step>; 3],
    now: Instant,
    chance: &Chance,
    used: &mut Used,
) -> (Process, Process) {
    let mut old = Some(old);
    let (mut new, mut snapshot): (Process, Option<Snapshot>) = (None, None);
    let (mut new_is_dead, mut said_yes, mut is_over) = (false, false, false);
    if let Some(old) = &mut old {
        used.send(old, now, 2);
    }
    for step in STEPS {
        match step {
            Step::OldStops => {}
            Step::OldGivesSnapshot => snapshot = old.as_ref().map(|old| old.snapshot(now)),
            Step::NewRestores if !new_is_dead => {
                new = snapshot.as_ref().map(|snapshot| restore(snapshot, now, chance, Bounds::default()));
            }
            Step::NewSaysYes => said_yes = new.is_some(),
            Step::NewSends | Step::NewSendsMore => {
                if let Some(new) = &mut new {
                    used.send(new, now, 2);
                }
            }
            Step::NewRestores => {}
        }
        if new_dies_after == Some(step) {
            (new, new_is_dead) = (None, true);
        }
        if old_dies_after == Some(step) {
            old = None;
        }
        if old.is_none() || is_over {
            continue;
        }
        if patience_ends_after == Some(step) && !said_yes {
            // The old process makes sure that the new one is dead before it draws a conclusion.
            (new, new_is_dead) = (None, true);
        }
        if said_yes {
            // A yes is read before the end of the connection, even if its sender has died since.
            (old, is_over) = (None, true);
        } else if new_is_dead {
            is_over = true;
            if let Some(old) = &mut old {
                used.send(old, now, 2);
            }
        }
    }
    // A new process that was given no snapshot has not become anything.
    (old, new)
}

/// The sessions and counters of all datagrams that were sent.
#[derive(Default)]
struct Used(BTreeSet<[u8; 16]>);

impl Used {
    fn send(&mut self, interface: &mut Interface, now: Instant, count: usize) {
        let packet = crate::sim::packet::v4(crate::sim::packet::inside(A), crate::sim::packet::inside(B), &[]);
        for _ in 0..count {
            let mut out = vec![0; 256];
            let transmit = interface.handle_packet(now, &packet, &mut out).unwrap().expect("there is a session");
            let header = out[transmit.range].first_chunk().copied().unwrap();
            assert!(self.0.insert(header), "session and counter {header:x?} are used twice");
        }
    }
}

fn empty(now: Instant) -> Interface {
    Interface::new(now, UNIX_START, Box::new(ChaCha8Rng::seed_from_u64(0)))
}
