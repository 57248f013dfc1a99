//! The machine and the programs, for those who compare the figures with their own.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::implementation::Implementation;

/// Where and with what the figures were measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// What the processor calls itself.
    pub cpu: String,
    /// How many the measurement may use.
    pub cores: usize,
    /// The instructions that ciphers make use of.
    pub vectors: String,
    /// Whether the machine is a guest of another.
    pub virtual_machine: bool,
    /// Of the whole machine.
    pub memory_gib: u64,
    /// Its release.
    pub kernel: String,
    /// By which rule TCP sends, unless told otherwise.
    #[serde(default)]
    pub congestion_control: String,
    /// Programs and their versions.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// Looks at this machine and at the programs that are measured.
    pub fn read(implementations: &[Implementation]) -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = field(&cpu, "flags").unwrap_or_default();
        let has = |flag: &str| flags.split(' ').any(|other| other == flag);
        let vectors: Vec<&str> = VECTORS.iter().copied().filter(|flag| has(flag)).collect();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = field(&memory, "MemTotal").and_then(|line| line.split(' ').next()?.parse::<u64>().ok());
        let kernel = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default().trim().to_owned();
        Self {
            cpu: field(&cpu, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            vectors: vectors.join(", "),
            virtual_machine: has("hypervisor"),
            memory_gib: memory.unwrap_or(0).div_ceil(1 << 20),
            kernel: kernel("kernel/osrelease"),
            congestion_control: Self::congestion_control(),
            versions: versions(implementations),
        }
    }

    /// The congestion control that TCP has here.
    pub fn congestion_control() -> String {
        fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default().trim().to_owned()
    }

    /// A table in Markdown.
    pub fn table(&self) -> String {
        let mut rows = vec![
            ("CPU".to_owned(), self.cpu.clone()),
            ("Cores".to_owned(), format!("{}{}", self.cores, if self.virtual_machine { ", virtual" } else { "" })),
            ("Vector instructions".to_owned(), self.vectors.clone()),
            ("Memory".to_owned(), format!("{} GiB", self.memory_gib)),
            ("Kernel".to_owned(), self.kernel.clone()),
            ("TCP's congestion control".to_owned(), self.congestion_control.clone()),
        ];
        rows.extend(self.versions.iter().cloned());
        let row = |(name, value): &(String, String)| {
            let is_told_more = *name == Implementation::WireguardGo.to_string() && value.starts_with("wireguard-go v");
            format!("| {name} | {}{} |\n", value.replace('|', "\\|"), if is_told_more { OF_WIREGUARD_GO } else { "" })
        };
        format!("| | |\n|---|---|\n{}", rows.iter().map(row).collect::<String>())
    }
}

/// What wireguard-go's version does not tell: `cargo xtask setup` takes it from there.
const OF_WIREGUARD_GO: &str = " by its own word; Debian trixie's package, which has UDP segmentation offloads";

const VECTORS: &[&str] = &["avx2", "avx512f", "avx512vl", "avx512ifma", "asimd"];

fn versions(implementations: &[Implementation]) -> Vec<(String, String)> {
    let mut versions = Vec::new();
    for implementation in implementations {
        // A program that is not there is reported where it is measured.
        let binary = catch_unwind(AssertUnwindSafe(|| implementation.binary()));
        let mut version = binary.ok().and_then(|binary| first_line(Command::new(binary).arg("--version")));
        if let (Some(version), Some(commit), Implementation::Adit) = (&mut version, commit(), implementation) {
            version.push_str(&format!(", commit {commit}"));
        }
        versions.push((implementation.to_string(), version.unwrap_or_else(|| "missing".to_owned())));
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
    let changes = first_line(Command::new("git").current_dir(folder).args([
        "status",
        "--porcelain",
        "-uno",
        "--",
        ":/",
        // Figures that are written down while it is measured change nothing of what is measured.
        ":(top,exclude)benches/report",
    ]));
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
    fn the_table_tells_what_the_version_of_wireguard_go_does_not() {
        let versions = [("adit", "adit 0.1.0"), ("wireguard-go", "wireguard-go v0.0.1"), ("wg", "missing")];
        let versions = versions.map(|(name, version)| (name.to_owned(), version.to_owned())).to_vec();
        let table = Machine { versions, ..Machine::default() }.table();
        assert!(table.ends_with(&format!(
            "| adit | adit 0.1.0 |\n| wireguard-go | wireguard-go v0.0.1{OF_WIREGUARD_GO} |\n| wg | missing |\n"
        )));
    }

    #[test]
    fn a_program_that_fails_has_no_version() {
        assert_eq!(first_line(&mut Command::new("false")), None);
        assert_eq!(first_line(Command::new("echo").arg("one\ntwo")), Some("one".to_owned()));
    }
}
