//! The binary makes keys as `wg` does.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use common::{Scratch, adit, output, wg};

/// The pair of RFC 7748, section 6.1, that Alice has.
const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

#[test]
fn the_public_key_is_that_of_the_private_key() {
    for input in [PRIVATE.to_owned(), format!("  {PRIVATE}\n\n")] {
        assert_eq!(output(adit(["pubkey"]), &input), (true, format!("{PUBLIC}\n"), String::new()));
    }
}

#[test]
fn keys_that_adit_makes_are_keys_to_wg_and_the_other_way_round() {
    let (_, ours, _) = output(adit(["genkey"]), "");
    assert_eq!(ours.len(), 45);
    assert_eq!(output(wg(["pubkey"]), &ours).1, output(adit(["pubkey"]), &ours).1);
    let (_, theirs, _) = output(wg(["genkey"]), "");
    assert_eq!(output(wg(["pubkey"]), &theirs).1, output(adit(["pubkey"]), &theirs).1);
}

#[test]
fn no_two_keys_are_the_same() {
    for command in ["genkey", "genpsk"] {
        let [first, second] = [(); 2].map(|()| output(adit([command]), ""));
        assert!(first.0 && first.1.len() == 45 && first.1.ends_with("=\n"), "{first:?}");
        assert_ne!(first, second);
    }
}

#[test]
fn what_is_no_key_is_refused_without_being_repeated() {
    for input in ["", "secret", &PRIVATE[1..], &format!("{PRIVATE}{PRIVATE}")] {
        let (success, stdout, stderr) = output(adit(["pubkey"]), input);
        assert!(!success && stdout.is_empty());
        assert!(stderr.starts_with("adit: standard input: expected 44 characters of base64"), "{stderr}");
        assert!(input.is_empty() || !stderr.contains(input), "{stderr}");
    }
}

#[test]
fn a_file_that_others_can_read_is_warned_of() {
    let folder = Scratch::new();
    let path = folder.join("key");
    for (mode, warns) in [(0o644, true), (0o600, false)] {
        let file = File::create(&path).unwrap();
        file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
        for command in ["genkey", "genpsk"] {
            let mut command = adit([command]);
            command.stdout(file.try_clone().unwrap());
            let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let stderr = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
            assert_eq!(stderr.contains("others can read the file"), warns, "{stderr}");
        }
    }
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = adit(["completions", "bash"]);
    let output = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output();
    let output = output.unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
