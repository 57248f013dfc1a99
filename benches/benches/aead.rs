//! The cipher: each backend and the libraries that take one packet at a time,
//! by length of the text and number of packets.

use std::time::Duration;

use adit_benches::{Batch, Contestant};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn seal(criterion: &mut Criterion) {
    measure(criterion, "seal", |_, _| {}, Contestant::seal);
}

/// Opened in place, so what was sealed has to be put back before each turn.
fn open(criterion: &mut Criterion) {
    measure(criterion, "open", |contestant, batch| contestant.seal(batch), Contestant::open);
}

fn measure(
    criterion: &mut Criterion,
    what: &str,
    prepare: fn(&Contestant, &mut Batch<'_>),
    work: fn(&Contestant, &mut Batch<'_>),
) {
    for length in [64, 256, 1440] {
        for count in [1, 8, 64] {
            let name = format!("{what} {length} bytes, {count} at a time");
            let mut group = criterion.benchmark_group(name);
            group.throughput(Throughput::Bytes((length * count) as u64));
            for contestant in Contestant::all() {
                group.bench_function(contestant.name(), |bench| {
                    bench.iter_custom(|turns| contestant.time(length, count, turns, prepare, work));
                });
            }
            group.finish();
        }
    }
}

/// Shorter than elsewhere, as there are a hundred of them.
fn brief() -> Criterion {
    Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .without_plots()
}

criterion_group! { name = benches; config = brief(); targets = seal, open }
criterion_main!(benches);
