//! Floods: what an attacker sends who knows the interface's address and its public key, and sees what passes.
//!
//! The datagrams are given to the wire as they are, so that any source address may stand in them, and so that sending
//! takes little of the cores that the victim needs too: a flood comes from elsewhere. All are made beforehand; while it
//! lasts only headers are written.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use adit::limits::INITIATION_LEN;
use adit::{Interface, PrivateKey, PublicKey};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use socket2::{Domain, Socket, Type};

use crate::host::Host;

/// How many different datagrams a flood has.
const POOL: usize = 512;
/// How many datagrams one call gives to the kernel.
const BATCH: usize = 32;
/// Room for the headers of IPv4 and UDP.
const HEADERS: usize = 28;
/// The one address of an attacker who uses no more.
const ONE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
/// Neither a test nor a measurement needs a longer one: a flood ends by itself even if nobody ends it.
const LONGEST: Duration = Duration::from_secs(60);

/// What a flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloodKind {
    /// Bytes without meaning, from forged addresses.
    Random,
    /// Well-formed initiations by strangers who know the public key, from forged addresses.
    ForgedInitiations,
    /// The same, each with a mac2 that was made up, as if the sender had been given a cookie.
    FalseCookies,
    /// The same as [`FloodKind::ForgedInitiations`] from one address.
    OneInitiator,
    /// An initiation of a peer that the attacker has seen, again and again, from forged addresses.
    Replay,
    /// Cookie replies that nobody asked for, half of them to a session's index.
    CookieReplies,
    /// Transport messages to indices that no session has.
    UnknownTransport,
    /// Transport messages to the index of a session, which have to be decrypted to be found out.
    LiveTransport,
    /// Datagrams that are shorter than any message.
    Tiny,
    /// Datagrams that are longer than their type allows, up to the longest there is.
    Oversized,
}

/// The attacker's end of a wire.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    /// The number of the attacker's interface.
    pub index: u32,
    /// The address of the interface at the other end.
    pub other_end: [u8; 6],
}

/// What the attacker has seen on the wire.
#[derive(Debug, Clone)]
pub struct Seen {
    /// A peer's initiation.
    pub initiation: Vec<u8>,
    /// The index by which the victim knows its session with that peer.
    pub index: u32,
}

impl FloodKind {
    /// All there are.
    pub const ALL: &[Self] = &[
        Self::Random,
        Self::ForgedInitiations,
        Self::FalseCookies,
        Self::OneInitiator,
        Self::Replay,
        Self::CookieReplies,
        Self::UnknownTransport,
        Self::LiveTransport,
        Self::Tiny,
        Self::Oversized,
    ];

    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::ForgedInitiations => "forged-initiations",
            Self::FalseCookies => "false-cookies",
            Self::OneInitiator => "one-initiator",
            Self::Replay => "replay",
            Self::CookieReplies => "cookie-replies",
            Self::UnknownTransport => "unknown-transport",
            Self::LiveTransport => "live-transport",
            Self::Tiny => "tiny",
            Self::Oversized => "oversized",
        }
    }

    /// Whether each datagram comes from another address.
    fn is_forged(self) -> bool {
        self != Self::OneInitiator
    }

    /// The contents of the datagrams against the interface with this key.
    fn contents(self, victim: PublicKey, seen: &Seen, rng: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
        (0..POOL)
            .map(|number| match self {
                Self::Random => random(32 + number * 2, rng),
                Self::ForgedInitiations | Self::OneInitiator => initiation(victim, rng),
                Self::FalseCookies => {
                    let mut message = initiation(victim, rng);
                    rng.fill_bytes(&mut message[INITIATION_LEN - 16..]);
                    message
                }
                Self::Replay => seen.initiation.clone(),
                Self::CookieReplies => {
                    let index = if number % 2 == 0 { seen.index } else { rng.next_u32() };
                    message(3, index, 64, rng)
                }
                Self::UnknownTransport => message(4, rng.next_u32(), 160, rng),
                Self::LiveTransport => message(4, seen.index, 1452, rng),
                // Some begin as a message does.
                Self::Tiny => {
                    let mut short = message(1 + number as u8 % 4, seen.index, 32, rng);
                    short.truncate(number % 32);
                    short
                }
                Self::Oversized => {
                    let length = if number % 64 == 0 { 65_507 } else { 1600 + 29 * (number % 256) };
                    message(1 + number as u8 % 3, seen.index, length, rng)
                }
            })
            .collect()
    }
}

/// How fast a flood is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// So many datagrams a second.
    PerSecond(u32),
    /// As many as one thread can send.
    Max,
}

/// A flood that goes on until this is dropped.
#[derive(Debug)]
pub struct Flood {
    state: Arc<State>,
    /// How long it has flooded before the last pause, and since when it does again.
    before: Duration,
    since: Option<Instant>,
    thread: Option<JoinHandle<()>>,
}

/// What the flooding thread and whoever started it have in common.
#[derive(Debug, Default)]
struct State {
    stops: AtomicBool,
    pauses: AtomicBool,
    sent: AtomicU64,
}

impl Flood {
    /// Floods `target`, the endpoint of the interface with the key `victim` (in base64), from the host, over a wire
    /// that leads there.
    ///
    /// All claim to come from addresses of 100.64.0.0/10.
    #[track_caller]
    pub fn start(
        (host, wire): (&Host, Wire),
        target: SocketAddrV4,
        victim: &str,
        seen: &Seen,
        (kind, rate): (FloodKind, Rate),
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let victim = PublicKey::from_base64(victim).expect("a public key");
        let contents = kind.contents(victim, seen, &mut rng);
        let source = (!kind.is_forged()).then_some(SocketAddrV4::new(ONE, 51820));
        // Without a protocol it receives nothing.
        let socket = host.enter(|| Socket::new(Domain::PACKET, Type::DGRAM, None)).expect("a packet socket");
        let state = Arc::new(State::default());
        let sender = Sender { socket, wire: wire.into(), target, source, contents, next: 0, rng, state: state.clone() };
        let thread = std::thread::spawn(move || sender.run(rate));
        Self { state, before: Duration::ZERO, since: Some(Instant::now()), thread: Some(thread) }
    }

    /// How many datagrams the kernel has taken so far.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// Sends nothing until [`Flood::resume`].
    pub fn pause(&mut self) {
        self.state.pauses.store(true, Ordering::Relaxed);
        self.before = self.duration();
        self.since = None;
    }

    /// Goes on after a pause.
    pub fn resume(&mut self) {
        self.state.pauses.store(false, Ordering::Relaxed);
        self.wake();
        self.since.get_or_insert_with(Instant::now);
    }

    /// Ends the flood and says how many datagrams a second it had, pauses left out.
    pub fn stop(mut self) -> f64 {
        let duration = self.duration();
        self.state.stops.store(true, Ordering::Relaxed);
        self.wake();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the flooding thread");
        }
        self.sent() as f64 / duration.as_secs_f64()
    }

    /// How long it has flooded.
    fn duration(&self) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The thread may sleep in a pause.
    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.state.stops.store(true, Ordering::Relaxed);
        self.wake();
    }
}

impl From<Wire> for libc::sockaddr_ll {
    fn from(wire: Wire) -> Self {
        let mut address = [0; 8];
        address[..6].copy_from_slice(&wire.other_end);
        Self {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_IP as u16).to_be(),
            sll_ifindex: wire.index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: address,
        }
    }
}

struct Sender {
    socket: Socket,
    /// Where the link layer sends it.
    wire: libc::sockaddr_ll,
    target: SocketAddrV4,
    /// Where all come from; each from elsewhere unless given.
    source: Option<SocketAddrV4>,
    contents: Vec<Vec<u8>>,
    next: usize,
    rng: ChaCha8Rng,
    state: Arc<State>,
}

impl Sender {
    fn run(mut self, rate: Rate) {
        let start = Instant::now();
        let (mut since, mut sent_before) = (start, 0);
        while !self.state.stops.load(Ordering::Relaxed) && start.elapsed() < LONGEST {
            if self.state.pauses.load(Ordering::Relaxed) {
                std::thread::park_timeout(LONGEST.saturating_sub(start.elapsed()));
                (since, sent_before) = (Instant::now(), self.state.sent.load(Ordering::Relaxed));
            } else {
                self.send_what_is_due(since, sent_before, rate);
            }
        }
    }

    fn send_what_is_due(&mut self, since: Instant, sent_before: u64, rate: Rate) {
        let count = match rate {
            Rate::Max => BATCH,
            Rate::PerSecond(rate) => {
                let due = since.elapsed().as_secs_f64() * f64::from(rate);
                let missing = due - (self.state.sent.load(Ordering::Relaxed) - sent_before) as f64;
                if missing < 1.0 {
                    std::thread::sleep(Duration::from_micros(500));
                    return;
                }
                (missing as usize).min(BATCH)
            }
        };
        match self.send(count) {
            Ok(sent) => _ = self.state.sent.fetch_add(sent as u64, Ordering::Relaxed),
            // What has no room is lost on its way, as anything may be.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EINTR)) => {}
            Err(error) => panic!("the flood cannot be sent: {error}"),
        }
    }

    fn send(&mut self, count: usize) -> io::Result<usize> {
        let mut headers = [[0; HEADERS]; BATCH];
        let first = self.next;
        for (offset, header) in headers.iter_mut().enumerate().take(count) {
            let source = self.source.unwrap_or_else(|| {
                let number = self.rng.next_u64();
                let address = Ipv4Addr::from_bits(0x6440_0000 | (number as u32 & 0x003f_ffff));
                SocketAddrV4::new(address, (number >> 32) as u16 | 1024)
            });
            *header = ipv4_and_udp(source, self.target, self.contents[(first + offset) % POOL].len());
        }
        let slices: Vec<[IoSlice<'_>; 2]> = (headers.iter().enumerate().take(count))
            .map(|(offset, header)| [IoSlice::new(header), IoSlice::new(&self.contents[(first + offset) % POOL])])
            .collect();
        self.next = first + count;
        send_many(self.socket.as_fd(), &self.wire, &slices)
    }
}

/// Gives all to a packet socket in one call, and says how many it took.
fn send_many(socket: BorrowedFd<'_>, to: &libc::sockaddr_ll, slices: &[[IoSlice<'_>; 2]]) -> io::Result<usize> {
    let message = |slices: &[IoSlice<'_>; 2]| {
        // SAFETY: all zeros is a message without address, contents and control messages.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_name = std::ptr::from_ref(to).cast_mut().cast();
        message.msg_hdr.msg_namelen = size_of_val(to) as u32;
        // An `IoSlice` has the layout of an `iovec`; the kernel only reads.
        message.msg_hdr.msg_iov = slices.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_iovlen = slices.len();
        message
    };
    let mut messages: Vec<libc::mmsghdr> = slices.iter().map(message).collect();
    let count = u32::try_from(messages.len()).expect("a batch");
    // SAFETY: there are `count` messages, and what they point to is borrowed for as long as the call lasts.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// The headers in front of `length` bytes. Over IPv4, UDP may do without a checksum.
fn ipv4_and_udp(source: SocketAddrV4, target: SocketAddrV4, length: usize) -> [u8; HEADERS] {
    let mut header = [0; HEADERS];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    let length = |headers: usize| u16::try_from(headers + length).expect("at most 65,507 bytes").to_be_bytes();
    put(0, &[0x45]);
    put(2, &length(HEADERS));
    put(8, &[64, 17]);
    put(12, &source.ip().octets());
    put(16, &target.ip().octets());
    put(20, &source.port().to_be_bytes());
    put(22, &target.port().to_be_bytes());
    put(24, &length(8));
    let sum: u32 = header[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// A message of this type and length to a receiver's index; the rest means nothing.
fn message(kind: u8, receiver: u32, length: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut message = random(length, rng);
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    message[4..8].copy_from_slice(&receiver.to_le_bytes());
    // A counter that a session may still reach.
    message[12..16].fill(0);
    message
}

fn random(length: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// The initiation of a stranger: all of it is as it should be, but no peer has this key.
fn initiation(victim: PublicKey, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let start = adit::Instant::from_nanos(0);
    let seed = rng.next_u64();
    let mut stranger = Interface::new(start, Duration::from_secs(1), Box::new(ChaCha8Rng::seed_from_u64(seed)));
    stranger.set_private_key(Some(PrivateKey::generate(rng)));
    let peer = stranger.add_peer(victim).expect("somebody else's key");
    stranger.set_endpoint(peer, Some(([192, 0, 2, 1], 1).into())).expect("a peer");
    // A persistent keepalive is due at once, and asks for a session.
    stranger.set_persistent_keepalive(start, peer, 1).expect("a peer");
    stranger.handle_timeout(start);
    let mut buffer = [0; INITIATION_LEN];
    let transmit = stranger.poll_transmit(start, &mut buffer).ok().flatten().expect("an initiation");
    buffer[transmit.range].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(100, 64, 1, 2), 0x1234);
    const TARGET: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 1), 51820);

    #[test]
    fn headers_say_from_where_to_where_and_how_long() {
        let header = ipv4_and_udp(SOURCE, TARGET, 0x94);
        assert_eq!(header[..4], [0x45, 0, 0, 0x94 + 28]);
        assert_eq!(header[12..20], [100, 64, 1, 2, 10, 0, 2, 1]);
        assert_eq!(header[20..], [0x12, 0x34, 0xca, 0x6c, 0, 0x94 + 8, 0, 0]);
        // RFC 1071: with the checksum among them the words make all ones.
        let words = header[..20].chunks(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])));
        assert_eq!(words.sum::<u64>() % 0xffff, 0);
    }

    #[test]
    fn contents_are_of_their_kind() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let victim = PrivateKey::generate(&mut rng).public_key();
        let seen = Seen { initiation: vec![1; 148], index: 0x0403_0201 };
        let mut contents = |kind: FloodKind| kind.contents(victim, &seen, &mut rng);
        let initiations = contents(FloodKind::ForgedInitiations);
        assert!(initiations.iter().all(|message| message.len() == 148 && message[..4] == [1, 0, 0, 0]));
        assert_ne!(initiations[0], initiations[1]);
        assert!(contents(FloodKind::Replay).iter().all(|message| *message == seen.initiation));
        assert!(contents(FloodKind::LiveTransport).iter().all(|message| message[..8] == [4, 0, 0, 0, 1, 2, 3, 4]));
        assert!(contents(FloodKind::Tiny).iter().all(|message| message.len() < 32));
        assert_eq!(contents(FloodKind::Oversized).iter().map(Vec::len).max(), Some(65_507));
    }
}
