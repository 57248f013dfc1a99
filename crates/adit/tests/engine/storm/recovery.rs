//! The end of a storm: the faults end, and traffic flows again within a time that can be stated.
//!
//! The faults end when the network is whole, both ends agree on keys and addresses, the last of what
//! the network had delayed has arrived, and nobody is under load because of it. From then on:
//!
//! - **`REKEY_TIMEOUT` and a round trip.** An end that knows it has no session initiates when it has something to send,
//!   and no later than `REKEY_TIMEOUT` and the jitter of 333 ms after its last initiation or response (it may just have
//!   sent one in vain). A round trip later it sends. The responder must have heard it first, and so is half a round
//!   trip behind; its first packet is then half a round trip on its way. All in all [`SOON`].
//! - **`KEEPALIVE_TIMEOUT` and `REKEY_TIMEOUT` and a round trip.** If one end has lost its keys
//!   (restart, removal, another key, a clock that went ahead) the other goes on sending in a session
//!   that is dead, and can know it by one thing alone: 15 s without an answer. This is the bound,
//!   [`LATE`], when the end that lost its keys does not initiate by itself, because
//!   - it has nothing to send, or
//!   - the other one moved, and it does not know where to, or
//!   - its wall clock was set back before it began anew, so that its initiations are older than the
//!     last one that the other end accepted.
//!
//! Three things do not heal with time, and so the test does not expect them to: a node that moved must be the one that
//! speaks, or one of those that do; a node whose initiations are refused because of its clock needs the other end to
//! have something to send; and if that node moved as well somebody must tell the other end where to.

use std::time::Duration;

use super::fault::Dice;
use super::witness::Verdict;
use super::world::World;
use super::{KEEPALIVE_TIMEOUT, REKEY_JITTER, REKEY_TIMEOUT};
use crate::sim::{RTT, millis, secs};

/// A session is made, and both ends have used it.
const SOON: Duration = REKEY_TIMEOUT.saturating_add(REKEY_JITTER).saturating_add(RTT).saturating_add(RTT);
/// The same, after it was noticed that the old one is gone.
const LATE: Duration = KEEPALIVE_TIMEOUT.saturating_add(REKEY_TIMEOUT).saturating_add(RTT).saturating_add(RTT);

/// Ends all faults and waits for traffic between two nodes, in one direction or in both.
pub(super) fn recover(world: &mut World, dice: &mut Dice) -> Verdict {
    let ends = dice.pair(world.truth.nodes);
    end_faults(world, ends)?;
    let (one, other) = ends;
    let mut directions = vec![(one, other), (other, one)];
    if dice.one_in(2) && !must_both_speak(world, one, other) {
        directions.truncate(1);
    }
    let bound = bound(world, &directions);
    let start = world.sim.now;
    let mut talks: Vec<_> = directions.iter().map(|&(from, to)| Talk { from, to, sent: Vec::new() }).collect();
    // Some go on and on, others say something once and wait for a sign.
    let beat = if dice.one_in(2) { millis(500) } else { bound };
    let mut last = None;
    loop {
        let mut waits = false;
        for talk in &mut talks {
            if !talk.sent.iter().any(|&number| world.witness.has_come_out(number)) {
                waits = true;
                if last.is_none_or(|last| world.sim.now > last) {
                    talk.sent.push(world.send(talk.from, talk.to, 1));
                }
            }
        }
        world.look()?;
        if !waits {
            break;
        }
        last = Some(world.sim.now);
        next_turn(world, (start + bound).min(world.sim.now + beat), ends)?;
        if world.sim.now >= start + bound {
            return recovered(world, &talks, bound);
        }
    }
    // From now on nothing may be lost, except what is sent as a session ends, which may come too late.
    if world.witness.is_any_ending(&world.sim, RTT) {
        return Ok(());
    }
    // The session may have ended since, without anything to send.
    let has_session = directions.iter().all(|&(from, to)| {
        let (clock, id) = (world.sim.clock(from), world.sim.id(from, to));
        world.sim[from].interface.peer(clock, id).is_some_and(|peer| peer.has_session)
    });
    let numbers: Vec<_> = directions.iter().map(|&(from, to)| world.send(from, to, 3)).collect();
    world.sim.run_for(if has_session { RTT } else { SOON });
    world.look()?;
    match numbers.iter().find(|&&number| !world.witness.has_come_out(number)) {
        Some(number) => Err(format!("packet {number} is lost, though traffic flowed again")),
        None => Ok(()),
    }
}

/// The packets by which one end tries to reach the other.
struct Talk {
    from: usize,
    to: usize,
    sent: Vec<u64>,
}

fn recovered(world: &World, talks: &[Talk], bound: Duration) -> Verdict {
    let silent = talks.iter().find(|talk| !talk.sent.iter().any(|&number| world.witness.has_come_out(number)));
    match silent {
        Some(talk) => Err(format!("after {bound:?} nothing has come from node {} to node {}", talk.from, talk.to)),
        None => Ok(()),
    }
}

/// Goes on until something other than data has gone over the wire, or a session is made, since a packet may then fare
/// better than those before; and no longer than to `end`.
fn next_turn(world: &mut World, end: adit::Instant, (one, other): (usize, usize)) -> Verdict {
    let mut read = world.sim.wire.len();
    loop {
        let goes_on = world.sim.step(end);
        world.look()?;
        let has_happened = [one, other].map(|node| !world.sim[node].events().is_empty());
        let is_news = world.sim.wire[read..].iter().any(|sent| sent.bytes.len() <= 32 || sent.bytes[0] != 4);
        read = world.sim.wire.len();
        if !goes_on {
            world.sim.run_until(end);
            return world.look();
        }
        if is_news || has_happened.contains(&true) {
            return Ok(());
        }
    }
}

fn end_faults(world: &mut World, (one, other): (usize, usize)) -> Verdict {
    world.sim.network.heal();
    for (node, peer) in [(one, other), (other, one)] {
        // A peer whose key has changed meanwhile must be added anew.
        let key = world.sim[peer].private_key.public_key();
        if world.truth.ids[node][peer].is_some() && world.sim[node].interface.peer_id(&key).is_none() {
            world.carry_out(&super::fault::Fault::Tell { node, of: peer })?;
        }
        world.add(node, peer);
        if world.truth.owner[node][peer] != Some(peer) {
            world.move_prefix(node, peer, peer);
        }
    }
    for (node, peer) in [(one, other), (other, one)] {
        if world.truth.is_refused(&world.sim, peer, node) && world.truth.may_have_lost_sight(node, peer) {
            world.tell_address(node, peer);
        }
    }
    let key = world.truth.psk[one][other];
    world.carry_out(&super::fault::Fault::PresharedKey { node: other, peer: one, key })?;
    if let Some(last) = world.sim.last_arrival() {
        world.sim.run_until(last);
    }
    world.look()?;
    world.wait_while_there_is_load();
    world.look()
}

fn must_both_speak(world: &World, one: usize, other: usize) -> bool {
    let (truth, sim) = (&world.truth, &world.sim);
    truth.is_refused(sim, one, other) || truth.may_have_lost_sight(one, other) || truth.may_have_lost_sight(other, one)
}

fn bound(world: &World, directions: &[(usize, usize)]) -> Duration {
    let (truth, sim) = (&world.truth, &world.sim);
    let is_late = directions.iter().any(|&(from, to)| {
        let will_initiate = directions.contains(&(to, from))
            && !truth.is_refused(sim, to, from)
            && !truth.may_have_lost_sight(to, from);
        truth.may_send_into_the_void(&world.witness, from, to) && !will_initiate
    });
    if is_late { LATE.max(SOON) } else { SOON }
}

const _: () = assert!(LATE.as_millis() == secs(15).as_millis() + 40 && SOON.as_millis() == 5_373);
