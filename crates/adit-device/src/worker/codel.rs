//! Controlled delay (CoDel, RFC 8289): no standing queue where the way out is slower than the tunnel.
//!
//! A sender fills the queue before a slow link until something is lost, and everything behind waits that long. So once
//! a queue has stood for a while, one packet is dropped on purpose, and then more, sooner and sooner, until it has
//! gone. What understands ECN is marked instead. The queue is the kernel's, which does not tell how long a packet
//! waited in it: that is taken to be as long as it took of late to fill the queue as far.
//!
//! Nor does the kernel tell for which peer something waits, and the peers of a worker may be behind links of any speed;
//! one that has left its network keeps the kernel waiting for an answer to ARP. So only the peer to which most goes is
//! looked at, and of what waits, as much as went to all others of late is taken to be theirs.

use std::time::{Duration, Instant};

use adit::PeerId;

/// How long packets may wait for good: a tenth of the interval, twice what the RFC has for single packets. These come
/// and leave by up to 64 at a time, and a wireless link gathers some before it sends them.
const TARGET: Duration = Duration::from_millis(10);
/// How long a queue stands before the first packet is dropped: as long as it may take senders to notice that they are
/// too fast.
const INTERVAL: Duration = Duration::from_millis(100);
/// Bytes that are no queue, whatever the speed: a few packets, with what the kernel needs beside each.
const FEW: usize = 12 * 1024;
/// Bytes that join before a queue is looked at that was empty the last time: on a fast link it always is.
const MANY: usize = 8 * FEW;
/// What the kernel counts for a message beside its contents.
const OVERHEAD: usize = 640;
/// What went to others is remembered for this long, and for as long again: the kernel keeps for up to three seconds
/// what it has no address on the link for.
const MEMORY: Duration = Duration::from_secs(2);
/// The most bytes by which the peer to which most goes is known to lead: as many for others make another one of them.
const MOST_LEAD: usize = 4 << 20;

/// What is known of the queue behind a worker's sockets.
#[derive(Debug)]
pub(super) struct Codel {
    /// The peer to which most goes, and by how many bytes it leads.
    main: Option<PeerId>,
    lead: usize,
    /// When the present interval began.
    since: Instant,
    /// The fewest bytes for that peer that were found waiting in it, at least.
    least: usize,
    /// The bytes for that peer that have joined the queue in it.
    joined: usize,
    /// The bytes for others that have joined since the time beside, and in a time as long before that.
    others: [usize; 2],
    others_since: Instant,
    /// How many more join it until it is looked at.
    until_look: usize,
    /// Whether something waited when it was looked at.
    waited: bool,
    /// The intervals at whose end the queue stood, of late.
    count: u32,
    /// Whether a packet is to be dropped.
    owes: bool,
}

impl Codel {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            main: None,
            lead: 0,
            since: now,
            least: 0,
            joined: 0,
            others: [0; 2],
            others_since: now,
            until_look: MANY,
            waited: false,
            count: 0,
            owes: false,
        }
    }

    /// Takes note of a message for a peer that has joined the queue.
    pub(super) fn joined(&mut self, peer: Option<PeerId>, bytes: usize) {
        let bytes = bytes + OVERHEAD;
        self.until_look = self.until_look.saturating_sub(bytes);
        if peer == self.main {
            self.lead = (self.lead + bytes).min(MOST_LEAD);
            self.joined += bytes;
        } else if let Some(lead) = self.lead.checked_sub(bytes) {
            self.lead = lead;
            self.others[0] = self.others[0].saturating_add(bytes);
        } else {
            // Of what waits nobody knows how much is for the one before.
            self.others[0] = if self.main.is_some() { usize::MAX } else { 0 };
            (self.main, self.lead, self.joined) = (peer, bytes, bytes);
        }
    }

    /// Takes note that the worker had nothing to send for a while: what was found waiting may have left.
    pub(super) fn rested(&mut self) {
        if self.waited {
            self.until_look = 0;
        }
    }

    /// Whether it is worth a look at how much waits.
    pub(super) fn is_to_look(&self) -> bool {
        self.until_look == 0
    }

    /// Takes note of how many bytes wait, before others join them.
    pub(super) fn looked(&mut self, now: Instant, waiting: usize) {
        self.waited = waiting > 0;
        self.until_look = if self.waited { FEW } else { MANY };
        if now.saturating_duration_since(self.others_since) >= MEMORY {
            (self.others, self.others_since) = ([0, self.others[0]], now);
        }
        if !self.waited {
            self.others = [0; 2];
        }
        let waiting = waiting.saturating_sub(self.others[0]).saturating_sub(self.others[1]);
        self.least = self.least.min(waiting);
        let age = now.saturating_duration_since(self.since).as_secs_f64();
        // Intervals get shorter with the root of their count: so the loss grows by as much in every second.
        if age * f64::from(self.count.saturating_add(1)).sqrt() < INTERVAL.as_secs_f64() {
            return;
        }
        let stood = self.least > FEW && self.least as f64 * age > self.joined as f64 * TARGET.as_secs_f64();
        self.owes = stood;
        self.count = if stood { self.count.saturating_add(1) } else { self.count / 2 };
        (self.since, self.least, self.joined) = (now, waiting, 0);
    }

    /// Whether the packet that has been read is to be dropped, or the first segment of what has been read. One that
    /// comes by itself while others come in bulk is spared, and one that goes to another peer: it is not what the queue
    /// is made of.
    pub(super) fn drops(&mut self, is_bulk: bool, was_bulk: bool, peer: impl FnOnce() -> Option<PeerId>) -> bool {
        (is_bulk || !was_bulk) && self.owes && peer() == self.main && std::mem::take(&mut self.owes)
    }
}

#[cfg(test)]
impl Codel {
    /// That of a queue that has stood long enough, and is made of packets for this peer.
    pub(super) fn owing(peer: Option<PeerId>) -> Self {
        Self { main: peer, owes: true, ..Self::new(Instant::now()) }
    }
}

#[cfg(test)]
mod tests {
    use getrandom::SysRng;
    use rand_core::UnwrapErr;

    use super::*;

    /// Two peers.
    fn peers() -> [Option<PeerId>; 2] {
        let mut interface = adit::Interface::new(crate::shared::now(), Duration::ZERO, Box::new(UnwrapErr(SysRng)));
        [1, 2].map(|number| interface.add_peer(adit::PublicKey::from_bytes([number; 32])).ok())
    }

    const STEP: Duration = Duration::from_micros(100);

    /// A link behind a queue.
    struct Link {
        codel: Codel,
        peers: [Option<PeerId>; 2],
        now: Instant,
        /// Bytes that leave in each step.
        speed: usize,
        waiting: usize,
    }

    impl Link {
        /// A link of so many bytes in a second, with an empty queue.
        fn of(speed: usize) -> Self {
            let now = Instant::now();
            Self { codel: Codel::new(now), peers: peers(), now, speed: speed / 10_000, waiting: 0 }
        }

        /// For so long, adds to the queue what `arrives` says for how much waits. Returns how many packets are lost.
        fn run(&mut self, time: Duration, mut arrives: impl FnMut(usize) -> usize) -> usize {
            let mut lost = 0;
            let end = self.now + time;
            while self.now < end {
                self.now += STEP;
                self.waiting = self.waiting.saturating_sub(self.speed);
                let bytes = arrives(self.waiting);
                if bytes > 0 {
                    lost += self.send(self.peers[0], bytes);
                }
            }
            lost
        }

        /// As the worker sends what is read at a time. Returns how many packets are lost.
        fn send(&mut self, peer: Option<PeerId>, bytes: usize) -> usize {
            if self.codel.is_to_look() {
                self.codel.looked(self.now, self.waiting);
            }
            let lost = self.codel.drops(true, true, || peer);
            self.codel.joined(peer, bytes);
            self.waiting += bytes + OVERHEAD;
            lost.into()
        }

        /// A queue that is kept as full as this.
        fn keep(&mut self, time: Duration, bytes: usize) -> usize {
            self.run(time, |waiting| bytes.saturating_sub(waiting + OVERHEAD))
        }
    }

    /// An interval, and one to find out how fast the queue fills.
    const SOON: Duration = Duration::from_millis(210);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_queue_that_stands_costs_one_packet_after_an_interval_and_then_more_and_more() {
        let mut link = Link::of(10_000_000);
        assert_eq!(link.keep(INTERVAL, 500_000), 0, "before an interval is over");
        assert_eq!(link.keep(SOON - INTERVAL, 500_000), 1);
        // The times between losses are an interval over the root of 1, 2, 3, and so on, and the sum of n of these is
        // nearly twice the root of n, less 1.46. The first interval, in which the queue fills, does not count. So there
        // are 27 in the first second, and 50 more in each.
        let mut link = Link::of(100_000_000);
        let in_each_second = [(); 4].map(|()| link.keep(SECOND, 5_000_000));
        for (lost, expected) in in_each_second.into_iter().zip([27, 78, 127, 177]) {
            assert!(lost.abs_diff(expected) <= expected / 10, "{in_each_second:?}");
        }
    }

    #[test]
    fn what_leaves_soon_costs_nothing_however_much_it_is() {
        // A queue of 500 kB: 50 ms at one speed, 5 ms at the other.
        assert!(Link::of(10_000_000).keep(SECOND, 500_000) > 0);
        assert_eq!(Link::of(100_000_000).keep(SECOND, 500_000), 0);
    }

    #[test]
    fn a_few_packets_cost_nothing_however_long_they_take() {
        assert_eq!(Link::of(100_000).keep(SECOND, FEW), 0);
        assert!(Link::of(100_000).keep(SECOND, 2 * FEW) > 0);
    }

    #[test]
    fn bursts_that_have_left_before_the_next_one_cost_nothing() {
        // Each takes 90 ms to leave.
        let mut link = Link::of(10_000_000);
        let mut step = 0;
        let mut burst = |_| {
            step += 1;
            if step % 1_000 == 0 { 900_000 } else { 0 }
        };
        assert_eq!(link.run(10 * SECOND, &mut burst), 0);
    }

    #[test]
    fn bursts_that_are_read_piece_by_piece_cost_nothing_if_they_have_left_before_the_next_one() {
        // Each takes 5 ms to leave.
        let mut link = Link::of(12_500_000);
        for _ in 0..100 {
            link.codel.rested();
            // Too little comes last for another look.
            for bytes in [15_000, 15_000, 15_000, 5_000] {
                assert_eq!(link.send(link.peers[0], bytes), 0);
            }
            link.run(Duration::from_millis(150), |_| 0);
        }
    }

    /// Sends to the first peer, and less to the second, for six seconds, while so much waits as `waits` says for the
    /// bytes that have gone to the second. Returns how many packets are lost.
    fn lost_beside_another(waits: impl Fn(usize) -> usize) -> usize {
        let mut link = Link::of(0);
        let (mut lost, mut to_other) = (0, 0);
        for _ in 0..600 {
            link.now += Duration::from_millis(10);
            link.codel.rested();
            for (peer, bytes) in link.peers.into_iter().zip([37_500, 1_250]) {
                link.waiting = waits(to_other);
                lost += link.send(peer, bytes);
            }
            to_other += 1_250 + OVERHEAD;
        }
        lost
    }

    #[test]
    fn what_may_wait_for_another_peer_costs_nothing() {
        // As much as the kernel keeps while it waits for an address on the link.
        assert_eq!(lost_beside_another(|to_other| to_other.min(212_992)), 0);
        assert!(lost_beside_another(|to_other| to_other.min(212_992) + 1_000_000) > 0, "more than went to the other");
    }

    #[test]
    fn what_waits_for_the_peer_to_which_most_went_before_costs_nothing() {
        let mut link = Link::of(10_000_000);
        link.keep(SECOND, 500_000);
        let mut lost = 0;
        for _ in 0..200 {
            link.now += Duration::from_millis(10);
            link.waiting = 500_000;
            lost += link.send(link.peers[1], 100_000);
        }
        assert_eq!(lost, 0);
    }

    #[test]
    fn a_packet_for_another_peer_is_spared() {
        let [one, other] = peers();
        let mut codel = Codel::owing(one);
        assert!(!codel.drops(true, true, || other));
        assert!(codel.drops(true, true, || one));
    }

    #[test]
    fn the_loss_ends_with_the_queue_and_takes_up_where_it_was_if_the_queue_is_back_soon() {
        let mut link = Link::of(10_000_000);
        link.keep(2 * SECOND, 500_000);
        // Room for one loss that was due already.
        assert!(link.keep(SECOND, 50_000) <= 1, "5 ms");
        assert!(link.keep(SOON, 500_000) <= 2, "long after");
        link.keep(2 * SECOND, 500_000);
        link.keep(SECOND / 10, 50_000);
        assert!(link.keep(SOON, 500_000) > 5, "soon after");
    }

    #[test]
    fn a_loss_for_which_there_was_no_packet_is_forgiven_when_the_queue_has_gone() {
        let mut codel = Codel::owing(None);
        let now = Instant::now();
        codel.looked(now + INTERVAL, FEW);
        assert!(!codel.owes);
    }

    #[test]
    fn a_packet_that_comes_alone_is_spared_while_others_come_in_bulk() {
        let mut codel = Codel::owing(None);
        assert!(!codel.drops(false, true, || None), "alone, after bulk");
        assert!(codel.drops(true, false, || None), "bulk");
        assert!(!codel.drops(true, true, || None), "one only");
        assert!(Codel::owing(None).drops(false, false, || None), "one of many that come one by one");
    }

    #[test]
    fn little_that_is_sent_is_not_worth_a_look_and_less_so_if_nothing_waited() {
        let mut codel = Codel::new(Instant::now());
        // What was found waiting, and how much joins until the next look.
        for (waiting, most) in [(0, MANY), (1, FEW), (0, MANY)] {
            codel.looked(Instant::now(), waiting);
            codel.joined(None, most - 1 - OVERHEAD);
            assert!(!codel.is_to_look());
            codel.joined(None, 0);
            assert!(codel.is_to_look());
        }
    }
}
