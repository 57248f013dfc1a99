//! Any order of events on any network: nothing is delivered twice or altered, nothing panics, and
//! traffic flows again when the network does.

use std::collections::BTreeSet;
use std::time::Duration;

use adit::{Bounds, PresharedKey};
use proptest::prelude::*;

use crate::sim::{A, B, Calls, RTT, Sim, millis, secs};

/// 5 s, and up to 333 ms of jitter, from one initiation to the next.
const REPETITION: Duration = Duration::from_millis(5_333);

#[derive(Clone, Debug)]
enum Op {
    Send {
        from: usize,
        count: usize,
    },
    Run(Duration),
    /// Loss, duplication and corruption in thousandths, and the spread of delays.
    Weather(u64, u64, u64, Duration),
    Cut {
        from: usize,
    },
    Heal,
    /// A's address changes, as behind a NAT that forgot it.
    Move(u8),
    /// All that a node knew of the other is gone.
    Restart(usize),
    Keepalive {
        node: usize,
        seconds: u16,
    },
    PresharedKey(u8),
    /// Something that was sent before is sent again by somebody else.
    Replay {
        to: usize,
        which: prop::sample::Index,
    },
    Garbage {
        to: usize,
        bytes: Vec<u8>,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0_usize..2;
    let run = prop_oneof![4 => 1_u64..300, 2 => 300_u64..20_000, 1 => 20_000_u64..200_000].prop_map(millis);
    let spread = prop_oneof![Just(Duration::ZERO), (1_u64..300).prop_map(millis)];
    prop_oneof![
        8 => (node.clone(), 1_usize..20).prop_map(|(from, count)| Op::Send { from, count }),
        8 => run.prop_map(Op::Run),
        2 => (0_u64..500, 0_u64..300, 0_u64..200, spread).prop_map(|(a, b, c, d)| Op::Weather(a, b, c, d)),
        1 => node.clone().prop_map(|from| Op::Cut { from }),
        1 => Just(Op::Heal),
        1 => any::<u8>().prop_map(Op::Move),
        1 => node.clone().prop_map(Op::Restart),
        1 => (node.clone(), 0_u16..30).prop_map(|(node, seconds)| Op::Keepalive { node, seconds }),
        1 => any::<u8>().prop_map(Op::PresharedKey),
        3 => (node.clone(), any::<prop::sample::Index>()).prop_map(|(to, which)| Op::Replay { to, which }),
        1 => (node, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(to, bytes)| Op::Garbage { to, bytes }),
    ]
}

fn calls() -> impl Strategy<Value = Calls> {
    prop_oneof![Just(Calls::Single), Just(Calls::Steps)]
}

/// A pair, and every packet that was given to each.
struct Script {
    sim: Sim,
    given: [BTreeSet<Vec<u8>>; 2],
    preshared_key: Option<PresharedKey>,
}

impl Script {
    fn new(seed: u64, calls: Calls) -> Self {
        Self { sim: Sim::group_with(seed, 2, calls, Bounds::default()), given: Default::default(), preshared_key: None }
    }

    fn send(&mut self, from: usize, count: usize) {
        let packets = self.sim.send_many(from, 1 - from, count);
        self.given[from].extend(packets);
    }

    fn carry_out(&mut self, op: Op) {
        let sim = &mut self.sim;
        match op {
            Op::Send { from, count } => self.send(from, count),
            Op::Run(time) => sim.run_for(time),
            Op::Weather(loss, duplication, corruption, spread) => {
                let network = &mut sim.network;
                (network.loss, network.duplication, network.corruption) = (loss, duplication, corruption);
                network.spread = spread;
            }
            Op::Cut { from } => sim.network.cut(from, 1 - from),
            Op::Heal => sim.network.heal(),
            Op::Move(host) => sim[A].address.set_port(1_000 + u16::from(host)),
            Op::Restart(node) => {
                let peer = sim.id(node, 1 - node);
                assert!(sim[node].interface.remove_peer(peer));
                sim.introduce(node, 1 - node);
                let peer = sim.id(node, 1 - node);
                sim[node].interface.set_preshared_key(peer, self.preshared_key.clone()).unwrap();
            }
            Op::Keepalive { node, seconds } => {
                let (now, peer) = (sim.now, sim.id(node, 1 - node));
                sim[node].interface.set_persistent_keepalive(now, peer, seconds).unwrap();
            }
            Op::PresharedKey(byte) => {
                self.preshared_key = Some(PresharedKey::from_bytes([byte; 32]));
                for node in [A, B] {
                    let peer = sim.id(node, 1 - node);
                    sim[node].interface.set_preshared_key(peer, self.preshared_key.clone()).unwrap();
                }
            }
            Op::Replay { to, which } => {
                if !sim.wire.is_empty() {
                    let sent = which.get(&sim.wire).clone();
                    sim.replay(to, &sent);
                }
            }
            Op::Garbage { to, bytes } => {
                let source = sim[1 - to].address;
                sim.inject(to, source, &bytes);
            }
        }
    }

    /// What came out of the tunnel went into it at the other end, and came out once.
    fn check(&self) -> Result<(), TestCaseError> {
        for to in [A, B] {
            let mut seen = BTreeSet::new();
            for arrived in &self.sim[to].arrived {
                prop_assert!(self.given[1 - to].contains(&arrived.packet), "nobody sent {:x?}", arrived.packet);
                prop_assert!(seen.insert(&arrived.packet), "delivered twice: {:x?}", arrived.packet);
            }
        }
        Ok(())
    }

    /// Both ends go on sending; how long until packets have come through in both directions?
    fn time_to_recover(&mut self, most: Duration) -> Option<Duration> {
        self.sim.network.heal();
        let start = self.sim.now;
        let fresh: [Vec<Vec<u8>>; 2] = Default::default();
        let mut fresh = fresh;
        while self.sim.now < start + most {
            for from in [A, B] {
                let packets = self.sim.send_many(from, 1 - from, 1);
                self.given[from].extend(packets.iter().cloned());
                fresh[from].extend(packets);
            }
            self.sim.run_for(millis(50));
            let gets_through = |from: usize| fresh[from].iter().any(|packet| self.sim[1 - from].has_arrived(packet));
            if gets_through(A) && gets_through(B) {
                return Some(self.sim.now.saturating_since(start));
            }
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_packet_is_delivered_twice_or_altered_and_traffic_flows_again(
        seed in any::<u64>(),
        calls in calls(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut script = Script::new(seed, calls);
        for op in ops {
            script.carry_out(op);
        }
        script.check()?;
        // Somebody may be sending in a session that the other end has forgotten: it takes 15 s to
        // find out, and then a handshake, the first message of which may just have been sent.
        let took = script.time_to_recover(secs(60));
        prop_assert!(took.is_some_and(|took| took <= secs(15) + REPETITION + RTT * 2 + millis(50)), "{took:?}");
        script.check()?;
    }

    #[test]
    fn when_a_cut_is_healed_traffic_flows_again_after_one_repetition_and_a_round_trip(
        seed in any::<u64>(),
        calls in calls(),
        cuts in prop::collection::vec((0_usize..3, 1_u64..250, 0_u64..400), 1..6),
    ) {
        let mut script = Script::new(seed, calls);
        script.sim.connect(A, B);
        for arrived in [A, B] {
            script.given[1 - arrived] = script.sim[arrived].arrived.iter().map(|arrived| arrived.packet.clone()).collect();
        }
        for (which, seconds, loss) in cuts {
            match which {
                0 => script.sim.network.cut_both(A, B),
                1 => script.sim.network.cut(A, B),
                _ => script.sim.network.cut(B, A),
            }
            script.sim.network.loss = loss;
            for _ in 0..seconds {
                script.send(A, 1);
                script.send(B, 1);
                script.sim.run_for(secs(1));
            }
            let took = script.time_to_recover(secs(60));
            prop_assert!(took.is_some_and(|took| took <= REPETITION + RTT * 2 + millis(50)), "{took:?}");
        }
        script.check()?;
    }
}
