//! Helpers shared by the whole-system tests: hosts, daemons, tunnels and traffic.
//!
//! A [`Host`] is a network namespace of its own, gone with the test however the test ends. A [`Node`] is a host with
//! a daemon in it. A [`Pair`] is two nodes on one wire with a tunnel between them, which is where most tests begin.
//!
//! The helpers panic when something that has to work does not: a test that cannot be set up has failed.
//! They need root, and the programs that `cargo xtask setup` installs.

mod arena;
mod command;
mod daemon;
mod flood;
mod host;
mod implementation;
mod kernel;
mod macros;
pub mod measure;
mod node;
mod pair;
mod process;
mod scratch;
mod status;
mod systemd;
mod tap;
mod traffic;
mod trio;
mod wait;

pub use arena::Arena;
pub use command::{Background, Outcome};
pub use daemon::Daemon;
pub use flood::{Flood, FloodKind, Rate, Seen};
pub use host::{Host, Undo, sockets_in};
pub use implementation::{Implementation, Launch};
pub use kernel::KernelPeer;
pub use node::{Keys, Node, Peer, preshared_key};
pub use pair::{Outer, Pair, PairBuilder, Side};
pub use process::ProcessStatus;
pub use scratch::Scratch;
pub use status::{PeerStatus, Shown, Status};
pub use systemd::Systemd;
pub use tap::Tap;
pub use traffic::{Ping, PingReport, Pinging, Udp, iperf3, tcp_stream, tcp_transfer};
pub use trio::Trio;
pub use wait::{eventually, for_a_while, stays};
