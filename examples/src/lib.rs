//! The programs stand beside this folder, one file each:
//!
//! - `two_peers.rs`: both ends of a tunnel in one process, over UDP sockets. Needs no root.
//! - `blocking_loop.rs`: one end of a real tunnel, the engine over a `UdpSocket` and a TUN device.
//!
//! `cargo run -p adit-examples --example two_peers`
#![deny(missing_docs)]
