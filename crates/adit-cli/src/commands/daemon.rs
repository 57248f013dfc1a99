//! The daemon: in the foreground, or sent to the background.
//!
//! To go to the background the program starts itself anew, in the foreground of a session of its own, with a pipe as
//! standard output, and waits until the new one says there that the interface can be used. A fork without exec, which
//! could take only one thread along, is not needed.

use std::env;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use adit_device::Options;
use anyhow::{Context as _, bail};
use clap::ValueEnum as _;
use rustix::process::{Resource, Rlimit, setrlimit, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdout};

use crate::args::{Args, DaemonArgs, LogFormat};
use crate::logging::{self, Audience};

/// Makes the interface and serves it, here or in the background.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let name = args.name.context("expected the name of an interface")?;
    if let Some(refusal) = adit_device::name_refusal(&name) {
        bail!(refusal);
    }
    let is_asked_to_stay = env::var_os("WG_PROCESS_FOREGROUND").is_some_and(|value| value == "1");
    if !args.foreground && !is_asked_to_stay {
        return Ok(spawn(&name, &args.daemon, args.log_format)?);
    }
    serve(name, &args.daemon, args.log_format, args.report)
}

/// Starts a daemon in the background and returns when its interface can be used.
pub(crate) fn spawn(name: &str, daemon: &DaemonArgs, format: LogFormat) -> io::Result<()> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--foreground", "--report", "--log-format"]);
    command.arg(format.to_possible_value().map_or_else(|| "text".to_owned(), |value| value.get_name().to_owned()));
    if let Some(threads) = daemon.threads {
        command.arg("--threads").arg(threads.to_string());
    }
    if daemon.no_offload {
        command.arg("--no-offload");
    }
    // The daemon keeps no folder from being unmounted.
    command.arg("--").arg(name).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.starts_with("ready ") {
        return Ok(());
    }
    let status = child.wait()?;
    Err(io::Error::other(format!("the daemon of {name} could not start ({status})")))
}

fn serve(name: String, daemon: &DaemonArgs, format: LogFormat, report: bool) -> anyhow::Result<()> {
    // Before any file is opened that could be given the number of an inherited one.
    let tun_fd = inherited("WG_TUN_FD")?;
    let uapi_fd = inherited("WG_UAPI_FD")?;
    if report {
        setsid().context("cannot begin a session of its own")?;
    }
    // Keys would be in a core dump.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    logging::start(format, Audience::Daemon);
    let mut options = Options { offload: !daemon.no_offload, tun_fd, uapi_fd, ..Options::new(name) };
    if let Some(threads) = daemon.threads {
        options.threads = threads;
    }
    if report {
        options.ready = Some(Box::new(|name: &str| {
            if let Err(error) = tell_ready(name) {
                tracing::warn!(%error, "cannot go to the background");
            }
        }));
    }
    Ok(adit_device::run(options)?)
}

/// Tells who waits that the interface is there, and lets go of what is theirs.
fn tell_ready(name: &str) -> io::Result<()> {
    let null: File = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let mut stdout = io::stdout();
    // Who waits may have gone.
    let _ = writeln!(stdout, "ready {name}").and_then(|()| stdout.flush());
    dup2_stdout(&null)?;
    if !logging::is_wanted() {
        dup2_stderr(&null)?;
    }
    Ok(())
}

fn inherited(variable: &str) -> anyhow::Result<Option<OwnedFd>> {
    let Some(value) = env::var_os(variable) else { return Ok(None) };
    let number = |value: &OsString| value.to_str()?.parse().ok();
    let number = number(&value)
        .with_context(|| format!("{variable}: found {value:?}, expected the number of a file descriptor"))?;
    let fd = adit_device::take_fd(number).with_context(|| variable.to_owned())?;
    Ok(Some(fd))
}
