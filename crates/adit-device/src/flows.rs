//! Which worker sends the packets of which flow.
//!
//! A TUN device with several queues learns: where a packet is written to one of them, the packets of the same flow that
//! go the other way come from that queue from then on. That is welcome, since one worker then serves both directions
//! and nobody has to be woken for an answer. But packets that wait in the queue that the flow had before would be
//! overtaken by those in the new one. So a flow that another worker sends is moved only while that one has nothing to
//! do, and the worker that it moves to reads nothing from its queue until whatever came to the other one meanwhile has
//! left. At any other time packets are written beside the queues: see [`Tun::aside`](crate::tun::Tun).

mod progress;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::offload::{IPV4_HEADER, IPV6_HEADER};
use progress::{Mark, Progress};

/// How many flows are remembered, the latest of those that share a place.
const PLACES: usize = 4096;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What the workers of a device know of its flows; nothing where there is only one worker.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    /// Part of a flow's hash and, in the last byte, the number of its worker, from 1 on.
    places: Box<[AtomicU32]>,
    workers: Box<[(OwnedFd, Progress)]>,
}

/// Where a packet is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// To the worker's own queue: its flow comes from there, or has sent nothing yet.
    Own,
    /// To the worker's own queue, to which its flow moves from the queue of this worker: see [`Flows::moved`].
    OwnFrom(usize),
    /// Beside the queues.
    Aside,
}

/// A flow has been moved away from a worker that was this far with its queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    from: usize,
    mark: Mark,
}

impl Flows {
    /// For the workers that serve these queues.
    pub(crate) fn new(queues: Vec<OwnedFd>) -> Flows {
        if queues.len() < 2 {
            return Flows::default();
        }
        Flows {
            places: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            workers: queues.into_iter().map(|queue| (queue, Progress::new())).collect(),
        }
    }

    /// A worker begins to serve its queue, or has found it empty and sent all that it had.
    pub(crate) fn at_work(&self, worker: usize, is_at_work: bool) {
        if let Some(progress) = self.progress(worker) {
            progress.set_at_work(is_at_work);
        }
    }

    /// A worker at work has found its queue empty, and sent all that it had.
    pub(crate) fn has_sent_all(&self, worker: usize) {
        if let Some(progress) = self.progress(worker) {
            progress.has_sent_all();
        }
    }

    /// A worker has read this packet from its queue.
    pub(crate) fn sent_by(&self, worker: usize, packet: &[u8]) {
        let Some((place, tag)) = self.place(packet) else { return };
        let entry = tag | number(worker);
        // Written only if it changes, so that workers do not take the line from each other.
        if place.load(Ordering::Relaxed) != entry {
            place.store(entry, Ordering::Relaxed);
        }
        if let Some(progress) = self.progress(worker) {
            progress.has_read();
        }
    }

    /// Where this worker may write this packet, so that nothing of its flow is overtaken.
    pub(crate) fn way(&self, worker: usize, packet: &[u8]) -> Way {
        let Some((place, tag)) = self.place(packet) else { return Way::Own };
        let entry = place.load(Ordering::Relaxed);
        let is_known = entry & 0xff != 0 && entry & !0xff == tag;
        if !is_known || entry == tag | number(worker) {
            return Way::Own;
        }
        let from = (entry & 0xff) as usize - 1;
        match self.progress(from) {
            Some(progress) if !progress.is_at_work() => Way::OwnFrom(from),
            _ => Way::Aside,
        }
    }

    /// To be called after the write by which a flow was moved away from this worker.
    pub(crate) fn moved(&self, from: usize) -> Option<Moved> {
        Some(Moved { from, mark: self.progress(from)?.mark() })
    }

    /// Whether everything has left that the flow had in its former queue.
    pub(crate) fn has_arrived(&self, moved: &Moved) -> bool {
        let worker = self.workers.get(moved.from);
        worker.is_none_or(|(queue, progress)| progress.is_past(moved.mark, || !has_packets(queue)))
    }

    fn progress(&self, worker: usize) -> Option<&Progress> {
        self.workers.get(worker).map(|(_, progress)| progress)
    }

    /// The place of a packet's flow, and how the flow is told from others there.
    fn place(&self, packet: &[u8]) -> Option<(&AtomicU32, u32)> {
        if self.places.is_empty() {
            return None;
        }
        let hash = hash(packet)?;
        let place = self.places.get((hash >> 32) as usize % PLACES)?;
        Some((place, hash as u32 & !0xff))
    }
}

/// Of a worker, in the last byte of a place. So many that they do not all have one share the last.
fn number(worker: usize) -> u32 {
    (worker as u32).saturating_add(1).min(0xff)
}

fn has_packets(queue: &OwnedFd) -> bool {
    let mut queues = [PollFd::new(queue, PollFlags::IN)];
    let polled = poll(&mut queues, Some(&Timespec::default()));
    polled.is_ok() && queues.iter().any(|queue| queue.revents().contains(PollFlags::IN))
}

/// The same for both directions of a flow; `None` if this is no IP packet.
fn hash(packet: &[u8]) -> Option<u64> {
    let (protocol, addresses, header, is_fragment) = match packet.first()? >> 4 {
        4 => {
            let length = usize::from(packet.first()? & 15) * 4;
            let fragment = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?);
            (*packet.get(9)?, packet.get(12..IPV4_HEADER)?, length, fragment & 0x3fff != 0)
        }
        6 => (*packet.get(6)?, packet.get(8..IPV6_HEADER)?, IPV6_HEADER, false),
        _ => return None,
    };
    let has_ports = matches!(protocol, TCP | UDP) && !is_fragment;
    let ports = packet.get(header..header + 4).filter(|_| has_ports).unwrap_or(&[0; 4]);
    let end = |address: &[u8], port: &[u8]| {
        address
            .chunks(4)
            .chain([port])
            .fold(0, |hash, bytes| mixed(hash ^ bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))))
    };
    let (from, to) = addresses.split_at(addresses.len() / 2);
    let (source, destination) = ports.split_at(2);
    Some(mixed(end(from, source).wrapping_add(end(to, destination)) ^ u64::from(protocol)))
}

/// Spreads a difference in any bit over all of them.
fn mixed(word: u64) -> u64 {
    let word = (word ^ word >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^ word >> 29
}

#[cfg(test)]
mod tests;
