//! What Adit takes from outside, against a coverage-guided fuzzer: one module a target, each with a function `run` that
//! takes any bytes and panics when a promise is broken.
//!
//! What is expected is told by plain code of its own, written after the papers and RFCs, not after the code under test.

pub mod cipher;
pub mod conf;
pub mod cookies;
pub mod engine;
pub mod join;
pub mod messages;
mod packet;
pub mod rate_limiter;
mod reference;
mod segments;
pub mod split;
pub mod uapi;
