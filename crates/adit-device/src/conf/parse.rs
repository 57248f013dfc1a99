//! Understanding a file.

use std::net::IpAddr;
use std::str;

use adit::{PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{Config, Endpoint, InterfaceConfig, PeerConfig, Table, Wrong, rt_tables};
use crate::uapi::value::{Quoted, number};

pub(super) fn parse(text: &[u8]) -> Result<Config, Wrong> {
    let mut parser = Parser { config: Config::default(), section: Section::None };
    // The byte order mark that some editors put before UTF-8.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    for (line, bytes) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        // Comments are passed over, whatever their encoding.
        let bytes = bytes.split(|&byte| byte == b'#').next().unwrap_or_default();
        let text = match str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let column = 1 + String::from_utf8_lossy(&bytes[..error.valid_up_to()]).chars().count();
                return Err(Place { line, column }.wrong("bytes that are not UTF-8", "text"));
            }
        };
        parser.take_line(line, text)?;
    }
    parser.end_section()?;
    Ok(parser.config)
}

struct Parser {
    config: Config,
    section: Section,
}

enum Section {
    /// Before the first.
    None,
    Interface,
    Peer(Box<PeerSection>),
}

/// A peer whose key may still come.
struct PeerSection {
    begins: Place,
    public_key: Option<PublicKey>,
    peer: PeerConfig,
}

impl Parser {
    fn take_line(&mut self, line: usize, text: &str) -> Result<(), Wrong> {
        let content = text.trim();
        if content.is_empty() {
            return Ok(());
        }
        let place = Place::of(line, text, content);
        if content.starts_with('[') {
            return self.begin_section(place, content);
        }
        // What is no pair may be a key that went astray: it is not repeated.
        let (name, value) = content
            .split_once('=')
            .ok_or_else(|| place.wrong("a line without \"=\"", "KEY = VALUE, [Interface] or [Peer]"))?;
        let (name, value) = (name.trim_end(), value.trim());
        let entry = Entry { name, name_place: place, value, place: Place::of(line, text, value), text };
        match &mut self.section {
            Section::None => Err(place.wrong(format!("the key {}", Quoted(name)), "[Interface] or [Peer] before it")),
            Section::Interface => take_interface(&mut self.config.interface, &entry),
            Section::Peer(section) => take_peer(section, &entry),
        }
    }

    fn begin_section(&mut self, place: Place, title: &str) -> Result<(), Wrong> {
        self.end_section()?;
        let known = without_white_space(title);
        self.section = if known.eq_ignore_ascii_case("[Interface]") {
            Section::Interface
        } else if known.eq_ignore_ascii_case("[Peer]") {
            let peer = PeerConfig::new(PublicKey::from_bytes([0; 32]));
            Section::Peer(Box::new(PeerSection { begins: place, public_key: None, peer }))
        } else {
            return Err(place.wrong(Quoted(title), "[Interface] or [Peer]"));
        };
        Ok(())
    }

    fn end_section(&mut self) -> Result<(), Wrong> {
        if let Section::Peer(section) = std::mem::replace(&mut self.section, Section::None) {
            let public_key = section
                .public_key
                .ok_or_else(|| section.begins.wrong("a peer without a key", "PublicKey = KEY in it"))?;
            self.config.peers.push(PeerConfig { public_key, ..section.peer });
        }
        Ok(())
    }
}

fn take_interface(interface: &mut InterfaceConfig, entry: &Entry<'_>) -> Result<(), Wrong> {
    match without_white_space(entry.name).to_ascii_lowercase().as_str() {
        "privatekey" => {
            // A private key is clamped when it is made, after which zeros are not known as such.
            let private = |key: Box<PresharedKey>| Box::new(PrivateKey::from_bytes(*key.as_bytes()));
            interface.private_key = entry.secret()?.map(private);
        }
        "listenport" => interface.listen_port = Some(entry.joined(number, "a port: 0 to 65535")?),
        "fwmark" => interface.fwmark = Some(entry.joined(fwmark, "off, or a mark: 0 to 0xffffffff")?),
        "address" => {
            let addresses: Vec<IpNet> = entry.words(network, "ADDRESS or ADDRESS/LENGTH")?;
            interface.addresses.extend(addresses);
        }
        "mtu" => {
            let mtu = |text: &str| number(text).filter(|&mtu: &u16| mtu >= 68);
            interface.mtu = entry.optional(mtu, "an MTU: 68 to 65535")?;
        }
        "dns" => {
            let servers = entry.words(|text| Some(text.to_owned()), "an address or the name of a domain")?;
            interface.dns.extend(servers);
        }
        "table" => {
            let expected = "auto, off, a number from 1 to 4294967295 or a name of /etc/iproute2/rt_tables";
            interface.table = entry.optional(table, expected)?.unwrap_or_default();
        }
        "preup" => interface.pre_up.extend(entry.command()?),
        "postup" => interface.post_up.extend(entry.command()?),
        "predown" => interface.pre_down.extend(entry.command()?),
        "postdown" => interface.post_down.extend(entry.command()?),
        "saveconfig" => interface.save_config = entry.value(truth, "true or false")?,
        _ => {
            return Err(entry.unknown(
                "PrivateKey, ListenPort, FwMark, Address, MTU, DNS, Table, PreUp, PostUp, PreDown, PostDown or SaveConfig",
            ));
        }
    }
    Ok(())
}

fn take_peer(section: &mut PeerSection, entry: &Entry<'_>) -> Result<(), Wrong> {
    let peer = &mut section.peer;
    match without_white_space(entry.name).to_ascii_lowercase().as_str() {
        "publickey" => section.public_key = Some(entry.key(PublicKey::from_base64)?),
        "presharedkey" => peer.preshared_key = entry.secret()?,
        "endpoint" => peer.endpoint = Some(entry.joined(Endpoint::parse, "HOST:PORT or [ADDRESS]:PORT")?),
        "persistentkeepalive" => {
            peer.persistent_keepalive = Some(entry.joined(keepalive, "off, or seconds: 0 to 65535")?);
        }
        "allowedips" => {
            let networks = entry.list(network, "ADDRESS or ADDRESS/LENGTH")?;
            peer.allowed_ips.extend(networks.iter().map(IpNet::trunc));
        }
        _ => {
            return Err(entry.unknown("PublicKey, PresharedKey, AllowedIPs, Endpoint or PersistentKeepalive"));
        }
    }
    Ok(())
}

/// A line `name = value`.
struct Entry<'a> {
    name: &'a str,
    name_place: Place,
    value: &'a str,
    place: Place,
    /// The whole line, in which places are counted.
    text: &'a str,
}

impl Entry<'_> {
    fn value<T>(&self, read: impl FnOnce(&str) -> Option<T>, expected: &str) -> Result<T, Wrong> {
        read(self.value).ok_or_else(|| self.place.wrong(Quoted(self.value), expected))
    }

    /// For keys that `wg` reads: without white space, wherever it stands. A message quotes it without, too: a key with
    /// spaces in it would not be known as one.
    fn joined<T>(&self, read: impl FnOnce(&str) -> Option<T>, expected: &str) -> Result<T, Wrong> {
        let value = without_white_space(self.value);
        read(&value).ok_or_else(|| self.place.wrong(Quoted(&value), expected))
    }

    /// As [`joined`](Self::joined), of values separated by commas.
    fn list<T>(&self, read: impl Fn(&str) -> Option<T>, expected: &str) -> Result<Vec<T>, Wrong> {
        let read_item = |item: &str| {
            let item = item.trim();
            let joined = without_white_space(item);
            let read = if joined.is_empty() { None } else { read(&joined) };
            read.ok_or_else(|| Place::of(self.place.line, self.text, item).wrong(Quoted(&joined), expected))
        };
        self.value.split(',').map(read_item).collect()
    }

    /// For keys that `wg-quick` itself reads: words separated by commas or spaces, of which there may be none.
    fn words<T>(&self, read: impl Fn(&str) -> Option<T>, expected: &str) -> Result<Vec<T>, Wrong> {
        let words = self.value.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        let read =
            |word| read(word).ok_or_else(|| Place::of(self.place.line, self.text, word).wrong(Quoted(word), expected));
        words.map(read).collect()
    }

    /// An empty value counts as not given.
    fn optional<T>(&self, read: impl FnOnce(&str) -> Option<T>, expected: &str) -> Result<Option<T>, Wrong> {
        if self.value.is_empty() { Ok(None) } else { self.value(read, expected).map(Some) }
    }

    fn key<T, E>(&self, read: impl FnOnce(&str) -> Result<T, E>) -> Result<T, Wrong> {
        let value = without_white_space(self.value);
        let found = format!("{} characters that are no key", value.chars().count());
        read(&value).map_err(|_| self.place.wrong(found, "a key: 44 characters of base64, the last of them \"=\""))
    }

    /// A key's bytes as they are. All zeros are none, as everywhere.
    fn secret(&self) -> Result<Option<Box<PresharedKey>>, Wrong> {
        let key = Box::new(self.key(PresharedKey::from_base64)?);
        Ok(Some(key).filter(|key| **key != PresharedKey::from_bytes([0; 32])))
    }

    fn command(&self) -> Result<Option<String>, Wrong> {
        self.optional(|text| (!text.contains('\0')).then(|| text.to_owned()), "a command")
    }

    /// The value is not repeated: it may be a key.
    fn unknown(&self, expected: &str) -> Wrong {
        // What stands before the padding of a key, or before the first "=" of a command, is no name.
        if let Some((first, _)) = self.name.split_once(|c: char| c.is_whitespace())
            && let Some(name) = expected.split([',', ' ']).find(|name| name.eq_ignore_ascii_case(first))
        {
            return self.name_place.wrong(format!("no \"=\" after {}", Quoted(name)), &format!("{name} = VALUE"));
        }
        self.name_place.wrong(format!("the key {}", Quoted(self.name)), expected)
    }
}

#[derive(Clone, Copy)]
struct Place {
    line: usize,
    column: usize,
}

impl Place {
    /// The place of `part`, which is a part of `text`.
    fn of(line: usize, text: &str, part: &str) -> Self {
        let offset = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        let column = 1 + text.get(..offset).map_or(0, |before| before.chars().count());
        Self { line, column }
    }

    fn wrong(self, found: impl ToString, expected: &str) -> Wrong {
        Wrong { line: self.line, column: self.column, found: found.to_string(), expected: expected.to_owned() }
    }
}

/// What `wg` takes for white space is that of ASCII.
fn without_white_space(text: &str) -> Zeroizing<String> {
    // Room for everything: growing would leave copies of keys behind.
    let mut joined = Zeroizing::new(String::with_capacity(text.len()));
    joined.extend(text.chars().filter(|c| !(c.is_ascii() && c.is_whitespace())));
    joined
}

/// Without a length it is a single address.
fn network(text: &str) -> Option<IpNet> {
    match text.split_once('/') {
        Some((address, length)) => IpNet::new(address.parse().ok()?, number(length)?).ok(),
        None => Some(IpNet::from(text.parse::<IpAddr>().ok()?)),
    }
}

pub(super) fn fwmark(text: &str) -> Option<u32> {
    if text.eq_ignore_ascii_case("off") {
        return Some(0);
    }
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None => number(text),
    }
}

fn keepalive(text: &str) -> Option<u16> {
    if text.eq_ignore_ascii_case("off") { Some(0) } else { number(text) }
}

fn table(text: &str) -> Option<Table> {
    Some(match text.to_ascii_lowercase().as_str() {
        "auto" => Table::Auto,
        "off" => Table::Off,
        "default" => Table::Number(253),
        "main" => Table::Number(254),
        "local" => Table::Number(255),
        _ => Table::Number(fwmark(text).or_else(|| rt_tables::number(text)).filter(|&number| number != 0)?),
    })
}

fn truth(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        return Some(true);
    }
    text.eq_ignore_ascii_case("false").then_some(false)
}
