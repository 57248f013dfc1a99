//! Interfaces for people, in the words of `wg show`.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_device::conf::Endpoint;
use adit_device::config::{DeviceState, KEEPALIVE_OFF, PeerState};
use zeroize::Zeroizing;

use super::Named;

/// Everything, with a blank line between interfaces and between peers.
pub(super) fn write(all: &[Named], now: SystemTime, shows_keys: bool, has_colors: bool) -> Zeroizing<String> {
    let peers: usize = all.iter().map(|(_, state)| state.peers.len()).sum();
    let allowed_ips: usize = all.iter().flat_map(|(_, state)| &state.peers).map(|peer| peer.allowed_ips.len()).sum();
    // Room for everything: growing would leave copies of keys behind.
    let text = Zeroizing::new(String::with_capacity(1024 * (all.len() + peers) + 64 * allowed_ips));
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut page = Page { text, now, shows_keys, has_colors };
    for (index, (name, state)) in all.iter().enumerate() {
        if index > 0 {
            page.text.push('\n');
        }
        page.interface(name, state);
    }
    page.text
}

struct Page {
    text: Zeroizing<String>,
    /// Since 1970.
    now: Duration,
    shows_keys: bool,
    has_colors: bool,
}

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

impl Page {
    fn interface(&mut self, name: &str, state: &DeviceState) {
        self.title("interface", name, GREEN);
        if let Some(key) = &state.private_key {
            self.row("public key", &key.public_key().to_base64());
            self.secret("private key", &key.to_base64());
        }
        if state.listen_port != 0 {
            self.row("listening port", &state.listen_port.to_string());
        }
        if state.fwmark != 0 {
            self.row("fwmark", &format!("0x{:x}", state.fwmark));
        }
        let mut peers: Vec<&PeerState> = state.peers.iter().collect();
        peers.sort_by_key(|peer| std::cmp::Reverse(peer.last_handshake.unwrap_or_default()));
        for peer in peers {
            self.text.push('\n');
            self.peer(peer);
        }
        // Beyond what `wg` shows, and behind it.
        let drops: Vec<String> = state.facts.drops.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        for (label, value) in [("dropped", drops.join(", ")), ("confinement", state.facts.confinement.clone())] {
            if !value.is_empty() {
                self.text.push('\n');
                self.title(label, &value, "");
            }
        }
    }

    fn peer(&mut self, peer: &PeerState) {
        self.title("peer", &peer.public_key.to_base64(), YELLOW);
        if let Some(key) = &peer.preshared_key {
            self.secret("preshared key", &key.to_base64());
        }
        if let Some(endpoint) = peer.endpoint {
            self.row("endpoint", &Endpoint::from(endpoint).to_string());
        }
        let networks: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        self.row("allowed ips", if networks.is_empty() { "(none)".to_owned() } else { networks.join(", ") }.as_str());
        if let Some(handshake) = peer.last_handshake {
            self.row("latest handshake", &ago(self.now, handshake));
        }
        if peer.rx_bytes != 0 || peer.tx_bytes != 0 {
            self.row("transfer", &format!("{} received, {} sent", bytes(peer.rx_bytes), bytes(peer.tx_bytes)));
        }
        if peer.persistent_keepalive != KEEPALIVE_OFF {
            self.row("persistent keepalive", &format!("every {}", seconds(peer.persistent_keepalive.into())));
        }
    }

    fn title(&mut self, label: &str, name: &str, color: &str) {
        let line = if self.has_colors {
            format!("{color}{BOLD}{label}{RESET}: {color}{name}{RESET}\n")
        } else {
            format!("{label}: {name}\n")
        };
        self.text.push_str(&line);
    }

    fn row(&mut self, label: &str, value: &str) {
        let (before, after) = if self.has_colors { (BOLD, RESET) } else { ("", "") };
        writeln!(self.text, "  {before}{label}{after}: {value}").expect("a String takes all text");
    }

    fn secret(&mut self, label: &str, value: &str) {
        let value = if self.shows_keys { value } else { "(hidden)" };
        self.row(label, value);
    }
}

fn ago(now: Duration, then: Duration) -> String {
    match now.as_secs().checked_sub(then.as_secs()) {
        None => "(System clock wound backward; connection problems may ensue.)".to_owned(),
        Some(0) => "Now".to_owned(),
        Some(elapsed) => format!("{} ago", seconds(elapsed)),
    }
}

/// In years of 365 days, days, hours, minutes and seconds, without what is zero.
fn seconds(total: u64) -> String {
    const UNITS: [(&str, u64, u64); 5] = [
        ("year", 365 * 24 * 60 * 60, u64::MAX),
        ("day", 24 * 60 * 60, 365),
        ("hour", 60 * 60, 24),
        ("minute", 60, 60),
        ("second", 1, 60),
    ];
    let parts = UNITS.iter().filter_map(|(name, length, count)| match total / length % count {
        0 => None,
        1 => Some(format!("1 {name}")),
        number => Some(format!("{number} {name}s")),
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn bytes(count: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, bits)| count >> bits > 0) {
        None => format!("{count} B"),
        Some((unit, bits)) => format!("{:.2} {unit}", count as f64 / (1u64 << bits) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_their_units() {
        for (total, expected) in [
            (1, "1 second"),
            (65, "1 minute, 5 seconds"),
            (3600, "1 hour"),
            (2 * 86_400 + 3 * 3600, "2 days, 3 hours"),
            (56 * 365 * 86_400 + 339 * 86_400 + 1, "56 years, 339 days, 1 second"),
        ] {
            assert_eq!(seconds(total), expected);
        }
    }

    #[test]
    fn a_handshake_of_this_second_is_now_and_one_of_the_future_a_wrong_clock() {
        let at = Duration::from_secs;
        assert_eq!(ago(at(100), Duration::new(100, 999)), "Now");
        assert_eq!(ago(at(100), at(98)), "2 seconds ago");
        assert!(ago(at(100), at(101)).contains("wound backward"));
    }

    #[test]
    fn bytes_are_told_in_powers_of_1024() {
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536 << 10, "1.50 MiB"),
            (3 << 30, "3.00 GiB"),
            (5 << 40, "5.00 TiB"),
            (u64::MAX, "16777216.00 TiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }
}
