//! The document that tells operators why packets are dropped is whole.

use std::collections::BTreeSet;

use adit::DropReason;
use adit_device::config::Facts;

const DOCUMENT: &str = include_str!("../../../docs/drops.md");

#[test]
fn each_reason_for_a_drop_has_one_row_with_a_meaning_and_what_to_do() {
    let mut described = BTreeSet::new();
    for line in DOCUMENT.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, meaning, advice] = cells[..] else { panic!("three cells were expected: {line}") };
        assert!(!meaning.is_empty() && !advice.is_empty(), "{line}");
        assert!(described.insert(name.trim_matches('`')), "{name} is there twice");
    }
    let reasons: BTreeSet<&str> =
        DropReason::ALL.iter().map(|reason| reason.name()).chain(Facts::DEVICE_DROPS).collect();
    assert_eq!(described, reasons);
}
