//! The binary `adit`: a WireGuard daemon and its tools.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod confinement;
mod logging;
mod manual;

use std::io::{self, Write as _};
use std::process::ExitCode;

use args::LogFormat;

fn main() -> ExitCode {
    let args = args::Args::read();
    let format = args.log_format;
    match commands::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            match format {
                LogFormat::Json if tracing::enabled!(tracing::Level::ERROR) => tracing::error!("{}", explain(&error)),
                // If nobody can read it, the exit code still tells; `eprintln!` would panic.
                LogFormat::Json => {
                    let line = serde_json::json!({ "level": "ERROR", "fields": { "message": explain(&error) } });
                    let _ = writeln!(io::stderr(), "{line}");
                }
                LogFormat::Text => {
                    let _ = writeln!(io::stderr(), "adit: {}", explain(&error));
                }
            }
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes in a line, without those that an error has told already.
fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let twice = io::Error::other(anyhow::anyhow!("cannot be opened"));
        let error = anyhow::Error::new(twice).context("the device: cannot be opened").context("no tunnel");
        assert_eq!(explain(&error), "no tunnel: the device: cannot be opened");
        let advice = anyhow::anyhow!("not permitted").context("the device: not permitted; run it as root");
        assert_eq!(explain(&advice), "the device: not permitted; run it as root");
    }
}
