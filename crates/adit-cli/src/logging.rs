//! Log lines, to standard error.

use std::env;
use std::io::{self, IsTerminal as _};

use tracing_subscriber::filter::LevelFilter;

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
    let builder = tracing_subscriber::fmt()
        .with_writer(io::stderr)
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
