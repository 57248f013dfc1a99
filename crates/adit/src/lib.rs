//! A WireGuard tunnel engine: the protocol and nothing else.
//!
//! [`Interface`] holds what `wg(8)` calls an interface: a private key and peers. It opens no
//! socket, asks no clock, starts no thread and cannot panic on anything it is given. Datagrams,
//! packets and the time go in; datagrams, packets and the next deadline come out.
//!
//! It panics in two cases, in neither of which it could go on safely: if the caller's random
//! generator panics, and if no implementation of ChaCha20-Poly1305 gives the known answers on this
//! machine (see `adit_aead::seal`).
//!
//! ```
//! use std::time::Duration;
//!
//! use adit::{Ecn, Instant, Interface, Path, PrivateKey};
//! use getrandom::SysRng;
//! use rand_core::UnwrapErr;
//!
//! // Two interfaces that know each other, as if both began at the same moment.
//! let (now, unix_time) = (Instant::from_nanos(0), Duration::from_secs(1_700_000_000));
//! let mut rng = UnwrapErr(SysRng);
//! let keys = [PrivateKey::generate(&mut rng), PrivateKey::generate(&mut rng)];
//! let addresses = ["192.0.2.1:51820".parse()?, "192.0.2.2:51820".parse()?];
//! let mut ends: Vec<Interface> = Vec::new();
//! for (own, other) in [(0, 1), (1, 0)] {
//!     let mut end = Interface::new(now, unix_time, Box::new(UnwrapErr(SysRng)));
//!     end.set_private_key(Some(keys[own].clone()));
//!     let peer = end.add_peer(keys[other].public_key())?;
//!     end.add_allowed_ip(peer, "10.0.0.0/8".parse()?)?;
//!     end.set_endpoint(peer, Some(addresses[other]))?;
//!     ends.push(end);
//! }
//!
//! // A packet from 10.0.0.1 to 10.0.0.2 goes into the first end. There is no session yet, so it
//! // waits, and a handshake begins.
//! let mut packet = [0; 20];
//! packet[..4].copy_from_slice(&[0x45, 0, 0, 20]);
//! packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
//! let mut buffer = [0; 2048];
//! assert!(ends[0].handle_packet(now, &packet, &mut buffer)?.is_none());
//!
//! // Carry datagrams to and fro until nobody has any left: initiation, response, packet.
//! let mut arrived = None;
//! let mut carried = true;
//! while carried {
//!     carried = false;
//!     for (from, to) in [(0, 1), (1, 0)] {
//!         while let Some(transmit) = ends[from].poll_transmit(now, &mut buffer)? {
//!             carried = true;
//!             let path = Path::to(addresses[from]);
//!             // What waited may leave several datagrams at a time.
//!             for datagram in buffer[transmit.range].chunks_mut(transmit.segment_size) {
//!                 if let Some((_, packet)) = ends[to].handle_datagram(now, &path, Ecn::NotEct, datagram) {
//!                     arrived = Some(packet.to_vec());
//!                 }
//!             }
//!         }
//!     }
//! }
//! assert_eq!(arrived.as_deref(), Some(&packet[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What the caller owes
//!
//! - After each call that is given the time: call [`Interface::poll_transmit`] until it returns `None`, then
//!   [`Interface::handle_timeout`] no later than [`Interface::poll_timeout`] says.
//! - Put every datagram of a [`Transmit`] on the wire as a datagram of its own: there may be several, back to back
//!   ([`Transmit::datagrams`]).
//! - Give it a clock that never goes back and keeps running while the machine sleeps (see [`time::Instant`]), and the
//!   wall clock's time ([`Interface::set_unix_time`]), by which peers tell a new handshake from an old one. Threads may
//!   come a little out of order; but when the clock is set back, no timer ends and no key grows older until it is where
//!   it was.
//! - Keep calling [`Interface::handle_timeout`] when there is no traffic, or call [`Interface::link_down`] before a long
//!   pause: keys are erased by timers.
//! - Give it the true source of every datagram. A cookie proves an address; a made-up address proves nothing.
//! - Give it the congestion bits of every datagram's outer header (`IP_RECVTOS`, `IPV6_RECVTCLASS`), and send with
//!   [`Transmit::tos`]. With [`Ecn::NotEct`] always, the marks of routers on the way are lost.
//! - Tell it the tunnel's MTU ([`Interface::set_mtu`]), lest padding make the largest packets too long for the path.
//! - Give it a random generator fit for cryptography.
//!
//! # For threads
//!
//! [`Interface::handle_packet`] and [`Interface::handle_datagram`] consist of steps that a threaded caller can take one
//! by one, so that it holds its lock for bookkeeping only, and for a whole burst at once: [`Interface::begin_seal`] and
//! [`Sealing::seal`] on the way out; [`Interface::begin_open`], [`Opening::open`] and [`Interface::commit`] on the way
//! in; [`Interface::poll_handshake`], [`HandshakeWork::compute`] and [`Interface::finish_handshake`] for handshakes.
//! [`Interface::poll_peer_transmit`] leaves answers to strangers to another thread. After each step that may want a
//! handshake ([`Interface::begin_seal`], [`Interface::commit`], [`Interface::expire`], and what gives packets that have
//! waited: [`Interface::poll_transmit`]) ask [`Interface::poll_handshake`] until it returns `None`; until then
//! [`Interface::poll_timeout`] is due.
//!
//! # Features
//!
//! - `std`, on by default: the cipher detects at run time which vector instructions the CPU has. Without it
//!   (`default-features = false`) the crate is `no_std` with `alloc`, and uses those that the target has.
//! - `aws-lc-rs`: AWS-LC instead of pure Rust for X25519, for sealing in handshakes and cookies, and for packets where
//!   it is faster than the code here. It needs `std` and a C compiler. Vector code of our own is for x86-64; elsewhere
//!   this is what gives assembly for the cipher.
//!
//! # What it does not do
//!
//! No sockets, no TUN device, no routes, no name resolution, no files: `adit-device` does that for
//! Linux. No fragmentation and no path-MTU discovery: packets should fit the path's MTU less 60
//! bytes where the network is IPv4, or 80 where it is IPv6.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;
#[cfg(any(test, feature = "std"))]
extern crate std;

mod allowed_ips;
mod batch;
mod bounds;
mod cookie;
mod crypto;
mod endpoint;
mod error;
mod event;
mod handshake;
mod interface;
mod ip;
pub mod key;
mod keypair;
pub mod limits;
mod message;
mod noise;
mod path;
mod peer;
mod rate_limiter;
mod receive;
mod replay;
mod send;
mod snapshot;
#[cfg(test)]
mod tests;
pub mod time;
mod timers;
mod transmit;

pub use allowed_ips::AllowedIps;
pub use batch::{Datagrams, Delivered, Opened, Opening, Packets, Sealed, Sealing, Transmit};
pub use bounds::Bounds;
pub use error::{DropCounters, DropReason, Error, KeyError};
pub use event::Event;
pub use handshake::{HandshakeDone, HandshakeWork};
pub use interface::Interface;
pub use key::{PresharedKey, PrivateKey, PublicKey};
pub use message::transport_len;
pub use path::{Ecn, Path};
pub use peer::{PeerId, PeerState};
pub use rate_limiter::RateLimiter;
pub use replay::ReplayWindow;
pub use snapshot::{Snapshot, SnapshotError};
pub use time::Instant;
// Their types stand in the signatures here.
pub use {ipnet, rand_core, zeroize};

/// The README's example is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
