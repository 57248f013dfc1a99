//! What the kernel tells of a process.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// What the kernel tells of a daemon.
#[derive(Debug)]
pub struct ProcessStatus {
    process: u32,
}

impl ProcessStatus {
    /// Of this process.
    pub fn of(process: u32) -> Self {
        Self { process }
    }

    /// A line of `/proc/PID/status`.
    #[track_caller]
    pub fn value(&self, name: &str) -> &'static str {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process)).expect("the daemon's process");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).trim().to_owned().leak()
    }

    /// A set of capabilities.
    #[track_caller]
    pub fn capabilities(&self, set: &str) -> u64 {
        u64::from_str_radix(self.value(set), 16).expect("a number in base 16")
    }

    /// Whether some of its memory is locked.
    #[track_caller]
    pub fn has_locked_memory(&self) -> bool {
        self.value("VmLck") != "0 kB"
    }

    /// The group that the file of its memory belongs to: root's if the process must not be looked at.
    #[track_caller]
    pub fn group_of_memory(&self) -> u32 {
        fs::metadata(format!("/proc/{}/mem", self.process)).expect("the daemon's process").gid()
    }

    /// Fails the test unless each thread is confined, and no core is dumped.
    #[track_caller]
    pub fn assert_confined(&self) {
        assert_eq!((self.value("NoNewPrivs"), self.value("Seccomp")), ("1", "2"));
        // Each thread is confined by itself.
        let threads = fs::read_dir(format!("/proc/{}/task", self.process)).expect("the daemon's threads");
        let mut count = 0;
        for thread in threads {
            let path = thread.expect("a thread").path().join("status");
            let text = fs::read_to_string(path).expect("a thread's state");
            assert!(text.contains("\nSeccomp:\t2\n") && text.contains("\nNoNewPrivs:\t1\n"), "{text}");
            count += 1;
        }
        assert!(count > 1, "there are workers");
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.process)).expect("the daemon's limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit of core dumps");
        let numbers: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
        assert_eq!(numbers, ["0", "0"]);
    }
}
