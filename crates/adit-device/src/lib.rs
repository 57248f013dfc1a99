//! Adit on Linux: a TUN device on one side, UDP sockets on the other, the engine between them.
//!
//! [`run`] makes an interface, serves it until it is told to end, and takes it down again. That is
//! the daemon; the rest of the crate is what it is made of, and may be used by itself:
//!
//! - [`tun`] and [`udp`]: devices and sockets with the kernel's segmentation offloads, and a fallback for each that the
//!   kernel refuses;
//! - [`offload`]: cutting and joining packets, as pure functions over slices;
//! - [`uapi`]: the interface that `wg(8)` speaks, server and client, over [`config`]'s plain types;
//! - [`conf`] and [`quick`]: `wg-quick(8)`'s files, and bringing an interface up and down by them;
//! - [`netlink`]: links, addresses, routes, rules and namespaces.
//!
//! Worker threads carry packets, and tell whoever sends one that no peer takes. One more thread checks what comes from
//! the network and is no transport message, and answers strangers. The thread that called [`run`] computes handshakes,
//! and takes care of timers, configuration and changes of the link.
//!
//! # What the caller owes
//!
//! `CAP_NET_ADMIN` (or an open TUN device), and no handler of its own for SIGTERM, SIGINT and SIGUSR2 while [`run`]
//! runs, nor, with [`Reload::stays`], for SIGCHLD. With a [`Confinement`] the calling thread, and those that it starts,
//! stay confined when [`run`] returns: use it only in a process of its own. Log lines go to `tracing`; none holds a
//! secret.
#![deny(unsafe_code, missing_docs)]

mod advice;
pub mod conf;
pub mod config;
mod configure;
mod confine;
mod control;
#[cfg(test)]
mod counted;
mod device;
mod flows;
pub mod handover;
mod icmp;
#[allow(unsafe_code, reason = "taking over a file descriptor by its number")]
mod inherited;
pub mod netlink;
mod notify;
pub mod offload;
mod options;
pub mod quick;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod scratch;
mod shared;
#[allow(unsafe_code, reason = "system calls made by hand, and the vectors of the processor")]
mod sys;
pub mod tun;
pub mod uapi;
pub mod udp;
mod worker;

pub use advice::what_to_raise;
pub use confine::Confinement;
pub use device::{Error, run};
pub use handover::Reload;
pub use inherited::{close_the_rest, take_fd};
pub use notify::{Activated, Notifier, activated_sockets};
pub use options::{Options, Ready, name_refusal};
