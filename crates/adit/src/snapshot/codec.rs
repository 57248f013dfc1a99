//! The form of a snapshot: fields, each a tag, a length and a value, which may be fields in turn.
//!
//! All numbers are in little endian. A reader passes over a field that it does not know, unless the
//! tag says that the rest is wrong without it.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::SnapshotError;

/// A field with this bit in its tag must be understood.
pub(super) const CRITICAL: u16 = 0x8000;

/// Bytes before a field's value.
const FIELD_HEADER_LEN: usize = 6;

/// Writes fields into memory that is wiped when dropped, and also when it has to grow.
#[derive(Default)]
pub(super) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// One field, whose value `write` writes.
    pub(super) fn field(&mut self, tag: u16, write: impl FnOnce(&mut Self)) {
        self.put(&tag.to_le_bytes());
        self.put(&[0; 4]);
        let start = self.0.len();
        write(self);
        // Nothing that the engine keeps comes near 4 GiB.
        let len = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(start - 4..start) {
            place.copy_from_slice(&len.to_le_bytes());
        }
    }

    /// One field whose value is these bytes.
    pub(super) fn bytes(&mut self, tag: u16, bytes: &[u8]) {
        self.field(tag, |value| value.put(bytes));
    }

    pub(super) fn u16(&mut self, tag: u16, value: u16) {
        self.bytes(tag, &value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, tag: u16, value: u32) {
        self.bytes(tag, &value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, tag: u16, value: u64) {
        self.bytes(tag, &value.to_le_bytes());
    }

    /// A field that says yes by being there.
    pub(super) fn flag(&mut self, tag: u16, value: bool) {
        if value {
            self.bytes(tag, &[]);
        }
    }

    pub(super) fn address(&mut self, tag: u16, address: IpAddr) {
        self.field(tag, |value| value.put_ip(address));
    }

    pub(super) fn socket_address(&mut self, tag: u16, address: SocketAddr) {
        self.field(tag, |value| {
            value.put_ip(address.ip());
            value.put(&address.port().to_le_bytes());
            if let SocketAddr::V6(address) = address {
                value.put(&address.flowinfo().to_le_bytes());
                value.put(&address.scope_id().to_le_bytes());
            }
        });
    }

    pub(super) fn network(&mut self, tag: u16, network: IpNet) {
        self.field(tag, |value| {
            value.put_ip(network.addr());
            value.put(&[network.prefix_len()]);
        });
    }

    /// Bytes without a tag, as in a value of several parts.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            // A vector that grows by itself leaves its old memory as it is.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(self.0.capacity() * 2).max(4096)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    fn put_ip(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.put(&address.octets()),
            IpAddr::V6(address) => self.put(&address.octets()),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Reads one field after another.
#[derive(Clone)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u16, Value<'a>), SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.split();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(SnapshotError::Malformed("a field ends early")))
    }
}

impl<'a> Fields<'a> {
    fn split(&mut self) -> Option<(u16, Value<'a>)> {
        let (header, rest) = self.0.split_first_chunk::<FIELD_HEADER_LEN>()?;
        let [tag @ .., a, b, c, d] = *header;
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
        let (value, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((u16::from_le_bytes(tag), Value(value)))
    }
}

/// What to do with a field of an unknown tag.
pub(super) fn pass_over(tag: u16) -> Result<(), SnapshotError> {
    if tag & CRITICAL != 0 { Err(SnapshotError::UnknownField { tag }) } else { Ok(()) }
}

/// A field's value, not looked at yet.
#[derive(Clone, Copy)]
pub(super) struct Value<'a>(pub(super) &'a [u8]);

impl<'a> Value<'a> {
    pub(super) fn fields(self) -> Fields<'a> {
        Fields(self.0)
    }

    pub(super) fn array<const N: usize>(self) -> Result<&'a [u8; N], SnapshotError> {
        self.0.try_into().map_err(|_| SnapshotError::Malformed("a value of another length than its kind has"))
    }

    pub(super) fn u8(self) -> Result<u8, SnapshotError> {
        let [value] = *self.array()?;
        Ok(value)
    }

    pub(super) fn u16(self) -> Result<u16, SnapshotError> {
        self.array().copied().map(u16::from_le_bytes)
    }

    pub(super) fn u32(self) -> Result<u32, SnapshotError> {
        self.array().copied().map(u32::from_le_bytes)
    }

    pub(super) fn u64(self) -> Result<u64, SnapshotError> {
        self.array().copied().map(u64::from_le_bytes)
    }

    /// The value as words of 64 bits; a shorter rest is passed over.
    pub(super) fn words(self) -> impl Iterator<Item = u64> + 'a {
        self.0.as_chunks::<8>().0.iter().copied().map(u64::from_le_bytes)
    }

    /// The first `N` bytes, and what follows them.
    pub(super) fn split<const N: usize>(self) -> Result<(&'a [u8; N], Self), SnapshotError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(SnapshotError::Malformed("a value ends early"))?;
        Ok((first, Self(rest)))
    }

    pub(super) fn address(self) -> Result<IpAddr, SnapshotError> {
        if let Ok(octets) = <[u8; 4]>::try_from(self.0) {
            return Ok(Ipv4Addr::from(octets).into());
        }
        Ok(Ipv6Addr::from(*self.array::<16>()?).into())
    }

    pub(super) fn socket_address(self) -> Result<SocketAddr, SnapshotError> {
        if let Ok([a, b, c, d, port @ ..]) = <[u8; 6]>::try_from(self.0) {
            return Ok((Ipv4Addr::new(a, b, c, d), u16::from_le_bytes(port)).into());
        }
        let (octets, rest) = self.split::<16>()?;
        let (port, rest) = rest.split::<2>()?;
        let (flowinfo, rest) = rest.split::<4>()?;
        let scope_id = rest.u32()?;
        let (port, flowinfo) = (u16::from_le_bytes(*port), u32::from_le_bytes(*flowinfo));
        Ok(SocketAddrV6::new(Ipv6Addr::from(*octets), port, flowinfo, scope_id).into())
    }

    pub(super) fn network(self) -> Result<IpNet, SnapshotError> {
        let malformed = SnapshotError::Malformed("an address without a length of its prefix");
        let (&len, address) = self.0.split_last().ok_or(malformed)?;
        IpNet::new(Self(address).address()?, len)
            .map_err(|_| SnapshotError::Malformed("a prefix longer than its address"))
    }
}
