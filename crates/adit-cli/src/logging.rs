//! Log lines, to standard error.

use std::env;
use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::args::LogFormat;

/// What log lines are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Somebody who waits for a command: no times.
    Command,
    /// Somebody who reads the log of a daemon.
    Daemon,
}

/// Writes what happens from now on to standard error, as `LOG_LEVEL` asks.
pub(crate) fn start(format: LogFormat, audience: Audience) {
    let level = env::var("LOG_LEVEL");
    let writer = match audience {
        Audience::Command => BoxMakeWriter::new(io::stderr),
        Audience::Daemon => BoxMakeWriter::new(move || Unwaiting { format }),
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_max_level(level.ok().as_deref().and_then(filter).unwrap_or(LevelFilter::INFO))
        .with_target(false)
        // What cannot be written is lost. The default is to complain, on the same standard error, and to panic if that
        // cannot be written either.
        .log_internal_errors(false);
    match (format, audience) {
        (LogFormat::Json, _) => builder.json().flatten_event(true).init(),
        (LogFormat::Text, Audience::Command) => builder.with_ansi(io::stderr().is_terminal()).without_time().init(),
        (LogFormat::Text, Audience::Daemon) => builder.with_ansi(io::stderr().is_terminal()).init(),
    }
}

/// Standard error, for which no thread ever waits: a line that finds no room is lost. If whoever is to read has
/// stopped, packets must not. How many lines were lost is told when there is room again.
struct Unwaiting {
    format: LogFormat,
}

/// How many lines were lost since there was room last.
static LOST: AtomicU64 = AtomicU64::new(0);

/// What a pipe takes at once if it has room at all.
const AT_ONCE: usize = 4096;

impl Write for Unwaiting {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Locked while it is asked and written: in between no other thread takes the room.
        let mut stderr = io::stderr().lock();
        let has_room = |stderr: &io::StderrLock<'_>| {
            let mut polled = [PollFd::new(stderr, PollFlags::OUT)];
            // If there is no telling, it is tried.
            poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_or(true, |ready| ready > 0)
        };
        if has_room(&stderr) {
            let lost = LOST.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let words = match self.format {
                    LogFormat::Text => format!("WARN {lost} log lines were lost, since nobody read them\n"),
                    LogFormat::Json => {
                        format!(
                            "{{\"level\":\"WARN\",\"message\":\"log lines were lost, since nobody read them\",\"lines\":{lost}}}\n"
                        )
                    }
                };
                stderr.write_all(words.as_bytes())?;
            }
        }
        for part in line.chunks(AT_ONCE) {
            if !has_room(&stderr) {
                LOST.fetch_add(1, Ordering::Relaxed);
                break;
            }
            stderr.write_all(part)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a daemon in the background is to go on logging to the standard error that it was started with.
pub(crate) fn is_wanted() -> bool {
    env::var("LOG_LEVEL").is_ok_and(|level| !level.is_empty() && filter(&level) != Some(LevelFilter::OFF))
}

/// Says that `LOG_LEVEL` holds no level, and so has not been followed.
pub(crate) fn warn_of_unknown_level() {
    let Some(level) = env::var_os("LOG_LEVEL").filter(|level| !level.is_empty()) else { return };
    if level.to_str().and_then(filter).is_none() {
        tracing::warn!("LOG_LEVEL: found {level:?}, expected silent, error, warn, info, debug, verbose or trace");
    }
}

/// The words of wireguard-go, and those of `tracing`.
fn filter(level: &str) -> Option<LevelFilter> {
    Some(match level.to_ascii_lowercase().as_str() {
        "silent" | "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "verbose" | "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_the_names_of_wireguard_go_too() {
        for (word, level) in [
            ("silent", LevelFilter::OFF),
            ("error", LevelFilter::ERROR),
            ("Info", LevelFilter::INFO),
            ("verbose", LevelFilter::DEBUG),
            ("Debug", LevelFilter::DEBUG),
        ] {
            assert_eq!(filter(word), Some(level), "{word}");
        }
        assert_eq!(filter("anything"), None);
    }
}
