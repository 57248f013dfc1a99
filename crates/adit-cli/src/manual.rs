//! What help and the manual pages tell beside the command line itself.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// A word, and what it means in one or more lines.
type Item = (&'static str, &'static str);

const ENVIRONMENT: &[Item] = &[
    (
        "LOG_LEVEL",
        "silent, error, warn, info (unless said otherwise), debug or verbose, trace. Unless it\n\
         is set, a daemon in the background logs nothing once it has started",
    ),
    ("WG_PROCESS_FOREGROUND", "1: stay in the foreground"),
    ("WG_TUN_FD", "the number of an open TUN device to use, instead of making one"),
    ("WG_UAPI_FD", "the number of a listening socket to use, instead of making one"),
    (
        "NOTIFY_SOCKET, LISTEN_FDS",
        "as a service manager sets them: readiness is told, and the socket handed over is used",
    ),
    ("WG_HIDE_KEYS", "never: `adit show` shows private and preshared keys"),
    ("WG_COLOR_MODE", "always, never or auto: colors of `adit show`"),
    (
        "WG_ENDPOINT_RESOLUTION_RETRIES",
        "how often `adit up` asks again for the address of an endpoint, after pauses that grow:\n\
         a number (15 unless said otherwise) or infinity",
    ),
];

const CONFIGURATION: &[Item] = &[
    (
        "[Interface]",
        "PrivateKey, ListenPort, FwMark, Address, MTU, DNS, Table,\nPreUp, PostUp, PreDown, PostDown, SaveConfig",
    ),
    ("[Peer]", "PublicKey, PresharedKey, AllowedIPs, Endpoint, PersistentKeepalive"),
];

const FIREWALL: &str = "No firewall rules are made: a default route through the tunnel under strict reverse-path \
                        filtering needs sysctl net.ipv4.conf.all.rp_filter=2";

const FILES: &[Item] = &[
    ("/etc/wireguard/NAME.conf", "what `adit up NAME` and `adit down NAME` read, in the form of wg-quick(8)"),
    ("/var/run/wireguard/NAME.sock", "where the daemon of NAME is configured and asked; without it, the daemon ends"),
    (
        "/var/run/wireguard/NAME.up",
        "there from `adit up NAME` until `adit down NAME`, which knows by it what to clean up",
    ),
    ("/var/run/wireguard/adit/NAME.reload", "where `adit reload NAME` asks"),
];

const EXIT_STATUS: &[Item] =
    &[("0", "all was done"), ("1", "something failed, which standard error tells"), ("2", "the command line is wrong")];

/// What stands at the end of the help.
pub(crate) fn environment() -> String {
    list("Environment:", ENVIRONMENT)
}

/// What stands at the end of the help of commands that take a file.
pub(crate) fn configuration() -> String {
    list("Configuration:", CONFIGURATION)
}

fn list(title: &str, items: &[Item]) -> String {
    let mut text = title.to_owned();
    for (word, meaning) in items {
        let meaning = meaning.replace('\n', &format!("\n{:25}", ""));
        let line = if word.len() < 23 {
            format!("\n  {word:<23}{meaning}")
        } else {
            format!("\n  {word}\n{:25}{meaning}", "")
        };
        text.push_str(&line);
    }
    text
}

/// The manual page of a command, which must have been built as a part of the whole command line.
pub(crate) fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut command = command.clone();
    // In place of a list of all options without their values.
    let usage = command.render_usage().to_string().replacen("Usage: ", "", 1);
    let name = command.get_name().to_owned();
    let command = command.override_usage(usage).after_help(None::<&'static str>);
    let mut text = Vec::new();
    Man::new(command).section("8").source(concat!("adit ", env!("CARGO_PKG_VERSION"))).render(&mut text)?;
    let mut rest = Roff::new();
    let is_by_file = matches!(name.as_str(), "up" | "down");
    if is_by_file {
        section(&mut rest, "CONFIGURATION", CONFIGURATION);
    }
    if name == "up" {
        rest.control("PP", []);
        rest.text([roman(FIREWALL)]);
    }
    let environment = environment_of(&name);
    if !environment.is_empty() {
        section(&mut rest, "ENVIRONMENT", &environment);
    }
    if name == "adit" || is_by_file {
        section(&mut rest, "FILES", FILES);
    }
    section(&mut rest, "EXIT STATUS", EXIT_STATUS);
    rest.control("SH", ["SEE ALSO"]);
    rest.text([roman(if name == "adit" { "wg(8), wg-quick(8)" } else { "adit(8), wg(8), wg-quick(8)" })]);
    rest.to_writer(&mut text)?;
    Ok(text)
}

/// The variables that a command heeds; the program's own page has all.
fn environment_of(command: &str) -> Vec<Item> {
    let words: &[&str] = match command {
        "adit" => return ENVIRONMENT.to_vec(),
        "up" => &["LOG_LEVEL", "WG_ENDPOINT_RESOLUTION_RETRIES"],
        "down" => &["LOG_LEVEL"],
        "show" => &["WG_HIDE_KEYS", "WG_COLOR_MODE"],
        _ => &[],
    };
    ENVIRONMENT.iter().copied().filter(|(word, _)| words.contains(word)).collect()
}

fn section(page: &mut Roff, title: &str, items: &[Item]) {
    page.control("SH", [title]);
    for (word, meaning) in items {
        page.control("TP", []);
        page.text([bold(*word)]);
        for line in meaning.lines() {
            page.text([roman(line)]);
        }
    }
}
