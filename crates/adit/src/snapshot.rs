//! [`Snapshot`]: all that an interface is and knows, so that another process can go on with it.

mod codec;
mod peer;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;
use core::time::Duration;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::bounds::Bounds;
use crate::crypto;
use crate::error::DropReason;
use crate::handshake::Incoming;
use crate::interface::Interface;
use crate::key::{PrivateKey, PublicKey};
use crate::noise::Identity;
use crate::path::Path;
use crate::peer::{Peer, PeerId};
use crate::time::{Instant, Tai64n};
use crate::transmit::Outgoing;

use codec::{Fields, Value, Writer, pass_over};

const MAGIC: &[u8; 8] = b"adit\0run";
/// Raised when an older reader would misunderstand what is written; a new field alone is no reason.
const VERSION: u16 = 1;
const HEADER_LEN: usize = MAGIC.len() + 2;
/// Length of the hash of all that stands before it, which shows that nothing was cut off or altered.
const HASH_LEN: usize = 32;

/// An interface at one moment, with its keys, sessions and counters. Wiped when dropped.
///
/// Taken by [`Interface::snapshot`], to be given to [`Interface::restore`], in another process as a
/// rule. It holds secrets in the clear: it belongs into memory, never into a file.
///
/// # One sends, never both
///
/// A session's counters must never be used twice, so **of an interface and its snapshot only one may go on**. The
/// interface that hands over must stop before its snapshot is taken, and may go on only if the one that takes over
/// cannot have sent anything: it died, or said no, before it said yes. A snapshot that was only looked at does no harm.
///
/// # Versions
///
/// A snapshot consists of tagged fields. A reader passes over fields that it does not know, and what it does not find
/// is as in a new interface, so that older and newer versions can take over from each other; where that would be wrong
/// the snapshot is refused.
pub struct Snapshot(Zeroizing<Vec<u8>>);

/// Why a snapshot cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It does not begin as a snapshot does.
    #[error("this is not a snapshot of an interface")]
    NotASnapshot,
    /// It was written in a version of the format that is not known here.
    #[error("a snapshot of version {found}, expected {VERSION}")]
    Version {
        /// The version in the snapshot.
        found: u16,
    },
    /// It is cut off, or was altered.
    #[error("the snapshot is incomplete or was altered")]
    Corrupt,
    /// A field is not as it should be.
    #[error("the snapshot makes no sense: {0}")]
    Malformed(&'static str),
    /// It holds something that must be understood and is not known here.
    #[error("the snapshot has field {tag:#06x}, which must be understood and is not known")]
    UnknownField {
        /// The field's tag.
        tag: u16,
    },
    /// It was taken later than the present moment: the clocks are not the same.
    #[error("the snapshot was taken by another clock, which is ahead of this one")]
    ClockBehind,
}

mod tag {
    pub(super) const TAKEN: u16 = 1;
    pub(super) const PRIVATE_KEY: u16 = 2;
    pub(super) const MTU: u16 = 3;
    pub(super) const LAST_TIMESTAMP: u16 = 4;
    pub(super) const COOKIE_SECRET: u16 = 5;
    pub(super) const DROPPED: u16 = 6;
    pub(super) const DROP_EVENTS: u16 = 7;
    pub(super) const PEER: u16 = 8;
    pub(super) const INCOMING: u16 = 9;
    pub(super) const OUTGOING: u16 = 10;
    pub(super) const WANTED: u16 = 11;
    pub(super) const READY: u16 = 12;
}

mod datagram {
    pub(super) const PATH: u16 = 1;
    pub(super) const BYTES: u16 = 2;
    pub(super) const PEER: u16 = 3;
    pub(super) const TOS: u16 = 4;
}

mod path {
    pub(super) const REMOTE: u16 = 1;
    pub(super) const LOCAL: u16 = 2;
    pub(super) const IFINDEX: u16 = 3;
}

impl Snapshot {
    /// The snapshot in `bytes`, which [`Snapshot::as_bytes`] gave elsewhere.
    ///
    /// # Errors
    /// [`SnapshotError`], if they are not whole or of another version.
    pub fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Result<Self, SnapshotError> {
        let (magic, rest) = bytes.split_first_chunk().ok_or(SnapshotError::NotASnapshot)?;
        if magic != MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        let (&found, _) = rest.split_first_chunk().ok_or(SnapshotError::Corrupt)?;
        let found = u16::from_le_bytes(found);
        if found != VERSION {
            return Err(SnapshotError::Version { found });
        }
        let (body, hash) = bytes.split_last_chunk::<HASH_LEN>().ok_or(SnapshotError::Corrupt)?;
        if body.len() < HEADER_LEN || crypto::hash(&[body]) != *hash {
            return Err(SnapshotError::Corrupt);
        }
        Ok(Self(bytes))
    }

    /// The snapshot as bytes: secrets in the clear.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn fields(&self) -> Fields<'_> {
        let end = self.0.len().saturating_sub(HASH_LEN);
        Fields(self.0.get(HEADER_LEN..end).unwrap_or_default())
    }

    fn finish(mut writer: Writer) -> Self {
        let hash = crypto::hash(&[writer.as_bytes()]);
        writer.put(&hash);
        Self(writer.into_bytes())
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("len", &self.0.len()).finish_non_exhaustive()
    }
}

impl Interface {
    /// All that this interface is and knows at the moment `now`: keys, peers, sessions with their
    /// counters and windows, handshakes under way, deadlines, cookies, and what waits to be sent.
    /// See [`Snapshot`] for what this interface must not do afterwards.
    ///
    /// Steps that the caller has begun and not given back are not in it ([`Sealing`](crate::Sealing),
    /// [`Opening`](crate::Opening), [`HandshakeWork`](crate::HandshakeWork)): finish them before. Nor
    /// are events that have not been taken, what the rate limiter (a quarter of a second) and the
    /// detection of load (a second) remember, and the bounds.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        // Here and below all fields are named: whoever adds one has to say what becomes of it.
        let Self {
            mtu,
            identity,
            checker,
            peers,
            allowed_ips,
            incoming,
            wanted,
            ready,
            outgoing,
            cookie_replies,
            last_timestamp,
            drops,
            drop_events,
            // Follow from the peers.
            by_key: _,
            indices: _,
            schedule: _,
            staged_bytes: _,
            // The next process has its own.
            rng: _,
            unix_time: _,
            bounds: _,
            turns: _,
            // Routes may have changed meanwhile: the next process judges the sources of all.
            unjudged: _,
            spare_datagrams: _,
            spare_packets: _,
            // Soon forgotten anyway.
            limiter: _,
            load: _,
            crowd: _,
            is_own_turn: _,
            // For those who ask this process.
            events: _,
        } = self;
        let mut out = Writer::default();
        out.put(MAGIC);
        out.put(&VERSION.to_le_bytes());
        out.u64(tag::TAKEN, now.as_nanos());
        if let Some(identity) = identity {
            let Identity { private, public: _ } = &**identity;
            out.bytes(tag::PRIVATE_KEY, private.as_bytes());
        }
        out.u16(tag::MTU, *mtu);
        out.bytes(tag::LAST_TIMESTAMP, last_timestamp.as_bytes());
        if let Some((secret, made)) = checker.as_ref().and_then(|checker| checker.parts()) {
            out.field(tag::COOKIE_SECRET, |value| {
                value.put(secret);
                value.put(&made.as_nanos().to_le_bytes());
            });
        }
        for (reason, count) in drops.iter() {
            // Reasons go by their names, since their order may differ between versions.
            out.field(tag::DROPPED, |value| {
                value.put(&count.to_le_bytes());
                value.put(reason.name().as_bytes());
            });
        }
        out.flag(tag::DROP_EVENTS, *drop_events);
        for (id, peer) in peers.iter() {
            out.field(tag::PEER, |value| peer::write(value, peer, allowed_ips, id));
        }
        for (path, bytes) in incoming.iter().map(Incoming::parts) {
            out.field(tag::INCOMING, |value| {
                write_path(value, datagram::PATH, path);
                value.bytes(datagram::BYTES, bytes);
            });
        }
        let key_of = |id| peers.get(id).map(|peer| peer.public_key);
        for (peer, path, tos, bytes) in outgoing.iter().chain(cookie_replies).map(Outgoing::parts) {
            out.field(tag::OUTGOING, |value| {
                write_path(value, datagram::PATH, path);
                value.bytes(datagram::BYTES, bytes);
                if let Some(key) = peer.and_then(key_of) {
                    value.bytes(datagram::PEER, key.as_bytes());
                }
                value.bytes(datagram::TOS, &[tos]);
            });
        }
        for (tag, queue) in [(tag::WANTED, wanted), (tag::READY, ready)] {
            for key in queue.iter().filter_map(|&id| key_of(id)) {
                out.bytes(tag, key.as_bytes());
            }
        }
        Snapshot::finish(out)
    }

    /// The interface that `snapshot` was taken of, to go on where it stopped.
    ///
    /// `now` is read from the same clock as the moment at which the snapshot was taken;
    /// `unix_time`, `rng` and `bounds` are as in [`Interface::with_bounds`]. Handles of peers are
    /// new: find them by [`Interface::peer_id`]. Afterwards call [`Interface::poll_transmit`] until
    /// it has nothing more.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn restore(
        snapshot: Snapshot,
        now: Instant,
        unix_time: Duration,
        rng: Box<dyn CryptoRng + Send + Sync>,
        bounds: Bounds,
    ) -> Result<Self, SnapshotError> {
        let mut interface = Self::with_bounds(now, unix_time, rng, bounds);
        let mut cookie_secret = None;
        // Fields that name a peer are read when the peers are known, whatever order they stand in.
        for field in snapshot.fields() {
            let (tag, value) = field?;
            match tag {
                tag::TAKEN if value.u64()? > now.as_nanos() => return Err(SnapshotError::ClockBehind),
                tag::TAKEN => {}
                tag::PRIVATE_KEY => interface.set_private_key(Some(PrivateKey::from_bytes(*value.array()?))),
                tag::MTU => interface.mtu = value.u16()?,
                tag::LAST_TIMESTAMP => interface.last_timestamp = Tai64n::from_bytes(*value.array()?),
                tag::COOKIE_SECRET => {
                    let (secret, made) = value.split::<32>()?;
                    cookie_secret = Some((secret, Instant::from_nanos(made.u64()?)));
                }
                tag::DROPPED => {
                    let (count, name) = value.split::<8>()?;
                    let reason = DropReason::ALL.iter().find(|reason| reason.name().as_bytes() == name.0);
                    if let Some(&reason) = reason {
                        interface.drops.add(reason, u64::from_le_bytes(*count));
                    }
                }
                tag::DROP_EVENTS => interface.drop_events = true,
                tag::PEER | tag::INCOMING | tag::OUTGOING | tag::WANTED | tag::READY => {}
                _ => pass_over(tag)?,
            }
        }
        if let (Some((secret, made)), Some(checker)) = (cookie_secret, &mut interface.checker) {
            Arc::make_mut(checker).set_parts((secret, made));
        }
        for field in snapshot.fields() {
            let (tag, value) = field?;
            if tag == tag::PEER {
                let (peer, allowed_ips) = peer::read(value)?;
                let id = interface.restore_peer(peer)?;
                for network in allowed_ips {
                    interface.allowed_ips.insert(network, id);
                }
            }
        }
        interface.restore_staged();
        for field in snapshot.fields() {
            let (tag, value) = field?;
            match tag {
                tag::INCOMING => interface.restore_incoming(value)?,
                tag::OUTGOING => interface.restore_outgoing(value)?,
                tag::WANTED => {
                    let id = interface.named(value)?;
                    if let Some(peer) = interface.peers.get_mut(id).filter(|peer| !peer.wants_initiation) {
                        peer.wants_initiation = true;
                        interface.wanted.push_back(id);
                    }
                }
                tag::READY => {
                    let id = interface.named(value)?;
                    if let Some(peer) = interface.peers.get_mut(id).filter(|peer| !peer.is_ready) {
                        peer.is_ready = true;
                        interface.ready.push_back(id);
                    }
                }
                _ => {}
            }
        }
        Ok(interface)
    }

    fn restore_peer(&mut self, peer: Peer) -> Result<PeerId, SnapshotError> {
        if self.peer_id(&peer.public_key).is_some() {
            return Err(SnapshotError::Malformed("a peer is there twice"));
        }
        let id =
            self.add_peer(peer.public_key).map_err(|_| SnapshotError::Malformed("the interface is its own peer"))?;
        let keypairs = [&peer.keypairs.current, &peer.keypairs.previous, &peer.keypairs.next].into_iter().flatten();
        let handshake = peer.handshake.as_ref().map(|begun| begun.local_index);
        for index in keypairs.map(|keypair| keypair.local_index).chain(handshake) {
            if self.indices.insert(index, id).is_some() {
                return Err(SnapshotError::Malformed("two sessions have one index"));
            }
        }
        if let Some(place) = self.peers.get_mut(id) {
            *place = peer;
        }
        self.source_unjudged(id);
        self.reschedule(id);
        Ok(id)
    }

    /// Drops waiting packets, the oldest of each peer first, if the bounds are narrower than those under which they
    /// were kept.
    fn restore_staged(&mut self) {
        let waiting = |(id, peer): (PeerId, &Peer)| (!peer.staged.is_empty()).then_some((peer.staged.bytes(), id));
        let mut peers: Vec<_> = self.peers.iter().filter_map(waiting).collect();
        // What a peer may keep whatever waits for others is no reason to drop what others kept before.
        peers.sort_by_key(|&(bytes, _)| Reverse(bytes));
        for (_, id) in peers {
            let Some(peer) = self.peers.get_mut(id) else { continue };
            let mut overflow = 0;
            while !self.bounds.may_wait(peer.staged.bytes(), self.staged_bytes) && peer.staged.pop().is_some() {
                overflow += 1;
            }
            self.staged_bytes += peer.staged.bytes();
            self.drop_many(Some(id), DropReason::StagedOverflow, overflow);
        }
    }

    fn restore_incoming(&mut self, value: Value<'_>) -> Result<(), SnapshotError> {
        let (path, bytes, ..) = read_datagram(value)?;
        let incoming = Incoming::new(path, bytes).ok_or(SnapshotError::Malformed("a handshake message too long"))?;
        if self.incoming.len() < self.bounds.handshake_queue {
            self.incoming.push_back(incoming);
        } else {
            self.drop(None, DropReason::HandshakeQueueFull);
        }
        Ok(())
    }

    fn restore_outgoing(&mut self, value: Value<'_>) -> Result<(), SnapshotError> {
        let (path, bytes, peer, tos) = read_datagram(value)?;
        let peer = peer.map(|key| self.named(key)).transpose()?;
        let outgoing = Outgoing::new(peer, path, tos, bytes);
        let outgoing = outgoing.ok_or(SnapshotError::Malformed("a message too long"))?;
        // Only cookie replies are for nobody in particular.
        if outgoing.peer.is_some() {
            self.send(Some(outgoing));
        } else if self.cookie_replies.len() < self.bounds.outgoing {
            self.cookie_replies.push_back(outgoing);
        } else {
            self.drop(None, DropReason::ReplyQueueFull);
        }
        Ok(())
    }

    /// The peer whose key this is.
    fn named(&self, key: Value<'_>) -> Result<PeerId, SnapshotError> {
        let key = PublicKey::from_bytes(*key.array()?);
        self.peer_id(&key).ok_or(SnapshotError::Malformed("a peer is named that is not there"))
    }
}

fn write_path(out: &mut Writer, tag: u16, path: &Path) {
    let Path { remote, local, ifindex } = *path;
    out.field(tag, |value| {
        value.socket_address(path::REMOTE, remote);
        if let Some(local) = local {
            value.address(path::LOCAL, local);
        }
        value.u32(path::IFINDEX, ifindex);
    });
}

fn read_path(value: Value<'_>) -> Result<Path, SnapshotError> {
    let (mut remote, mut local, mut ifindex) = (None, None, 0);
    for field in value.fields() {
        let (tag, value) = field?;
        match tag {
            path::REMOTE => remote = Some(value.socket_address()?),
            path::LOCAL => local = Some(value.address()?),
            path::IFINDEX => ifindex = value.u32()?,
            _ => pass_over(tag)?,
        }
    }
    let remote = remote.ok_or(SnapshotError::Malformed("a path that leads nowhere"))?;
    Ok(Path { remote, local, ifindex })
}

type Datagram<'a> = (Path, &'a [u8], Option<Value<'a>>, u8);

fn read_datagram(value: Value<'_>) -> Result<Datagram<'_>, SnapshotError> {
    let (mut path, mut bytes, mut peer, mut tos) = (None, None, None, 0);
    for field in value.fields() {
        let (tag, value) = field?;
        match tag {
            datagram::PATH => path = Some(read_path(value)?),
            datagram::BYTES => bytes = Some(value.0),
            datagram::PEER => peer = Some(value),
            datagram::TOS => tos = value.u8()?,
            _ => pass_over(tag)?,
        }
    }
    let complete = path.zip(bytes).ok_or(SnapshotError::Malformed("a datagram without a path or bytes"));
    complete.map(|(path, bytes)| (path, bytes, peer, tos))
}
