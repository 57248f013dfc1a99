//! What valgrind's findings mean for a probe.

use std::collections::BTreeMap;
use std::fmt;

use crate::probes::{Allowed, Expected, Probe};
use crate::report::{Finding, Frame};

/// What became of a probe.
#[derive(Debug)]
pub(crate) struct Verdict {
    expected: Expected,
    /// Findings at the allowed places, by why they are.
    allowed: Vec<(&'static Allowed, Finding)>,
    others: Vec<Finding>,
    /// Allowed places where nothing was found: they are to be taken off the list.
    stale: Vec<&'static Allowed>,
}

impl Verdict {
    pub(crate) fn new(probe: &Probe, findings: Vec<Finding>) -> Self {
        let (mut allowed, mut others) = (Vec::new(), Vec::new());
        for finding in findings {
            match probe.allowed.iter().find(|place| holds(place, &finding)) {
                Some(place) => allowed.push((place, finding)),
                None => others.push(finding),
            }
        }
        let is_stale = |place: &&'static Allowed| !allowed.iter().any(|(other, _)| std::ptr::eq(*place, *other));
        let stale = probe.allowed.iter().filter(is_stale).collect();
        Self { expected: probe.expected, allowed, others, stale }
    }

    pub(crate) fn is_good(&self) -> bool {
        match self.expected {
            Expected::Quiet => self.others.is_empty() && self.stale.is_empty(),
            Expected::Leak(function) => {
                let is_it = |finding: &Finding| finding.stack.iter().any(|frame| frame.function.contains(function));
                !self.others.is_empty() && self.others.iter().all(is_it)
            }
        }
    }

    /// The findings that count and, if asked, the allowed ones.
    pub(crate) fn print_findings(&self, shows_allowed: bool) {
        for finding in self.others.iter().filter(|_| shows_allowed || !self.is_good()) {
            print!("{finding}");
        }
        for place in &self.stale {
            println!("     allowed, but not found: {} {:?}", place.place, place.line);
        }
        let mut reasons = BTreeMap::<(&str, &str, &str), usize>::new();
        for (place, finding) in &self.allowed {
            *reasons.entry((place.place, place.line, place.why)).or_default() += 1;
            if shows_allowed {
                print!("{finding}");
            }
        }
        for ((place, line, why), count) in reasons {
            println!("     allowed {count}x at {place} {line:?}: {why}");
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (others, allowed) = (self.others.len(), self.allowed.len());
        match self.expected {
            Expected::Quiet => write!(f, "{others} findings, and {allowed} at allowed places"),
            Expected::Leak(_) => write!(f, "{others} findings, as it should be"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "     {}", self.what)?;
        let is_ours = |frame: &&Frame| !frame.file.ends_with("constant_time/src/main.rs");
        for frame in self.stack.iter().take_while(is_ours).filter(|frame| !frame.file.starts_with("/rustc/")) {
            let line = source(frame);
            writeln!(f, "       {} ({}:{}) {}", frame.function, frame.file, frame.line, line.trim())?;
        }
        Ok(())
    }
}

/// Whether the innermost code of the finding, but for the standard library and libc's copying and comparing, is this
/// place.
fn holds(place: &Allowed, finding: &Finding) -> bool {
    let is_passed_over = |frame: &&Frame| {
        frame.file.starts_with("/rustc/")
            || (frame.file.is_empty() && matches!(&*frame.function, "bcmp" | "memcmp" | "memcpy" | "memmove"))
    };
    let Some(frame) = finding.stack.iter().find(|frame| !is_passed_over(frame)) else { return false };
    let source = source(frame);
    let line = if source.is_empty() { &frame.function } else { &source };
    frame.file.ends_with(place.place) && line.contains(place.line)
}

/// The line of source, where it can be read.
fn source(frame: &Frame) -> String {
    let text = std::fs::read_to_string(&frame.file).unwrap_or_default();
    text.lines().nth(frame.line.saturating_sub(1)).unwrap_or_default().to_owned()
}
