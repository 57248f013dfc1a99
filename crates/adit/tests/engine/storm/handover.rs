//! A process hands its interface over to the next one. No packet and no session is lost by it, and no rule is broken:
//! what waits goes on waiting, what was received is a replay, and nobody is asked again too soon.
//!
//! Handshakes and packets on their way through the steps are finished before, as the engine demands; what only looks at
//! an interface may come at any time.

use super::witness::Verdict;
use super::world::World;
use crate::sim::RTT;

impl World {
    pub(super) fn reload(&mut self, node: usize, peer: usize, after: Option<u32>, takes_over: bool) -> Verdict {
        match after {
            // The next process asks its machine for the time.
            None if takes_over => {
                let unix_time = self.truth.true_wall_clock(&self.sim, node);
                self.truth.wall_clock[node] = (self.sim.clock(node), unix_time);
            }
            None => {}
            Some(_) => self.wait_while_sessions_end()?,
        }
        let successor = self.sim.successor(self.truth.wall_clock[node], self.bounds, takes_over);
        self.sim[node].hand_over_after(after.unwrap_or(0), successor);
        if after.is_some() {
            self.send(node, peer, 2);
            self.send(peer, node, 2);
            self.sim.run_for(RTT);
        }
        let clock = self.sim.clock(node);
        let renamed = self.sim[node].finish_hand_over(clock);
        for id in self.truth.ids[node].iter_mut().flatten() {
            let new = renamed.iter().find(|(old, _)| old == id);
            *id = new.map_or(*id, |&(_, new)| new);
        }
        Ok(())
    }
}
