//! Splitting 64 KiB as read from a TUN device, and joining the same segments again.

use std::hint::black_box;

use adit::limits::TRANSPORT_OVERHEAD;
use adit_benches::{Flow, MTU, Unfinished, brief};
use adit_device::offload::{Joiner, Offloads, Split};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("offload");
    for flow in Flow::ALL {
        let Unfinished { vnet, mut packet } = Unfinished::new(flow, MTU);
        group.throughput(Throughput::Bytes(packet.len() as u64));
        group.bench_function(BenchmarkId::new("split", flow.name()), |bench| {
            // Each segment has the place in which it will be sealed.
            let mut out = vec![0; 64 * (usize::from(MTU) + TRANSPORT_OVERHEAD)];
            bench.iter(|| {
                let split = Split::new(&vnet, black_box(&mut packet)).expect("a sound packet");
                for (index, place) in (0..split.count()).zip(out.chunks_mut(usize::from(MTU) + TRANSPORT_OVERHEAD)) {
                    assert!(split.write(index, place).is_some());
                }
            });
        });
    }
    group.finish();
}

fn join(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("offload");
    for flow in Flow::ALL {
        let unfinished = Unfinished::new(flow, MTU);
        let segments = unfinished.segments();
        // As they lie where they were decrypted.
        let mut arena = Vec::new();
        let mut places = Vec::new();
        for segment in &segments {
            places.push(arena.len()..arena.len() + segment.len());
            arena.extend(segment);
            arena.resize(arena.len() + TRANSPORT_OVERHEAD, 0);
        }
        let headers = segments[0][..flow.headers_len()].to_vec();
        group.throughput(Throughput::Bytes(unfinished.packet.len() as u64));
        group.bench_function(BenchmarkId::new("join", flow.name()), |bench| {
            let mut joiner = Joiner::new();
            bench.iter(|| {
                // The first packet's headers became those of the whole the last time.
                arena[..headers.len()].copy_from_slice(&headers);
                let runs = joiner.join(black_box(&mut arena), places.iter().cloned(), Offloads::ALL);
                assert_eq!(runs.len(), 1);
                for run in runs {
                    run.with_slices(true, |slices| assert_eq!(black_box(slices).len(), 1 + segments.len()));
                }
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = brief(); targets = split, join }
criterion_main!(benches);
