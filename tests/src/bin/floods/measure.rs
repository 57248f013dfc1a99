//! One implementation under one flood.

use std::time::{Duration, Instant};

use adit_tests::measure::programs::{self, guarded};
use adit_tests::measure::{interrupt, parse, process};
use adit_tests::{Arena, Flood, FloodKind, Implementation, Rate, for_a_while};
use anyhow::{Result, bail};

use crate::results::Measured;

/// How long the daemon has nothing but the flood, to see what that costs it.
const ALONE: Duration = Duration::from_secs(1);

/// What passes after a flood has begun before TCP's bytes are counted.
const SETTLE: Duration = Duration::from_millis(100);

/// How much TCP has carried when it has begun, in bytes, and how long that is waited for.
const BEGUN: u64 = 20_000_000;
const PATIENCE_FOR_TCP: Duration = Duration::from_secs(10);

/// The longest that a newcomer is waited for, in seconds: time for the first initiation and three more.
pub(crate) const PATIENCE: u32 = 17;

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
    tcp(&arena, 1)?;

    let memory = process::peak_memory(daemon);
    let mut flood = guarded(|| Ok(against.start(&arena, rate)))?;
    let (cpu, sent, room) = (process::cpu_seconds(daemon), flood.sent(), arena.victim().host.datagrams_without_room());
    std::thread::sleep(ALONE);
    let (cpu, sent) = (process::cpu_seconds(daemon) - cpu, flood.sent() - sent);
    let lost = arena.victim().host.datagrams_without_room() - room;
    keep("cpu_percent", 100.0 * cpu / ALONE.as_secs_f64());
    keep("alone_lost_percent", 100.0 * lost as f64 / sent.max(1) as f64);

    let (room, sent) = (arena.victim().host.datagrams_without_room(), flood.sent());
    let [calm, flooded] = transfer(&arena, &mut flood, seconds)?;
    keep("tcp_sent_kpps", flooded.sent_kpps);
    let [calm, flooded] = [calm.gbps, flooded.gbps];
    let lost = arena.victim().host.datagrams_without_room() - room;
    keep("tcp_lost_percent", 100.0 * lost as f64 / (flood.sent() - sent).max(1) as f64);
    keep("calm_gbps", calm);
    keep("flood_gbps", flooded);
    keep("share_percent", 100.0 * flooded / calm);
    keep("newcomer_s", newcomer(&arena).map_or(PATIENCE.into(), |microseconds| microseconds / 1e6));
    keep("memory_growth_mib", process::peak_memory(daemon) - memory);
    keep("memory_mib", process::peak_memory(daemon));
    keep("sent_kpps", flood.stop() / 1e3);
    measured.drops = match implementation {
        Implementation::Adit => arena.victim().shown().drops,
        _ => Default::default(),
    };
    Ok(())
}

/// A slice of time in which TCP was measured.
struct Slice {
    gbps: f64,
    /// What the flood sent in it, 1,000 datagrams a second.
    sent_kpps: f64,
}

/// One TCP flow from the peer to the victim, which is where the flood goes: before the flood, and then with it.
/// (What comes after a flood is no measure for it: TCP takes its time to recover.) Ends with the flood going on.
fn transfer(arena: &Arena, flood: &mut Flood, seconds: u32) -> Result<[Slice; 2]> {
    let (host, interface) = (&arena.victim().host, arena.victim().interface());
    let length = Duration::from_secs(seconds.into());
    let before = host.bytes_received(interface);
    flood.pause();
    std::thread::scope(|scope| {
        let flow = scope.spawn(|| guarded(|| tcp(arena, 2 * seconds + 2)));
        let begun = for_a_while(PATIENCE_FOR_TCP, || (host.bytes_received(interface) > before + BEGUN).then_some(()));
        let slice = |flood: &Flood| {
            std::thread::sleep(SETTLE);
            let (start, sent, bytes) = (Instant::now(), flood.sent(), host.bytes_received(interface));
            std::thread::sleep(length);
            let (sent, bytes) = (flood.sent() - sent, host.bytes_received(interface) - bytes);
            let seconds = start.elapsed().as_secs_f64();
            Slice { gbps: 8.0 * bytes as f64 / seconds / 1e9, sent_kpps: sent as f64 / seconds / 1e3 }
        };
        let calm = begun.map(|()| slice(flood));
        flood.resume();
        let flooded = begun.map(|()| slice(flood));
        // A flow that came to nothing under the flood makes iperf3 fail; one that has not begun is no figure.
        let ended = flow.join().unwrap_or_else(|_| bail!("iperf3"));
        match (calm, flooded) {
            (Some(calm), Some(flooded)) => Ok([calm, flooded]),
            _ => ended.and_then(|()| bail!("TCP does not begin")),
        }
    })
}

/// One TCP flow from the peer to the victim.
fn tcp(arena: &Arena, seconds: u32) -> Result<()> {
    programs::iperf3(&arena.peer().host, &arena.victim().host, arena.inner(1), seconds, &[]).map(drop)
}

/// The round trip of the first ping of a newcomer, the handshake included, in microseconds.
fn newcomer(arena: &Arena) -> Result<f64> {
    let (address, patience) = (arena.inner(1).to_string(), PATIENCE.to_string());
    let words = ["-q", "-c", "1", "-W", &patience, &address];
    parse::ping(&programs::run(&arena.trio.c.host, PATIENCE + 5, "ping", &words)?)
}
