//! A daemon in the foreground, its log kept for the case that the test fails.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

use crate::command::Background;
use crate::host::{Host, socket};
use crate::implementation::{Implementation, Launch};
use crate::scratch::{nameless_file, text};
use crate::wait::eventually;

/// A running daemon. Ended when dropped; its log is printed when the test has failed by then.
#[derive(Debug)]
pub struct Daemon {
    process: Background,
    title: String,
    log: File,
}

impl Daemon {
    /// Starts a daemon for the interface `name` and waits until it can be configured.
    #[track_caller]
    pub fn start(implementation: Implementation, host: &Host, name: &str) -> Self {
        Self::start_as(implementation, host, name, Launch::default())
    }

    /// Starts a daemon in a certain way, and waits until it can be configured.
    #[track_caller]
    pub fn start_as(implementation: Implementation, host: &Host, name: &str, launch: Launch) -> Self {
        let mut daemon = Self::launch(implementation, host, name, launch);
        eventually("the daemon opens its socket", || {
            if let Some(status) = daemon.process.ended() {
                panic!("{} ended at once: {status}", daemon.title);
            }
            let reachable = host.enter(|| UnixStream::connect(socket(name)).is_ok());
            (reachable && host.has_link(name)).then_some(())
        });
        daemon
    }

    /// Starts a daemon that may fail to come up.
    #[track_caller]
    pub fn start_unchecked(implementation: Implementation, host: &Host, name: &str) -> Self {
        Self::launch(implementation, host, name, Launch::default())
    }

    #[track_caller]
    fn launch(implementation: Implementation, host: &Host, name: &str, launch: Launch) -> Self {
        let log = nameless_file();
        let copy = || log.try_clone().expect("the log's file");
        let mut command = implementation.launch(name, launch);
        command.stdin(std::process::Stdio::null());
        command.stdout(copy()).stderr(copy());
        let title = format!("{} for {name} on {}", implementation.actual(), host.label());
        Self { process: host.start(command), title, log }
    }

    /// The daemon's process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// How the daemon ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Waits until the daemon has ended.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// What the daemon has logged so far.
    pub fn log(&self) -> String {
        text(&self.log)
    }

    /// The most memory that the daemon ever had resident, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the daemon's process");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process with memory");
        peak.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    /// The processor time that the daemon has used, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        // The name, in parentheses, may hold anything; the numbers come after it.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("the daemon's process");
        let numbers = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u32 = numbers.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u32>().ok()).sum();
        f64::from(ticks) / 100.0
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let last = log.lines().count().saturating_sub(80);
            let lines: Vec<&str> = log.lines().skip(last).collect();
            eprintln!("---- log of {}\n{}", self.title, lines.join("\n"));
        }
    }
}
