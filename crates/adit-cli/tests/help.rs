//! What the binary tells of itself: help, completions, manual pages.

mod common;

use std::fs;

use common::{Scratch, adit, output};

fn said_by<const N: usize>(arguments: [&str; N]) -> String {
    let (success, text, stderr) = output(adit(arguments), "");
    assert!(success, "{arguments:?}: {stderr}");
    text
}

/// The name of the section in which each mention of a word stands, in the help or in a manual page.
fn headings<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let mut heading = "";
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix(".SH ") {
            heading = title;
        } else if line.ends_with(':') && !line.starts_with(' ') {
            heading = line;
        }
        if line.contains(word) {
            found.push(heading);
        }
    }
    found
}

#[test]
fn only_what_confines_stands_under_confinement() {
    for text in [said_by(["--help"]), said_by(["up", "--help"])] {
        assert_eq!(headings(&text, "--log-format"), ["Options:"], "{text}");
        assert_eq!(headings(&text, "--no-seccomp"), ["Confinement:"], "{text}");
    }
}

#[test]
fn help_tells_when_a_daemon_is_silent_and_where_drops_are_explained() {
    let text = said_by(["--help"]);
    assert!(text.contains("a daemon in the background logs nothing once it has started"), "{text}");
    let text = said_by(["show", "--help"]);
    assert!(text.contains("docs/drops.md"), "{text}");
}

#[test]
fn shells_complete_what_is_for_users_and_nothing_else() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = said_by(["completions", shell]);
        assert!(["genkey", "log-format", "no-seccomp"].iter().all(|word| text.contains(word)), "{shell}");
        for hidden in ["--report", "-l report", " report ", "--node", "-l node", " node "] {
            assert!(!text.contains(hidden), "{shell} completes {hidden:?}");
        }
    }
    let bash = said_by(["completions", "bash"]);
    let words_of = |command: &str| {
        let (_, rest) = bash.split_once(&format!("        adit__subcmd__{command})\n")).expect("the command");
        rest.lines().next().expect("its words").to_owned()
    };
    assert!(words_of("show").contains(" all interfaces "), "{}", words_of("show"));
    assert!(words_of("man").contains(" up down reload "), "{}", words_of("man"));
    let zsh = said_by(["completions", "zsh"]);
    assert!(zsh.contains("/etc/wireguard/NAME.conf:_files"), "{zsh}");
}

#[test]
fn a_page_tells_its_version_its_values_and_the_environment_item_by_item() {
    let page = said_by(["man"]);
    assert!(page.contains(&format!(".TH adit 8  \"adit {}\"", env!("CARGO_PKG_VERSION"))), "{page}");
    assert!(page.contains("[OPTIONS] <NAME>") && page.contains("<COMMAND>"), "{page}");
    for variable in ["LOG_LEVEL", "WG_TUN_FD"] {
        assert!(page.contains(&format!(".TP\n\\fB{variable}\\fR\n")), "{page}");
        assert_eq!(headings(&page, variable), ["ENVIRONMENT"]);
    }
    assert!(!page.contains(".SH EXTRA") && !page.contains("adit\\-help(8)"), "{page}");
    let page = said_by(["man", "up"]);
    assert!(page.contains(&format!(".TH adit-up 8  \"adit {}\"", env!("CARGO_PKG_VERSION"))), "{page}");
    assert!(page.contains("[OPTIONS] <FILE|NAME>"), "{page}");
    assert_eq!(headings(&page, "/etc/wireguard/NAME.conf").last(), Some(&"FILES"), "{page}");
    assert!(page.contains(".SH \"EXIT STATUS\""), "{page}");
    let (success, _, stderr) = output(adit(["man", "dance"]), "");
    assert!(!success && stderr.contains("found \"dance\", expected a command: up, down, reload, "), "{stderr}");
}

#[test]
fn the_pages_of_up_and_show_tell_the_variables_that_they_heed() {
    for (command, variables) in [
        ("up", &["LOG_LEVEL", "WG_ENDPOINT_RESOLUTION_RETRIES"][..]),
        ("show", &["WG_HIDE_KEYS", "WG_COLOR_MODE"]),
        ("genkey", &[]),
    ] {
        let page = said_by(["man", command]);
        let (_, section) = page.split_once(".SH ENVIRONMENT\n").unwrap_or_default();
        let (section, _) = section.split_once(".SH ").unwrap_or_default();
        let told: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("\\fB")?.strip_suffix("\\fR")).collect();
        assert_eq!(told, variables, "{page}");
    }
}

#[test]
fn the_pages_of_up_and_down_name_every_key_of_a_file() {
    let folder = Scratch::new();
    let file = folder.join("wg0.conf");
    for section in ["[Interface]", "[Peer]"] {
        fs::write(&file, format!("{section}\nNoKey = 1\n")).unwrap();
        let (_, _, stderr) = output(adit(["up", file.to_str().unwrap()]), "");
        let (_, keys) = stderr.trim_end().split_once(", expected ").expect("all keys");
        let keys: Vec<&str> = keys.split(", ").flat_map(|keys| keys.split(" or ")).collect();
        assert!(keys.len() > 4, "{stderr}");
        for page in [said_by(["man", "up"]), said_by(["man", "down"])] {
            for key in &keys {
                assert!(headings(&page, key).contains(&"CONFIGURATION"), "{key} is missing in\n{page}");
            }
        }
    }
}

#[test]
fn all_pages_are_written_under_the_names_by_which_they_are_referred_to() {
    let folder = Scratch::new();
    let pages = folder.join("man/man8");
    assert_eq!(said_by(["man", "--output", pages.to_str().unwrap()]), "");
    let whole = fs::read_to_string(pages.join("adit.8")).unwrap();
    assert_eq!(whole, said_by(["man"]));
    let references: Vec<String> = whole
        .lines()
        .filter_map(|line| line.strip_prefix("adit\\-")?.strip_suffix("(8)").map(|name| format!("adit-{name}.8")))
        .collect();
    assert!(references.len() > 8, "{whole}");
    for name in &references {
        assert!(pages.join(name).exists(), "{name}");
    }
    assert_eq!(fs::read_dir(&pages).unwrap().count(), references.len() + 1);
}
