//! A worker: one TUN queue, a UDP socket of each family, and one loop that serves both sides. The handshake worker has
//! no queue: see [`crate::udp::bind`].
//!
//! Each burst is read, shown to the engine as a whole, sealed or opened in place, and written. Work goes to another
//! thread only if no packet waits for it.

mod codel;
mod gate;
mod patience;
mod reading;
mod sources;
#[cfg(test)]
mod tests;
mod unreachable;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use adit::limits::{INITIATION_LEN, TRANSPORT_HEADER_LEN, TRANSPORT_OVERHEAD};
use adit::{Datagrams, Delivered, Packets, Sealed};
use arrayvec::ArrayVec;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::flows::{Moved, Way};
use crate::offload::{Joiner, VnetHeader};
use crate::shared::{Shared, Waiting, group, is_idle, now};
use crate::tun::TunQueue;
use crate::udp::{Group, MAX_RECEIVED, MAX_SENT, Received, Sockets};

use codel::Codel;
pub(crate) use gate::Gate;
use patience::{OneByOne, Patience, Turn};
use sources::{Failures, Ready, Watched};
use unreachable::Allowance;

pub(crate) const WAKER: Token = Token(0);
const TUN: Token = Token(1);

const TAG_LEN: usize = TRANSPORT_OVERHEAD - TRANSPORT_HEADER_LEN;
/// The longest packet that one read of the TUN device may give.
const MAX_READ: usize = 65_536;
/// Bytes of a burst from inside: a whole number of the longest sends, so that under load none goes out half empty.
const OUT_LEN: usize = 3 * MAX_SENT;
/// Behind the burst: where a segmented read waits to be cut into packets that join the burst.
const UNCUT: usize = OUT_LEN + TRANSPORT_HEADER_LEN;
/// A packet is read only if the burst has room for one of this length, which is that of an ordinary link.
const USUAL_LEN: usize = 1_500;
/// Bytes of a burst from the network.
const IN_LEN: usize = 4 * (MAX_RECEIVED + 1);
/// Bytes for each of the many reads on a handshake socket: more initiations than one address has reason to send, if the
/// kernel coalesces them (GRO). Anything longer is no handshake, and may be cut off.
const MAX_HANDSHAKES: usize = 16 * INITIATION_LEN;
/// The most packets in a burst: more would keep the other side waiting.
const BURST: usize = 192;
/// How many rounds of bursts are served before it is polled which other sources have become readable.
const ROUNDS_BETWEEN_POLLS: u32 = 4;
/// The most bursts in a row after which no strangers are answered: somebody has to be.
const MOST_PUT_OFF: u32 = 3;
/// How often a worker that awaits a reply pauses before it looks again: some 2 µs in all, or less.
const PAUSES: u32 = 32;
/// The most groups of datagrams that are given to the kernel at a time.
const GROUPS: usize = 32;

pub(crate) struct Worker {
    shared: Arc<Shared>,
    index: usize,
    poll: Poll,
    tun: Option<TunQueue>,
    /// Where packets are written that are not to change from which queue their flow comes: see [`crate::flows`]. All
    /// that the handshake worker writes (data packets that the kernel has coalesced with a handshake) is of this kind.
    aside: Option<Arc<TunQueue>>,
    sockets: Arc<Sockets>,
    /// Whether this worker sends the answers to strangers (cookie replies), and whether some may have been put off.
    answers: bool,
    owes_answers: bool,
    /// After how many bursts in a row strangers were not answered.
    put_off: u32,
    /// The burst from inside, and the burst from the network.
    outbound: Box<[u8]>,
    inbound: Box<[u8]>,
    /// A flow that has come here from another worker, whose packets must leave first.
    moved: Option<Moved>,
    packets: Packets,
    datagrams: Datagrams,
    joiner: Joiner,
    /// How many more senders may be told that nobody takes their packets.
    allowance: Allowance,
    /// A segmented read of which some segments have not been cut off yet.
    rest: Option<Uncut>,
    /// Whether the last read gave several segments: the next one will, most likely.
    is_bulk: bool,
    /// Keeps what waits in the sockets short.
    codel: Codel,
    one_by_one: OneByOne,
    ready: Ready,
    watched: Watched,
    tun_failures: Failures,
    udp_failures: [Failures; 2],
    /// Which socket is read first in the next turn.
    v6_is_next: bool,
}

/// A packet, or several segments in one, that lies at [`UNCUT`] as it was read from the TUN device.
#[derive(Clone, Copy)]
struct Uncut {
    vnet: VnetHeader,
    len: usize,
    /// The first segment that has not joined the burst.
    segment: usize,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        index: usize,
        poll: Poll,
        tun: Option<TunQueue>,
        aside: Option<Arc<TunQueue>>,
    ) -> io::Result<Self> {
        let sockets = shared.sockets(index).ok_or(io::ErrorKind::NotFound)?;
        if let Some(tun) = &tun {
            poll.registry().register(&mut SourceFd(&tun.as_raw_fd()), TUN, Interest::READABLE)?;
        }
        let outbound_len = if tun.is_some() { UNCUT + MAX_READ } else { 0 };
        let mut watched = Watched::default();
        watched.watch(&poll, &sockets)?;
        Ok(Self {
            answers: shared.answers(index),
            // Some may have been handed over.
            owes_answers: shared.answers(index),
            put_off: 0,
            shared,
            index,
            poll,
            tun,
            aside,
            sockets,
            outbound: vec![0; outbound_len].into_boxed_slice(),
            inbound: vec![0; IN_LEN].into_boxed_slice(),
            packets: Packets::default(),
            datagrams: Datagrams::default(),
            joiner: Joiner::new(),
            allowance: Allowance::new(Instant::now()),
            moved: None,
            rest: None,
            is_bulk: false,
            codel: Codel::new(Instant::now()),
            one_by_one: OneByOne::default(),
            ready: Ready::default(),
            watched,
            tun_failures: Failures::default(),
            udp_failures: Default::default(),
            v6_is_next: false,
        })
    }

    /// Serves until the workers are to end or to rest. Returns whether it can go on later.
    pub(crate) fn run(&mut self) -> bool {
        let mut events = Events::with_capacity(8);
        let mut patience = Patience::new(self.shared.busy_poll, Instant::now());
        // The poll tells of each packet once: what it told of before a rest may wait still.
        self.ready = Ready { tun: self.tun.is_some(), v4: true, v6: true };
        // Those that have rested do not begin all at once, so that two of them could come to wait for each other.
        self.moved = None;
        let mut works = self.turn(&mut events, &mut patience);
        while works && !self.shared.ends.load(Ordering::Relaxed) {
            let polls_on = patience.polls_on(Instant::now);
            if !self.wait(&mut events, polls_on.then_some(Duration::ZERO)) {
                return false;
            }
            if events.is_empty() && !self.ready.any() {
                // Another thread that wants this core may be the one whose packet is awaited.
                std::thread::yield_now();
                if !patience.awaits_reply() {
                    continue;
                }
                // To read in vain keeps what the reply will need in the caches, and pauses leave the other half of a
                // core that is shared to whoever makes the reply.
                for _ in 0..PAUSES {
                    std::hint::spin_loop();
                }
                (self.ready.v4, self.ready.v6) = (true, true);
            }
            works = self.turn(&mut events, &mut patience);
        }
        // Segments that were read but not yet sent exist nowhere else.
        while self.rest.is_some() {
            self.serve_tun();
        }
        works
    }

    /// Serves whatever is ready, as one turn. Returns whether the poll works.
    fn turn(&mut self, events: &mut Events, patience: &mut Patience) -> bool {
        self.shared.flows.at_work(self.index, true);
        self.codel.rested();
        // One that cannot go on counts as at work for ever: no flow is taken from it.
        let Some(turn) = self.serve(events) else { return false };
        self.shared.flows.at_work(self.index, false);
        patience.moved(turn, Instant::now());
        true
    }

    /// Serves both sides in turn until neither has anything left. `None` if the poll fails.
    fn serve(&mut self, events: &mut Events) -> Option<Turn> {
        let mut turn = Turn::default();
        let mut bursts = 0;
        while (self.ready.any() || self.has_to_wait()) && !self.shared.ends.load(Ordering::Relaxed) {
            if self.has_to_wait() {
                std::thread::yield_now();
            } else if self.ready.tun {
                let count = self.serve_tun();
                if !self.ready.tun {
                    self.shared.flows.has_sent_all(self.index);
                }
                turn.outbound += count;
                if self.gives_way(count) {
                    std::thread::yield_now();
                }
            }
            if self.ready.v4 || self.ready.v6 {
                turn.inbound += self.serve_network();
            }
            bursts += 1;
            // A source may never run empty: the others, and new sockets, are not to wait for that.
            if bursts % ROUNDS_BETWEEN_POLLS == 0 {
                if !self.wait(events, Some(Duration::ZERO)) {
                    return None;
                }
                // Nothing has come to its queue, however long the network keeps it from resting.
                if !self.ready.tun {
                    self.shared.flows.has_sent_all(self.index);
                }
            }
        }
        // A turn without a packet tells nothing about how packets come.
        if turn.outbound + turn.inbound > 0 {
            self.one_by_one = OneByOne::after(turn);
        }
        Some(turn)
    }

    /// Whether packets that come from this worker's queue may have to wait for earlier ones of another worker.
    ///
    /// It does not rest before that is over. So of two workers never both wait for each other: a flow is taken only
    /// from one that rests, and while it is waited for, the other one is at work.
    fn has_to_wait(&mut self) -> bool {
        self.moved = self.moved.filter(|moved| !self.shared.flows.has_arrived(moved));
        self.moved.is_some()
    }

    /// Whether to yield the core after a burst of `count` packets from inside: it filled up with packets that came one
    /// by one, and more wait. That may be more than can be carried. What must be lost had better be lost in the
    /// device's queue, before it has cost anything, than beyond the tunnel, for want of processor time at the receiver.
    fn gives_way(&self, count: usize) -> bool {
        self.ready.tun && !self.is_bulk && count > 1
    }

    /// One burst from inside the tunnel to the network. Returns how many packets it had.
    fn serve_tun(&mut self) -> usize {
        let mut packets = std::mem::take(&mut self.packets);
        packets.set_mtu(self.shared.mtu.load(Ordering::Relaxed));
        if self.codel.is_to_look() {
            self.codel.looked(Instant::now(), self.sockets.waiting());
        }
        let mut end = 0;
        if let Some(rest) = self.rest.take() {
            end = self.cut(rest, end, &mut packets);
        }
        let ends = self.shared.ends.load(Ordering::Relaxed);
        // Bounded, since not every read yields a packet.
        for _ in 0..BURST {
            let has_room = packets.len() < BURST && end + USUAL_LEN + TRANSPORT_OVERHEAD <= OUT_LEN;
            let is_first = self.one_by_one.outbound && !packets.is_empty();
            if self.rest.is_some() || ends || !has_room || is_first {
                break;
            }
            match self.read_packet(end, &mut packets) {
                Ok(next) => end = next,
                Err(error) => {
                    self.ready.tun = self.tun_failures.let_read_on(&error);
                    self.tun_failed(&error);
                    break;
                }
            }
        }
        let count = packets.len();
        if count == 0 {
            self.packets = packets;
            return 0;
        }
        self.one_by_one.outbound = false;
        let (sealing, aftermath) = {
            let mut interface = self.shared.interface();
            let sealing = interface.begin_seal(now(), packets, &self.outbound);
            (sealing, self.shared.aftermath(&interface))
        };
        let sealed = sealing.seal(&mut self.outbound);
        self.send(&sealed);
        self.tell_unreachable(&sealed);
        self.packets = sealed.into_empty();
        if aftermath.peer_transmits {
            self.shared.transmit(Waiting::ForPeers, &self.sockets, None, &mut self.inbound);
        }
        self.shared.settle(aftermath);
        count
    }

    /// Sends what the engine has queued of its own accord. While datagrams wait to be read, answers to strangers are
    /// put off after one send: those who wait may include somebody who has a cookie already. If so many wait that some
    /// may be lost, reading has precedence, and few are answered.
    fn transmit(&mut self) {
        let is_busy = self.ready.v4 || self.ready.v6;
        let waiting = match (self.answers, is_busy) {
            (false, _) => Waiting::ForPeers,
            (true, true) if self.puts_off_answers() => Waiting::ForPeers,
            (true, true) => Waiting::OneSend,
            (true, false) => Waiting::All,
        };
        self.owes_answers = self.answers && waiting != Waiting::All;
        self.shared.transmit(waiting, &self.sockets, None, &mut self.inbound);
    }

    /// Whether to answer no strangers after this burst, since more come than can be read meanwhile.
    fn puts_off_answers(&mut self) -> bool {
        let puts_off = self.put_off < MOST_PUT_OFF && self.sockets.are_filling();
        self.put_off = if puts_off { self.put_off + 1 } else { 0 };
        puts_off
    }

    fn send(&mut self, sealed: &Sealed) {
        let mut transmits = sealed.transmits().peekable();
        while transmits.peek().is_some() {
            let mut groups = ArrayVec::<Group<'_>, GROUPS>::new();
            let mut peers = ArrayVec::<_, GROUPS>::new();
            for transmit in transmits.by_ref().take(GROUPS) {
                groups.push(group(&transmit, &self.outbound));
                peers.push(transmit.peer);
            }
            self.sockets.send_many(&groups, |index, outcome| {
                let peer = peers.get(index).copied().flatten();
                // What is refused waits nowhere.
                let group = groups.get(index);
                if let Some(group) = group.filter(|_| outcome.sent > 0) {
                    self.codel.joined(peer, outcome.sent * group.segment_size);
                }
                self.shared.sent(peer, group, &outcome);
            });
        }
    }

    /// One burst from the network to the inside of the tunnel. Returns how many datagrams it had.
    fn serve_network(&mut self) -> usize {
        let mut datagrams = std::mem::take(&mut self.datagrams);
        self.read_datagrams(&mut datagrams);
        let count = datagrams.len();
        if count == 0 {
            self.datagrams = datagrams;
            if self.owes_answers {
                self.transmit();
            }
            return 0;
        }
        // If the kernel itself answers a packet, the answer is usually in the TUN queue before the write returns.
        let looks_inside = std::mem::take(&mut self.one_by_one.inbound);
        let now = now();
        let opening = self.shared.interface().begin_open(now, datagrams, &self.inbound);
        let opened = opening.open(&mut self.inbound);
        let (delivered, aftermath) = {
            let mut interface = self.shared.interface();
            let delivered = interface.commit(now, opened, &mut self.inbound);
            (delivered, self.shared.aftermath(&interface))
        };
        self.write_packets(&delivered);
        self.ready.tun |= looks_inside && self.tun.is_some() && delivered.packets().next().is_some();
        self.datagrams = delivered.into_empty();
        if aftermath.peer_transmits || aftermath.answers && self.answers {
            self.transmit();
        }
        self.shared.settle(aftermath);
        count
    }

    /// Reads from the sockets into the burst, until it is full or neither has anything left.
    fn read_datagrams(&mut self, datagrams: &mut Datagrams) {
        let mut end = 0;
        let (is_for_handshakes, most) = if self.tun.is_some() { (false, MAX_RECEIVED) } else { (true, MAX_HANDSHAKES) };
        let Ready { v4, v6, .. } = &mut self.ready;
        let [v4_failures, v6_failures] = &mut self.udp_failures;
        let mut sockets = [(&self.sockets.v4, v4, v4_failures), (&self.sockets.v6, v6, v6_failures)];
        // They take turns at being first: a flood on one of them does not keep the other waiting.
        if self.v6_is_next {
            sockets.reverse();
        }
        self.v6_is_next = !self.v6_is_next;
        for (socket, ready, failures) in sockets {
            while *ready {
                let Some(socket) = socket else {
                    *ready = false;
                    break;
                };
                let is_full = datagrams.len() >= BURST || self.one_by_one.inbound && !datagrams.is_empty();
                let rest = self.inbound.get_mut(end..).filter(|rest| rest.len() >= most && !is_full);
                let Some(rest) = rest else { break };
                let mut take = |start: usize, received: &Received| {
                    for datagram in received.datagrams() {
                        let place = end + start + datagram.start..end + start + datagram.end;
                        datagrams.push(place, &received.path, received.ecn);
                    }
                };
                let result = if is_for_handshakes {
                    socket.recv_many(rest, most, take)
                } else {
                    socket.recv(rest.get_mut(..most).unwrap_or_default()).map(|received| {
                        take(0, &received);
                        (received.len, true)
                    })
                };
                match result {
                    Ok((used, more)) => {
                        end += used;
                        *ready = more;
                    }
                    Err(error) => {
                        *ready = failures.let_read_on(&error);
                        if !is_idle(&error) {
                            tracing::debug!(%error, "a socket cannot be read");
                        }
                    }
                }
            }
        }
    }

    /// Writes what was opened to the TUN device, packets that continue each other joined into one.
    fn write_packets(&mut self, delivered: &Delivered) {
        let ranges = delivered.packets().map(|(_, range)| range);
        for run in self.joiner.join(&mut self.inbound, ranges, self.shared.offloads) {
            let first = run.parts().next().unwrap_or_default();
            let way = match self.shared.flows.way(self.index, first) {
                // One at a time.
                Way::OwnFrom(_) if self.moved.is_some() => Way::Aside,
                way => way,
            };
            let own = self.tun.as_ref().filter(|_| way != Way::Aside);
            let tun = own.or(self.aside.as_deref()).or(self.tun.as_ref());
            let written = run.with_slices(self.shared.vnet_header, |slices| {
                tun.ok_or(io::ErrorKind::NotFound)?.write_vectored(slices)
            });
            if let Way::OwnFrom(worker) = way {
                self.moved = self.shared.flows.moved(worker);
            }
            if let Err(error) = written {
                self.shared.tun_errors.fetch_add(run.count() as u64, Ordering::Relaxed);
                tracing::debug!(%error, packets = run.count(), "the TUN device did not take a packet");
            }
        }
    }
}
