//! The values of UAPI lines, and of the configuration files that write them the same way.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use ipnet::IpNet;

/// The most characters of outside text that a message repeats.
const MAX_QUOTED: usize = 64;

/// A row of this many letters and digits may be a key, which has 43 of them in base64 and 64 in hexadecimal.
const LIKE_A_KEY: usize = 40;

/// Outside text in a message: quoted, escaped, cut. What may be a key that went astray is not repeated.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_of_a_key = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
        if self.0.split(|c| !is_of_a_key(c)).any(|row| row.len() >= LIKE_A_KEY) {
            return write!(f, "of {} characters", self.0.chars().count());
        }
        match self.0.char_indices().nth(MAX_QUOTED) {
            Some((end, _)) => write!(f, "{:?}…", self.0.get(..end).unwrap_or_default()),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// An unsigned number in decimal digits and nothing else, so no `+` either.
pub(crate) fn number<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// `ADDRESS:PORT`, an IPv6 address in brackets, with the zone as a number or as the name of an interface.
/// An IPv4 address written as an IPv6 one is an IPv4 address: the socket for IPv6 could not reach it.
pub(crate) fn endpoint(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let port = number(port)?;
    let Some(host) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) else {
        return Some(SocketAddr::new(IpAddr::V4(host.parse().ok()?), port));
    };
    let (address, zone) = match host.split_once('%') {
        Some((address, zone)) => (address, zone_index(zone)?),
        None => (host, 0),
    };
    let address: Ipv6Addr = address.parse().ok()?;
    Some(match address.to_ipv4_mapped() {
        Some(address) => SocketAddr::new(IpAddr::V4(address), port),
        None => SocketAddr::V6(SocketAddrV6::new(address, port, 0, zone)),
    })
}

/// `ADDRESS/LENGTH`; bits beyond the length are cleared.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    let (_, length) = text.rsplit_once('/')?;
    number::<u8>(length)?;
    Some(text.parse::<IpNet>().ok()?.trunc())
}

fn zone_index(zone: &str) -> Option<u32> {
    if let Some(index) = number(zone) {
        return Some(index);
    }
    crate::sys::interface_index(zone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_and_a_port() {
        for (text, expected) in [
            ("1.2.3.4:5", "1.2.3.4:5"),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
            ("[fe80::1%7]:1", "[fe80::1%7]:1"),
            ("[fe80::1%lo]:1", "[fe80::1%1]:1"),
            ("[::ffff:10.0.0.1]:9", "10.0.0.1:9"),
        ] {
            assert_eq!(endpoint(text), Some(expected.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            ":",
            "1.2.3.4",
            "1.2.3.4:",
            "1.2.3.4:65536",
            "1.2.3.4:+5",
            "::1:5",
            "[1.2.3.4]:5",
            "[::1]",
            "[::1]5",
            "[::1%no-such-device]:5",
            "[fe80::1%]:5%",
            "localhost:5",
            "1.2.3.4: 5",
            "[::1%a\0b]:5",
        ] {
            assert_eq!(endpoint(text), None, "{text}");
        }
    }

    #[test]
    fn a_network_needs_its_length_and_loses_its_host_bits() {
        assert_eq!(network("10.1.2.3/8"), Some("10.0.0.0/8".parse().unwrap()));
        assert_eq!(network("::/0"), Some("::/0".parse().unwrap()));
        for text in ["10.0.0.1", "10.0.0.1/33", "10.0.0.1/", "10.0.0.1/+8", "-10.0.0.1/8", "::/129", "/8"] {
            assert_eq!(network(text), None, "{text}");
        }
    }

    #[test]
    fn quoted_text_is_escaped_and_cut() {
        assert_eq!(Quoted("a\n\u{1b}").to_string(), r#""a\n\u{1b}""#);
        assert_eq!(Quoted(&format!("x {}", "a1+/".repeat(10))).to_string(), "of 42 characters");
        assert_eq!(Quoted(&"é".repeat(100)).to_string(), format!("{:?}…", "é".repeat(64)));
    }
}
