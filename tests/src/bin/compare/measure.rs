//! The tests, run on one implementation.

use std::fmt;
use std::time::{Duration, Instant};

use adit_tests::measure::figure::number;
use adit_tests::measure::programs::guarded;
use adit_tests::measure::{interrupt, parse, programs};
use adit_tests::{Implementation, Peer, Undo, for_a_while};
use anyhow::Result;
use clap::ValueEnum;

use crate::bench::{Bench, INTERFACE, Lone, Subject, WIRE_INTERFACE, configuration};
use crate::figures::figure;
use crate::results::Measured;

/// A test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Test {
    /// Round trips with a pause between them in which everything goes to sleep
    Ping,
    /// Round trips back to back
    PingFlood,
    /// Both again by an Adit that looks for packets before it sleeps
    BusyPoll,
    /// One TCP flow
    Tcp,
    /// One TCP flow from the far end
    TcpReversed,
    /// Four TCP flows
    TcpFour,
    /// The same three with CUBIC, the kernel's default, whatever the host has chosen
    Cubic,
    /// One TCP flow over a wire of 100 Mbit/s, and how long a ping takes meanwhile
    SlowLink,
    /// UDP with 64 bytes of payload, as fast as it goes
    #[value(name = "udp-64")]
    Udp64,
    /// UDP with 1,372 bytes of payload, as fast as it goes
    #[value(name = "udp-1372")]
    Udp1372,
    /// Configuration and memory of 10,000 peers
    Peers,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

const APART: &[&str] = &["-c", "300", "-i", "0.005"];
const BACK_TO_BACK: &[&str] = &["-c", "5000", "-f"];

/// What a slow link lets through, and how long it is before the ping that senders may take to find that out, in
/// seconds.
const SLOW: &str = "100mbit";
const SETTLING: u32 = 2;

/// What makes Adit look for packets before it sleeps: for longer than a round trip takes.
const BUSY_POLL: &[&str] = &["--busy-poll", "500"];

const PEERS: u32 = 10_000;

/// The longest that a program of the 10,000 peers may take, in seconds.
const PEERS_PATIENCE: u32 = 60;

/// What a test calls a figure, and its value.
type Figures = Vec<(&'static str, f64)>;

/// Measures one implementation once. Only an interruption is an error: what fails is missing from the figures.
pub(crate) fn run(subject: Subject, tests: &[Test], seconds: u32, tell: &dyn Fn(&str)) -> Result<Measured> {
    let mut measured = Measured::default();
    let mut keep = |test: &str, result: Result<Figures>| -> Result<()> {
        interrupt::check()?;
        match result {
            Ok(figures) if figures.is_empty() => {}
            Ok(figures) => {
                let shown: Vec<String> = figures.iter().map(|(key, value)| show(key, *value)).collect();
                tell(&format!("{test}: {}", shown.join(", ")));
                measured.figures.extend(figures.into_iter().map(|(key, value)| (key.to_owned(), value)));
            }
            Err(error) => {
                tell(&format!("{test}: missing: {error:#}"));
                measured.missing.push(format!("{test}: {error:#}"));
            }
        }
        Ok(())
    };
    let (own, traffic): (Vec<Test>, Vec<Test>) =
        tests.iter().partition(|test| [Test::Peers, Test::BusyPoll].contains(test));
    if !traffic.is_empty() {
        match guarded(|| Bench::new(subject, &[])) {
            Ok(bench) => {
                keep("idle", Ok(bench.resident_memory().map(|mib| ("memory_idle_mib", mib)).into_iter().collect()))?;
                for test in traffic {
                    keep(&test.to_string(), guarded(|| traffic_test(&bench, test, seconds)))?;
                }
                keep("peak", Ok(bench.peak_memory().map(|mib| ("memory_peak_mib", mib)).into_iter().collect()))?;
            }
            Err(error) => keep("set-up", Err(error))?,
        }
    }
    if own.contains(&Test::BusyPoll) && subject == Subject::Daemon(Implementation::Adit) {
        keep("busy-poll", guarded(|| busy_polling(&Bench::new(subject, BUSY_POLL)?)))?;
    }
    if let (Subject::Daemon(implementation), true) = (subject, own.contains(&Test::Peers)) {
        match guarded(|| many_peers(Lone::new(implementation)?)) {
            Ok((figures, problem)) => {
                keep("peers", Ok(figures))?;
                problem.map_or(Ok(()), |problem| keep("peers", Err(problem)))?;
            }
            Err(problem) => keep("peers", Err(problem))?,
        }
    }
    Ok(measured)
}

fn traffic_test(bench: &Bench, test: Test, seconds: u32) -> Result<Figures> {
    match test {
        Test::Ping => Ok(vec![("ping_us", ping(bench, APART)?)]),
        Test::PingFlood => Ok(vec![("ping_flood_us", ping(bench, BACK_TO_BACK)?)]),
        Test::Tcp => tcp(bench, seconds, &[], ["tcp_gbps", "tcp_cpu_s_gb"]),
        Test::TcpReversed => tcp(bench, seconds, &["-R"], ["tcp_reversed_gbps", "tcp_reversed_cpu_s_gb"]),
        Test::TcpFour => tcp(bench, seconds, &["-P", "4"], ["tcp_four_gbps", "tcp_four_cpu_s_gb"]),
        Test::Cubic => cubic(bench, seconds),
        Test::SlowLink => slow_link(bench, seconds),
        Test::Udp64 => udp(bench, seconds, "64", ["udp_64_kpps", "udp_64_lost_percent", "udp_64_cpu_us"]),
        Test::Udp1372 => udp(bench, seconds, "1372", ["udp_1372_kpps", "udp_1372_lost_percent", "udp_1372_cpu_us"]),
        Test::Peers | Test::BusyPoll => Ok(Figures::new()),
    }
}

fn busy_polling(bench: &Bench) -> Result<Figures> {
    Ok(vec![("ping_busy_us", ping(bench, APART)?), ("ping_flood_busy_us", ping(bench, BACK_TO_BACK)?)])
}

fn ping(bench: &Bench, arguments: &[&str]) -> Result<f64> {
    let address = bench.address.to_string();
    let words: Vec<&str> = [&["-q"], arguments, &[&address]].concat();
    parse::ping(&programs::run(&bench.near, 20, "ping", &words)?)
}

fn tcp(bench: &Bench, seconds: u32, arguments: &[&str], [rate, cpu]: [&'static str; 2]) -> Result<Figures> {
    let (report, cpu_seconds) = iperf3(bench, seconds, arguments)?;
    let tcp = parse::tcp(&report)?;
    let mut figures = vec![(rate, tcp.bits_a_second / 1e9)];
    figures.extend(cpu_seconds.map(|seconds| (cpu, seconds / (tcp.bytes / 1e9))));
    Ok(figures)
}

/// Lets the hosts use CUBIC until the result is dropped. It is the route's choice: for each namespace the kernel takes
/// only what the whole machine allows, and an option of iperf3 comes when a connection has begun to pace with BBR.
fn with_cubic(bench: &Bench) -> [Undo<'_>; 2] {
    let Bench { near, far, near_address, address, interface, .. } = bench;
    [near.control_congestion("cubic", *address, interface), far.control_congestion("cubic", *near_address, interface)]
}

fn cubic(bench: &Bench, seconds: u32) -> Result<Figures> {
    let cases: [(&[&str], _); 3] = [
        (&[], ["cubic_gbps", "cubic_cpu_s_gb"]),
        (&["-R"], ["cubic_reversed_gbps", "cubic_reversed_cpu_s_gb"]),
        (&["-P", "4"], ["cubic_four_gbps", "cubic_four_cpu_s_gb"]),
    ];
    let _cubic = with_cubic(bench);
    let measured = cases.map(|(arguments, keys)| tcp(bench, seconds, arguments, keys));
    let measured: Result<Vec<Figures>> = measured.into_iter().collect();
    Ok(measured?.concat())
}

fn slow_link(bench: &Bench, seconds: u32) -> Result<Figures> {
    let _slow = [&bench.near, &bench.far].map(|host| host.slow_down(WIRE_INTERFACE, SLOW));
    let _cubic = with_cubic(bench);
    let transfer = || iperf3(bench, seconds + SETTLING, &[]);
    let (report, round_trip) = std::thread::scope(|scope| {
        let transfer = scope.spawn(|| guarded(transfer));
        std::thread::sleep(Duration::from_secs(SETTLING.into()));
        // It ends before the transfer does.
        let round_trip = ping(bench, &["-i", "0.02", "-w", &seconds.saturating_sub(1).max(1).to_string()]);
        (transfer.join(), round_trip)
    });
    let (report, _) = report.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let rate = parse::tcp(&report)?.bits_a_second / 1e6;
    Ok(vec![("slow_link_mbps", rate), ("slow_link_ping_ms", round_trip? / 1e3)])
}

fn udp(bench: &Bench, seconds: u32, length: &str, [rate, lost, cpu]: [&'static str; 3]) -> Result<Figures> {
    let (report, cpu_seconds) = iperf3(bench, seconds, &["-u", "-b", "0", "-l", length])?;
    let udp = parse::udp(&report)?;
    let mut figures = vec![(rate, udp.delivered / udp.seconds / 1e3), (lost, udp.lost_percent)];
    figures.extend(cpu_seconds.map(|seconds| (cpu, seconds / udp.delivered * 1e6)));
    Ok(figures)
}

/// The report of an iperf3 client, and the processor time that the daemons used meanwhile, if there are any.
fn iperf3(bench: &Bench, seconds: u32, arguments: &[&str]) -> Result<(String, Option<f64>)> {
    let before = bench.cpu_seconds();
    let report = programs::iperf3(&bench.near, &bench.far, bench.address, seconds, arguments)?;
    let used = bench.cpu_seconds() - before;
    Ok((report, bench.peak_memory().map(|_| used)))
}

/// The figures, and why the last of them are missing if they are.
fn many_peers(mut lone: Lone) -> Result<(Figures, Option<anyhow::Error>)> {
    let peers: Vec<Peer> = (0..PEERS).map(stranger).collect();
    let configuration = configuration(&lone.keys, &peers);
    let set = |lone: &Lone, verb: &str| -> Result<f64> {
        let start = Instant::now();
        programs::run_with_input(&lone.host, PEERS_PATIENCE, "wg", &[verb, INTERFACE, "/dev/stdin"], &configuration)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut figures = vec![("peers_set_s", set(&lone, "setconf")?)];
    figures.push(("peers_memory_mib", lone.resident_memory()));
    let start = Instant::now();
    let dump = programs::run(&lone.host, PEERS_PATIENCE, "wg", &["show", INTERFACE, "dump"])?;
    figures.push(("peers_show_s", start.elapsed().as_secs_f64()));
    let shown = dump.lines().count().saturating_sub(1);
    anyhow::ensure!(shown == peers.len(), "{shown} of {PEERS} peers are shown");
    // What takes too long here takes nothing from the figures before.
    for (key, verb) in [("peers_set_again_s", "setconf"), ("peers_add_again_s", "addconf")] {
        match set(&lone, verb) {
            Ok(seconds) => figures.push((key, seconds)),
            Err(error) => {
                let ended = for_a_while(Duration::from_secs(1), || lone.ended());
                return Ok((figures, Some(error.context(ended.map_or("the daemon stays", |_| "the daemon ends")))));
            }
        }
    }
    Ok((figures, None))
}

/// A peer with a key that nobody has, an address inside and one outside.
fn stranger(number: u32) -> Peer {
    let [_, _, high, low] = number.to_be_bytes();
    let peer = Peer { public_key: key(number), allowed_ips: format!("10.9.{high}.{low}/32"), ..Peer::default() };
    peer.at(&format!("10.8.{high}.{low}:51820"))
}

/// A key in base64, as evenly spread as real ones are, which is what tables of peers are made for.
fn key(number: u32) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = u64::from(number);
    let digit = || {
        // SplitMix64; of base64's digits each stands for six bits.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        char::from(digits[(mixed >> 58) as usize])
    };
    // The last of the 43 digits has four bits only.
    std::iter::repeat_with(digit).take(42).chain(['A', '=']).collect()
}

fn show(key: &str, value: f64) -> String {
    let unit = figure(key).map_or("", |figure| figure.unit);
    format!("{} {unit}", number(value))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn strangers_have_different_keys_and_addresses() {
        let (first, last) = (stranger(255), stranger(256));
        let keys: HashSet<String> = (0..PEERS).map(key).collect();
        assert_eq!(keys.len(), PEERS as usize);
        assert!(keys.iter().all(|key| key.len() == 44));
        assert_eq!(first.allowed_ips, "10.9.0.255/32");
        assert_eq!(last.allowed_ips, "10.9.1.0/32");
    }

    #[test]
    fn every_test_is_named_as_it_is_asked_for() {
        for test in Test::value_variants() {
            assert_eq!(Test::from_str(&test.to_string(), false), Ok(*test));
        }
    }
}
