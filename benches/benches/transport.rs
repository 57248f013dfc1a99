//! The whole engine in memory: packets a second that one core takes out of the tunnel's inside and
//! brings into it, one at a time and in bursts.
//!
//! The sealing of what is to be opened is not measured. In bursts a packet's IP header alone is
//! written anew each time, where a device would have read the whole packet.

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use adit::limits::TRANSPORT_HEADER_LEN;
use adit::{Datagrams, Ecn, Packets, transport_len};
use adit_benches::{MTU, Pair, brief, udp_packet};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Lengths of the packets inside.
const SIZES: [usize; 3] = [64, 512, 1_420];
const BURSTS: [usize; 2] = [1, 64];
/// Datagrams that are sealed, unmeasured, before as many are opened.
const ROUND: usize = 256;
const IP_HEADER_LEN: usize = 20;

/// A pair of interfaces, and a buffer of datagrams of equal length between them.
struct Tunnel {
    pair: Pair,
    header: [u8; IP_HEADER_LEN],
    /// Length of a packet, and of the datagram that carries it.
    packet_len: usize,
    datagram_len: usize,
    buffer: Vec<u8>,
    packets: Packets,
    datagrams: Datagrams,
}

impl Tunnel {
    fn new(packet_len: usize) -> Self {
        let packet = udp_packet(packet_len);
        let datagram_len = transport_len(packet_len, MTU);
        Self {
            pair: Pair::connected(),
            header: *packet.first_chunk().expect("an IPv4 header"),
            packet_len,
            datagram_len,
            buffer: vec![0x5a; ROUND * datagram_len],
            packets: Packets::new(MTU),
            datagrams: Datagrams::new(),
        }
    }

    fn datagram(&self, index: usize) -> Range<usize> {
        index * self.datagram_len..(index + 1) * self.datagram_len
    }

    /// Seals the first `count` packets of the buffer. Returns how many bytes are to be sent.
    fn seal(&mut self, count: usize) -> usize {
        let mut packets = std::mem::take(&mut self.packets);
        packets.set_mtu(MTU);
        let mut end = 0;
        for _ in 0..count {
            self.buffer[end + TRANSPORT_HEADER_LEN..][..IP_HEADER_LEN].copy_from_slice(&self.header);
            end = packets.push(end, self.packet_len).expect("in order");
        }
        let sealing = self.pair.initiator.begin_seal(self.pair.now, packets, &self.buffer);
        let sealed = sealing.seal(&mut self.buffer);
        let sent = sealed.transmits().map(|transmit| transmit.range.len()).sum();
        self.packets = sealed.into_empty();
        sent
    }

    /// Opens the datagrams `from..from + count` of the buffer. Returns how many packets were in them.
    fn open(&mut self, from: usize, count: usize) -> usize {
        let mut datagrams = std::mem::take(&mut self.datagrams);
        for index in from..from + count {
            datagrams.push(self.datagram(index), &self.pair.to_initiator, Ecn::NotEct);
        }
        let opening = self.pair.responder.begin_open(self.pair.now, datagrams, &self.buffer);
        let opened = opening.open(&mut self.buffer);
        let delivered = self.pair.responder.commit(self.pair.now, opened, &mut self.buffer);
        let arrived = delivered.packets().inspect(|(_, packet)| _ = black_box(packet)).count();
        self.datagrams = delivered.into_empty();
        arrived
    }

    /// As [`Tunnel::open`], for one datagram and with one call.
    fn open_one(&mut self, index: usize) -> bool {
        let range = self.datagram(index);
        let Pair { responder, now, to_initiator, .. } = &mut self.pair;
        responder.handle_datagram(*now, to_initiator, Ecn::NotEct, &mut self.buffer[range]).is_some()
    }

    /// The time that `work` takes for `count` bursts, given where each begins in the buffer; they
    /// are sealed before.
    fn opening(&mut self, count: u64, burst: usize, mut work: impl FnMut(&mut Self, usize)) -> Duration {
        let (mut left, mut time) = (count, Duration::ZERO);
        while left > 0 {
            let bursts = left.min((ROUND / burst) as u64) as usize;
            assert_eq!(self.seal(bursts * burst), bursts * burst * self.datagram_len);
            let begun = Instant::now();
            for at in 0..bursts {
                work(self, at * burst);
            }
            time += begun.elapsed();
            left -= bursts as u64;
        }
        time
    }
}

fn outwards(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transport/out");
    for size in SIZES {
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("handle_packet", size), |bench| {
            let (mut pair, packet, mut out) = (Pair::connected(), udp_packet(size), vec![0; 2_048]);
            bench.iter(|| {
                let sent = pair.initiator.handle_packet(pair.now, black_box(&packet), &mut out);
                assert!(sent.is_ok_and(|sent| sent.is_some()));
            });
        });
        for burst in BURSTS {
            group.throughput(Throughput::Elements(burst as u64));
            group.bench_function(BenchmarkId::new(format!("burst of {burst}"), size), |bench| {
                let mut tunnel = Tunnel::new(size);
                bench.iter(|| assert_eq!(tunnel.seal(burst), burst * tunnel.datagram_len));
            });
        }
    }
    group.finish();
}

fn inwards(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transport/in");
    for size in SIZES {
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("handle_datagram", size), |bench| {
            let mut tunnel = Tunnel::new(size);
            bench.iter_custom(|count| tunnel.opening(count, 1, |tunnel, at| assert!(tunnel.open_one(at))));
        });
        for burst in BURSTS {
            group.throughput(Throughput::Elements(burst as u64));
            group.bench_function(BenchmarkId::new(format!("burst of {burst}"), size), |bench| {
                let mut tunnel = Tunnel::new(size);
                bench.iter_custom(|count| {
                    tunnel.opening(count, burst, |tunnel, at| assert_eq!(tunnel.open(at, burst), burst))
                });
            });
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = brief(); targets = outwards, inwards }
criterion_main!(benches);
