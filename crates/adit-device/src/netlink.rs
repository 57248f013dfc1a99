//! Interfaces, addresses, routes and rules, over netlink: small, synchronous, without a runtime.
//!
//! A [`Netlink`] works on the network namespace in which it was opened, whatever thread uses it later.

mod address;
mod link;
mod monitor;
pub mod namespace;
mod route;
mod rule;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use netlink_packet_core::{
    DefaultNla, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    Nla, NlasIterator, Parseable,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use link::Link;
pub use monitor::{FarLinkMonitor, LinkEvent, LinkMonitor};
pub use route::{MAIN_TABLE, Route, RouteLookup};
pub use rule::Rule;

/// How long the kernel may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The kernel puts no more than this into one datagram.
const BUFFER_SIZE: usize = 64 * 1024;
/// Length of the header of every message.
const MESSAGE_HEADER: usize = 16;
/// How often a listing is made when something changes meanwhile; the last one has to do.
const MAX_DUMPS: usize = 8;

/// A request that the kernel refused, or could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {source}{}", hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct NetlinkError {
    /// What was tried.
    pub action: String,
    /// What the kernel said.
    pub source: io::Error,
    /// What the kernel said beside the number, if anything.
    pub hint: Option<String>,
    /// Whether the kernel has answered, and this is its refusal: otherwise it may have done what was asked, and the
    /// answer was lost.
    pub is_refusal: bool,
}

impl NetlinkError {
    fn new(action: &str, source: io::Error) -> NetlinkError {
        NetlinkError { action: action.to_owned(), source, hint: None, is_refusal: false }
    }

    /// The POSIX error number.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(libc::EIO)
    }

    /// Whether the thing named does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self.errno(), libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL)
    }

    /// Whether the thing to be made exists already.
    pub fn is_exists(&self) -> bool {
        self.errno() == libc::EEXIST
    }
}

type Result<T> = std::result::Result<T, NetlinkError>;

/// A connection to the kernel for requests.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Netlink").finish_non_exhaustive()
    }
}

impl Netlink {
    /// Opens a connection for the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no netlink, or there are no file descriptors left.
    pub fn open() -> Result<Netlink> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket2::SockRef::from(&socket).set_read_timeout(Some(TIMEOUT))?;
            // Both only shape error messages.
            let _ = socket.set_cap_ack(true);
            let _ = socket.set_ext_ack(true);
            Ok(Netlink { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER_SIZE) })
        };
        open().map_err(|source| NetlinkError::new("cannot open a netlink socket", source))
    }

    /// Opens a connection for another network namespace.
    ///
    /// # Errors
    /// As [`open`](Self::open), and the namespace may not be entered.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Netlink> {
        namespace::run_in(namespace, Netlink::open)
            .map_err(|source| NetlinkError::new("cannot enter the network namespace", source))?
    }

    /// Asks for one thing to be done.
    fn request(&mut self, action: &str, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.exchange(action, message, NLM_F_REQUEST | NLM_F_ACK | flags, |_| {}).map(drop)
    }

    /// Asks for one object.
    fn get(&mut self, action: &str, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage> {
        let mut answer = None;
        self.exchange(action, message, NLM_F_REQUEST | NLM_F_ACK, |message| answer = Some(message))?;
        answer.ok_or_else(|| NetlinkError::new(action, io::ErrorKind::InvalidData.into()))
    }

    /// Asks for all objects of a kind.
    fn dump(&mut self, action: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        for _ in 0..MAX_DUMPS {
            answers.clear();
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            if !self.exchange(action, message.clone(), flags, |message| answers.push(message))? {
                break;
            }
        }
        Ok(answers)
    }

    /// Sends a request, gives each answer to `each`, and returns whether the listing was disturbed by a change.
    fn exchange(
        &mut self,
        action: &str,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<bool> {
        let error = |source| NetlinkError::new(action, source);
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(error)?;

        let mut disturbed = false;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Err(source) if source.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) if source.kind() == io::ErrorKind::WouldBlock => {
                    return Err(error(io::ErrorKind::TimedOut.into()));
                }
                received => received.map_err(error)?,
            };
            for message in messages(&self.buffer) {
                // An answer to an earlier request that timed out.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                disturbed |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(disturbed),
                    NetlinkPayload::Done(done) => {
                        return Err(error(io::Error::from_raw_os_error(done.code.saturating_abs())));
                    }
                    NetlinkPayload::Error(answer) => match answer.code {
                        None => return Ok(disturbed),
                        Some(_) => {
                            let hint = hint(&answer);
                            return Err(NetlinkError { hint, is_refusal: true, ..error(answer.to_io()) });
                        }
                    },
                    NetlinkPayload::InnerMessage(message) => each(message),
                    _ => {}
                }
            }
        }
    }
}

/// The messages in a datagram. One that is not understood, of a newer kernel say, is passed over.
fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    parts(datagram).filter_map(|message| NetlinkMessage::deserialize(message).ok())
}

/// The messages in a datagram, as they came.
fn parts(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*datagram.first_chunk()?)).ok()?;
        let message = datagram.get(..length).filter(|message| message.len() >= MESSAGE_HEADER)?;
        datagram = datagram.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some(message)
    })
}

/// The kernel's words on an error (extended acknowledgement).
fn hint(error: &ErrorMessage) -> Option<String> {
    const MESSAGE: u16 = 1;
    NlasIterator::new(error.header.get(MESSAGE_HEADER..)?).flatten().find_map(|attribute| {
        let attribute = DefaultNla::parse(&attribute).ok().filter(|attribute| attribute.kind() == MESSAGE)?;
        let mut text = vec![0; attribute.value_len()];
        attribute.emit_value(&mut text);
        text.retain(|&byte| byte != 0);
        String::from_utf8(text).ok()
    })
}

fn family(address: &IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
