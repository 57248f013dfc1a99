//! Handshakes a second that one core makes, as initiator and as responder, each with all it does:
//! the Diffie-Hellman operations, the engine's bookkeeping, and the packet that waited.

use std::time::{Duration, Instant};

use adit::Ecn;
use adit::limits::{INITIATION_LEN, REJECT_AFTER_TIME};
use adit_benches::{Pair, brief, udp_packet};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// The time that each end took for its part of one handshake.
struct Parts {
    initiator: Duration,
    responder: Duration,
}

impl Parts {
    fn initiator(self) -> Duration {
        self.initiator
    }

    fn responder(self) -> Duration {
        self.responder
    }
}

/// One handshake: initiation, response, and the packet for which it was made.
fn handshake(pair: &mut Pair) -> Parts {
    // The session before is dead by now, so that a packet needs another one.
    pair.now += REJECT_AFTER_TIME + Duration::from_secs(1);
    let (now, packet, mut buffer) = (pair.now, udp_packet(64), [0; 256]);

    let begun = Instant::now();
    let sent = pair.initiator.handle_packet(now, &packet, &mut buffer);
    let initiation = pair.initiator.poll_transmit(now, &mut buffer);
    let mut initiator = begun.elapsed();
    assert_eq!(sent, Ok(None));
    let initiation = initiation.expect("room").expect("an initiation");

    let begun = Instant::now();
    let _ = pair.responder.handle_datagram(now, &pair.to_initiator, Ecn::NotEct, &mut buffer[initiation.range]);
    let response = pair.responder.poll_transmit(now, &mut buffer);
    let mut responder = begun.elapsed();
    let response = response.expect("room").expect("a response");

    let begun = Instant::now();
    let _ = pair.initiator.handle_datagram(now, &pair.to_responder, Ecn::NotEct, &mut buffer[response.range]);
    let data = pair.initiator.poll_transmit(now, &mut buffer);
    initiator += begun.elapsed();
    let data = data.expect("room").expect("the packet that waited");

    let begun = Instant::now();
    let arrived = pair.responder.handle_datagram(now, &pair.to_initiator, Ecn::NotEct, &mut buffer[data.range]);
    responder += begun.elapsed();
    assert!(arrived.is_some_and(|(_, arrived)| arrived == packet));
    Parts { initiator, responder }
}

fn ends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    for (name, part) in [("initiator", Parts::initiator as fn(Parts) -> Duration), ("responder", Parts::responder)] {
        group.bench_function(name, |bench| {
            let mut pair = Pair::connected();
            bench.iter_custom(|count| (0..count).map(|_| part(handshake(&mut pair))).sum());
        });
        // The two have never met: the static-static secret is computed as well.
        group.bench_function(format!("{name}, first contact"), |bench| {
            bench.iter_custom(|count| (0..count).map(|_| part(handshake(&mut Pair::new()))).sum());
        });
    }
    group.finish();
}

/// What anybody may make us do: a message with a wrong mac1.
fn forged(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    group.bench_function("wrong mac1 turned away", |bench| {
        let mut pair = Pair::new();
        let mut message = [0; INITIATION_LEN];
        message[0] = 1;
        bench.iter(|| {
            let arrived = pair.responder.handle_datagram(pair.now, &pair.to_initiator, Ecn::NotEct, &mut message);
            arrived.is_some()
        });
        assert!(pair.responder.drops().get(adit::DropReason::BadMac1) > 0);
    });
    group.finish();
}

criterion_group! { name = benches; config = brief(); targets = ends, forged }
criterion_main!(benches);
