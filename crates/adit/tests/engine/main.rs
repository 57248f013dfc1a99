//! The whole engine on a virtual clock and a virtual network: each rule of the protocol, and each
//! defect seen elsewhere, is a test. Constants are restated from the paper, not imported.

mod sim;

mod answers;
mod asked;
mod batch;
mod clock;
mod config;
mod cookies;
mod crossed;
mod filter;
mod first_sources;
mod handshake;
mod hostile;
mod keepalives;
mod link;
mod private_key;
mod reload;
mod roaming;
mod sessions;
mod shown;
mod signs;
mod staged;
mod storm;
mod strangers;
mod timers;
mod transcript;
mod turns;
mod vectors;
mod wire;
