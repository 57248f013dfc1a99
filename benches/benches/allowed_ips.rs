//! Longest-prefix match at the sizes of a laptop, a server and a whole fleet.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use adit::AllowedIps;
use adit_benches::brief;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, measurement::WallTime};
use criterion::{criterion_group, criterion_main};
use ipnet::IpNet;

const SIZES: [u32; 3] = [10, 1_000, 100_000];

/// Xorshift: the same sequence in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// One /32 a peer, as most interfaces have it.
fn hosts_v4(count: u32) -> Vec<IpNet> {
    let address = |number| Ipv4Addr::from_bits(0x0a00_0000 + number);
    (0..count).map(|number| IpAddr::V4(address(number)).into()).collect()
}

/// One /128 a peer.
fn hosts_v6(count: u32) -> Vec<IpNet> {
    let address = |number| Ipv6Addr::from_bits((0xfd00_u128 << 112) + u128::from(number));
    (0..count).map(|number| IpAddr::V6(address(number)).into()).collect()
}

/// Networks of seventeen lengths, most of them /24: like the Internet's routes.
fn routes_v4(count: u32) -> Vec<IpNet> {
    let mut random = Random(0x1234_5678);
    (0..count)
        .map(|_| {
            let length = if random.below(10) < 6 { 24 } else { 8 + random.below(17) as u8 };
            IpNet::new_assert(Ipv4Addr::from_bits(random.next() as u32).into(), length)
        })
        .collect()
}

fn table_of(prefixes: &[IpNet]) -> AllowedIps<u32> {
    let mut table = AllowedIps::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
    for (owner, &prefix) in (0..).zip(prefixes) {
        table.insert(prefix, owner);
    }
    table
}

/// Looks up addresses that have an owner, in random order.
fn hits(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, prefixes: fn(u32) -> Vec<IpNet>) {
    for size in SIZES {
        let prefixes = prefixes(size);
        let table = table_of(&prefixes);
        let mut addresses: Vec<IpAddr> = prefixes.iter().map(IpNet::addr).collect();
        Random(0x8765_4321).shuffle(&mut addresses);
        group.bench_function(BenchmarkId::new(name, size), |bench| {
            let mut order = addresses.iter().cycle();
            bench.iter(|| table.lookup(*black_box(order.next()?)));
        });
    }
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allowed_ips/lookup");
    hits(&mut group, "one /32 a peer", hosts_v4);
    hits(&mut group, "one /128 a peer", hosts_v6);
    hits(&mut group, "routes of 17 lengths", routes_v4);
    let table = table_of(&hosts_v4(100_000));
    group.bench_function("miss among 100000", |bench| {
        let mut number = 0_u32;
        bench.iter(|| {
            number = number.wrapping_add(0x9e37_79b9);
            // 128.0.0.0/1, where there is no peer.
            table.lookup(black_box(Ipv4Addr::from_bits(number | 1 << 31).into()))
        });
    });
    group.finish();
}

fn change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allowed_ips/change");
    group.measurement_time(Duration::from_secs(2)).sample_size(10);
    let prefixes = hosts_v4(100_000);
    group.bench_function("insert 100000", |bench| bench.iter_with_large_drop(|| table_of(&prefixes)));
    group.bench_function("remove_all of 100000 owners", |bench| {
        bench.iter_batched_ref(
            || table_of(&prefixes),
            |table| (0..100_000).for_each(|owner| table.remove_all(owner)),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group! { name = benches; config = brief(); targets = lookup, change }
criterion_main!(benches);
