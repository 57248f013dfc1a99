//! The lists that people write: the rules of `deny.toml`, and the reasons of `docs/dependencies.md`.

use std::collections::BTreeSet;

/// What is read of `deny.toml`: each entry of a list stands on a line of its own.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) licences: Vec<String>,
    /// Crates, each with a licence that it alone may have.
    pub(super) exceptions: Vec<(String, String)>,
    /// Crates, or crates of a version, that may be there beside another version.
    pub(super) skipped: Vec<String>,
    /// Crates below which versions are not compared.
    pub(super) skipped_trees: Vec<String>,
}

impl Rules {
    pub(super) fn read(text: &str) -> Self {
        let mut rules = Self::default();
        let mut list = "";
        for line in text.lines() {
            match line.split_once(" = [") {
                Some((name, "")) => list = name,
                _ if line == "]" => list = "",
                _ => {}
            }
            let entry = line.trim_start().trim_start_matches("{ crate = ");
            let Some((entry, rest)) = entry.strip_prefix('"').and_then(|rest| rest.split_once('"')) else { continue };
            match list {
                "allow" => rules.licences.push(entry.to_owned()),
                "exceptions" => {
                    let licences = rest.split('"').skip(1).step_by(2);
                    rules.exceptions.extend(licences.map(|licence| (entry.to_owned(), licence.to_owned())));
                }
                "skip" => rules.skipped.push(entry.to_owned()),
                "skip-tree" => rules.skipped_trees.push(entry.to_owned()),
                _ => {}
            }
        }
        rules
    }
}

/// The crates that `docs/dependencies.md` gives a reason for, by section.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Accounted {
    pub(super) shipped: BTreeSet<String>,
    pub(super) development: BTreeSet<String>,
    /// Those that run code of theirs while the daemon is built.
    pub(super) builders: BTreeSet<String>,
}

impl Accounted {
    /// Reads the rows ``| `crate` | reason |`` below each heading; a row without a reason does not count.
    pub(super) fn read(text: &str) -> Self {
        let mut accounted = Self::default();
        let mut heading = "";
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                heading = title;
            }
            let mut cells = line.split('|').skip(1).map(str::trim);
            let name = cells.next().and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'));
            let (Some(name), Some(true)) = (name, cells.next().map(|reason| reason.len() > 5)) else { continue };
            let section = match heading {
                "In the daemon and its libraries" => &mut accounted.shipped,
                "In tests, benchmarks and chores only" => &mut accounted.development,
                "Code that runs while the daemon is built" => &mut accounted.builders,
                _ => continue,
            };
            section.insert(name.to_owned());
        }
        accounted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_the_entries_of_four_lists() {
        let text = "targets = [\"x\"]\nallow = [\n    \"MIT\",\n    \"ISC\",\n]\n\
                    exceptions = [\n    { crate = \"fuzzer\", allow = [\"NCSA\", \"Zlib\"] },\n]\nskip = [\n    \
                    { crate = \"syn@2\", reason = \"r\" },\n]\nskip-tree = [\n    { crate = \"snow\", reason = \"r\" },\n]\n\
                    others = [\n    \"no\",\n]\n";
        let [licences, skipped, skipped_trees] = [&["MIT", "ISC"][..], &["syn@2"], &["snow"]]
            .map(|list| list.iter().map(|&entry| entry.to_owned()).collect());
        let exceptions = ["NCSA", "Zlib"].map(|licence| ("fuzzer".to_owned(), licence.to_owned())).into();
        assert_eq!(Rules::read(text), Rules { licences, exceptions, skipped, skipped_trees });
    }

    #[test]
    fn a_crate_counts_only_with_a_reason_and_under_a_known_heading() {
        let text = "## In the daemon and its libraries\n| crate | why |\n|---|---|\n| `a` | it does something |\n| `b` | |\n\
                    ## Else\n| `c` | a reason that is long |\n## In tests, benchmarks and chores only\n| `d` | a reason too |\n";
        let accounted = Accounted::read(text);
        assert_eq!(accounted.shipped, BTreeSet::from(["a".to_owned()]));
        assert_eq!(accounted.development, BTreeSet::from(["d".to_owned()]));
        assert_eq!(accounted.builders, BTreeSet::new());
    }
}
