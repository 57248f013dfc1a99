//! What is shown while the demo runs, and at its end: a table that is drawn anew in place on a terminal, plain lines
//! elsewhere.

use std::env;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::termios::tcgetwinsize;

use super::figures::Figures;
use super::host::Side;
use super::units::{Ago, Bytes, Grouped, Time};
use crate::commands::print;

/// Columns of the table; on a narrower terminal its lines would wrap, and could not be drawn over.
const WIDTH: u16 = 78;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Handshake,
    Ping,
    Bulk { from: Side, to: Side },
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Handshake => f.write_str("handshake"),
            Phase::Ping => f.write_str("pings"),
            Phase::Bulk { from, to } => write!(f, "TCP, {} \u{2192} {}", from.name(), to.name()),
        }
    }
}

/// The state of the tunnel at one moment.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) phase: Phase,
    pub(super) time: Duration,
    /// How long it all takes, about.
    pub(super) length: Duration,
    pub(super) rows: [Row; 2],
    /// Of the last ping.
    pub(super) rtt: Option<Duration>,
}

/// One end of the tunnel.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) side: Side,
    /// How long ago it was completed.
    pub(super) handshake: Option<Duration>,
    pub(super) tx_bytes: u64,
    pub(super) rx_bytes: u64,
    pub(super) packets_sent: u64,
    /// TCP payload that arrives, if it is this end that receives.
    pub(super) gigabits: Option<f64>,
}

/// Where it is shown.
#[derive(Debug)]
pub(super) struct Screen {
    json: bool,
    is_terminal: bool,
    /// Lines of the table drawn last, above which the next one begins.
    lines: usize,
    result: Option<Figures>,
}

impl Screen {
    /// On standard output, which is left to the JSON alone if that is wanted.
    pub(super) fn new(json: bool) -> Screen {
        let size = if json {
            tcgetwinsize(io::stderr()).ok().filter(|_| io::stderr().is_terminal())
        } else {
            tcgetwinsize(io::stdout()).ok().filter(|_| io::stdout().is_terminal())
        };
        let can_move = env::var_os("TERM").is_some_and(|terminal| !terminal.is_empty() && terminal != "dumb");
        let is_terminal = can_move && size.is_some_and(|size| size.ws_col > WIDTH);
        Screen { json, is_terminal, lines: 0, result: None }
    }

    /// How often there should be something new to see.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(if self.is_terminal { 250 } else { 1_000 })
    }

    /// Shows a table in place of the last one, or after it.
    pub(super) fn show(&mut self, table: &Table) -> Result<()> {
        let text = if self.is_terminal {
            let above = std::mem::replace(&mut self.lines, table.to_string().lines().count());
            redraw(&table.to_string(), above)
        } else {
            plain(table)
        };
        if self.json {
            // Nobody need read it.
            let _ = io::stderr().write_all(text.as_bytes());
            return Ok(());
        }
        Ok(print(&[text.as_bytes()])?)
    }

    /// Takes the figures for [`finish`](Self::finish).
    pub(super) fn with_result(mut self, figures: Figures) -> Screen {
        self.result = Some(figures);
        self
    }

    /// Shows the summary.
    pub(super) fn finish(&mut self) -> Result<()> {
        let Some(figures) = self.result.take() else { return Ok(()) };
        if self.json {
            let text = serde_json::to_string_pretty(&figures).context("the figures cannot be written as JSON")?;
            return Ok(print(&[text.as_bytes(), b"\n"])?);
        }
        let text = format!("\n{figures}Both Adits, the tunnel and the two network namespaces are gone again.\n");
        Ok(print(&[text.as_bytes()])?)
    }
}

/// The table for a terminal, over the `above` lines drawn before.
fn redraw(table: &str, above: usize) -> String {
    let mut text = if above > 0 { format!("\x1b[{above}A") } else { String::new() };
    for line in table.lines() {
        // Erase what the line held before.
        text.push_str(&format!("\r\x1b[2K{line}\n"));
    }
    text
}

/// The table in one line.
fn plain(table: &Table) -> String {
    let mut text = format!("{:>5.1} s  {}", table.time.as_secs_f64(), table.phase);
    for Row { side, handshake, tx_bytes, packets_sent, gigabits, .. } in &table.rows {
        let (sent, packets) = (Bytes(*tx_bytes), Grouped(*packets_sent));
        text.push_str(&format!("; {}: handshake {}, {sent} in {packets} packets sent", side.name(), Ago(*handshake)));
        if let Some(gigabits) = gigabits {
            text.push_str(&format!(", {gigabits:.2} Gbit/s received"));
        }
    }
    if let Some(rtt) = table.rtt {
        text.push_str(&format!("; RTT {}", Time(rtt)));
    }
    text.push('\n');
    text
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = format!("{:.1} s of {} s", self.time.as_secs_f64(), self.length.as_secs());
        let phase = self.phase.to_string();
        writeln!(f, "Adit between two network namespaces: {phase:<21}{time:>20}")?;
        let names = ["", "handshake", "sent", "received", "packets sent", "Gbit/s in", "RTT"];
        let [side, handshake, sent, received, packets, gigabits, rtt] = names;
        writeln!(f, "  {side:<6}{handshake:<12}{sent:>10}{received:>11}{packets:>15}{gigabits:>11}{rtt:>11}")?;
        for row in &self.rows {
            let (sent, received) = (Bytes(row.tx_bytes).to_string(), Bytes(row.rx_bytes).to_string());
            let (handshake, packets) = (Ago(row.handshake).to_string(), Grouped(row.packets_sent).to_string());
            let gigabits = row.gigabits.map_or_else(|| "-".to_owned(), |gigabits| format!("{gigabits:.2}"));
            // It is the left end that pings.
            let rtt = match (row.side, self.rtt) {
                (Side::Left, Some(rtt)) => Time(rtt).to_string(),
                _ => "-".to_owned(),
            };
            let side = row.side.name();
            writeln!(f, "  {side:<6}{handshake:<12}{sent:>10}{received:>11}{packets:>15}{gigabits:>11}{rtt:>11}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |side, gigabits| Row {
            side,
            handshake: Some(Duration::from_secs(86_399)),
            tx_bytes: 99_999_000_000_000,
            rx_bytes: 1_234,
            packets_sent: 99_999_999_999,
            gigabits,
        };
        Table {
            phase: Phase::Bulk { from: Side::Left, to: Side::Right },
            time: Duration::from_secs(86_399),
            length: Duration::from_secs(86_400),
            rows: [row(Side::Left, None), row(Side::Right, Some(123.456))],
            rtt: Some(Duration::from_millis(999)),
        }
    }

    #[test]
    fn the_widest_table_fits_its_terminal() {
        let text = table().to_string();
        assert_eq!(text.lines().count(), 4, "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= usize::from(WIDTH), "{line}");
        }
    }

    #[test]
    fn a_table_is_drawn_over_the_one_before() {
        assert_eq!(redraw("a\nb\n", 0), "\r\x1b[2Ka\n\r\x1b[2Kb\n");
        assert!(redraw("a\nb\n", 2).starts_with("\x1b[2A\r"));
    }

    #[test]
    fn a_plain_line_has_everything_and_no_escapes() {
        let line = plain(&table());
        assert!(line.ends_with('\n') && !line.contains('\x1b') && line.lines().count() == 1, "{line}");
        for part in ["left: handshake 86399 s ago", "100.00 TB in 99,999,999,999 packets", "123.46 Gbit/s", "999.00 ms"]
        {
            assert!(line.contains(part), "{line}");
        }
    }
}
