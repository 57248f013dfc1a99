//! What was measured: as JSON, and in words.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use adit_device::config::DeviceState;
use serde::{Serialize, Serializer};

use super::event::Moved;
use super::host::Side;
use super::units::{Bytes, Grouped, Time};

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    /// What was asked for.
    pub(super) seconds: u64,
    /// The user has ended it early.
    pub(super) interrupted: bool,
    /// It ran inside a user namespace, without root.
    pub(super) user_namespace: bool,
    pub(super) handshake: HandshakeFigures,
    pub(super) ping: PingFigures,
    pub(super) bulk: BulkFigures,
    pub(super) nodes: Both<NodeFigures>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct HandshakeFigures {
    /// On both ends.
    pub(super) completed: bool,
    /// From the first ping, which makes the handshake happen, to the first answer.
    first_answer_ms: Option<f64>,
}

impl HandshakeFigures {
    pub(super) fn first_answer(&mut self, time: Duration) {
        self.first_answer_ms = Some(time.as_secs_f64() * 1e3);
    }
}

/// Pings while nothing else moves, and while bulk does.
#[derive(Debug, Default, Serialize)]
pub(super) struct PingFigures {
    pub(super) idle: Pings,
    pub(super) loaded: Pings,
}

/// Delays of pings.
#[derive(Debug, Default)]
pub(super) struct Pings {
    sent: u64,
    answered: Vec<Duration>,
}

impl Pings {
    pub(super) fn add(&mut self, rtt: Option<Duration>) {
        self.sent += 1;
        self.answered.extend(rtt);
    }

    fn range(&self) -> Option<Range> {
        let mut sorted = self.answered.clone();
        sorted.sort_unstable();
        Some(Range { min: *sorted.first()?, median: *sorted.get(sorted.len() / 2)?, max: *sorted.last()? })
    }
}

#[derive(Serialize)]
struct Range {
    #[serde(serialize_with = "micros")]
    min: Duration,
    #[serde(serialize_with = "micros")]
    median: Duration,
    #[serde(serialize_with = "micros")]
    max: Duration,
}

impl Serialize for Pings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields {
            sent: u64,
            answered: usize,
            rtt_us: Option<Range>,
        }
        Fields { sent: self.sent, answered: self.answered.len(), rtt_us: self.range() }.serialize(serializer)
    }
}

/// Bulk TCP, each way.
#[derive(Debug, Default, Serialize)]
pub(super) struct BulkFigures {
    left_to_right: Option<MovedFigures>,
    right_to_left: Option<MovedFigures>,
}

impl BulkFigures {
    pub(super) fn set(&mut self, from: Side, moved: Moved) {
        let figures = MovedFigures {
            bytes: moved.bytes,
            seconds: moved.time.as_secs_f64(),
            gigabits_per_second: moved.gigabits(),
        };
        match from {
            Side::Left => self.left_to_right = Some(figures),
            Side::Right => self.right_to_left = Some(figures),
        }
    }
}

#[derive(Debug, Serialize)]
struct MovedFigures {
    /// Payload received.
    bytes: u64,
    seconds: f64,
    gigabits_per_second: f64,
}

/// The same of each host.
#[derive(Debug, Default, Serialize)]
pub(super) struct Both<T> {
    pub(super) left: T,
    pub(super) right: T,
}

impl<T> Both<T> {
    pub(super) fn of(&self, side: Side) -> &T {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }
}

/// What one Adit tells of itself.
#[derive(Debug, Default, Serialize)]
pub(super) struct NodeFigures {
    /// Since the Unix epoch.
    #[serde(rename = "last_handshake_unix_seconds", serialize_with = "seconds")]
    pub(super) last_handshake: Option<Duration>,
    /// Between the two Adits, with all that WireGuard adds.
    pub(super) tx_bytes: u64,
    pub(super) rx_bytes: u64,
    /// Into the tunnel.
    pub(super) packets_sent: u64,
    threads: u32,
    offloads: String,
    dropped: BTreeMap<String, u64>,
}

impl NodeFigures {
    pub(super) fn new(state: DeviceState, packets_sent: u64) -> NodeFigures {
        let peer = state.peers.first();
        NodeFigures {
            last_handshake: peer.and_then(|peer| peer.last_handshake),
            tx_bytes: peer.map_or(0, |peer| peer.tx_bytes),
            rx_bytes: peer.map_or(0, |peer| peer.rx_bytes),
            packets_sent,
            threads: state.facts.threads,
            offloads: state.facts.offloads,
            dropped: state.facts.drops.into_iter().collect(),
        }
    }
}

/// To a tenth of a microsecond: reading the clock itself costs more than what follows.
fn micros<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    ((time.as_secs_f64() * 1e7).round() / 10.0).serialize(serializer)
}

fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

/// The summary for people.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interrupted {
            writeln!(f, "Interrupted; until then:")?;
        }
        let handshake = match (self.handshake.completed, self.handshake.first_answer_ms) {
            (true, Some(time)) => format!("completed; {time:.1} ms from the first ping to its answer"),
            (true, None) => "completed".to_owned(),
            (false, _) => "not completed".to_owned(),
        };
        line(f, "handshake", &handshake)?;
        line(f, "RTT, idle", &self.ping.idle)?;
        line(f, "RTT, loaded", &self.ping.loaded)?;
        for (name, moved) in
            [("left \u{2192} right", &self.bulk.left_to_right), ("right \u{2192} left", &self.bulk.right_to_left)]
        {
            match moved {
                Some(moved) => line(f, name, moved)?,
                None => line(f, name, &"not measured")?,
            }
        }
        line(f, "left", &self.nodes.left)?;
        line(f, "right", &self.nodes.right)
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: &dyn fmt::Display) -> fmt::Result {
    writeln!(f, "  {name:<14}{value}")
}

impl fmt::Display for Pings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Range { min, median, max }) = self.range() else { return write!(f, "not measured") };
        let (answered, sent) = (self.answered.len(), self.sent);
        write!(f, "{} median, {} to {}; {answered} of {sent} pings answered", Time(median), Time(min), Time(max))
    }
}

impl fmt::Display for MovedFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MovedFigures { bytes, seconds, gigabits_per_second } = *self;
        write!(f, "{gigabits_per_second:.2} Gbit/s of TCP payload: {} in {seconds:.2} s", Bytes(bytes))
    }
}

impl fmt::Display for NodeFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NodeFigures { tx_bytes, rx_bytes, packets_sent, .. } = *self;
        write!(f, "{} sent, {} received, {} packets sent", Bytes(tx_bytes), Bytes(rx_bytes), Grouped(packets_sent))?;
        for (reason, count) in &self.dropped {
            write!(f, ", {} dropped: {reason}", Grouped(*count))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_told_by_their_median_and_their_losses() {
        let mut pings = Pings::default();
        assert_eq!(pings.to_string(), "not measured");
        for micros in [30, 10, 5_000] {
            pings.add(Some(Duration::from_micros(micros)));
        }
        pings.add(None);
        assert_eq!(pings.to_string(), "30 µs median, 10 µs to 5.00 ms; 3 of 4 pings answered");
        let json = serde_json::to_value(&pings).unwrap();
        assert_eq!(json["rtt_us"]["median"], 30.0);
        assert_eq!((&json["sent"], &json["answered"]), (&4.into(), &3.into()));
    }

    #[test]
    fn what_was_not_measured_is_null_and_not_zero() {
        let json = serde_json::to_value(Figures::default()).unwrap();
        assert!(json["bulk"]["left_to_right"].is_null());
        assert!(json["ping"]["idle"]["rtt_us"].is_null());
        assert!(json["handshake"]["first_answer_ms"].is_null());
        assert!(json["nodes"]["left"]["last_handshake_unix_seconds"].is_null());
    }

    #[test]
    fn drops_are_told_by_reason() {
        let figures = NodeFigures { dropped: [("replayed".to_owned(), 2)].into(), ..NodeFigures::default() };
        assert!(figures.to_string().ends_with(", 2 dropped: replayed"), "{figures}");
    }
}
