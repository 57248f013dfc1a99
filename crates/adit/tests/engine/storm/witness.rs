//! The witness looks on from the outside: what was given to the nodes, what went over the wire and what came out must
//! fit together, whatever the engine says of itself.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use adit::{Bounds, Instant};

use super::truth::Truth;
use super::{REJECT_AFTER_TIME, REKEY_TIMEOUT};
use crate::sim::{Kind, Sent, Sim};

pub(super) type Verdict = Result<(), String>;

/// A packet that was given to a node, by the number it carries.
pub(super) struct Given {
    pub(super) by: usize,
    /// Whose address it claims to come from.
    pub(super) claimed: usize,
    pub(super) packet: Vec<u8>,
}

struct Initiation {
    from: usize,
    to: usize,
    serial: usize,
    process: u32,
    stamp: Duration,
    has_cookie: bool,
}

/// Two keys, one for each direction, as the response on the wire made them known.
struct Session {
    ends: [usize; 2],
    born: Instant,
    /// The responder's preshared key when it answered.
    psk: u8,
    /// When each end's part began, on its own clock; the initiator's begins with its first message.
    began: [Option<Instant>; 2],
}

/// The sender's index in what strangers send; among random ones it does not occur.
pub(super) const STRANGER: u32 = 0;
const INITIATOR: usize = 0;
const RESPONDER: usize = 1;

#[derive(Default)]
pub(super) struct Witness {
    given: HashMap<u64, Given>,
    came_out: HashSet<u64>,
    read: usize,
    read_arrived: [usize; 3],
    counters: HashSet<(usize, u32, u64)>,
    initiations: HashMap<u32, Initiation>,
    /// The last initiation answered, by responder, initiator, the responder's memory of it and the initiator's process.
    answered: HashMap<(usize, usize, u32, u32), usize>,
    sessions: Vec<Session>,
    /// By who sends and the receiver's index: the session, and which end of it sends.
    by_index: HashMap<(usize, u32), (usize, usize)>,
    /// When each node sent its last initiation to each, on its own clock.
    initiated: HashMap<(usize, usize), Instant>,
    /// When the session was made in which each node last sent to each.
    used: HashMap<(usize, usize), Instant>,
    pub(super) cookies: Cookies,
}

/// How often there was load, and how often somebody got through it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Cookies {
    pub(super) sent: u64,
    /// Initiations that were answered and had one.
    pub(super) answered: u64,
}

impl std::ops::AddAssign for Cookies {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.answered += other.answered;
    }
}

impl Witness {
    pub(super) fn give(&mut self, number: u64, given: Given) {
        self.given.insert(number, given);
    }

    pub(super) fn has_come_out(&self, number: u64) -> bool {
        self.came_out.contains(&number)
    }

    /// The number of a packet that has not come out, if there is one.
    pub(super) fn missing(&self) -> Option<u64> {
        self.given.keys().filter(|number| !self.came_out.contains(number)).min().copied()
    }

    /// When the session was made in which `from` last sent to `to`.
    pub(super) fn used(&self, from: usize, to: usize) -> Option<Instant> {
        self.used.get(&(from, to)).copied()
    }

    /// The node may initiate at once again: it has forgotten that it did.
    pub(super) fn forget_initiations(&mut self, node: usize) {
        self.initiated.retain(|&(from, _), _| from != node);
    }

    /// Whether a session that is in use ends within `margin` of now, before or after: it does so from the end of its
    /// first end's part to that of its second, each by a clock of its own, which may have jumped.
    pub(super) fn is_any_ending(&self, sim: &Sim, margin: Duration) -> bool {
        self.sessions.iter().any(|session| {
            let [initiator, responder] = session.ends;
            let has_left = |from, to| self.used(from, to).is_some_and(|made| made > session.born);
            let ages = session
                .ends
                .iter()
                .zip(session.began)
                .filter_map(|(&end, began)| began.map(|began| sim.clock(end).saturating_since(began)));
            !(has_left(initiator, responder) && has_left(responder, initiator))
                && ages.clone().any(|age| age + margin >= REJECT_AFTER_TIME)
                && ages.clone().any(|age| age <= REJECT_AFTER_TIME + margin)
        })
    }

    /// Looks at all that happened since the last time, before the truth changes again.
    pub(super) fn look(&mut self, sim: &Sim, truth: &mut Truth, bounds: Bounds) -> Verdict {
        for sent in &sim.wire[self.read..] {
            self.look_at_datagram(sim, truth, sent)?;
        }
        self.read = sim.wire.len();
        for node in 0..truth.nodes {
            self.look_at_arrivals(sim, truth, node)?;
            let memory = sim[node].most_memory;
            if memory > most_memory(truth.nodes - 1, bounds) {
                return Err(format!("node {node} holds {memory} bytes"));
            }
        }
        Ok(())
    }

    fn look_at_datagram(&mut self, sim: &Sim, truth: &mut Truth, sent: &Sent) -> Verdict {
        self.read += 1;
        let from = sent.from;
        match sent.kind() {
            Kind::Initiation => {
                // The receiver may have moved or changed its key meanwhile: it is found by the address that this was
                // sent to.
                let Some(to) = (0..truth.nodes).find(|&to| truth.has_lived_at(to, sent.path.remote)) else {
                    return Err(format!("an initiation to {}, where nobody ever was", sent.path.remote));
                };
                let last = self.initiated.insert((from, to), sent.clock);
                if last.is_some_and(|last| sent.clock.saturating_since(last) < REKEY_TIMEOUT) {
                    return Err(format!("node {from} initiated twice within 5 s"));
                }
                let stamp = truth.stamp(sim, from, sent.clock);
                let (serial, process) = (self.read, truth.process[from]);
                let has_cookie = sent.bytes[132..] != [0; 16];
                let initiation = Initiation { from, to, serial, process, stamp, has_cookie };
                self.initiations.insert(sent.first_index(), initiation);
            }
            Kind::Response => {
                let index = u32::from_le_bytes(sent.bytes[8..12].try_into().unwrap());
                let Some(initiation) = self.initiations.get(&index) else {
                    return Err(format!("node {from} answers what nobody asked"));
                };
                self.cookies.answered += u64::from(initiation.has_cookie);
                let to = initiation.from;
                if initiation.to != from {
                    return Err(format!("node {from} answers what node {} was asked", initiation.to));
                }
                let memory = (from, to, truth.memory[from][to], initiation.process);
                let last = self.answered.insert(memory, initiation.serial);
                if last.is_some_and(|last| last >= initiation.serial) {
                    return Err(format!("node {from} answers an initiation of node {to} that is not new"));
                }
                truth.accepted[from][to] = Some(initiation.stamp);
                let (psk, began) = (truth.psk[from][to], [None, Some(sent.clock)]);
                self.by_index.insert((to, sent.first_index()), (self.sessions.len(), INITIATOR));
                self.by_index.insert((from, index), (self.sessions.len(), RESPONDER));
                self.sessions.push(Session { ends: [to, from], born: sent.at, psk, began });
            }
            Kind::CookieReply => {
                let index = sent.first_index();
                if index == STRANGER {
                    return Ok(());
                }
                let is_of_initiation = self.initiations.get(&index).is_some_and(|initiation| initiation.to == from);
                if !is_of_initiation && !self.by_index.contains_key(&(from, index)) {
                    return Err(format!("node {from} gives a cookie to {index:08x}, who sent it nothing"));
                }
                self.cookies.sent += 1;
            }
            Kind::Keepalive | Kind::Data => {
                let (index, counter) = (sent.first_index(), sent.counter());
                if !self.counters.insert((from, index, counter)) {
                    return Err(format!("node {from} used counter {counter} twice in session {index:08x}"));
                }
                self.look_at_use(truth, sent)?;
            }
        }
        Ok(())
    }

    /// A node has sent in a session: may it?
    fn look_at_use(&mut self, truth: &Truth, sent: &Sent) -> Verdict {
        let (from, index) = (sent.from, sent.first_index());
        let Some(&(number, end)) = self.by_index.get(&(from, index)) else {
            return Err(format!("node {from} sends in session {index:08x}, which nobody made"));
        };
        let session = &mut self.sessions[number];
        let to = session.ends[1 - end];
        if end == INITIATOR && session.began[INITIATOR].is_none() {
            session.began[INITIATOR] = Some(sent.clock);
            let own = truth.psk[from][to];
            if own != session.psk {
                return Err(format!("a session with preshared keys {own} and {}", session.psk));
            }
        }
        if session.began[INITIATOR].is_none() {
            return Err(format!("node {from} spoke as responder before node {to} had"));
        }
        if truth.gave_up[from].is_some_and(|gave_up| session.born < gave_up) {
            return Err(format!("node {from} sends in session {index:08x}, which it was to give up"));
        }
        let age = session.began[end].map(|began| sent.clock.saturating_since(began));
        if age.is_some_and(|age| age >= REJECT_AFTER_TIME) {
            return Err(format!("node {from} sends in a session that is {age:?} old"));
        }
        self.used.insert((from, to), session.born);
        Ok(())
    }

    fn look_at_arrivals(&mut self, sim: &Sim, truth: &Truth, node: usize) -> Verdict {
        let arrived = &sim[node].arrived;
        for arrived in &arrived[self.read_arrived[node]..] {
            let number = super::packets::number(&arrived.packet);
            let given = number.and_then(|number| self.given.get(&number).map(|given| (number, given)));
            let Some((number, given)) = given.filter(|(_, given)| given.packet == arrived.packet) else {
                return Err(format!("nobody sent what came out at node {node}: {:x?}", arrived.packet));
            };
            if !self.came_out.insert(number) {
                return Err(format!("packet {number} came out twice, the second time at node {node}"));
            }
            if truth.owner[node][given.claimed] != Some(given.by) {
                let owner = truth.owner[node][given.claimed];
                return Err(format!(
                    "packet {number} of node {} came out at node {node} as from {}, who is {owner:?}",
                    given.by, given.claimed
                ));
            }
            if truth.ids[node][given.by] != Some(arrived.from) {
                return Err(format!("packet {number} of node {} is said to come from another", given.by));
            }
        }
        self.read_arrived[node] = arrived.len();
        Ok(())
    }
}

/// What an interface may hold: its tables, each peer with three sessions and a handshake, and what
/// its bounds allow to wait.
fn most_memory(peers: usize, bounds: Bounds) -> isize {
    const TABLES: usize = 6 << 10;
    const PEER: usize = 8 << 10;
    // A staged packet is charged more than it costs beyond its bytes; queues double as they grow.
    let waiting = (bounds.staged_bytes + peers * (2 << 10)).min(peers * bounds.staged_bytes_per_peer);
    let queues = bounds.outgoing * 2 * 256 + bounds.handshake_queue * 2 * 256 + bounds.events * 2 * 64;
    (TABLES + peers * PEER + waiting + queues) as isize
}
