//! The name servers of an interface, given to `resolvconf(8)` by the arguments that `wg-quick(8)` uses: both openresolv
//! and systemd-resolved understand them.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use super::QuickError;

const RESOLVCONF: &str = "resolvconf";

/// Where the resolvconf of Debian orders its sources, by patterns for their names.
const ORDER: &str = "/etc/resolvconf/interface-order";

/// Looks whether there is a resolvconf.
pub(super) fn check() -> Result<(), QuickError> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&folders).any(|folder| folder.join(RESOLVCONF).is_file());
    if is_there { Ok(()) } else { Err(QuickError::Dns("there is no resolvconf in PATH".to_owned())) }
}

/// Sets what the words of `DNS` say.
pub(super) fn set(interface: &str, words: &[String]) -> Result<(), QuickError> {
    run(&["-a", &source(interface), "-m", "0", "-x"], &text(words))
}

/// Takes away what was set.
pub(super) fn unset(interface: &str) -> Result<(), QuickError> {
    run(&["-d", &source(interface), "-f"], "")
}

/// Whether there is anything to set: domains alone are passed over, as by `wg-quick`.
pub(super) fn has_servers(words: &[String]) -> bool {
    words.iter().any(|word| is_address(word))
}

fn is_address(word: &str) -> bool {
    let (address, _zone) = word.split_once('%').unwrap_or((word, ""));
    address.parse::<IpAddr>().is_ok()
}

/// As `resolv.conf(5)` has it. What is no address is a domain to search.
fn text(words: &[String]) -> String {
    let (servers, domains): (Vec<&String>, _) = words.iter().partition(|word| is_address(word));
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let domains: String = domains.iter().map(|domain| format!(" {domain}")).collect();
    if !domains.is_empty() {
        text += &format!("search{domains}\n");
    }
    text
}

/// The name by which resolvconf is to know the interface: where there is an order, it begins with the first pattern
/// there for a kind of interface.
fn source(interface: &str) -> String {
    let order = std::fs::read_to_string(Path::new(ORDER)).unwrap_or_default();
    kind(&order).map_or_else(|| interface.to_owned(), |kind| format!("{kind}.{interface}"))
}

fn kind(order: &str) -> Option<&str> {
    let is_name = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    order.lines().find_map(|line| line.trim().strip_suffix('*').filter(is_name))
}

fn run(arguments: &[&str], input: &str) -> Result<(), QuickError> {
    let run = || -> io::Result<_> {
        let mut child = Command::new(RESOLVCONF).args(arguments).stdin(Stdio::piped()).spawn()?;
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
        let status = child.wait()?;
        // A resolvconf that fails may not have read; its status tells more.
        if status.success() { written.map(|()| status) } else { Ok(status) }
    };
    match run() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(QuickError::Dns(format!("{RESOLVCONF} {}: {status}", arguments[0]))),
        Err(error) => Err(QuickError::Dns(format!("{RESOLVCONF} {}: {error}", arguments[0]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_servers_and_all_else_are_domains() {
        let words = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            text(&words("10.0.0.1 example.com fe80::1%eth0 corp")),
            "nameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch example.com corp\n"
        );
        assert_eq!(text(&words("10.0.0.1")), "nameserver 10.0.0.1\n");
    }

    #[test]
    fn the_interface_is_of_the_first_kind_that_resolvconf_orders() {
        assert_eq!(kind("# comment*\nlo.inet6\nlo.inet\n*.inet\ntun*\ntap*\n"), Some("tun"));
        assert_eq!(kind("lo.inet\n*\n"), None);
        assert_eq!(kind(""), None);
    }
}
