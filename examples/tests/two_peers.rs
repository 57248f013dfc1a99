//! `two_peers.rs`, run as a user would.

use std::process::Command;

mod common;

#[test]
fn two_peers_shake_hands_and_exchange_a_question_and_its_answer() {
    let output = Command::new(common::example("two_peers")).output().expect("started");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let expected = [
        "left: sends a handshake initiation of 148 bytes",
        "right: sends a handshake response of 92 bytes",
        "left: the handshake is complete",
        "left: sends transport data of",
        r#"right: got "How deep is the adit?""#,
        "right: sends transport data of",
        r#"left: got "A thousand fathoms.""#,
    ];
    let mut lines = said.lines();
    for line in expected {
        assert!(lines.any(|said| said.starts_with(line)), "{line:?} is missing, or out of order, in:\n{said}");
    }
}
