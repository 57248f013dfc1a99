//! stub
#![deny(unsafe_code, missing_docs)]

pub mod conf;
pub mod config;
mod configure;
mod control;
mod device;
#[allow(unsafe_code, reason = "taking over a file descriptor by its number")]
mod inherited;
pub mod netlink;
pub mod offload;
mod options;
pub mod quick;
mod shared;
#[allow(unsafe_code, reason = "the only place where system calls are made by hand")]
mod sys;
pub mod tun;
pub mod udp;
pub mod uapi;
mod worker;

pub use device::{Error, run};
pub use inherited::take_fd;
pub use options::{Options, Ready, name_refusal};
