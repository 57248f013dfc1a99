//! A process hands its interface over to the next one. No packet and no session is lost by it, and no rule is broken:
//! what waits goes on waiting, what was received is a replay, and nobody is asked again too soon.
//!
//! Handshakes and packets on their way through the steps are finished before, as the engine demands; what only looks at
//! an interface may come at any time.

use std::time::Duration;

use super::witness::Verdict;
use super::world::World;
use super::{REKEY_JITTER, REKEY_TIMEOUT};
use crate::sim::RTT;

impl World {
    pub(super) fn reload(&mut self, node: usize, takes_over: bool) {
        if takes_over {
            // The next process asks its machine for the time.
            let unix_time = self.truth.true_wall_clock(&self.sim, node);
            self.truth.wall_clock[node] = (self.sim.clock(node), unix_time);
        }
        self.hand_over_after(node, 0, takes_over);
        self.finish_hand_over(node);
    }

    /// After the silence the speakers begin at the same instant, and after some steps of the node's its interface is
    /// handed over.
    pub(super) fn reload_amidst(
        &mut self,
        node: usize,
        silence: Duration,
        speakers: &[(usize, usize)],
        steps: u32,
        takes_over: bool,
    ) -> Verdict {
        // Where nothing is lost nothing is late either, if no handshake just before keeps the nodes from another.
        let is_timely = self.is_calm && silence > REKEY_TIMEOUT + REKEY_JITTER;
        if is_timely {
            self.sim.network.heal();
        }
        self.sim.run_for(silence);
        self.look()?;
        self.wait_while_sessions_end()?;
        self.hand_over_after(node, steps, takes_over);
        let last: Vec<_> = speakers.iter().map(|&(from, to)| self.send(from, to, 2)).collect();
        self.sim.run_for(RTT);
        self.finish_hand_over(node);
        if is_timely {
            self.sim.run_for(RTT);
            self.look()?;
            let late = last.into_iter().find(|&number| !self.witness.has_come_out(number));
            return late.map_or(Ok(()), |number| Err(format!("packet {number} is late, which met a handover")));
        }
        Ok(())
    }

    fn hand_over_after(&mut self, node: usize, steps: u32, takes_over: bool) {
        let successor = self.sim.successor(self.truth.wall_clock[node], self.bounds, takes_over);
        self.sim[node].hand_over_after(steps, successor);
    }

    fn finish_hand_over(&mut self, node: usize) {
        let clock = self.sim.clock(node);
        let renamed = self.sim[node].finish_hand_over(clock);
        for id in self.truth.ids[node].iter_mut().flatten() {
            let new = renamed.iter().find(|(old, _)| old == id);
            *id = new.map_or(*id, |&(_, new)| new);
        }
    }
}
