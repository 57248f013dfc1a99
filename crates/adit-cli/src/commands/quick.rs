//! Interfaces by their files.

use std::io;

use adit_device::quick::{self, Location};

use super::daemon;
use crate::args::{DaemonArgs, LogFormat};

pub(crate) fn up(file: &str, daemon: &DaemonArgs, format: LogFormat) -> anyhow::Result<()> {
    let mut start = |name: &str| -> io::Result<()> { daemon::spawn(name, daemon, format) };
    Ok(quick::up(&Location::new(file)?, &mut start)?)
}

pub(crate) fn down(file: &str) -> anyhow::Result<()> {
    Ok(quick::down(&Location::new(file)?)?)
}
