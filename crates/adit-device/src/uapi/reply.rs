//! Replies: what the interface answers, and reading that as a client.

use std::fmt;
use std::io::{self, BufRead, Read as _};
use std::str;
use std::time::Duration;

use adit::{PresharedKey, PublicKey};
use zeroize::Zeroizing;

use super::request::{preshared_key, private_key, push};
use super::value::{Quoted, endpoint, network, number};
use crate::config::{DeviceState, PeerState};

/// The most bytes of one line of a reply.
const MAX_LINE: u64 = 4096;

/// The reply to `get=1`, or to `get=adit` if `facts` are wanted; with `errno=0` and the blank line at its end.
pub fn write_state(state: &DeviceState, facts: bool) -> Zeroizing<String> {
    let allowed_ips: usize = state.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    let words: usize = state.facts.drops.iter().map(|(name, _)| name.len() + 64).sum();
    let words = words + state.facts.offloads.len() + state.facts.confinement.len();
    // Room for everything: growing would leave copies of keys behind.
    let capacity = 512 + 512 * state.peers.len() + 64 * allowed_ips + words;
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    push(&mut text, "private_key", state.private_key.as_ref().map(|key| key.to_hex()).as_deref());
    push(&mut text, "listen_port", Some(state.listen_port));
    push(&mut text, "fwmark", (state.fwmark != 0).then_some(state.fwmark));
    if facts {
        push(&mut text, "adit_threads", Some(state.facts.threads));
        push(&mut text, "adit_offloads", Some(one_line(&state.facts.offloads)));
        let confinement = Some(&state.facts.confinement).filter(|words| !words.is_empty());
        push(&mut text, "adit_confinement", confinement.map(|words| one_line(words)));
        for (name, count) in &state.facts.drops {
            push(&mut text, "adit_dropped", Some(format_args!("{count} {}", one_line(name))));
        }
    }
    for peer in &state.peers {
        push_peer(&mut text, peer);
    }
    push(&mut text, "errno", Some(0));
    text.push('\n');
    text
}

/// A reply that is nothing but an errno, given as a positive number; 0 is success.
///
/// `wg(8)` takes the errno of a `get` as it stands, and that of a `set` with its sign reversed: what the first
/// implementation sent has become the language.
pub fn write_errno(is_get: bool, errno: i32) -> String {
    let sign = if is_get || errno == 0 { "" } else { "-" };
    format!("errno={sign}{errno}\n\n")
}

/// Reads the reply to a `get`, skipping keys it does not know.
///
/// # Errors
/// When the connection fails, the other end refuses, or says what cannot be understood.
pub fn read_state(from: &mut impl BufRead) -> Result<DeviceState, ReplyError> {
    let mut lines = Lines { from, line: Zeroizing::new(Vec::with_capacity(MAX_LINE as usize)), number: 0 };
    let mut state = DeviceState::default();
    loop {
        let number = lines.number + 1;
        let (key, value) = lines.next()?;
        let malformed = |expected| {
            let is_secret = matches!(key, "private_key" | "preshared_key");
            let value = (!is_secret).then(|| value.to_owned());
            ReplyError::Malformed { line: number, key: key.to_owned(), value, expected }
        };
        if key == "errno" {
            let errno = value.parse::<i32>().map_err(|_| malformed("a number"))?;
            lines.end()?;
            return if errno == 0 { Ok(state) } else { Err(ReplyError::Refused(errno.saturating_abs())) };
        }
        let taken = match state.peers.last_mut() {
            _ if key == "public_key" => {
                PublicKey::from_hex(value).map(|key| state.peers.push(PeerState::new(key))).map_err(|_| "a key")
            }
            None => take_device(&mut state, key, value),
            Some(peer) => take_peer(peer, key, value),
        };
        taken.map_err(malformed)?;
    }
}

/// Reads the reply to a `set`.
///
/// # Errors
/// When the connection fails, the other end refuses, or says what cannot be understood.
pub fn read_errno(from: &mut impl BufRead) -> Result<(), ReplyError> {
    read_state(from).map(drop)
}

/// Why there is no good reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other end refused the request, with this errno.
    #[error("refused: {}", io::Error::from_raw_os_error(*.0))]
    Refused(i32),
    /// The other end does not speak the language: a known key has a value that it cannot have.
    #[error("line {line} of the reply: found {}, expected {expected}", found(key, value.as_deref()))]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// The key whose value it is.
        key: String,
        /// The value, unless it is a secret.
        value: Option<String>,
        /// What should stand there.
        expected: &'static str,
    },
    /// The other end does not speak the language: a line is not part of it. It is not repeated, since it may hold a
    /// key.
    #[error("line {line} of the reply: found {found}, expected {expected}")]
    BadLine {
        /// The line, from 1.
        line: usize,
        /// What kind of line it is.
        found: &'static str,
        /// What should stand there.
        expected: &'static str,
    },
}

/// The value of a key in words.
fn found(key: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!("the {key} {}", Quoted(value)),
        None => format!("a {key} that is not shown here"),
    }
}

fn push_peer(text: &mut String, peer: &PeerState) {
    push(text, "public_key", Some(peer.public_key.to_hex()));
    push(text, "preshared_key", peer.preshared_key.as_deref().map(PresharedKey::to_hex).as_deref());
    push(text, "protocol_version", Some(peer.protocol_version));
    push(text, "endpoint", peer.endpoint);
    let handshake = peer.last_handshake.unwrap_or_default();
    push(text, "last_handshake_time_sec", Some(handshake.as_secs()));
    push(text, "last_handshake_time_nsec", Some(handshake.subsec_nanos()));
    push(text, "tx_bytes", Some(peer.tx_bytes));
    push(text, "rx_bytes", Some(peer.rx_bytes));
    push(text, "persistent_keepalive_interval", Some(peer.persistent_keepalive));
    for net in &peer.allowed_ips {
        push(text, "allowed_ip", Some(net));
    }
}

fn take_device(state: &mut DeviceState, key: &str, value: &str) -> Result<(), &'static str> {
    match key {
        "private_key" => state.private_key = private_key(value).ok_or("a key")?,
        "listen_port" => state.listen_port = number(value).ok_or("a port")?,
        "fwmark" => state.fwmark = number(value).ok_or("a number")?,
        "adit_threads" => state.facts.threads = number(value).ok_or("a number")?,
        "adit_offloads" => value.clone_into(&mut state.facts.offloads),
        "adit_confinement" => value.clone_into(&mut state.facts.confinement),
        "adit_dropped" => {
            let (count, name) = value.split_once(' ').ok_or("a number and a name")?;
            state.facts.drops.push((name.to_owned(), number(count).ok_or("a number and a name")?));
        }
        _ => {}
    }
    Ok(())
}

fn take_peer(peer: &mut PeerState, key: &str, value: &str) -> Result<(), &'static str> {
    let handshake = peer.last_handshake.unwrap_or_default();
    match key {
        "preshared_key" => peer.preshared_key = preshared_key(value).ok_or("a key")?,
        "protocol_version" => peer.protocol_version = number(value).ok_or("a number")?,
        "endpoint" => peer.endpoint = Some(endpoint(value).ok_or("ADDRESS:PORT")?),
        "last_handshake_time_sec" => {
            let seconds = number(value).ok_or("a number")?;
            peer.last_handshake = some_time(Duration::new(seconds, handshake.subsec_nanos()));
        }
        "last_handshake_time_nsec" => {
            let nanoseconds = number(value).filter(|&nanoseconds| nanoseconds < 1_000_000_000).ok_or("a number")?;
            peer.last_handshake = some_time(Duration::new(handshake.as_secs(), nanoseconds));
        }
        "tx_bytes" => peer.tx_bytes = number(value).ok_or("a number")?,
        "rx_bytes" => peer.rx_bytes = number(value).ok_or("a number")?,
        "persistent_keepalive_interval" => peer.persistent_keepalive = number(value).ok_or("a number")?,
        "allowed_ip" => peer.allowed_ips.push(network(value).ok_or("ADDRESS/LENGTH")?),
        _ => {}
    }
    Ok(())
}

/// The epoch itself stands for "never".
fn some_time(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

/// `text` up to its first line end: more would be read as another key.
fn one_line(text: &str) -> &str {
    text.split('\n').next().unwrap_or_default()
}

struct Lines<'a, R> {
    from: &'a mut R,
    line: Zeroizing<Vec<u8>>,
    number: usize,
}

impl<R: BufRead> Lines<'_, R> {
    fn next(&mut self) -> Result<(&str, &str), ReplyError> {
        self.number += 1;
        self.line.clear();
        self.from.take(MAX_LINE).read_until(b'\n', &mut self.line)?;
        let number = self.number;
        let bad = |found, expected| ReplyError::BadLine { line: number, found, expected };
        match self.line.strip_suffix(b"\n") {
            Some(line) => {
                let line = str::from_utf8(line).map_err(|_| bad("bytes that are not UTF-8", "KEY=VALUE"))?;
                line.split_once('=').ok_or(bad("a line without '='", "KEY=VALUE"))
            }
            None if (self.line.len() as u64) < MAX_LINE => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            None => Err(bad("a line of more than 4,095 bytes", "a shorter one")),
        }
    }

    /// The blank line that ends a reply.
    fn end(&mut self) -> Result<(), ReplyError> {
        let mut byte = [0];
        self.from.read_exact(&mut byte)?;
        if byte == *b"\n" {
            Ok(())
        } else {
            let (found, expected) = ("more behind errno", "the blank line that ends it");
            Err(ReplyError::BadLine { line: self.number + 1, found, expected })
        }
    }
}

impl<R> fmt::Debug for Lines<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
