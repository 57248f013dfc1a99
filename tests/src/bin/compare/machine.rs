//! The machine and the programs, for those who compare the figures with their own.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};

use adit_tests::Implementation;
use serde::{Deserialize, Serialize};

use crate::bench::Subject;

/// Where and with what the figures were measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    /// The instructions that ciphers make use of.
    pub(crate) vectors: String,
    pub(crate) virtual_machine: bool,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    /// Programs and their versions.
    pub(crate) versions: Vec<(String, String)>,
}

impl Machine {
    /// Looks at this machine and at the programs that are measured.
    pub(crate) fn read(subjects: &[Subject]) -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = field(&cpu, "flags").unwrap_or_default();
        let has = |flag: &str| flags.split(' ').any(|other| other == flag);
        let vectors: Vec<&str> = VECTORS.iter().copied().filter(|flag| has(flag)).collect();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = field(&memory, "MemTotal").and_then(|line| line.split(' ').next()?.parse::<u64>().ok());
        Self {
            cpu: field(&cpu, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            vectors: vectors.join(", "),
            virtual_machine: has("hypervisor"),
            memory_gib: memory.unwrap_or(0).div_ceil(1 << 20),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            versions: versions(subjects),
        }
    }
}

const VECTORS: &[&str] = &["avx2", "avx512f", "avx512vl", "avx512ifma", "asimd"];

fn versions(subjects: &[Subject]) -> Vec<(String, String)> {
    let mut versions = Vec::new();
    for subject in subjects {
        if let Subject::Daemon(implementation) = subject {
            // A program that is not there is reported where it is measured.
            let binary = catch_unwind(AssertUnwindSafe(|| implementation.binary()));
            let mut version = binary.ok().and_then(|binary| first_line(Command::new(binary).arg("--version")));
            if let (Some(version), Some(commit), Implementation::Adit) = (&mut version, commit(), implementation) {
                version.push_str(&format!(", commit {commit}"));
            }
            versions.push((subject.to_string(), version.unwrap_or_else(|| "missing".to_owned())));
        }
    }
    for (name, argument) in [("wg", "--version"), ("iperf3", "--version"), ("ping", "-V")] {
        let version = first_line(Command::new(name).arg(argument));
        versions.push((name.to_owned(), version.unwrap_or_else(|| "missing".to_owned())));
    }
    versions
}

fn commit() -> Option<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commit = first_line(Command::new("git").current_dir(folder).args(["rev-parse", "--short=12", "HEAD"]))?;
    let changes = first_line(Command::new("git").current_dir(folder).args(["status", "--porcelain", "-uno"]));
    Some(if changes.is_some() { commit + " with changes" } else { commit })
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

/// The value of the first line of this name, in the form of `/proc`'s files.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "model\t\t: 85\nmodel name\t: A CPU @ 2:1\nMemTotal:       100 kB\n";
        assert_eq!(field(text, "model name"), Some("A CPU @ 2:1"));
        assert_eq!(field(text, "MemTotal"), Some("100 kB"));
        assert_eq!(field(text, "name"), None);
    }

    #[test]
    fn a_program_that_fails_has_no_version() {
        assert_eq!(first_line(&mut Command::new("false")), None);
        assert_eq!(first_line(Command::new("echo").arg("one\ntwo")), Some("one".to_owned()));
    }
}
