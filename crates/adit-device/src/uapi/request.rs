//! Requests: what a client asks, read in pieces as they arrive.
//!
//! A request is one only with the blank line at its end. `wireguard-go` applies each line as it comes, and takes the
//! end of the connection for the end of a request. Here that is refused: a writer that was stopped half-way, behind a
//! pipe say, would otherwise change the interface by half.

use std::fmt::{self, Write as _};
use std::mem;
use std::str;

use adit::{PresharedKey, PrivateKey, PublicKey};
use zeroize::{Zeroize, Zeroizing};

use super::value::{Quoted, endpoint, network, number};
use crate::config::{AllowedIpChange, DeviceUpdate, PeerUpdate};

/// The most bytes of one request; about 500,000 peers.
pub const MAX_REQUEST: usize = 64 << 20;

/// The most bytes of one line; the longest that means anything has about 80.
pub const MAX_LINE: usize = 512;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `get=1`: everything `wg(8)` knows of.
    Get,
    /// `get=adit`: the same, and what only Adit tells, in keys that begin with `adit_`.
    GetFacts,
    /// `set=1`: change the interface.
    Set(DeviceUpdate),
}

/// Why a request is refused. Nothing of it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whether it was a `get`; its reply has an errno of the other sign, see [`super::reply`].
    pub is_get: bool,
    /// EINVAL, EPROTO, EMSGSIZE: a positive number.
    pub errno: i32,
    /// The line in the request, from 1.
    pub line: usize,
    /// What stands there; never a key.
    pub found: String,
    /// What should stand there.
    pub expected: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: found {}, expected {}", self.line, self.found, self.expected)
    }
}

impl std::error::Error for Refusal {}

/// Puts requests together from the pieces in which they arrive. Holds one part of a line and what the lines before it
/// said, never the text of a whole request.
#[derive(Debug)]
pub struct RequestReader {
    line: Line,
    state: State,
    number: usize,
    bytes: usize,
}

impl RequestReader {
    /// A reader that has read nothing.
    pub fn new() -> Self {
        Self { line: Line::default(), state: State::Idle, number: 0, bytes: 0 }
    }

    /// Takes bytes from `input` up to the end of a request, if it is there, and returns the request. Otherwise takes
    /// all.
    ///
    /// # Errors
    /// What is wrong with the request; it has been read to its end, so that the next one can follow.
    pub fn read(&mut self, input: &mut &[u8]) -> Option<Result<Request, Refusal>> {
        while let Some(length) = input.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = input.split_at(length);
            *input = rest.get(1..).unwrap_or_default();
            if let Some(request) = self.end_of_line(line) {
                return Some(request);
            }
        }
        self.line.push(input);
        self.bytes = self.bytes.saturating_add(input.len());
        *input = &[];
        None
    }

    /// Ends a request after whose last byte nothing can come: why it is refused, if there is one.
    pub(super) fn end(&mut self) -> Option<Refusal> {
        if !self.is_within_request() {
            return None;
        }
        self.number += 1;
        Some(self.refuse(Wrong::new(libc::EPROTO, "the end of the connection", "a blank line at a request's end")))
    }

    /// How long the part of a request is that has been read and is kept.
    pub(super) fn kept(&self) -> usize {
        if matches!(self.state, State::Refused(_)) { 0 } else { self.bytes }
    }

    /// Whether part of a request has been read.
    pub fn is_within_request(&self) -> bool {
        !matches!(self.state, State::Idle) || !self.line.bytes.is_empty()
    }

    fn end_of_line(&mut self, end: &[u8]) -> Option<Result<Request, Refusal>> {
        self.bytes = self.bytes.saturating_add(end.len() + 1);
        let mut begun = mem::take(&mut self.line);
        let line = begun.complete(end);
        if line.is_empty() {
            // A blank line between requests ends nothing.
            return match mem::take(self).state {
                State::Idle => None,
                State::Get { facts: false } => Some(Ok(Request::Get)),
                State::Get { facts: true } => Some(Ok(Request::GetFacts)),
                State::Set(update) => Some(Ok(Request::Set(update))),
                State::Refused(refusal) => Some(Err(refusal)),
            };
        }
        self.number += 1;
        // Whoever ends lines so ends a request so, and waits for an answer.
        if line == b"\r" {
            return Some(Err(self.refuse(Wrong::new(
                libc::EPROTO,
                "a carriage return",
                "lines that end in \\n alone",
            ))));
        }
        if let Err(wrong) = self.state.take_line(line, self.bytes) {
            self.state = State::Refused(self.refusal(wrong));
        }
        self.line = begun;
        self.line.clear();
        None
    }

    /// Forgets the request, and tells what was wrong with it first.
    fn refuse(&mut self, wrong: Wrong) -> Refusal {
        let refusal = self.refusal(wrong);
        match mem::take(self).state {
            State::Refused(first) => first,
            _ => refusal,
        }
    }

    fn refusal(&self, Wrong { errno, found, expected }: Wrong) -> Refusal {
        Refusal { is_get: matches!(self.state, State::Get { .. }), errno, line: self.number, found, expected }
    }
}

impl Default for RequestReader {
    fn default() -> Self {
        Self::new()
    }
}

/// The text of a `set=1` request, with the blank line at its end.
pub fn write_set(update: &DeviceUpdate) -> Zeroizing<String> {
    let allowed_ips: usize = update.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    // Room for everything: growing would leave copies of keys behind.
    let mut text = Zeroizing::new(String::with_capacity(256 + 512 * update.peers.len() + 64 * allowed_ips));
    text.push_str("set=1\n");
    if let Some(key) = &update.private_key {
        push_secret(&mut text, "private_key", key.as_deref().map(PrivateKey::to_hex));
    }
    push(&mut text, "listen_port", update.listen_port);
    push(&mut text, "fwmark", update.fwmark);
    push(&mut text, "replace_peers", update.replace_peers.then_some(true));
    for peer in &update.peers {
        push(&mut text, "public_key", Some(peer.public_key.to_hex()));
        push(&mut text, "remove", peer.remove.then_some(true));
        push(&mut text, "update_only", peer.update_only.then_some(true));
        if let Some(key) = &peer.preshared_key {
            push_secret(&mut text, "preshared_key", key.as_deref().map(PresharedKey::to_hex));
        }
        push(&mut text, "endpoint", peer.endpoint);
        push(&mut text, "persistent_keepalive_interval", peer.persistent_keepalive);
        push(&mut text, "replace_allowed_ips", peer.replace_allowed_ips.then_some(true));
        for change in &peer.allowed_ips {
            let sign = if change.remove { "-" } else { "" };
            push(&mut text, "allowed_ip", Some(format_args!("{sign}{}", change.net)));
        }
    }
    text.push('\n');
    text
}

/// A line `key=value`, if there is a value.
pub(super) fn push(text: &mut String, key: &str, value: Option<impl fmt::Display>) {
    if let Some(value) = value {
        writeln!(text, "{key}={value}").expect("a String takes all text");
    }
}

/// A line with a key, all zeros if there is none.
pub(super) fn push_secret(text: &mut String, key: &str, value: Option<Zeroizing<String>>) {
    let zeros = "0".repeat(64);
    push(text, key, Some(value.as_ref().map_or(zeros.as_str(), |value| value.as_str())));
}

/// The beginning of a line whose end has not arrived. Never grows, so that no key is left behind in memory.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.bytes.reserve_exact(MAX_LINE + 1 - self.bytes.len());
        // One byte more than a line may have tells that it is too long.
        let room = MAX_LINE + 1 - self.bytes.len();
        self.bytes.extend(bytes.iter().take(room));
    }

    /// The whole line.
    fn complete<'a>(&'a mut self, end: &'a [u8]) -> &'a [u8] {
        if self.bytes.is_empty() {
            return end;
        }
        self.push(end);
        &self.bytes
    }

    fn clear(&mut self) {
        self.bytes.as_mut_slice().zeroize();
        self.bytes.clear();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

#[derive(Debug)]
enum State {
    /// Before the first line.
    Idle,
    Get {
        facts: bool,
    },
    Set(DeviceUpdate),
    /// The first thing that was wrong; what follows is read and forgotten.
    Refused(Refusal),
}

impl State {
    fn take_line(&mut self, line: &[u8], request_bytes: usize) -> Result<(), Wrong> {
        if matches!(self, Self::Refused(_)) {
            return Ok(());
        }
        if request_bytes > MAX_REQUEST {
            return Err(Wrong::new(libc::EMSGSIZE, "a longer request", "at most 64 MiB"));
        }
        if line.len() > MAX_LINE {
            return Err(Wrong::new(libc::EMSGSIZE, "a line of more than 512 bytes", "at most 512"));
        }
        let text = str::from_utf8(line)
            .map_err(|_| Wrong::new(libc::EPROTO, "bytes that are not UTF-8", "a line KEY=VALUE"))?;
        // What is no pair may be a key that went astray: it is not repeated.
        let (key, value) =
            text.split_once('=').ok_or_else(|| Wrong::new(libc::EPROTO, "a line without \"=\"", "a line KEY=VALUE"))?;
        match self {
            Self::Idle => {
                *self = match (key, value) {
                    ("get", "1") => Self::Get { facts: false },
                    ("get", "adit") => Self::Get { facts: true },
                    ("set", "1") => Self::Set(DeviceUpdate::default()),
                    _ => return Err(Wrong::key(libc::EPROTO, key, "get=1 or set=1")),
                };
                Ok(())
            }
            Self::Get { .. } => Err(Wrong::key(libc::EINVAL, key, "a blank line after get=1")),
            Self::Set(update) => match update.peers.last_mut() {
                None if key != "public_key" => device_line(update, key, value),
                Some(peer) if key != "public_key" => peer_line(peer, key, value),
                _ => {
                    let key = PublicKey::from_hex(value).map_err(|_| Wrong::secret(value))?;
                    update.peers.push(PeerUpdate::new(key));
                    Ok(())
                }
            },
            Self::Refused(_) => Ok(()),
        }
    }
}

fn device_line(update: &mut DeviceUpdate, key: &str, value: &str) -> Result<(), Wrong> {
    match key {
        "private_key" => update.private_key = Some(private_key(value).ok_or_else(|| Wrong::secret(value))?),
        "listen_port" => update.listen_port = Some(parse(value, number, "a port: 0 to 65535")?),
        "fwmark" => update.fwmark = Some(parse(value, number, "a mark: 0 to 4294967295")?),
        "replace_peers" => update.replace_peers = parse(value, only_true, "true")?,
        _ => {
            let expected = "private_key, listen_port, fwmark, replace_peers or public_key";
            return Err(Wrong::key(libc::EINVAL, key, expected));
        }
    }
    Ok(())
}

fn peer_line(peer: &mut PeerUpdate, key: &str, value: &str) -> Result<(), Wrong> {
    match key {
        "remove" => peer.remove = parse(value, only_true, "true")?,
        "update_only" => peer.update_only = parse(value, only_true, "true")?,
        "preshared_key" => peer.preshared_key = Some(preshared_key(value).ok_or_else(|| Wrong::secret(value))?),
        "endpoint" => peer.endpoint = Some(parse(value, endpoint, "ADDRESS:PORT or [ADDRESS]:PORT")?),
        "persistent_keepalive_interval" => {
            peer.persistent_keepalive = Some(parse(value, number, "seconds: 0 to 65535")?);
        }
        "replace_allowed_ips" => peer.replace_allowed_ips = parse(value, only_true, "true")?,
        "allowed_ip" => {
            let (remove, net) = value.strip_prefix('-').map_or((false, value), |net| (true, net));
            let net = parse(net, network, "ADDRESS/LENGTH")?;
            peer.allowed_ips.push(AllowedIpChange { remove, net });
        }
        "protocol_version" => parse(value, |value| (value == "1").then_some(()), "1")?,
        _ => {
            let expected = "public_key, remove, update_only, preshared_key, endpoint, persistent_keepalive_interval, \
                            replace_allowed_ips, allowed_ip or protocol_version";
            return Err(Wrong::key(libc::EINVAL, key, expected));
        }
    }
    Ok(())
}

/// A private key; all zeros are none, which is checked before the bits are clamped.
pub(super) fn private_key(text: &str) -> Option<Option<Box<PrivateKey>>> {
    let key = Box::new(PrivateKey::from_hex(text).ok()?);
    Some((!is_zeros(text)).then_some(key))
}

/// A preshared key; all zeros are none.
pub(super) fn preshared_key(text: &str) -> Option<Option<Box<PresharedKey>>> {
    let key = Box::new(PresharedKey::from_hex(text).ok()?);
    Some((!is_zeros(text)).then_some(key))
}

fn is_zeros(text: &str) -> bool {
    text.bytes().fold(0, |bits, byte| bits | byte ^ b'0') == 0
}

fn only_true(text: &str) -> Option<bool> {
    (text == "true").then_some(true)
}

fn parse<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>, expected: &'static str) -> Result<T, Wrong> {
    parse(text).ok_or_else(|| Wrong::new(libc::EINVAL, Quoted(text), expected))
}

/// A [`Refusal`] that does not know its line yet.
struct Wrong {
    errno: i32,
    found: String,
    expected: &'static str,
}

impl Wrong {
    fn new(errno: i32, found: impl fmt::Display, expected: &'static str) -> Self {
        Self { errno, found: found.to_string(), expected }
    }

    /// A key that does not belong there. Its value is not repeated: it may be a secret.
    fn key(errno: i32, key: &str, expected: &'static str) -> Self {
        Self::new(errno, format_args!("the key {}", Quoted(key)), expected)
    }

    fn secret(value: &str) -> Self {
        let found = format_args!("{} characters", value.chars().count()).to_string();
        Self::new(libc::EINVAL, found, "64 hexadecimal digits")
    }
}

#[cfg(test)]
mod tests;
