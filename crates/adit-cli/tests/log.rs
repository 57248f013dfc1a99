//! What is said on standard error, to people and to programs.

mod common;

use common::{adit, output};
use serde_json::Value;

#[test]
fn in_json_the_last_word_is_json_too_and_said_once() {
    for arguments in [["-f", "a/b", "--log-format=json"], ["show", "a/b", "--log-format=json"]] {
        let (success, stdout, stderr) = output(adit(arguments), "");
        assert!(!success && stdout.is_empty(), "{stderr}");
        let line: Value = serde_json::from_str(&stderr).expect("one line of JSON, and nothing else");
        assert_eq!(line["level"], "ERROR");
        let message = line["message"].as_str().expect("a text");
        assert!(message.starts_with("found '/' in \"a/b\""), "{message}");
    }
    let (_, _, stderr) = output(adit(["show", "a/b"]), "");
    assert!(stderr.starts_with("adit: found '/'"), "{stderr}");
}

#[test]
fn a_level_that_is_none_is_told_and_not_taken_for_one() {
    for (level, warns) in [("loud", true), ("", false), ("Warn", false), ("verbose", false)] {
        let mut command = adit(["genpsk"]);
        command.env("LOG_LEVEL", level);
        let (success, _, stderr) = output(command, "");
        assert!(success);
        let warning = format!("LOG_LEVEL: found {level:?}, expected silent, error, ");
        assert_eq!(stderr.contains(&warning), warns, "{stderr}");
    }
}
