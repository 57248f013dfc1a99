//! A peer's endpoint as written in a file: its host may be a name.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use crate::uapi::value::{endpoint as address, number};

/// How often a name is asked for again unless the user says otherwise.
const RETRIES: u32 = 15;
/// How long it takes at most to notice that the address is not wanted any more.
const SLICE: Duration = Duration::from_millis(100);

/// A host, by address or by name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Without brackets.
    host: String,
    port: u16,
}

impl Endpoint {
    /// `HOST:PORT`; an address may stand in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = number(port)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bracketed {
            Some(host) => is_ipv6(host) || host.parse::<Ipv4Addr>().is_ok(),
            None if host.contains(':') => is_ipv6(host),
            None => is_name(host),
        };
        let host = bracketed.unwrap_or(host);
        is_host.then(|| Self { host: host.to_owned(), port })
    }

    /// The address, if the host is one.
    pub fn address(&self) -> Option<SocketAddr> {
        address(&self.to_string())
    }

    /// The address, asking for it if the host is a name: again and again where the fault may pass, waiting a little
    /// longer each time. `WG_ENDPOINT_RESOLUTION_RETRIES` says how often, or `infinity`. `is_wanted` is asked in
    /// between.
    ///
    /// # Errors
    /// The last error of the resolver; `Interrupted` if it is not wanted any more.
    pub fn resolve(&self, is_wanted: &dyn Fn() -> bool) -> io::Result<SocketAddr> {
        if let Some(address) = self.address() {
            return Ok(address);
        }
        let retries = match std::env::var("WG_ENDPOINT_RESOLUTION_RETRIES").as_deref() {
            Ok("infinity") => None,
            Ok(count) => Some(number(count).unwrap_or_else(|| {
                tracing::warn!(
                    "WG_ENDPOINT_RESOLUTION_RETRIES: found {count:?}, expected a number or infinity; trying {RETRIES} times"
                );
                RETRIES
            })),
            Err(_) => Some(RETRIES),
        };
        self.ask(
            retries,
            |pause| wait(pause, is_wanted),
            || (self.host.as_str(), self.port).to_socket_addrs().map(|mut all| all.next()),
        )
    }

    /// `wait` returns whether the address is still wanted.
    fn ask(
        &self,
        mut retries: Option<u32>,
        mut wait: impl FnMut(Duration) -> bool,
        look_up: impl Fn() -> io::Result<Option<SocketAddr>>,
    ) -> io::Result<SocketAddr> {
        let mut pause = Duration::from_secs(1);
        loop {
            let error = match look_up() {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
                Err(error) => error,
            };
            if retries == Some(0) || !may_pass(&error) {
                return Err(error);
            }
            retries = retries.map(|retries| retries - 1);
            tracing::warn!(host = self.host, %error, "cannot resolve, trying again in {:.1} s", pause.as_secs_f32());
            if !wait(pause) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            pause = (pause * 6 / 5).min(Duration::from_secs(20));
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            // The zone is written by its name, as `wg` does: its number may be another link's after the next start.
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), link_name(v6.scope_id())),
            _ => address.ip().to_string(),
        };
        Self { host, port: address.port() }
    }
}

/// Waits, but not on once the address is not wanted any more; returns whether it is.
fn wait(pause: Duration, is_wanted: &dyn Fn() -> bool) -> bool {
    let end = Instant::now() + pause;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        if !is_wanted() {
            return false;
        }
        thread::sleep(left.min(SLICE));
    }
    true
}

/// The name of a link, or its number if there is none.
fn link_name(number: u32) -> String {
    let socket = socket(AddressFamily::INET6, SocketType::DGRAM, None);
    let name = socket.and_then(|socket| netdevice::index_to_name(socket, number));
    name.unwrap_or_else(|_| number.to_string())
}

/// Refuses what only looks like an IPv4 address, such as `1.2.3` or `1.2.3.400`: no name ends in a number.
fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let whole = host.strip_suffix('.').unwrap_or(host);
    let last = whole.rsplit('.').next().unwrap_or_default();
    whole.len() <= 253
        && whole.split('.').all(is_label)
        && (!last.bytes().all(|byte| byte.is_ascii_digit()) || host.parse::<IpAddr>().is_ok())
}

/// Whether the zone exists is seen when the address is used.
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = host.split_once('%').unwrap_or((host, "0"));
    address.parse::<Ipv6Addr>().is_ok() && crate::name_refusal(zone).is_none()
}

/// Whether it may work later. The resolver's errors have no kind; these are the words of `EAI_AGAIN` in glibc and musl,
/// and of a system error.
fn may_pass(error: &io::Error) -> bool {
    let text = error.to_string();
    error.raw_os_error().is_some() || text.contains("Temporary failure") || text.contains("Try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_name() {
        for (text, shown) in [
            ("1.2.3.4:5", "1.2.3.4:5"),
            ("[2001:db8::1]:51820", "[2001:db8::1]:51820"),
            ("2001:db8::1:51820", "[2001:db8::1]:51820"),
            ("[fe80::1%lo]:0", "[fe80::1%lo]:0"),
            ("vpn.example.com.:65535", "vpn.example.com.:65535"),
            ("my_host-1:1", "my_host-1:1"),
            ("[127.0.0.1]:5", "127.0.0.1:5"),
        ] {
            assert_eq!(Endpoint::parse(text).map(|endpoint| endpoint.to_string()).as_deref(), Some(shown));
        }
        for text in [
            "",
            ":5",
            "host",
            "host:",
            "host:http",
            "host:65536",
            "a b:5",
            "[host]:5",
            "[1.2.3]:5",
            "::1",
            "[::1]",
            "1.2.3.400:5",
            "1.2.3:5",
            "a..b:5",
            ".:5",
            "é:5",
            "[fe80::1%]:5",
            "[::1:5",
            "h\0st:5",
        ] {
            assert_eq!(Endpoint::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_address_needs_no_resolver() {
        let endpoint = Endpoint::parse("[fe80::1%lo]:7").unwrap();
        assert_eq!(endpoint.address(), Some("[fe80::1%1]:7".parse().unwrap()));
        assert_eq!(endpoint.resolve(&|| true).unwrap(), endpoint.address().unwrap());
        assert_eq!(Endpoint::parse("localhost:7").unwrap().address(), None);
    }

    /// What the resolver says of a name server that does not answer.
    const PASSING: &str = "failed to lookup address information: Temporary failure in name resolution";

    /// Asks for a name that is never found, and gives up waiting after `patience` waits: the error, how often it was
    /// looked up, and the waits in milliseconds.
    fn ask_in_vain(retries: Option<u32>, patience: usize, error: fn() -> io::Error) -> (io::Error, usize, Vec<u128>) {
        let (looked_up, mut waits) = (std::cell::Cell::new(0), Vec::new());
        let wait = |pause: Duration| {
            waits.push(pause.as_millis());
            assert!(waits.len() <= patience, "it was given up");
            waits.len() < patience
        };
        let look_up = || {
            looked_up.set(looked_up.get() + 1);
            Err(error())
        };
        let error = Endpoint::parse("adit.invalid:7").unwrap().ask(retries, wait, look_up).unwrap_err();
        (error, looked_up.get(), waits)
    }

    #[test]
    fn a_name_that_is_not_wanted_any_more_is_not_looked_up_again() {
        let (error, looked_up, waits) = ask_in_vain(None, 1, || io::Error::other(PASSING));
        assert_eq!((error.kind(), looked_up, waits.len()), (io::ErrorKind::Interrupted, 1, 1));
    }

    #[test]
    fn waiting_ends_as_soon_as_the_address_is_not_wanted_any_more() {
        let asked = std::cell::Cell::new(0);
        let is_wanted = || {
            asked.set(asked.get() + 1);
            asked.get() < 3
        };
        let start = Instant::now();
        assert!(!wait(Duration::from_secs(60), &is_wanted));
        assert!(asked.get() == 3 && start.elapsed() < Duration::from_secs(30));
        assert!(wait(Duration::ZERO, &|| false), "nothing to wait for");
    }

    #[test]
    fn a_name_that_does_not_exist_is_looked_up_once() {
        for (retries, text) in [
            (None, "failed to lookup address information: Name or service not known"),
            (Some(5), "failed to lookup address information: No address associated with hostname"),
            (Some(5), "failed to lookup address information: Name does not resolve"),
        ] {
            let looked_up = std::cell::Cell::new(0);
            let look_up = || {
                looked_up.set(looked_up.get() + 1);
                Err(io::Error::other(text))
            };
            let endpoint = Endpoint::parse("adit.invalid:7").unwrap();
            let error = endpoint.ask(retries, |_| panic!("{text}: waits"), look_up).unwrap_err();
            assert_eq!((error.to_string().as_str(), looked_up.get()), (text, 1));
        }
    }

    #[test]
    fn a_name_is_looked_up_once_more_for_every_retry_after_waits_that_grow() {
        let (error, looked_up, waits) = ask_in_vain(Some(0), 99, || io::Error::other(PASSING));
        assert_eq!((error.to_string().as_str(), looked_up, waits), (PASSING, 1, vec![]));
        for passing in [|| io::Error::other("Try again"), || io::Error::from_raw_os_error(libc::EBUSY)] {
            let (error, looked_up, waits) = ask_in_vain(Some(4), 99, passing);
            assert_eq!(
                (error.to_string(), looked_up, waits),
                (passing().to_string(), 5, vec![1_000, 1_200, 1_440, 1_728])
            );
        }
    }

    #[test]
    fn without_a_limit_a_name_is_looked_up_as_long_as_it_is_wanted_and_at_least_every_20_seconds() {
        let (error, looked_up, waits) = ask_in_vain(None, 100, || io::Error::other(PASSING));
        assert_eq!((error.kind(), looked_up), (io::ErrorKind::Interrupted, 100));
        assert!(waits.is_sorted() && waits.len() == 100);
        assert_eq!((waits[16], waits[17], waits[99]), (18_488, 20_000, 20_000));
    }

    #[test]
    fn a_name_is_looked_up() {
        assert!(Endpoint::parse("localhost:7").unwrap().resolve(&|| true).unwrap().ip().is_loopback());
    }
}
