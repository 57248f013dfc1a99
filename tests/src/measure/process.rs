//! What the kernel tells of processes: processor time and memory, children included.

use std::fs;

/// Linux counts processor time for programs in hundredths of a second, whatever its own clock does.
const TICKS_A_SECOND: f64 = 100.0;

/// The processor time that a process and its children have used, in seconds; 0 when it is gone.
pub fn cpu_seconds(process: u32) -> f64 {
    let ticks: u64 = family(process).into_iter().filter_map(stat).map(|stat| stat.ticks).sum();
    ticks as f64 / TICKS_A_SECOND
}

/// The most memory that a process or one of its children ever had resident, in MiB.
pub fn peak_memory(process: u32) -> f64 {
    memory(process, "VmHWM:")
}

/// The memory that a process or the largest of its children has resident, in MiB.
pub fn resident_memory(process: u32) -> f64 {
    memory(process, "VmRSS:")
}

/// The children of a process, their children, and so on.
pub fn descendants(process: u32) -> Vec<u32> {
    let mut found = family(process);
    found.retain(|member| *member != process);
    found
}

fn family(process: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let processes = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> = processes.filter_map(|process| Some((process, stat(process)?.parent))).collect();
    descend(process, &parents)
}

/// The process and all that descend from it, by a list of processes with their parents.
fn descend(process: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![process];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(child, of)| *of == parent && child != of).map(|(child, _)| *child));
        next += 1;
    }
    found
}

fn memory(process: u32, field: &str) -> f64 {
    let largest = family(process).into_iter().filter_map(|process| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        kibibytes(&status, field)
    });
    largest.max().unwrap_or(0) as f64 / 1024.0
}

fn kibibytes(status: &str, field: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

fn stat(process: u32) -> Option<Stat> {
    Stat::parse(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Its own time, and that of children that have ended.
    ticks: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything; the other fields come after it.
        let (_, fields) = line.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let times = fields.get(11..15)?.iter().map(|field| field.parse::<u64>());
        Some(Self { parent: fields.get(1)?.parse().ok()?, ticks: times.sum::<Result<u64, _>>().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) S 1 (b) S 7 42 42 0 -1 4194560 100 0 0 0 150 50 3 4 20 0 5 0 100 1000 10";
        assert_eq!(Stat::parse(line), Some(Stat { parent: 7, ticks: 207 }));
    }

    #[test]
    fn a_cut_off_line_is_no_process() {
        assert_eq!(Stat::parse("42 (a) S 7 42 42 0 -1 4194560 100 0 0 0 150"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn children_of_children_belong_to_the_family() {
        let parents = [(2, 1), (3, 2), (4, 3), (5, 1), (1, 0)];
        assert_eq!(descend(2, &parents), [2, 3, 4]);
    }

    #[test]
    fn memory_is_read_from_its_own_line() {
        let status = "Name:\tadit\nVmPeak:\t  900 kB\nVmHWM:\t    5120 kB\nVmRSS:\t    4096 kB\n";
        assert_eq!(kibibytes(status, "VmHWM:"), Some(5120));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_memory(std::process::id()) > 0.0);
    }
}
