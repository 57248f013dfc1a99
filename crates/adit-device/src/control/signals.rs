//! The signals that a daemon listens to.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR2};

use crate::handover;

/// Two streams to poll: one for SIGTERM and SIGINT, one for SIGUSR2.
pub(crate) struct Signals(UnixStream, UnixStream);

impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGTERM, theirs.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGINT, theirs)?;
        let (reload, theirs) = UnixStream::pair()?;
        reload.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGUSR2, theirs)?;
        Ok(Self(ours, reload))
    }

    /// What becomes readable when the process is to end, and when it is to hand over.
    pub(crate) fn streams(&self) -> [&UnixStream; 2] {
        [&self.0, &self.1]
    }

    /// If this process has been told to end, passes that on to the process that serves now.
    pub(crate) fn pass_on(&mut self, process: u32) {
        if self.take()
            && let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw)
        {
            // It may have ended by itself.
            let _ = kill_process(process, Signal::TERM);
        }
    }

    /// Whether this process has been told to end.
    pub(super) fn take(&mut self) -> bool {
        handover::drain(&self.0)
    }
}
