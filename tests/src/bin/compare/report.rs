//! The report: Markdown with tables, and the charts that it shows.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use adit_tests::measure::figure::{marked, median, number};
use anyhow::{Context, Result};

use crate::chart::{self, Bar, Group};
use crate::figures::{Better, Figure, SECTIONS, figure};
use crate::results::{OURS, Results, WIRE};

/// A chart of the report.
struct Chart {
    file: &'static str,
    title: &'static str,
    note: &'static str,
    figures: &'static [&'static str],
}

const CHARTS: &[Chart] = &[
    Chart {
        file: "tcp.svg",
        title: "TCP through the tunnel, Gbit/s",
        note: "Longer is better",
        figures: &["tcp_gbps", "tcp_reversed_gbps", "tcp_four_gbps", "cubic_gbps", "cubic_four_gbps"],
    },
    Chart {
        file: "cpu.svg",
        title: "CPU seconds a GB of TCP, both daemons",
        note: "Shorter is better",
        figures: &[
            "tcp_cpu_s_gb",
            "tcp_reversed_cpu_s_gb",
            "tcp_four_cpu_s_gb",
            "cubic_cpu_s_gb",
            "cubic_four_cpu_s_gb",
        ],
    },
    Chart {
        file: "udp.svg",
        title: "CPU a delivered packet, UDP with 64 bytes, both daemons",
        note: "Shorter is better",
        figures: &["udp_64_cpu_us"],
    },
    Chart {
        file: "ping.svg",
        title: "Ping through the tunnel, mean round trip in µs",
        note: "Shorter is better",
        figures: &["ping_us", "ping_flood_us"],
    },
    Chart {
        file: "slow-link.svg",
        title: "Ping beside a TCP flow over a wire of 100 Mbit/s, mean round trip in ms",
        note: "Shorter is better",
        figures: &["slow_link_ping_ms"],
    },
    Chart {
        file: "memory.svg",
        title: "Memory of a daemon, MiB resident",
        note: "Shorter is better",
        figures: &["memory_peak_mib", "peers_memory_mib"],
    },
];

/// Writes the report and its charts into a folder.
pub(crate) fn write(results: &Results, folder: &Path) -> Result<()> {
    let mut charts = Vec::new();
    for chart in CHARTS {
        let path = folder.join(chart.file);
        let groups = groups(results, chart);
        if groups.is_empty() {
            // One of an earlier comparison would not belong to these figures.
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
            continue;
        }
        save(&path, &chart::draw(chart.title, chart.note, &groups))?;
        charts.push(chart);
    }
    save(&folder.join("README.md"), &markdown(results, &charts))
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn groups(results: &Results, chart: &Chart) -> Vec<Group> {
    let groups = chart.figures.iter().filter_map(|key| {
        let tunnels = results.subjects.iter().filter(|subject| *subject != WIRE);
        let bars: Vec<Bar> = tunnels
            .filter_map(|subject| {
                let value = results.median(subject, key)?;
                Some(Bar { name: subject.clone(), value, label: number(value), ours: subject == OURS })
            })
            .collect();
        let title = match *key {
            // The table's heading says it there.
            "peers_memory_mib" => "10,000 peers, idle",
            "memory_peak_mib" => "One peer, peak of all the traffic",
            key => figure(key)?.title,
        };
        (!bars.is_empty()).then(|| Group { title: title.to_owned(), bars })
    });
    groups.collect()
}

fn markdown(results: &Results, charts: &[&Chart]) -> String {
    let mut text = format!(
        "# Adit beside the other userspace implementations\n\n\
         {}, each implementation in turn within a round, the same one at both ends of the tunnel. \
         Speeds differ between machines and from hour to hour; the ratios last longer. Measure your own:\n\n\
         ```sh\n{} --output target/report\n```\n\n",
        rounds(results.rounds()),
        results.command
    );
    for chart in charts {
        text.push_str(&format!("![{}]({})\n\n", chart.title, chart.file));
    }
    text.push_str(
        "## Figures\n\n↑ higher is better, ↓ lower is better. The last column is Adit's figure divided by that of the \
         best of the others, the median of what each round gives; `veth` is the wire without a tunnel.\n\n",
    );
    for section in SECTIONS {
        let rows: Vec<String> = section.figures.iter().filter_map(|figure| row(results, figure)).collect();
        if !rows.is_empty() {
            text.push_str(&format!("### {}\n\n{}{}\n", section.title, heading(results), rows.concat()));
        }
    }
    text.push_str(&missing(results));
    text.push_str(METHOD);
    text.push_str(&machine(results));
    text
}

fn rounds(number: u32) -> String {
    if number == 1 { "One round".to_owned() } else { format!("Medians of {number} rounds") }
}

fn heading(results: &Results) -> String {
    let names = results.subjects.join(" | ");
    let rulers = "---:|".repeat(results.subjects.len());
    format!("| | {names} | Adit against the best other |\n|---|{rulers}---|\n")
}

fn row(results: &Results, figure: &Figure) -> Option<String> {
    let cells: Vec<Vec<f64>> = results.subjects.iter().map(|subject| results.figures(subject, figure.key)).collect();
    let rounds = results.rounds() as usize;
    cells.iter().any(|cell| !cell.is_empty()).then(|| {
        let arrow = match figure.better {
            Better::Higher => " ↑",
            Better::Lower => " ↓",
            Better::Neither => "",
        };
        let cell = |figures: Vec<f64>| {
            let count = figures.len();
            median(figures).map_or("–".to_owned(), |value| marked(number(value), count, rounds))
        };
        let cells: Vec<String> = cells.into_iter().map(cell).collect();
        let ratio = results.ratio(figure.key, figure.better).map_or(String::new(), |ratio| {
            marked(format!("{:.2} × {}", ratio.ratio, ratio.best), ratio.rounds, rounds)
        });
        format!("| {}, {}{arrow} | {} | {ratio} |\n", figure.title, figure.unit, cells.join(" | "))
    })
}

fn missing(results: &Results) -> String {
    let mut lines = String::new();
    for run in &results.runs {
        for missing in &run.measured.missing {
            // What programs say may hold what Markdown takes for itself, and more than a line.
            let said = missing.lines().next().unwrap_or_default().replace('`', "'");
            let _infallible = writeln!(lines, "- Round {}, {}: `{said}`", run.round, run.subject);
        }
    }
    if lines.is_empty() { lines } else { format!("## What could not be measured\n\n{lines}\n") }
}

fn machine(results: &Results) -> String {
    format!(
        "## Machine and versions\n\n{}\n[results.json](results.json) has the figures of every round.\n",
        results.machine.table()
    )
}

const METHOD: &str = "\
## How it was measured

Two network namespaces are joined by a veth pair, with a daemon of the same implementation in each and an MTU of 1420 \
in the tunnel. `wg` configures every daemon alike; each keeps its own defaults otherwise.

- **TCP, UDP**: iperf3, as the receiver counts. UDP is sent as fast as the sender can, so it competes with the daemons \
for the same cores, and losses are expected. TCP is measured with the congestion control of the host, which the last \
table names, and with CUBIC, which the kernel takes unless it is told otherwise: BBR paces what it sends by timers, and \
so gives a tunnel less to do at a time.
- **A wire of 100 Mbit/s**: both ends of the wire let no more than that through (`tbf`), before which 1,000 packets may \
wait, the kernel's usual queue. One TCP flow with CUBIC fills it; after two seconds a ping every 20 ms runs beside it.
- **CPU**: the user and system time of both daemons while the client runs, as the kernel accounts it, over what was \
delivered.
- **Ping**: 300 round trips 5 ms apart, so that everything sleeps in between, and 5,000 back to back (`ping -f`).
- **Memory**: the larger of the two daemons, idle with a tunnel that works, and the peak of the whole run.
- **10,000 peers**: a daemon alone, its interface up; each peer has a key, an endpoint and one allowed IP. `wg setconf` \
gives it all of them; then memory is taken; then `wg setconf` replaces them all by the same, and `wg addconf` names them \
all again, which changes nothing. The times include those of `wg` itself.

";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::results::Measured;
    use adit_tests::measure::machine::Machine;

    fn results() -> Results {
        let mut results = Results::new(Machine::default(), "cargo xtask compare --rounds 1".to_owned());
        for (subject, gbps) in
            [("adit", Some(7.5)), ("wireguard-go", Some(2.5)), ("gotatun", None), ("veth", Some(15.0))]
        {
            results.subjects.push(subject.to_owned());
            let figures = gbps.map(|gbps| ("tcp_gbps".to_owned(), gbps));
            let missing = if gbps.is_none() { vec!["set-up: `gotatun` ended\nat once".to_owned()] } else { Vec::new() };
            results.add(1, subject, Measured { figures: BTreeMap::from_iter(figures), missing });
        }
        results
    }

    #[test]
    fn a_row_has_every_median_and_the_ratio_to_the_best_other() {
        let row = row(&results(), figure("tcp_gbps").unwrap()).unwrap();
        assert_eq!(row, "| One flow, Gbit/s ↑ | 7.50 | 2.50 | – | 15.0 | 3.00 × wireguard-go |\n");
    }

    #[test]
    fn what_a_round_lacks_is_marked() {
        let mut results = results();
        results.add(2, "adit", Measured { figures: [("tcp_gbps".to_owned(), 6.5)].into(), ..Measured::default() });
        let row = row(&results, figure("tcp_gbps").unwrap()).unwrap();
        assert!(row.contains("| 7.00 | 2.50 (1 of 2) |") && row.ends_with("× wireguard-go (1 of 2) |\n"), "{row}");
    }

    #[test]
    fn what_nobody_has_is_no_row() {
        assert_eq!(row(&results(), figure("ping_us").unwrap()), None);
    }

    #[test]
    fn the_report_tells_the_command_and_what_is_missing() {
        let text = markdown(&results(), &[&CHARTS[0]]);
        assert!(text.contains("\ncargo xtask compare --rounds 1 --output target/report\n"), "{text}");
        assert!(text.contains("- Round 1, gotatun: `set-up: 'gotatun' ended`\n"), "{text}");
        assert!(text.contains("](tcp.svg)") && !text.contains("### Ping"), "{text}");
    }

    #[test]
    fn charts_leave_out_the_wire_and_what_is_missing() {
        let groups = groups(&results(), &CHARTS[0]);
        let names: Vec<&str> = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.name.as_str()).collect();
        assert_eq!(names, ["adit", "wireguard-go"]);
    }

    #[test]
    fn every_figure_of_a_chart_exists() {
        let keys = CHARTS.iter().flat_map(|chart| chart.figures);
        assert_eq!(keys.filter(|key| figure(key).is_none()).count(), 0);
    }

    #[test]
    fn numbers_keep_three_digits() {
        let shown: Vec<String> = [0.0, 0.0421, 0.9996, 2.345, 15.04, 99.96, 1234.5].map(number).to_vec();
        assert_eq!(shown, ["0", "0.042", "1.00", "2.35", "15.0", "100", "1234"]);
    }
}
