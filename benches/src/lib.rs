//! Helpers shared by the benchmarks.
#![deny(missing_docs)]

mod aead;
mod packet;
mod pair;

use std::time::Duration;

use criterion::Criterion;

pub use aead::{Batch, Contestant};
pub use packet::{Flow, Unfinished, udp_packet};
pub use pair::{MTU, Pair};

/// Short measurements: a whole benchmark takes seconds, and the figures wander by a few hundredths.
pub fn brief() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
}
