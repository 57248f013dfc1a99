//! The cross-platform userspace interface of WireGuard: text over a Unix socket, as `wg(8)` speaks it.
//!
//! [`request`] and [`reply`] are the language, [`Server`] answers without ever waiting for a client, [`Client`] asks.

#[cfg(test)]
pub(crate) mod arbitrary;
mod client;
mod listener;
pub mod reply;
pub mod request;
mod server;
pub(crate) mod value;

pub use client::{Client, ClientError, interfaces};
pub(crate) use client::{advice, is_deserted, means_nobody};
pub use listener::{Listener, socket_path};
pub use request::Request;
pub use server::{Handler, MAX_CLIENTS, Server, SetError, Status};
