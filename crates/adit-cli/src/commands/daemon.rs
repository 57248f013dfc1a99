//! The daemon: in the foreground, or sent to the background.
//!
//! To go to the background the program starts itself anew, in the foreground of a session of its own, with a pipe as
//! standard output, and waits until the new one says there that the interface can be used. A fork without exec, which
//! could take only one thread along, is not needed.

use std::env;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use adit_device::handover::VARIABLE;
use adit_device::{Activated, Notifier, Options, Reload};
use anyhow::{Context as _, bail};
use clap::ValueEnum as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::args::{Args, DaemonArgs, LogFormat, not_a_name};
use crate::logging;

/// Makes the interface and serves it, here or in the background.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if let Some(command) = args.misplaced_command() {
        bail!(not_a_name(command));
    }
    let name = args.name.context("expected the name of an interface")?;
    // With `%d` in it the kernel numbers the interface.
    if let Some(refusal) = adit_device::name_refusal(&name.replacen("%d", "00", 1)) {
        bail!(refusal);
    }
    let is_asked_to_stay = env::var_os("WG_PROCESS_FOREGROUND").is_some_and(|value| value == "1");
    if !args.foreground && !is_asked_to_stay && !takes_over() {
        return Ok(spawn(&name, &args.daemon, args.log_format)?);
    }
    serve(name, &args.daemon, args.report)
}

/// Starts a daemon in the background and returns when its interface can be used.
pub(crate) fn spawn(name: &str, daemon: &DaemonArgs, format: LogFormat) -> io::Result<()> {
    let failed = |what: &str| {
        let what = format!("cannot start the daemon of {name}: {what}");
        move |error: io::Error| {
            io::Error::new(error.kind(), format!("{what}: {error}{}", adit_device::what_to_raise(&error)))
        }
    };
    let program = env::current_exe().map_err(failed("the file of this program is not known"))?;
    let mut command = Command::new(&program);
    // First, as people type it and look for it among the processes.
    let looks_like_an_option = name.starts_with('-');
    if !looks_like_an_option {
        command.arg(name);
    }
    command.args(["--foreground", "--report", "--log-format"]);
    command.arg(format.to_possible_value().map_or_else(|| "text".to_owned(), |value| value.get_name().to_owned()));
    if let Some(threads) = daemon.threads {
        command.arg("--threads").arg(threads.to_string());
    }
    if daemon.no_offload {
        command.arg("--no-offload");
    }
    if let Some(busy_poll) = daemon.busy_poll {
        command.arg("--busy-poll").arg(busy_poll.to_string());
    }
    command.args(daemon.confinement.words());
    if looks_like_an_option {
        command.arg("--").arg(name);
    }
    // The daemon must not keep a file system from being unmounted.
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped());
    let started = command.spawn();
    let mut child = started.map_err(failed(&format!("{} in the folder /", program.display())))?;
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).map_err(failed("it cannot be heard"))?;
    if line.starts_with("ready ") {
        return Ok(());
    }
    let status = child.wait().map_err(failed("its end cannot be awaited"))?;
    Err(io::Error::other(format!("the daemon of {name} could not start ({status})")))
}

fn serve(name: String, daemon: &DaemonArgs, report: bool) -> anyhow::Result<()> {
    // Before any file is opened that could be given the number of an inherited one.
    let handover = if takes_over() {
        Some(take_stdin().context("standard input is no socket to a daemon that hands over")?)
    } else {
        None
    };
    let (mut tun_fd, mut sockets) = (None, Activated::default());
    if handover.is_none() {
        tun_fd = inherited("WG_TUN_FD")?;
        sockets = match inherited("WG_UAPI_FD")? {
            None => adit_device::activated_sockets()
                .context("the sockets handed over by the service manager (LISTEN_FDS) cannot be used")?,
            uapi => Activated { uapi, reload: None },
        };
        if report {
            setsid().context("cannot begin a session of its own")?;
        }
    }
    adit_device::close_the_rest();
    // Only for the first process does somebody still wait to be told.
    let is_first_report = report && handover.is_none();
    raise_file_limit();
    let confinement = daemon.confinement.confinement();
    let mut options = Options { offload: !daemon.no_offload, tun_fd, confinement, ..Options::new(name) };
    (options.uapi_fd, options.reload_fd) = (sockets.uapi, sockets.reload);
    options.busy_poll = daemon.busy_poll.map(|time| Duration::from_micros(time.into()));
    options.handover = handover;
    // The path is asked for now: once the file is replaced, the answer no longer tells where the next one is.
    // A service manager follows the first process even in the background, and ends the service with it.
    let stays = !report || env::var_os("INVOCATION_ID").is_some();
    options.reload = env::current_exe().ok().filter(|_| confinement.reload).map(|program| Reload { program, stays });
    options.notifier = Notifier::from_env().unwrap_or_else(|error| {
        tracing::warn!(%error, "the service manager of NOTIFY_SOCKET cannot be told");
        None
    });
    if let Some(threads) = daemon.threads {
        options.threads = threads;
    }
    if is_first_report {
        // Opened now: a confined process may not be able to.
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").context("/dev/null")?;
        options.ready = Some(Box::new(move |name: &str| {
            if let Err(error) = tell_ready(name, &null) {
                tracing::warn!(%error, "cannot go to the background");
            }
        }));
    }
    Ok(adit_device::run(options)?)
}

/// Each worker has six files, and a change of the port or a reload takes some of them twice for a moment: too many for
/// the usual limit where there are many cores. That limit is low for the sake of programs that cannot count above
/// 1,024, and the only program that is started from here is this one.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Tells the process that waits that the interface is there, and lets go of its standard output and error.
fn tell_ready(name: &str, null: &File) -> io::Result<()> {
    let mut stdout = io::stdout();
    // That process may be gone.
    let _ = writeln!(stdout, "ready {name}").and_then(|()| stdout.flush());
    dup2_stdout(null)?;
    if !logging::is_wanted() {
        dup2_stderr(null)?;
    }
    Ok(())
}

/// Whether this process was started by one that hands over to it.
fn takes_over() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Takes the socket that is standard input, which is empty afterwards.
fn take_stdin() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(socket)
}

fn inherited(variable: &str) -> anyhow::Result<Option<OwnedFd>> {
    // -1 is boringtun's word for none.
    let Some(value) = env::var_os(variable).filter(|value| !value.is_empty() && value != "-1") else { return Ok(None) };
    let number = |value: &OsString| value.to_str()?.parse().ok();
    let number = number(&value)
        .with_context(|| format!("{variable}: found {value:?}, expected the number of a file descriptor"))?;
    let fd = adit_device::take_fd(number).with_context(|| variable.to_owned())?;
    Ok(Some(fd))
}
