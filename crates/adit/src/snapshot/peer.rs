//! A peer in a snapshot, with its sessions, handshake, deadlines and waiting packets.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::codec::{Value, Writer, pass_over};
use super::{SnapshotError, read_path, write_path};
use crate::allowed_ips::AllowedIps;
use crate::cookie::CookieGenerator;
use crate::key::{PresharedKey, PublicKey};
use crate::keypair::{Keypair, Keypairs, Role};
use crate::limits::MAX_PACKET_LEN;
use crate::noise::{InitiatorState, SessionKeys};
use crate::peer::{Initiating, Peer, PeerId};
use crate::replay::ReplayWindow;
use crate::time::{Instant, Tai64n};
use crate::timers::{TIMERS, Timers};

mod tag {
    pub(super) const PUBLIC_KEY: u16 = 1;
    pub(super) const PRESHARED_KEY: u16 = 2;
    pub(super) const ENDPOINT: u16 = 3;
    pub(super) const ALLOWED_IP: u16 = 4;
    pub(super) const PERSISTENT_KEEPALIVE: u16 = 5;
    pub(super) const RX_BYTES: u16 = 6;
    pub(super) const TX_BYTES: u16 = 7;
    pub(super) const LAST_HANDSHAKE: u16 = 8;
    pub(super) const LATEST_TIMESTAMP: u16 = 9;
    pub(super) const LAST_INITIATION_RECEIVED: u16 = 10;
    pub(super) const LAST_INITIATION_SENT: u16 = 11;
    pub(super) const TIMERS: u16 = 12;
    pub(super) const COOKIE: u16 = 13;
    pub(super) const LAST_MAC1: u16 = 14;
    pub(super) const CURRENT: u16 = 15;
    pub(super) const PREVIOUS: u16 = 16;
    pub(super) const NEXT: u16 = 17;
    pub(super) const NEXT_IS_PREFERRED: u16 = 18;
    pub(super) const NEXT_IS_OVERTAKEN: u16 = 19;
    pub(super) const HANDSHAKE: u16 = 20;
    pub(super) const STAGED: u16 = 21;
    pub(super) const SENT_TIMESTAMP: u16 = 22;
    pub(super) const IS_PINNED: u16 = 23;
    pub(super) const NEXT_IS_RIVAL: u16 = 24;
    pub(super) const IS_SOURCE_REJECTED: u16 = 25;
    pub(super) const HAD_GOOD_SOURCE: u16 = 26;
}

mod keypair {
    pub(super) const KEYS: u16 = 1;
    pub(super) const LOCAL_INDEX: u16 = 2;
    pub(super) const REMOTE_INDEX: u16 = 3;
    pub(super) const IS_INITIATOR: u16 = 4;
    pub(super) const CREATED: u16 = 5;
    pub(super) const COUNTER: u16 = 6;
    pub(super) const REPLAY: u16 = 7;
}

mod handshake {
    pub(super) const LOCAL_INDEX: u16 = 1;
    pub(super) const STATE: u16 = 2;
}

/// The deadlines stand under 1 and up, in the order of [`TIMERS`].
mod timers {
    pub(super) const FIRST: u16 = 1;
    pub(super) const ATTEMPT_BEGAN: u16 = 32;
    pub(super) const NEED_ANOTHER_KEEPALIVE: u16 = 33;
    pub(super) const RENEWED_ON_RECEIPT: u16 = 34;
    pub(super) const ATTEMPTING_SINCE: u16 = 35;
    pub(super) const LAST_RECEIVED: u16 = 36;
    pub(super) const ASKED: u16 = 37;
}

pub(super) fn write(out: &mut Writer, peer: &Peer, allowed_ips: &AllowedIps<PeerId>, id: PeerId) {
    let Peer {
        public_key,
        preshared_key,
        endpoint,
        is_source_rejected,
        had_good_source,
        is_pinned,
        keypairs,
        handshake,
        cookie,
        timers,
        latest_timestamp,
        sent_timestamp,
        last_initiation_received,
        last_initiation_sent,
        staged,
        last_handshake,
        rx_bytes,
        tx_bytes,
        // Computed when it is needed.
        static_static: _,
        // Of steps that the caller has begun, who is to finish them before.
        beginning: _,
        answering: _,
        // Every source is judged anew.
        is_unjudged: _,
        last_announced: _,
        // Follow from the interface's queues, which are handed over themselves.
        wants_initiation: _,
        is_ready: _,
        // Follows from the timers.
        scheduled: _,
    } = peer;
    let CookieGenerator { cookie, last_mac1 } = cookie;
    let Keypairs { current, previous, next, next_is_preferred, next_is_overtaken, next_is_rival } = keypairs;
    out.bytes(tag::PUBLIC_KEY, public_key.as_bytes());
    if let Some(key) = preshared_key {
        out.bytes(tag::PRESHARED_KEY, key.as_bytes());
    }
    if let Some(path) = endpoint {
        write_path(out, tag::ENDPOINT, path);
    }
    // Carried over, so that nothing leaves from there until it is judged anew. A program that does not know of it uses
    // the source, as it would after the next datagram that comes by it.
    out.flag(tag::IS_SOURCE_REJECTED, *is_source_rejected);
    out.flag(tag::HAD_GOOD_SOURCE, *had_good_source);
    out.flag(tag::IS_PINNED, *is_pinned);
    for network in allowed_ips.prefixes_of(id) {
        out.network(tag::ALLOWED_IP, network);
    }
    out.u16(tag::PERSISTENT_KEEPALIVE, timers.persistent_keepalive);
    out.u64(tag::RX_BYTES, *rx_bytes);
    out.u64(tag::TX_BYTES, *tx_bytes);
    if let Some(time) = last_handshake {
        out.field(tag::LAST_HANDSHAKE, |value| {
            value.put(&time.as_secs().to_le_bytes());
            value.put(&time.subsec_nanos().to_le_bytes());
        });
    }
    if let Some(timestamp) = latest_timestamp {
        out.bytes(tag::LATEST_TIMESTAMP, timestamp.as_bytes());
    }
    if let Some(timestamp) = sent_timestamp {
        out.bytes(tag::SENT_TIMESTAMP, timestamp.as_bytes());
    }
    write_moment(out, tag::LAST_INITIATION_RECEIVED, *last_initiation_received);
    write_moment(out, tag::LAST_INITIATION_SENT, *last_initiation_sent);
    out.field(tag::TIMERS, |value| write_timers(value, timers));
    if let Some((cookie, received)) = cookie {
        out.field(tag::COOKIE, |value| {
            value.put(cookie);
            value.put(&received.as_nanos().to_le_bytes());
        });
    }
    if let Some(mac) = last_mac1 {
        out.bytes(tag::LAST_MAC1, mac);
    }
    for (tag, keypair) in [(tag::CURRENT, current), (tag::PREVIOUS, previous), (tag::NEXT, next)] {
        if let Some(keypair) = keypair {
            out.field(tag, |value| write_keypair(value, keypair));
        }
    }
    out.flag(tag::NEXT_IS_PREFERRED, *next_is_preferred);
    out.flag(tag::NEXT_IS_OVERTAKEN, *next_is_overtaken);
    out.flag(tag::NEXT_IS_RIVAL, *next_is_rival);
    if let Some(begun) = handshake {
        let Initiating { state, local_index } = &**begun;
        out.field(tag::HANDSHAKE, |value| {
            value.u32(handshake::LOCAL_INDEX, *local_index);
            value.field(handshake::STATE, |value| state.parts().iter().for_each(|part| value.put(*part)));
        });
    }
    for packet in staged.iter() {
        out.bytes(tag::STAGED, packet);
    }
}

/// The peer, and the prefixes that it owns.
pub(super) fn read(value: Value<'_>) -> Result<(Peer, Vec<IpNet>), SnapshotError> {
    let public_key = value.fields().find_map(|field| field.ok().filter(|(tag, _)| *tag == tag::PUBLIC_KEY));
    let (_, public_key) = public_key.ok_or(SnapshotError::Malformed("a peer without a key"))?;
    let mut peer = Peer::new(PublicKey::from_bytes(*public_key.array()?));
    let mut allowed_ips = Vec::new();
    let mut persistent_keepalive = 0;
    for field in value.fields() {
        let (tag, value) = field?;
        match tag {
            tag::PUBLIC_KEY => {}
            tag::PRESHARED_KEY => peer.preshared_key = Some(Box::new(PresharedKey::from_bytes(*value.array()?))),
            tag::ENDPOINT => peer.endpoint = Some(read_path(value)?),
            tag::IS_SOURCE_REJECTED => peer.is_source_rejected = true,
            tag::HAD_GOOD_SOURCE => peer.had_good_source = true,
            tag::IS_PINNED => peer.is_pinned = true,
            tag::ALLOWED_IP => allowed_ips.push(value.network()?),
            tag::PERSISTENT_KEEPALIVE => persistent_keepalive = value.u16()?,
            // Half of what fits, so that there is room to go on counting.
            tag::RX_BYTES => peer.rx_bytes = value.u64()?.min(u64::MAX / 2),
            tag::TX_BYTES => peer.tx_bytes = value.u64()?.min(u64::MAX / 2),
            tag::LAST_HANDSHAKE => peer.last_handshake = Some(read_duration(value)?),
            tag::LATEST_TIMESTAMP => peer.latest_timestamp = Some(Tai64n::from_bytes(*value.array()?)),
            tag::SENT_TIMESTAMP => peer.sent_timestamp = Some(Tai64n::from_bytes(*value.array()?)),
            tag::LAST_INITIATION_RECEIVED => peer.last_initiation_received = Some(read_moment(value)?),
            tag::LAST_INITIATION_SENT => peer.last_initiation_sent = Some(read_moment(value)?),
            tag::TIMERS => peer.timers = read_timers(value)?,
            tag::COOKIE => {
                let (cookie, received) = value.split()?;
                peer.cookie.cookie = Some((*cookie, read_moment(received)?));
            }
            tag::LAST_MAC1 => peer.cookie.last_mac1 = Some(*value.array()?),
            tag::CURRENT => peer.keypairs.current = Some(Box::new(read_keypair(value)?)),
            tag::PREVIOUS => peer.keypairs.previous = Some(Box::new(read_keypair(value)?)),
            tag::NEXT => peer.keypairs.next = Some(Box::new(read_keypair(value)?)),
            tag::NEXT_IS_PREFERRED => peer.keypairs.next_is_preferred = true,
            tag::NEXT_IS_OVERTAKEN => peer.keypairs.next_is_overtaken = true,
            tag::NEXT_IS_RIVAL => peer.keypairs.next_is_rival = true,
            tag::HANDSHAKE => peer.handshake = Some(Box::new(read_handshake(value)?)),
            tag::STAGED if value.0.len() > MAX_PACKET_LEN => return Err(SnapshotError::Malformed("a packet too long")),
            tag::STAGED => peer.staged.push(value.0),
            _ => pass_over(tag)?,
        }
    }
    // Last, since the timers' field, wherever it stands, overwrites it.
    peer.timers.persistent_keepalive = persistent_keepalive;
    Ok((peer, allowed_ips))
}

fn write_keypair(out: &mut Writer, keypair: &Keypair) {
    let Keypair { keys, local_index, remote_index, role, created, counter, replay } = keypair;
    // The bytes are those of both keys.
    let SessionKeys { bytes, sending: _, receiving: _ } = &**keys;
    out.field(keypair::KEYS, |value| bytes.iter().for_each(|key| value.put(key)));
    out.u32(keypair::LOCAL_INDEX, *local_index);
    out.u32(keypair::REMOTE_INDEX, *remote_index);
    out.flag(keypair::IS_INITIATOR, *role == Role::Initiator);
    out.u64(keypair::CREATED, created.as_nanos());
    out.u64(keypair::COUNTER, *counter);
    out.field(keypair::REPLAY, |value| {
        let (next, words) = replay.parts();
        value.put(&next.to_le_bytes());
        words.for_each(|word| value.put(&word.to_le_bytes()));
    });
}

/// Every part of a session is needed: with a made-up counter or window it would do harm.
fn read_keypair(value: Value<'_>) -> Result<Keypair, SnapshotError> {
    let (mut keys, mut local_index, mut remote_index, mut role) = (None, None, None, Role::Responder);
    let (mut created, mut counter, mut replay) = (None, None, None);
    for field in value.fields() {
        let (tag, value) = field?;
        match tag {
            keypair::KEYS => {
                let (sending, receiving) = value.split::<32>()?;
                keys = Some(SessionKeys::new(Zeroizing::new([*sending, *receiving.array()?])));
            }
            keypair::LOCAL_INDEX => local_index = Some(value.u32()?),
            keypair::REMOTE_INDEX => remote_index = Some(value.u32()?),
            keypair::IS_INITIATOR => role = Role::Initiator,
            keypair::CREATED => created = Some(read_moment(value)?),
            keypair::COUNTER => counter = Some(value.u64()?),
            keypair::REPLAY => {
                let (next, words) = value.split()?;
                replay = Some(ReplayWindow::from_parts(u64::from_le_bytes(*next), words.words()));
            }
            _ => pass_over(tag)?,
        }
    }
    let read = || {
        let mut keypair = Keypair::new(created?, keys?, local_index?, remote_index?, role);
        (keypair.counter, keypair.replay) = (counter?, replay?);
        Some(keypair)
    };
    read().ok_or(SnapshotError::Malformed("a session of which something is missing"))
}

fn read_handshake(value: Value<'_>) -> Result<Initiating, SnapshotError> {
    let (mut local_index, mut state) = (None, None);
    for field in value.fields() {
        let (tag, value) = field?;
        match tag {
            handshake::LOCAL_INDEX => local_index = Some(value.u32()?),
            handshake::STATE => {
                let (chaining_key, rest) = value.split()?;
                let (hash, ephemeral) = rest.split()?;
                state = Some(InitiatorState::from_parts([chaining_key, hash, ephemeral.array()?]));
            }
            _ => pass_over(tag)?,
        }
    }
    let complete = local_index.zip(state).ok_or(SnapshotError::Malformed("a handshake of which something is missing"));
    complete.map(|(local_index, state)| Initiating { state, local_index })
}

fn write_timers(out: &mut Writer, timers: &Timers) {
    let Timers {
        deadlines,
        attempt_began,
        attempting_since,
        asked,
        last_received,
        need_another_keepalive,
        renewed_on_receipt,
        // Configured, and so written among what the peer has.
        persistent_keepalive: _,
    } = timers;
    for (tag, deadline) in (timers::FIRST..).zip(deadlines) {
        write_moment(out, tag, *deadline);
    }
    write_moment(out, timers::ATTEMPT_BEGAN, *attempt_began);
    write_moment(out, timers::ATTEMPTING_SINCE, *attempting_since);
    write_moment(out, timers::LAST_RECEIVED, *last_received);
    out.flag(timers::ASKED, *asked);
    out.flag(timers::NEED_ANOTHER_KEEPALIVE, *need_another_keepalive);
    out.flag(timers::RENEWED_ON_RECEIPT, *renewed_on_receipt);
}

fn read_timers(value: Value<'_>) -> Result<Timers, SnapshotError> {
    const LAST: u16 = timers::FIRST + TIMERS.len() as u16 - 1;
    let mut timers = Timers::default();
    for field in value.fields() {
        let (tag, value) = field?;
        match tag {
            timers::FIRST..=LAST => {
                if let Some(place) = timers.deadlines.get_mut(usize::from(tag - timers::FIRST)) {
                    *place = Some(read_moment(value)?);
                }
            }
            timers::ATTEMPTING_SINCE => timers.attempting_since = Some(read_moment(value)?),
            timers::LAST_RECEIVED => timers.last_received = Some(read_moment(value)?),
            timers::ATTEMPT_BEGAN => timers.attempt_began = Some(read_moment(value)?),
            timers::ASKED => timers.asked = true,
            timers::NEED_ANOTHER_KEEPALIVE => timers.need_another_keepalive = true,
            timers::RENEWED_ON_RECEIPT => timers.renewed_on_receipt = true,
            _ => pass_over(tag)?,
        }
    }
    Ok(timers)
}

fn write_moment(out: &mut Writer, tag: u16, moment: Option<Instant>) {
    if let Some(moment) = moment {
        out.u64(tag, moment.as_nanos());
    }
}

fn read_moment(value: Value<'_>) -> Result<Instant, SnapshotError> {
    value.u64().map(Instant::from_nanos)
}

fn read_duration(value: Value<'_>) -> Result<Duration, SnapshotError> {
    let (seconds, nanos) = value.split()?;
    let nanos = nanos.u32()?;
    if nanos >= 1_000_000_000 {
        return Err(SnapshotError::Malformed("a second of too many nanoseconds"));
    }
    Ok(Duration::new(u64::from_le_bytes(*seconds), nanos))
}
