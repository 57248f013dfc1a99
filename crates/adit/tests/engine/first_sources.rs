//! The first source that a peer reaches over IPv6 stays, as with the kernel's WireGuard: others are to be judged.

use std::net::{IpAddr, SocketAddr};

use adit::Path;

use crate::roaming::{elsewhere, next_source, reaches, to_be_judged};
use crate::sim::{A, B, Kind, Sim, secs};

/// Has both be at addresses of IPv6, from the first datagram on.
pub(crate) fn move_to_ipv6(sim: &mut Sim) {
    for (node, other) in [(A, B), (B, A)] {
        sim[node].address = SocketAddr::new(address_of(node), 51820);
        let id = sim.id(other, node);
        let address = sim[node].address;
        sim[other].interface.set_endpoint(id, Some(address)).unwrap();
    }
}

fn address_of(node: usize) -> IpAddr {
    format!("2001:db8::{}", node + 1).parse().unwrap()
}

/// A session over IPv6, and the way by which A has reached B.
fn over_ipv6(seed: u64) -> (Sim, Path) {
    let mut sim = Sim::pair(seed);
    move_to_ipv6(&mut sim);
    sim.connect(A, B);
    // Nobody owes an answer any more.
    sim.run_for(secs(11));
    let path = Path { remote: sim[A].address, local: Some(address_of(B)), ifindex: 2 };
    assert_eq!(sim[B].interface.paths().collect::<Vec<_>>(), [(sim.id(B, A), path)]);
    (sim, path)
}

fn another() -> IpAddr {
    "2001:db8::9".parse().unwrap()
}

#[test]
fn the_first_source_over_ipv6_is_not_to_be_judged_and_another_address_or_interface_is() {
    let (mut sim, first) = over_ipv6(1);
    assert!(!sim[B].interface.has_sources());
    assert_eq!(to_be_judged(&mut sim), None);
    assert_eq!(next_source(&mut sim), (first.local, first.ifindex));
    for path in [Path { local: Some(another()), ..first }, Path { ifindex: 8, ..first }, first] {
        reaches(&mut sim, path);
        assert!(sim[B].interface.has_sources());
        assert_eq!(to_be_judged(&mut sim), path.local.zip(Some(path.ifindex)));
        reaches(&mut sim, path);
        assert_eq!(to_be_judged(&mut sim), None, "it is known");
    }
}

#[test]
fn a_peer_that_moves_over_ipv6_has_its_source_judged_if_it_was_rejected() {
    for is_good in [true, false] {
        let (mut sim, first) = over_ipv6(2);
        let a = sim.id(B, A);
        assert_eq!(sim[B].interface.judge_source(a, &first, is_good), Ok(!is_good));
        sim[A].address = "[2001:db8:1::1]:51820".parse().unwrap();
        let path = Path { remote: sim[A].address, ..first };
        reaches(&mut sim, path);
        assert_eq!(to_be_judged(&mut sim).is_some(), !is_good);
    }
}

#[test]
fn a_source_over_ipv6_that_found_no_answer_for_a_while_is_the_first_one_still() {
    let (mut sim, first) = over_ipv6(3);
    sim.network.cut(B, A);
    next_source(&mut sim);
    sim.run_for(secs(16));
    assert_eq!(sim.last_sent(B, Kind::Initiation).path.local, None);
    sim.network.heal();
    reaches(&mut sim, first);
    assert_eq!(to_be_judged(&mut sim), None);
    assert_eq!(next_source(&mut sim), (first.local, first.ifindex));
    // Another one is not.
    sim.run_for(secs(11));
    sim.network.cut(B, A);
    next_source(&mut sim);
    sim.run_for(secs(16));
    assert_eq!(sim.last_sent(B, Kind::Initiation).path.local, None);
    sim.network.heal();
    reaches(&mut sim, Path { local: Some(another()), ..first });
    assert_eq!(to_be_judged(&mut sim), Some((another(), first.ifindex)));
}

#[test]
fn a_source_over_ipv6_that_the_caller_has_had_forgotten_is_to_be_judged_when_it_is_reached_again() {
    let forget: [fn(&mut Sim); 4] = [
        |sim| sim[B].interface.forget_sources(),
        |sim| sim[B].interface.forget_source_address(address_of(B)),
        |sim| {
            let a = sim.id(B, A);
            sim[B].interface.forget_source(a).unwrap();
        },
        // It is rejected, and the peer's packets may still come by it.
        |sim| {
            let (a, path) = sim[B].interface.paths().next().unwrap();
            sim[B].interface.judge_source(a, &path, false).unwrap();
            sim[B].interface.set_endpoint(a, Some(elsewhere())).unwrap();
        },
    ];
    for forget in forget {
        let (mut sim, first) = over_ipv6(4);
        forget(&mut sim);
        reaches(&mut sim, first);
        assert_eq!(to_be_judged(&mut sim), Some((address_of(B), first.ifindex)));
    }
}

#[test]
fn who_has_reached_nothing_yet_has_nothing_forgotten() {
    let mut sim = Sim::pair(5);
    move_to_ipv6(&mut sim);
    sim[B].interface.forget_sources();
    sim.connect(A, B);
    assert_eq!(to_be_judged(&mut sim), None);
}

#[test]
fn a_good_source_over_ipv6_stays_though_the_endpoint_is_set_anew() {
    let (mut sim, first) = over_ipv6(6);
    let a = sim.id(B, A);
    sim[B].interface.set_endpoint(a, Some(elsewhere())).unwrap();
    reaches(&mut sim, first);
    assert_eq!(to_be_judged(&mut sim), None);
}
