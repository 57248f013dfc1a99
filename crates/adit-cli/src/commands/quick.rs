//! Interfaces by their files.

use std::io;

use adit_device::quick::{self, Location};
use anyhow::bail;

use super::daemon;
use crate::args::{self, DaemonArgs, LogFormat};

pub(crate) fn up(file: &str, daemon: &DaemonArgs, format: LogFormat) -> anyhow::Result<()> {
    let mut start = |name: &str| -> io::Result<()> { daemon::spawn(name, daemon, format) };
    Ok(quick::up(&locate(file)?, &mut start)?)
}

pub(crate) fn down(file: &str) -> anyhow::Result<()> {
    Ok(quick::down(&locate(file)?)?)
}

/// Refuses a name that is a command: the daemon could not be started, since its command line would mean the command.
fn locate(file: &str) -> anyhow::Result<Location> {
    let location = Location::new(file)?;
    if args::is_command(&location.name) {
        bail!("{file}: an interface cannot be called {}: that is a command", location.name);
    }
    Ok(location)
}
