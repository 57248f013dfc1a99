//! Checked views of the four messages (paper, §5.4), under the names of the protocol's description.
//!
//! Parsing is the only step that can fail; after it no accessor can.

use crate::error::DropReason;
use crate::limits::{
    COOKIE_REPLY_LEN, INITIATION_LEN, MAX_PACKET_LEN, PADDING, RESPONSE_LEN, TRANSPORT_HEADER_LEN, TRANSPORT_OVERHEAD,
};

const INITIATION: [u8; 4] = [1, 0, 0, 0];
const RESPONSE: [u8; 4] = [2, 0, 0, 0];
const COOKIE_REPLY: [u8; 4] = [3, 0, 0, 0];
const TRANSPORT: [u8; 4] = [4, 0, 0, 0];

/// mac1 and mac2 together: the end of both handshake messages.
pub(crate) const MACS_LEN: usize = 32;

/// A datagram that has the form of a message. Nothing in it has been authenticated.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Initiation(Initiation<'a>),
    Response(Response<'a>),
    CookieReply(CookieReply<'a>),
    Transport(Transport),
}

/// First message: from the initiator to the responder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Initiation<'a> {
    pub(crate) sender_index: u32,
    pub(crate) unencrypted_ephemeral: &'a [u8; 32],
    pub(crate) encrypted_static: &'a [u8; 48],
    pub(crate) encrypted_timestamp: &'a [u8; 28],
}

/// Second message: from the responder to the initiator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Response<'a> {
    pub(crate) sender_index: u32,
    pub(crate) receiver_index: u32,
    pub(crate) unencrypted_ephemeral: &'a [u8; 32],
    pub(crate) encrypted_nothing: &'a [u8; 16],
}

/// What a responder under load sends instead of a response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CookieReply<'a> {
    pub(crate) receiver_index: u32,
    pub(crate) nonce: &'a [u8; 24],
    pub(crate) encrypted_cookie: &'a [u8; 32],
}

/// The unencrypted part of a transport message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transport {
    pub(crate) receiver_index: u32,
    pub(crate) counter: u64,
}

/// Which of the two ends' indices comes first in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstIndex {
    Sender(u32),
    Receiver(u32),
}

impl FirstIndex {
    /// The first index of the message that begins with `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let (&message_type, rest) = bytes.split_first_chunk::<4>()?;
        let index = u32::from_le_bytes(*rest.first_chunk()?);
        match message_type {
            INITIATION | RESPONSE => Some(Self::Sender(index)),
            COOKIE_REPLY | TRANSPORT => Some(Self::Receiver(index)),
            _ => None,
        }
    }
}

impl<'a> Message<'a> {
    /// The message in `datagram`.
    ///
    /// The type and the three reserved bytes are one little-endian word, so that a datagram with
    /// anything but zeros there has no type.
    pub(crate) fn parse(datagram: &'a [u8]) -> Result<Self, DropReason> {
        let (&message_type, rest) = datagram.split_first_chunk::<4>().ok_or(DropReason::BadLength)?;
        match message_type {
            TRANSPORT => Transport::parse(datagram.len(), rest).map(Self::Transport),
            INITIATION => Initiation::parse(rest).map(Self::Initiation),
            RESPONSE => Response::parse(rest).map(Self::Response),
            COOKIE_REPLY => CookieReply::parse(rest).map(Self::CookieReply),
            _ => return Err(DropReason::BadType),
        }
        .ok_or(DropReason::BadLength)
    }
}

impl<'a> Initiation<'a> {
    fn parse(rest: &'a [u8]) -> Option<Self> {
        let (&sender_index, rest) = rest.split_first_chunk()?;
        let (unencrypted_ephemeral, rest) = rest.split_first_chunk()?;
        let (encrypted_static, rest) = rest.split_first_chunk()?;
        let (encrypted_timestamp, macs) = rest.split_first_chunk()?;
        (macs.len() == MACS_LEN).then_some(Self {
            sender_index: u32::from_le_bytes(sender_index),
            unencrypted_ephemeral,
            encrypted_static,
            encrypted_timestamp,
        })
    }

    /// The message in wire form, its MACs still zero.
    pub(crate) fn to_bytes(self) -> [u8; INITIATION_LEN] {
        let sender = self.sender_index.to_le_bytes();
        concatenate(&[
            &INITIATION,
            &sender,
            self.unencrypted_ephemeral,
            self.encrypted_static,
            self.encrypted_timestamp,
        ])
    }
}

impl<'a> Response<'a> {
    fn parse(rest: &'a [u8]) -> Option<Self> {
        let (&sender_index, rest) = rest.split_first_chunk()?;
        let (&receiver_index, rest) = rest.split_first_chunk()?;
        let (unencrypted_ephemeral, rest) = rest.split_first_chunk()?;
        let (encrypted_nothing, macs) = rest.split_first_chunk()?;
        (macs.len() == MACS_LEN).then_some(Self {
            sender_index: u32::from_le_bytes(sender_index),
            receiver_index: u32::from_le_bytes(receiver_index),
            unencrypted_ephemeral,
            encrypted_nothing,
        })
    }

    /// The message in wire form, its MACs still zero.
    pub(crate) fn to_bytes(self) -> [u8; RESPONSE_LEN] {
        let (sender, receiver) = (self.sender_index.to_le_bytes(), self.receiver_index.to_le_bytes());
        concatenate(&[&RESPONSE, &sender, &receiver, self.unencrypted_ephemeral, self.encrypted_nothing])
    }
}

impl<'a> CookieReply<'a> {
    fn parse(rest: &'a [u8]) -> Option<Self> {
        let (&receiver_index, rest) = rest.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let encrypted_cookie = rest.try_into().ok()?;
        Some(Self { receiver_index: u32::from_le_bytes(receiver_index), nonce, encrypted_cookie })
    }

    /// The message in wire form.
    pub(crate) fn to_bytes(self) -> [u8; COOKIE_REPLY_LEN] {
        concatenate(&[&COOKIE_REPLY, &self.receiver_index.to_le_bytes(), self.nonce, self.encrypted_cookie])
    }
}

impl Transport {
    fn parse(len: usize, rest: &[u8]) -> Option<Self> {
        let (&receiver_index, rest) = rest.split_first_chunk()?;
        let (&counter, _) = rest.split_first_chunk()?;
        (len >= TRANSPORT_OVERHEAD).then_some(Self {
            receiver_index: u32::from_le_bytes(receiver_index),
            counter: u64::from_le_bytes(counter),
        })
    }

    /// The header in wire form.
    pub(crate) fn to_bytes(self) -> [u8; TRANSPORT_HEADER_LEN] {
        concatenate(&[&TRANSPORT, &self.receiver_index.to_le_bytes(), &self.counter.to_le_bytes()])
    }
}

/// `parts` one after the other, padded with zeros to `N` bytes.
fn concatenate<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut bytes = [0; N];
    let mut rest = bytes.as_mut_slice();
    for part in parts {
        let Some((place, after)) = rest.split_at_mut_checked(part.len()) else { break };
        place.copy_from_slice(part);
        rest = after;
    }
    bytes
}

/// The length of the datagram that carries a packet of `len` bytes: header, the packet padded to a
/// multiple of 16 but not beyond the MTU nor what a datagram can hold, and the tag (paper, §5.4.6).
/// An MTU of 0 is no bound.
pub fn transport_len(len: usize, mtu: u16) -> usize {
    let mtu = match mtu {
        0 => MAX_PACKET_LEN,
        mtu => usize::from(mtu).min(MAX_PACKET_LEN),
    };
    // A packet above the MTU is padded as its last fragment would be.
    let last = if len > mtu { len % mtu } else { len };
    let padding = last.next_multiple_of(PADDING).min(mtu) - last;
    len.saturating_add(padding).min(MAX_PACKET_LEN.max(len)).saturating_add(TRANSPORT_OVERHEAD)
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    /// Type, and the lengths that a message of that type may have, by the paper.
    const FORMS: [(u8, core::ops::RangeInclusive<usize>); 4] =
        [(1, 148..=148), (2, 92..=92), (3, 64..=64), (4, 32..=65_535)];

    #[test]
    fn a_message_has_the_length_of_its_type_and_no_other() {
        for (message_type, lengths) in FORMS {
            for len in 0..300 {
                let mut datagram = vec![0; len];
                if let Some(first) = datagram.first_mut() {
                    *first = message_type;
                }
                let parsed = Message::parse(&datagram);
                assert_eq!(parsed.is_ok(), lengths.contains(&len), "type {message_type}, {len} bytes");
                assert!(parsed.is_ok() || matches!(parsed, Err(DropReason::BadLength)));
            }
        }
    }

    #[test]
    fn reserved_bytes_must_be_zero() {
        for (message_type, lengths) in FORMS {
            for place in 1..4 {
                let mut datagram = vec![0; *lengths.start()];
                datagram[0] = message_type;
                assert!(Message::parse(&datagram).is_ok());
                datagram[place] = 1;
                assert!(matches!(Message::parse(&datagram), Err(DropReason::BadType)));
            }
        }
    }

    #[test]
    fn fields_stand_where_the_paper_puts_them_in_little_endian() {
        let bytes: Vec<u8> = [4, 0, 0, 0].into_iter().chain(4..32).collect();
        let Ok(Message::Transport(message)) = Message::parse(&bytes) else { panic!("not a transport message") };
        assert_eq!(message, Transport { receiver_index: 0x0706_0504, counter: 0x0f0e_0d0c_0b0a_0908 });
        assert_eq!(message.to_bytes(), bytes[..16]);

        let bytes: Vec<u8> = [1, 0, 0, 0].into_iter().chain(4..116).chain([0; 32]).collect();
        let Ok(Message::Initiation(message)) = Message::parse(&bytes) else { panic!("not an initiation") };
        assert_eq!(message.sender_index, 0x0706_0504);
        assert_eq!((message.unencrypted_ephemeral[0], message.encrypted_static[0]), (8, 40));
        assert_eq!(message.encrypted_timestamp[0], 88);
        assert_eq!(message.to_bytes(), bytes[..]);

        let bytes: Vec<u8> = [2, 0, 0, 0].into_iter().chain(4..60).chain([0; 32]).collect();
        let Ok(Message::Response(message)) = Message::parse(&bytes) else { panic!("not a response") };
        assert_eq!((message.sender_index, message.receiver_index), (0x0706_0504, 0x0b0a_0908));
        assert_eq!((message.unencrypted_ephemeral[0], message.encrypted_nothing[0]), (12, 44));
        assert_eq!(message.to_bytes(), bytes[..]);

        let bytes: Vec<u8> = [3, 0, 0, 0].into_iter().chain(4..64).collect();
        let Ok(Message::CookieReply(message)) = Message::parse(&bytes) else { panic!("not a cookie reply") };
        assert_eq!((message.receiver_index, message.nonce[0], message.encrypted_cookie[0]), (0x0706_0504, 8, 32));
        assert_eq!(message.to_bytes(), bytes[..]);
    }

    #[test]
    fn padding_fills_to_sixteen_but_never_beyond_the_mtu() {
        // Packet, MTU, datagram: 32 bytes more than the padded packet.
        let table = [
            (0, 1420, 32),
            (1, 1420, 48),
            (16, 1420, 48),
            (17, 1420, 64),
            (1408, 1420, 1440),
            (1409, 1420, 1452),
            (1420, 1420, 1452),
            (1421, 1420, 1468),
            // Without an MTU only the datagram is a bound: 65,507 bytes.
            (1, 0, 48),
            (1500, 0, 1536),
            (65_470, 0, 65_504),
            (65_474, 0, 65_507),
            (65_475, 65_535, 65_507),
            // Padded as the last of 47 fragments would be, which is 155 bytes long.
            (65_475, 1420, 65_507),
            // No packet is so long; whoever asks gets an answer all the same.
            (usize::MAX, 1420, usize::MAX),
        ];
        for (len, mtu, datagram) in table {
            assert_eq!(transport_len(len, mtu), datagram, "{len} bytes at MTU {mtu}");
        }
    }
}
