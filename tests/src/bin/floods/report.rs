//! The report: Markdown with tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use adit_tests::measure::figure::{marked, median, number};
use adit_tests::{Implementation, Rate};

use crate::ALL;
use crate::measure::{Against, PATIENCE};
use crate::results::Results;

/// A table of the report: one figure, each flood a row, each implementation a column.
struct Table {
    key: &'static str,
    title: &'static str,
    note: &'static str,
    /// Whether the row of what is not sent to the daemon belongs in it.
    has_beside: bool,
}

const TABLES: &[Table] = &[
    Table {
        key: "share_percent",
        title: "Share of its own TCP throughput that is kept, %",
        note: "One flow from the peer to the node that is flooded: what it carries under the flood against what it \
               carried just before. The first row is a flood to another port of the node, which nobody reads: what is lost there \
               is what the sender and the kernel's own stack take of the two cores, not the daemon. More than 100 means that \
               the flow was faster under the flood than just before.",
        has_beside: true,
    },
    Table {
        key: "tcp_sent_kpps",
        title: "Flood while TCP was measured, 1,000 datagrams a second",
        note: "What the sender came to beside the daemons and iperf3. The less it is, the less the share above says.",
        has_beside: true,
    },
    Table {
        key: "newcomer_s",
        title: "A new peer's first ping answered, handshake included, s",
        note: "Five seconds are the protocol's: the first initiation was answered by a cookie, and is repeated then. Ten and \
               more: it was not answered at once.",
        has_beside: false,
    },
    Table {
        key: "cpu_percent",
        title: "CPU of the daemon while there is nothing but the flood, % of a core",
        note: "",
        has_beside: false,
    },
    Table {
        key: "alone_lost_percent",
        title: "Of the flood, lost for want of room in the socket's buffer, %",
        note: "While there is nothing but the flood. What is lost there is lost for everybody.",
        has_beside: false,
    },
    Table {
        key: "memory_growth_mib",
        title: "Growth of the daemon's peak memory by the flood, MiB",
        note: "Compared with the peak after one second of TCP without the flood; what the rest of the TCP takes is included.",
        has_beside: false,
    },
];

pub(crate) fn rate_name(rate: Rate) -> String {
    match rate {
        Rate::PerSecond(rate) => rate.to_string(),
        Rate::Max => "max".to_owned(),
    }
}

pub(crate) fn markdown(results: &Results) -> String {
    let mut text = format!(
        "# Adit and the others under floods\n\n\
         Medians of {}, each flood against each implementation in turn. Measure your own:\n\n\
         ```sh\ncargo xtask floods --rate {} --rounds {} --secs {} --output target/report\n```\n\n",
        if results.rounds() == 1 { "one round".to_owned() } else { format!("{} rounds", results.rounds()) },
        results.rates().join(","),
        results.rounds(),
        results.secs,
    );
    for rate in results.rates() {
        match rate {
            "max" => text.push_str(&format!("## As many as one core can send\n\n{}\n\n", fastest(results))),
            rate => text.push_str(&format!("## {rate} datagrams a second\n\n")),
        }
        for table in TABLES {
            let rows: Vec<String> = Against::all()
                .filter(|kind| table.has_beside || *kind != Against::Beside)
                .filter_map(|kind| row(results, kind, rate, table.key))
                .collect();
            if !rows.is_empty() {
                let note = if table.note.is_empty() { String::new() } else { format!("{}\n\n", table.note) };
                let _infallible = write!(text, "### {}\n\n{note}{}{}\n", table.title, heading(), rows.concat());
            }
        }
        text.push_str(&drops(results, rate));
    }
    text.push_str(&missing(results));
    text.push_str(METHOD);
    let _infallible = write!(text, "## Machine and versions\n\n{}", results.machine.table());
    text.push_str("\n[floods.json](floods.json) has the figures of every round.\n");
    text
}

/// What one core sent, whoever was flooded.
fn fastest(results: &Results) -> String {
    let runs = results.runs.iter().filter(|run| run.rate == "max");
    let sent = median(runs.filter_map(|run| run.measured.figures.get("sent_kpps").copied()).collect());
    format!(
        "One thread sends as fast as it can: {},000 a second in the median, and fewer while daemons and iperf3 want its \
         core. It, or the kernel for it, takes one of the two cores, so that even a flood past the daemon leaves \
         everybody else one core of the two: compare with the first row.",
        number(sent.unwrap_or(0.0))
    )
}

fn heading() -> String {
    let names: Vec<String> = ALL.iter().map(ToString::to_string).collect();
    format!("| | {} |\n|---|{}\n", names.join(" | "), "---:|".repeat(names.len()))
}

fn row(results: &Results, kind: Against, rate: &str, key: &str) -> Option<String> {
    let figures = |subject: &Implementation| results.figures(&subject.to_string(), kind.name(), rate, key);
    let cells: Vec<Vec<f64>> = ALL.iter().map(figures).collect();
    cells.iter().any(|cell| !cell.is_empty()).then(|| {
        let show = |value: f64| match key {
            "newcomer_s" if value >= PATIENCE.into() => format!("not in {PATIENCE}"),
            _ => number(value),
        };
        let rounds = results.rounds_at(rate);
        let cell = |figures: Vec<f64>| {
            let count = figures.len();
            median(figures).map_or("–".to_owned(), |value| marked(show(value), count, rounds))
        };
        let cells: Vec<String> = cells.into_iter().map(cell).collect();
        format!("| {} | {} |\n", title(kind), cells.join(" | "))
    })
}

fn title(kind: Against) -> String {
    match kind {
        Against::Beside => "to a port that nobody reads".to_owned(),
        Against::Daemon(kind) => kind.name().replace('-', " "),
    }
}

/// What Adit tells of the floods.
fn drops(results: &Results, rate: &str) -> String {
    let rows: String = Against::all()
        .filter(|kind| *kind != Against::Beside)
        .filter_map(|kind| {
            let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
            for run in results.of("adit", kind.name(), rate) {
                for (reason, count) in &run.measured.drops {
                    *sums.entry(reason).or_default() += count;
                }
            }
            let total = sums.values().sum::<u64>().max(1) as f64;
            let mut shares: Vec<(&str, f64)> =
                sums.into_iter().map(|(reason, count)| (reason, 100.0 * count as f64 / total)).collect();
            shares.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            let shares: Vec<String> = shares
                .into_iter()
                .filter(|(_, share)| *share >= 0.01)
                .map(|(reason, share)| format!("`{reason}` {} %", number(share)))
                .collect();
            (!shares.is_empty()).then(|| format!("| {} | {} |\n", title(kind), shares.join(", ")))
        })
        .collect();
    if rows.is_empty() { rows } else { format!("### What Adit tells of it\n\n| | |\n|---|---|\n{rows}\n") }
}

fn missing(results: &Results) -> String {
    let mut lines = String::new();
    for run in &results.runs {
        for missing in &run.measured.missing {
            // What programs say may hold what Markdown takes for itself, and more than a line.
            let said = missing.lines().next().unwrap_or_default().replace('`', "'");
            let _infallible = writeln!(lines, "- {}, {}, {}: `{said}`", run.rate, run.subject, run.kind);
        }
    }
    if lines.is_empty() { lines } else { format!("## What failed\n\n{lines}\n") }
}

const METHOD: &str = "\
## How it was measured

Four network namespaces: the node that is flooded, a peer with a session, a peer that is yet to come, and the attacker, \
each of the three with a veth pair of its own to the node. The same implementation is at all three ends. The attacker \
gives packets to its wire as they are, so that each datagram may have another source address and port; it knows the \
node's public key and has seen the peer's initiation and the session's index on the wire. Answers leave on its wire, for a \
router that is not there.

- **random**: 32 to 1,054 bytes without meaning; **forged initiations**: well-formed, by strangers who know the node's \
public key, from forged addresses; **false cookies**: the same, with a mac2 that was made up; **one initiator**: forged \
initiations from one address; **replay**: the peer's own initiation \
again and again; **cookie replies**: half of them to the session's index; **unknown transport**: 160 bytes to indices \
of nobody; **live transport**: 1,452 bytes to the session's index, which have to be decrypted to be found out; \
**tiny**: 0 to 31 bytes; **oversized**: 1,600 to 65,507 bytes that begin as a handshake message or cookie reply does, \
unfragmented.
- Everything shares the machine's cores: the sender, the kernel's stack, two daemons and iperf3.

";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Measured, Run};

    fn run(subject: &str, kind: &str, figures: &[(&str, f64)]) -> Run {
        let figures = figures.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
        let measured = Measured { figures, ..Measured::default() };
        Run { subject: subject.to_owned(), kind: kind.to_owned(), rate: "20000".to_owned(), measured }
    }

    fn results() -> Results {
        let mut results = Results { secs: 2, ..Results::default() };
        results.runs.extend([
            run("adit", "beside", &[("share_percent", 99.0), ("newcomer_s", 0.001)]),
            run("adit", "replay", &[("share_percent", 80.0), ("newcomer_s", 5.2)]),
            run("adit", "replay", &[("share_percent", 90.0), ("newcomer_s", 5.3)]),
            run("gotatun", "replay", &[("share_percent", 0.0), ("newcomer_s", f64::from(PATIENCE))]),
        ]);
        results.runs[1].measured.drops.insert("cookie_sent".to_owned(), 3);
        results.runs[1].measured.drops.insert("replayed_initiation".to_owned(), 1);
        results.runs[3].measured.missing.push("a `panic`\nand more".to_owned());
        results
    }

    #[test]
    fn a_table_has_medians_and_dashes_for_what_was_not_measured() {
        let text = markdown(&results());
        assert!(text.contains("| replay | 85.0 | – | 0 (1 of 2) | – |"), "{text}");
        assert!(text.contains("Medians of 2 rounds"), "{text}");
        assert!(
            text.contains("\ncargo xtask floods --rate 20000 --rounds 2 --secs 2 --output target/report\n"),
            "{text}"
        );
    }

    #[test]
    fn what_was_sent_while_tcp_was_measured_is_shown_where_it_is_known() {
        let title = "### Flood while TCP was measured, 1,000 datagrams a second\n";
        let mut results = results();
        assert!(!markdown(&results).contains(title));
        results.runs[0].measured.figures.insert("tcp_sent_kpps".to_owned(), 19.5);
        let text = markdown(&results);
        assert!(text.contains(title) && text.contains("nobody reads | 19.5 (1 of 2) | – | – | – |"), "{text}");
    }

    #[test]
    fn a_newcomer_that_never_got_in_has_no_time() {
        assert!(markdown(&results()).contains("| replay | 5.25 | – | not in 17 (1 of 2) | – |"));
    }

    #[test]
    fn a_flood_past_the_daemon_tells_of_throughput_only() {
        let text = markdown(&results());
        assert_eq!(text.matches("to a port that nobody reads").count(), 1, "{text}");
    }

    #[test]
    fn what_adit_tells_is_shown_in_shares() {
        assert!(markdown(&results()).contains("| replay | `cookie_sent` 75.0 %, `replayed_initiation` 25.0 % |"));
    }

    #[test]
    fn what_failed_is_told_in_a_line_that_markdown_leaves_alone() {
        assert!(markdown(&results()).contains("- 20000, gotatun, replay: `a 'panic'`\n"));
    }
}
