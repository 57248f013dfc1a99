//! The nodes of a schedule, and how faults are carried out.

use adit::{Bounds, PresharedKey};

use super::fault::{Dice, Fault, ROAMER, Theme, lose_handshakes};
use super::packets;
use super::truth::Truth;
use super::witness::{Given, STRANGER, Verdict, Witness};
use crate::sim::{A, B, Calls, DELAY, Kind, RTT, Sent, Sim, forge, millis, packet, secs};

pub(super) struct World {
    pub(super) sim: Sim,
    pub(super) truth: Truth,
    pub(super) witness: Witness,
    pub(super) bounds: Bounds,
    pub(super) is_calm: bool,
    serial: u64,
}

impl World {
    pub(super) fn new(theme: Theme, nodes: usize, dice: &mut Dice) -> Self {
        let calls = if dice.one_in(4) { Calls::Steps } else { Calls::Single };
        let mut bounds = bounds(theme);
        if dice.one_in(3) {
            // What the others need when all is well, and no more: beyond it cookies are asked for.
            bounds.handshakes_per_second = 2 * (nodes as u32 - 1);
        }
        let mut sim = Sim::group_with(dice.below(u64::MAX), 0, calls, bounds);
        for _ in 0..nodes {
            sim.add_node(bounds);
        }
        let mut introduce = |one, other| (one != other).then(|| sim.introduce(one, other));
        let ids = (0..nodes).map(|one| (0..nodes).map(|other| introduce(one, other)).collect()).collect();
        let truth = Truth::new(&sim, ids);
        Self { sim, truth, witness: Witness::default(), bounds, is_calm: theme.is_lossless(), serial: 0 }
    }

    /// Looks whether all is as it should be.
    pub(super) fn look(&mut self) -> Verdict {
        self.witness.look(&self.sim, &mut self.truth, self.bounds)
    }

    /// Gives a burst of packets to a node; returns the number of the last one.
    pub(super) fn send(&mut self, from: usize, to: usize, count: usize) -> u64 {
        self.send_as(from, to, from, count)
    }

    /// Waits until there is no load, which lasts for a second after the last message that was one too many.
    pub(super) fn wait_while_there_is_load(&mut self) {
        if self.bounds.handshakes_per_second < Bounds::default().handshakes_per_second {
            self.sim.run_for(secs(2));
        }
    }

    fn send_as(&mut self, from: usize, to: usize, claimed: usize, count: usize) -> u64 {
        let burst: Vec<_> = (0..count)
            .map(|_| {
                self.serial += 1;
                let packet = packets::make(claimed, to, self.serial);
                self.witness.give(self.serial, Given { by: from, claimed, packet: packet.clone() });
                packet
            })
            .collect();
        self.sim.send_packets(from, &burst);
        self.serial
    }

    /// Waits while sessions end: what is sent then may come too late, and nobody is to blame.
    pub(super) fn wait_while_sessions_end(&mut self) -> Verdict {
        let margin = (self.sim.network.delay + self.sim.network.spread) * 2;
        while self.is_calm && self.witness.is_any_ending(&self.sim, margin) {
            self.sim.run_for(margin);
            self.look()?;
        }
        Ok(())
    }

    pub(super) fn carry_out(&mut self, fault: &Fault) -> Verdict {
        let now = self.sim.now;
        match *fault {
            Fault::Send { from, to, count } => {
                self.wait_while_sessions_end()?;
                self.send(from, to, count);
            }
            Fault::SendAtOnce { silence } => {
                self.sim.run_for(silence);
                self.look()?;
                self.wait_while_sessions_end()?;
                self.send(A, B, 2);
                self.send(B, A, 2);
            }
            Fault::Run(time) => self.sim.run_for(time),
            Fault::Weather { loss, duplication, corruption, spread } => {
                let network = &mut self.sim.network;
                (network.loss, network.duplication, network.corruption) = (loss, duplication, corruption);
                network.spread = spread;
            }
            Fault::LoseHandshakes(share) => self.sim.network.lose(lose_handshakes(share, self.serial)),
            Fault::Cut { from, to } => self.sim.network.cut(from, to),
            Fault::Heal => self.sim.network.heal(),
            Fault::Move(port) => self.move_away(port),
            Fault::Restart(node) => self.restart(node),
            Fault::NewKey(node) => {
                self.sim.change_key(node);
                self.witness.forget_initiations(node);
                self.truth.gives_up_keys(now, node);
            }
            Fault::Reload { node, takes_over } => self.reload(node, takes_over),
            Fault::ReloadAmidst { node, peer, silence, both, steps, takes_over } => {
                let speakers = if both { &[(node, peer), (peer, node)][..] } else { &[(node, peer)] };
                self.reload_amidst(node, silence, speakers, steps, takes_over)?;
            }
            Fault::Tell { node, of } => self.tell(node, of),
            Fault::LinkDownAndUp(node) => {
                let clock = self.sim.clock(node);
                self.sim[node].configure(|interface| {
                    interface.link_down();
                    interface.link_up(clock);
                });
                self.witness.forget_initiations(node);
                self.truth.gives_up_keys(now, node);
            }
            Fault::Remove { node, peer } => self.remove(node, peer),
            Fault::Add { node, peer } => self.add(node, peer),
            Fault::Keepalive { node, peer, seconds } => {
                let clock = self.sim.clock(node);
                if let Some(id) = self.truth.ids[node][peer] {
                    self.sim[node]
                        .configure(|interface| interface.set_persistent_keepalive(clock, id, seconds))
                        .unwrap();
                }
            }
            Fault::PresharedKey { node, peer, key } => {
                self.truth.psk[node][peer] = key;
                self.set_preshared_key(node, peer);
            }
            Fault::AgreeOnKey { first, second, key, pause } => self.agree_on_key(first, second, key, pause)?,
            Fault::Roam(port) => self.roam(port)?,
            Fault::Reassign { node, peer } => self.reassign(node, peer),
            Fault::Lend { node, of, to } => self.lend(node, of, to)?,
            Fault::Jump { node, by } => {
                self.sim[node].clock_ahead += by;
                self.may_have_lost_keys(node);
            }
            Fault::Suspend { node, time } => {
                self.sim[node].is_asleep = true;
                self.sim.run_for(time);
                self.sim[node].is_asleep = false;
                self.look()?;
                self.may_have_lost_keys(node);
            }
            Fault::WallClock { node, offset } => {
                self.truth.wall_offset[node] = offset;
                let (clock, unix_time) = (self.sim.clock(node), self.truth.true_wall_clock(&self.sim, node));
                self.sim[node].configure(|interface| interface.set_unix_time(clock, unix_time));
                self.truth.wall_clock[node] = (clock, unix_time);
            }
            Fault::MovePrefix { node, of, to } => self.move_prefix(node, of, to),
            Fault::Lie { from, to, as_from } => {
                self.send_as(from, to, as_from, 2);
            }
            Fault::Replay { to, which } => {
                // Handshakes are few among the packets, and of more interest.
                let is_handshake = |sent: &&Sent| which % 2 == 0 || sent.bytes[0] < 4;
                // An initiation that was lost and comes late would lead back to where its sender is no more.
                let is_fit = |sent: &&Sent| !self.is_calm || sent.source == self.sim[sent.from].address;
                let is_asked = |sent: &&Sent| is_handshake(sent) && is_fit(sent);
                let wire: Vec<_> = self.sim.wire.iter().filter(is_asked).collect();
                if !wire.is_empty() {
                    let sent = wire[(which / 2) as usize % wire.len()].clone();
                    if sent.source != self.sim[sent.from].address {
                        self.truth.may_be_led_astray(to, sent.from);
                    }
                    self.sim.replay(to, &sent);
                }
            }
            Fault::Crowd { from, to, silence, seconds } => {
                self.sim.run_for(silence);
                self.look()?;
                self.wait_while_sessions_end()?;
                self.crowd(from, to, seconds);
            }
            Fault::Garbage { to, kind, len } => {
                let source = self.sim[(to + 1) % self.truth.nodes].address;
                let mut bytes = vec![kind; len];
                bytes.iter_mut().skip(1).take(3).for_each(|reserved| *reserved = 0);
                self.sim.inject(to, source, &bytes);
            }
            Fault::Overtake { count } => self.overtake(count)?,
        }
        self.look()
    }

    pub(super) fn move_away(&mut self, port: u16) {
        self.sim[ROAMER].address.set_port(port);
        self.truth.moves_to(ROAMER, self.sim.now, self.sim[ROAMER].address);
    }

    fn crowd(&mut self, from: usize, to: usize, seconds: u64) {
        for second in 0..seconds {
            for number in 0..6 {
                let mut message = vec![0; 148];
                message[0] = 1;
                message[4..8].copy_from_slice(&STRANGER.to_le_bytes());
                forge::put_mac1(&mut message, &self.sim[to].private_key.public_key());
                self.sim.inject(to, std::net::SocketAddr::from(([198, 51, 100, number], 7)), &message);
            }
            if second == 0 {
                self.send(from, to, 2);
                self.send(to, from, 2);
            }
            self.sim.run_for(millis(950));
        }
    }

    fn restart(&mut self, node: usize) {
        let unix_time = self.truth.true_wall_clock(&self.sim, node);
        self.sim.restart(node, unix_time, self.bounds);
        self.truth.wall_clock[node] = (self.sim.clock(node), unix_time);
        self.truth.process_ends(self.sim.now, node);
        self.witness.forget_initiations(node);
        for peer in self.truth.others(node) {
            self.add(node, peer);
        }
    }

    fn tell(&mut self, node: usize, of: usize) {
        self.remove(node, of);
        self.add(node, of);
    }

    fn remove(&mut self, node: usize, peer: usize) {
        let Some(id) = self.truth.ids[node][peer] else { return };
        assert!(self.sim[node].configure(|interface| interface.remove_peer(id)));
        self.truth.forgets(self.sim.now, node, peer);
        self.witness.forget_initiations(node);
    }

    /// Adds the peer with the key that it has now and where it is now.
    pub(super) fn add(&mut self, node: usize, peer: usize) {
        if self.truth.ids[node][peer].is_some() {
            return;
        }
        self.truth.ids[node][peer] = Some(self.sim.introduce(node, peer));
        self.truth.owner[node][peer] = Some(peer);
        self.truth.told_address[node][peer] = self.sim.now;
        self.set_preshared_key(node, peer);
    }

    /// Tells the node where the peer is now.
    pub(super) fn tell_address(&mut self, node: usize, peer: usize) {
        let address = self.sim[peer].address;
        if let Some(id) = self.truth.ids[node][peer] {
            self.sim[node].configure(|interface| interface.set_endpoint(id, Some(address))).unwrap();
            self.truth.told_address[node][peer] = self.sim.now;
        }
    }

    pub(super) fn set_preshared_key(&mut self, node: usize, peer: usize) {
        let byte = self.truth.psk[node][peer];
        let key = (byte > 0).then(|| PresharedKey::from_bytes([byte; 32]));
        if let Some(id) = self.truth.ids[node][peer] {
            self.sim[node].configure(|interface| interface.set_preshared_key(id, key)).unwrap();
        }
    }

    pub(super) fn move_prefix(&mut self, node: usize, of: usize, to: usize) {
        let Some(id) = self.truth.ids[node][to] else { return };
        self.sim[node].configure(|interface| {
            interface.add_allowed_ip(id, std::net::IpAddr::from(packet::inside(of)).into()).unwrap();
            interface.add_allowed_ip(id, std::net::IpAddr::from(packet::inside_v6(of)).into()).unwrap();
        });
        self.truth.owner[node][of] = Some(to);
    }

    /// The node's sessions have aged more than those of the others.
    fn may_have_lost_keys(&mut self, node: usize) {
        for peer in self.truth.others(node) {
            self.truth.loses_keys(self.sim.now, node, peer);
        }
    }

    /// One packet is overtaken by `count` others, and arrives; then each of the following packets
    /// finds those at the edge of the window replayed.
    fn overtake(&mut self, count: usize) -> Verdict {
        self.sim.network.heal();
        self.sim.run_for(secs(4));
        self.look()?;
        self.wait_while_sessions_end()?;
        self.send(A, B, 1);
        self.sim.run_for(RTT * 2);
        self.sim.network.cut(A, B);
        let before = self.sim.wire.len();
        let held = self.send(A, B, 1);
        let late = self.sim.wire[before..].iter().find(|sent| sent.kind() == Kind::Data).cloned();
        self.sim.network.heal();
        self.look()?;
        // Without a session the packet waits, and cannot be overtaken.
        let Some(late) = late else { return Ok(()) };
        let first = self.sim.wire.len();
        self.send(A, B, count);
        self.sim.run_for(DELAY);
        self.sim.replay(B, &late);
        self.look()?;
        if !self.witness.has_come_out(held) {
            return Err(format!("packet {held} is lost, which {count} others overtook"));
        }
        if count > 1_000 {
            for _ in 0..64 {
                self.send(A, B, 1);
                self.sim.run_for(DELAY);
                // Some that the window still knows, and some that it has just forgotten.
                for behind in 8_120..8_200 {
                    if let Some(at) = self.sim.wire.len().checked_sub(behind).filter(|&at| at >= first) {
                        let sent = self.sim.wire[at].clone();
                        self.sim.replay(B, &sent);
                    }
                }
            }
        }
        Ok(())
    }

    /// A calm schedule is over: everything that was given has come out.
    pub(super) fn everything_arrives(&mut self) -> Verdict {
        self.sim.network.heal();
        // What waits for a session may have to wait for one more initiation.
        self.sim.run_for(secs(12));
        self.look()?;
        self.witness.missing().map_or(Ok(()), |number| Err(format!("packet {number} is lost")))
    }
}

/// Little may wait, so that what waits reaches its bounds; where nothing may be lost, the usual bounds.
fn bounds(theme: Theme) -> Bounds {
    let mut bounds = Bounds::default();
    if !theme.is_lossless() {
        (bounds.staged_bytes_per_peer, bounds.staged_bytes) = (4 << 10, 5 << 10);
        (bounds.outgoing, bounds.handshake_queue, bounds.events) = (16, 16, 16);
        bounds.rate_limited_sources = 16;
    }
    bounds
}
