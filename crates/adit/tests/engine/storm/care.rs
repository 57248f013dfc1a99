//! Changes that are made with care, so that the network and the rules leave no reason for a packet to be lost:
//!
//! - preshared keys differ for less time than packets may wait for a session, and meanwhile the old session goes on;
//! - a node moves when nothing is on its way to its old address, and tells the others by speaking first;
//! - a prefix is lent to another peer while its owner, whose packets would be refused, has none to send.

use std::net::IpAddr;
use std::time::Duration;

use super::fault::ROAMER;
use super::witness::Verdict;
use super::world::World;
use crate::sim::packet;

impl World {
    /// Waits until no session is about to end and nothing is on its way.
    fn settle(&mut self) -> Verdict {
        loop {
            self.wait_while_sessions_end()?;
            let Some(last) = self.sim.last_arrival() else { return Ok(()) };
            self.sim.run_until(last);
            self.look()?;
        }
    }

    pub(super) fn agree_on_key(&mut self, first: usize, second: usize, key: u8, pause: Duration) -> Verdict {
        self.wait_while_sessions_end()?;
        self.truth.psk[first][second] = key;
        self.set_preshared_key(first, second);
        self.send(first, second, 3);
        self.send(second, first, 3);
        self.sim.run_for(pause);
        self.look()?;
        self.truth.psk[second][first] = key;
        self.set_preshared_key(second, first);
        Ok(())
    }

    pub(super) fn roam(&mut self, port: u16) -> Verdict {
        self.settle()?;
        self.move_away(port);
        let (address, others) = (self.sim[ROAMER].address, self.truth.others(ROAMER));
        let hears_at_once: Vec<_> = others.filter(|&other| self.sim.peer(ROAMER, other).has_session).collect();
        for other in self.truth.others(ROAMER) {
            self.send(ROAMER, other, 1);
        }
        self.sim.run_for(self.sim.network.delay + self.sim.network.spread);
        // A node without a session waits for one, and learns then where the other end is.
        let stray = hears_at_once.into_iter().find(|&other| self.sim.peer(other, ROAMER).endpoint != Some(address));
        stray.map_or(Ok(()), |other| Err(format!("node {other} has not followed node {ROAMER}")))
    }

    pub(super) fn reassign(&mut self, node: usize, peer: usize) {
        let id = self.sim.id(node, peer);
        let prefixes = [IpAddr::from(packet::inside(peer)).into(), IpAddr::from(packet::inside_v6(peer)).into()];
        self.sim[node].configure(|interface| {
            interface.clear_allowed_ips(id).unwrap();
            for prefix in prefixes.into_iter().chain(["10.0.0.0/24", "fd00::/64"].map(|wide| wide.parse().unwrap())) {
                interface.add_allowed_ip(id, prefix).unwrap();
            }
        });
    }

    pub(super) fn lend(&mut self, node: usize, of: usize, to: usize) -> Verdict {
        self.settle()?;
        if self.witness.missing().is_some() {
            return Ok(());
        }
        self.move_prefix(node, of, to);
        self.send(node, of, 3);
        self.settle()?;
        self.move_prefix(node, of, of);
        Ok(())
    }
}
