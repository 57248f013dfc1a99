//! One implementation under one flood.

use std::time::Duration;

use adit_tests::measure::programs::{self, guarded};
use adit_tests::measure::{interrupt, parse, process};
use adit_tests::{Arena, Flood, FloodKind, Implementation, Rate};
use anyhow::Result;

use crate::results::Measured;

/// How long the daemon has nothing but the flood, to see what that costs it.
const ALONE: Duration = Duration::from_secs(1);

/// The longest that a newcomer is waited for, in seconds: time for the first initiation and two more.
pub(crate) const PATIENCE: u32 = 12;

/// What is flooded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Against {
    /// The daemon.
    Daemon(FloodKind),
    /// A port of its host that nobody reads: what the flood takes by itself.
    Beside,
}

impl Against {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Daemon(kind) => kind.name(),
            Self::Beside => "beside",
        }
    }

    fn start(self, arena: &Arena, rate: Rate) -> Flood {
        match self {
            Self::Daemon(kind) => arena.flood(kind, rate),
            Self::Beside => arena.flood_beside(FloodKind::UnknownTransport, rate),
        }
    }
}

/// Measures an implementation once. Only an interruption is an error: what fails is missing from the figures.
pub(crate) fn run(implementation: Implementation, against: Against, rate: Rate, seconds: u32) -> Result<Measured> {
    interrupt::check()?;
    let mut measured = Measured::default();
    if let Err(error) = guarded(|| measure(implementation, against, rate, seconds, &mut measured)) {
        measured.missing.push(format!("{error:#}"));
    }
    interrupt::check()?;
    Ok(measured)
}

fn measure(
    implementation: Implementation,
    against: Against,
    rate: Rate,
    seconds: u32,
    measured: &mut Measured,
) -> Result<()> {
    let mut arena = Arena::new(implementation);
    let daemon = arena.trio.a.daemon().id();
    let mut keep = |key: &str, value: f64| _ = measured.figures.insert(key.to_owned(), value);
    let before = tcp(&arena, seconds)?;

    let memory = process::peak_memory(daemon);
    let flood = guarded(|| Ok(against.start(&arena, rate)))?;
    let (cpu, sent, room) = (process::cpu_seconds(daemon), flood.sent(), arena.victim().host.datagrams_without_room());
    std::thread::sleep(ALONE);
    let (cpu, sent) = (process::cpu_seconds(daemon) - cpu, flood.sent() - sent);
    let lost = arena.victim().host.datagrams_without_room() - room;
    keep("cpu_percent", 100.0 * cpu / ALONE.as_secs_f64());
    keep("alone_lost_percent", 100.0 * lost as f64 / sent.max(1) as f64);

    let (room, sent) = (arena.victim().host.datagrams_without_room(), flood.sent());
    // What carries nothing at all makes iperf3 fail.
    let during = tcp(&arena, seconds).unwrap_or(0.0);
    let lost = arena.victim().host.datagrams_without_room() - room;
    keep("tcp_lost_percent", 100.0 * lost as f64 / (flood.sent() - sent).max(1) as f64);
    keep("newcomer_s", newcomer(&arena).map_or(PATIENCE.into(), |microseconds| microseconds / 1e6));
    keep("memory_growth_mib", process::peak_memory(daemon) - memory);
    keep("memory_mib", process::peak_memory(daemon));
    keep("sent_kpps", flood.stop() / 1e3);
    measured.drops = match implementation {
        Implementation::Adit => arena.victim().shown().drops,
        _ => Default::default(),
    };
    let after = tcp(&arena, seconds)?;
    let calm = f64::midpoint(before, after);
    for (key, value) in [("calm_gbps", calm), ("flood_gbps", during), ("share_percent", 100.0 * during / calm)] {
        measured.figures.insert(key.to_owned(), value);
    }
    Ok(())
}

/// Gbit/s of one TCP flow from the peer to the victim, which is where the flood goes.
fn tcp(arena: &Arena, seconds: u32) -> Result<f64> {
    let report = programs::iperf3(&arena.peer().host, &arena.victim().host, arena.inner(1), seconds, &[])?;
    Ok(parse::tcp(&report)?.bits_a_second / 1e9)
}

/// The round trip of the first ping of a newcomer, the handshake included, in microseconds.
fn newcomer(arena: &Arena) -> Result<f64> {
    let (address, patience) = (arena.inner(1).to_string(), PATIENCE.to_string());
    let words = ["-q", "-c", "1", "-W", &patience, &address];
    parse::ping(&programs::run(&arena.trio.c.host, PATIENCE + 5, "ping", &words)?)
}
