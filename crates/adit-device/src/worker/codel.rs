//! Controlled delay (CoDel, RFC 8289): no standing queue where the way out is slower than the tunnel.
//!
//! A sender fills the queue before a slow link until something is lost, and everything behind waits that long. So once a
//! queue has stood for a while, one packet is lost on purpose, and then more, sooner and sooner, until it has gone. What
//! understands ECN is marked instead. The queue is the kernel's, which does not tell how long a packet waited in it: that
//! is taken to be as long as it took of late to fill the queue as far.

use std::time::{Duration, Instant};

/// How long packets may wait for good: a tenth of the interval, twice what the RFC has for single packets. These come
/// and leave by up to 64 at a time, and a wireless link gathers some before it sends them.
const TARGET: Duration = Duration::from_millis(10);
/// How long a queue stands before the first packet is lost: as long as it may take senders to notice that they are too
/// fast.
const INTERVAL: Duration = Duration::from_millis(100);
/// Bytes that are no queue, whatever the speed: a few packets, with what the kernel needs beside each.
const FEW: usize = 12 * 1024;
/// Bytes that join before a queue is looked at that was empty the last time: on a fast link it always is.
const MANY: usize = 8 * FEW;

/// What is known of the queue behind a worker's sockets.
#[derive(Debug)]
pub(super) struct Codel {
    /// When the present interval began.
    since: Instant,
    /// The fewest bytes that were found waiting in it.
    least: usize,
    /// The bytes that have joined the queue in it.
    joined: usize,
    /// How many more join it until it is looked at.
    until_look: usize,
    /// The intervals at whose end the queue stood, of late.
    count: u32,
    /// Whether a packet is to be lost.
    owes: bool,
}

impl Codel {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, least: 0, joined: 0, until_look: MANY, count: 0, owes: false }
    }

    /// Takes note of bytes that have joined the queue.
    pub(super) fn joined(&mut self, bytes: usize) {
        self.joined += bytes;
        self.until_look = self.until_look.saturating_sub(bytes);
    }

    /// Whether so much has joined the queue that it is worth a look at how much waits.
    pub(super) fn is_to_look(&self) -> bool {
        self.until_look == 0
    }

    /// Takes note of how many bytes wait, before others join them.
    pub(super) fn looked(&mut self, now: Instant, waiting: usize) {
        self.until_look = if waiting == 0 { MANY } else { FEW };
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

    /// Whether the packet that has been read is to be lost, or the first segment of what has been read. One that comes
    /// by itself while others come in bulk is spared: it is not what the queue is made of.
    pub(super) fn loses(&mut self, is_bulk: bool, was_bulk: bool) -> bool {
        (is_bulk || !was_bulk) && std::mem::take(&mut self.owes)
    }
}

#[cfg(test)]
impl Codel {
    /// That of a queue that has stood long enough.
    pub(super) fn owing() -> Self {
        Self { owes: true, ..Self::new(Instant::now()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_micros(100);

    /// A link behind a queue.
    struct Link {
        codel: Codel,
        now: Instant,
        /// Bytes that leave in each step.
        speed: usize,
        waiting: usize,
    }

    impl Link {
        /// A link of so many bytes in a second, with an empty queue.
        fn of(speed: usize) -> Self {
            let now = Instant::now();
            Self { codel: Codel::new(now), now, speed: speed / 10_000, waiting: 0 }
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
                    if self.codel.is_to_look() {
                        self.codel.looked(self.now, self.waiting);
                    }
                    lost += usize::from(self.codel.loses(true, true));
                    self.codel.joined(bytes);
                    self.waiting += bytes;
                }
            }
            lost
        }

        /// A queue that is kept as full as this.
        fn keep(&mut self, time: Duration, bytes: usize) -> usize {
            self.run(time, |waiting| bytes.saturating_sub(waiting))
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
        let mut codel = Codel::owing();
        let now = Instant::now();
        codel.looked(now + INTERVAL, FEW);
        assert!(!codel.owes);
    }

    #[test]
    fn a_packet_that_comes_alone_is_spared_while_others_come_in_bulk() {
        let mut codel = Codel::owing();
        assert!(!codel.loses(false, true), "alone, after bulk");
        assert!(codel.loses(true, false), "bulk");
        assert!(!codel.loses(true, true), "one only");
        assert!(Codel::owing().loses(false, false), "one of many that come one by one");
    }

    #[test]
    fn little_that_is_sent_is_not_worth_a_look_and_less_so_if_nothing_waited() {
        let mut codel = Codel::new(Instant::now());
        // What was found waiting, and how much joins until the next look.
        for (waiting, most) in [(0, MANY), (1, FEW), (0, MANY)] {
            codel.looked(Instant::now(), waiting);
            codel.joined(most - 1);
            assert!(!codel.is_to_look());
            codel.joined(1);
            assert!(codel.is_to_look());
        }
    }
}
