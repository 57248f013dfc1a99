//! The replay window, a counter at a time.

use std::hint::black_box;

use adit::ReplayWindow;
use adit_benches::brief;
use criterion::{Criterion, criterion_group, criterion_main};

fn accept(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    group.bench_function("accept in order", |bench| {
        let mut window = ReplayWindow::new();
        let mut counter = 0;
        bench.iter(|| {
            counter += 1;
            window.accept(black_box(counter))
        });
    });
    group.bench_function("accept out of order", |bench| {
        let mut window = ReplayWindow::new();
        let mut step = 0_u64;
        bench.iter(|| {
            step += 1;
            // Blocks of 64 counters, each from its last to its first.
            window.accept(black_box(step ^ 63))
        });
    });
    group.bench_function("accept after a loss of a thousand", |bench| {
        let mut window = ReplayWindow::new();
        let mut counter = 0;
        bench.iter(|| {
            counter += 1_000;
            window.accept(black_box(counter))
        });
    });
    group.bench_function("refuse a replay", |bench| {
        let mut window = ReplayWindow::new();
        for counter in 0..8_192 {
            let _ = window.accept(counter);
        }
        let mut counter = 0;
        bench.iter(|| {
            counter = (counter + 1) % 8_192;
            window.check(black_box(counter))
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = brief(); targets = accept }
criterion_main!(benches);
