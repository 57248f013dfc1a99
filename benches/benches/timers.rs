//! What timers cost with many other peers, which are configured and silent, or each have a deadline of their own.
//!
//! The time must not depend on how many the silent ones are, and hardly on how many deadlines there are. (That an idle
//! peer has no deadline at all is tested: `an_interface_that_has_done_nothing_has_no_deadline`,
//! `a_tunnel_without_traffic_is_silent`.)

use std::time::Duration;

use adit::{Ecn, Instant, PublicKey};
use adit_benches::{Pair, brief, udp_packet};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const OTHERS: [u16; 3] = [0, 100, 10_000];

type Make = fn(u16) -> Pair;

/// A connected pair whose initiator has some more peers.
fn pair_with(idle_peers: u16) -> Pair {
    let mut pair = Pair::connected();
    for number in 0..idle_peers {
        let mut key = [0x5a; 32];
        key[..2].copy_from_slice(&number.to_le_bytes());
        let peer = pair.initiator.add_peer(PublicKey::from_bytes(key)).expect("another key");
        let [high, low] = number.to_be_bytes();
        pair.initiator.add_allowed_ip(peer, std::net::IpAddr::from([10, 1, high, low]).into()).expect("a peer");
        pair.initiator.set_endpoint(peer, Some(([198, 51, 100, 1], number).into())).expect("a peer");
    }
    pair
}

/// The same with a persistent keepalive for each of these, none of which answers: so each waits for its next try.
fn pair_with_deadlines(others: u16) -> Pair {
    let mut pair = pair_with(others);
    let others: Vec<_> = pair.initiator.peers(pair.now).filter(|peer| peer.rx_bytes == 0).map(|peer| peer.id).collect();
    let mut buffer = [0; 2_048];
    for peer in others {
        pair.initiator.set_persistent_keepalive(pair.now, peer, 25).expect("a peer");
        pair.initiator.handle_timeout(pair.now);
        while pair.initiator.poll_transmit(pair.now, &mut buffer).expect("room").is_some() {}
    }
    pair
}

/// Sends a packet and receives one, which moves deadlines; then asks for the next, and does what is due.
fn tick(pair: &mut Pair, packet: &[u8], answer: &[u8], buffer: &mut [u8]) -> Option<Instant> {
    let Pair { initiator, responder, now, to_initiator, to_responder } = pair;
    let sent = initiator.handle_packet(*now, packet, buffer).expect("a route").expect("a session");
    responder.handle_datagram(*now, to_initiator, Ecn::NotEct, &mut buffer[sent.range]).expect("authentic");
    let sent = responder.handle_packet(*now, answer, buffer).expect("a route").expect("a session");
    initiator.handle_datagram(*now, to_responder, Ecn::NotEct, &mut buffer[sent.range]).expect("authentic");
    initiator.handle_timeout(*now);
    initiator.poll_timeout()
}

fn timers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers/a packet each way and the next deadline");
    group.throughput(Throughput::Elements(1));
    for peers in OTHERS {
        for (kind, make) in [("idle peers", pair_with as Make), ("peers with a deadline", pair_with_deadlines)] {
            group.bench_function(BenchmarkId::new(kind, peers), |bench| {
                let (mut pair, packet, mut buffer) = (make(peers), udp_packet(64), [0; 2_048]);
                let (mut answer, (source, destination)) = (packet.clone(), (&packet[12..16], &packet[16..20]));
                answer[12..20].copy_from_slice(&[destination, source].concat());
                bench.iter(|| {
                    pair.now += Duration::from_nanos(100);
                    tick(&mut pair, &packet, &answer, &mut buffer)
                });
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("timers/nothing is due");
    group.throughput(Throughput::Elements(1));
    for peers in OTHERS {
        group.bench_function(BenchmarkId::new("idle peers", peers), |bench| {
            let mut pair = pair_with(peers);
            let now = pair.now;
            bench.iter(|| {
                pair.initiator.handle_timeout(now);
                pair.initiator.poll_timeout()
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = brief(); targets = timers }
criterion_main!(benches);
