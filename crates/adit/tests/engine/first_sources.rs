//! Over IPv6 the kernel's WireGuard asks no route for a source. One that never suited the routes stays there, too.

use std::net::{IpAddr, SocketAddr};

use adit::Path;

use crate::roaming::{elsewhere, next_source, reaches, to_be_judged};
use crate::sim::{A, B, Sim, secs};

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
    assert_eq!(to_be_judged(&mut sim), path.local.zip(Some(path.ifindex)));
    (sim, path)
}

/// What is said of B's source for A. Returns whether B is told that it is another judgement.
fn judge(sim: &mut Sim, path: &Path, is_good: bool) -> bool {
    let a = sim.id(B, A);
    sim[B].interface.judge_source(a, path, is_good).unwrap()
}

fn is_used(sim: &mut Sim, path: &Path) -> bool {
    next_source(sim) == (path.local, path.ifindex)
}

#[test]
fn a_source_over_ipv6_that_was_never_good_stays() {
    let (mut sim, path) = over_ipv6(1);
    for _ in 0..2 {
        assert!(!judge(&mut sim, &path, false));
        assert!(is_used(&mut sim, &path));
    }
    let another = Path { local: Some("2001:db8::9".parse().unwrap()), ..path };
    reaches(&mut sim, another);
    assert!(!judge(&mut sim, &another, false));
    assert!(is_used(&mut sim, &another), "nor was the one before");
}

#[test]
fn a_source_over_ipv6_that_was_good_is_rejected_when_it_is_no_longer_and_so_is_the_next_one() {
    let (mut sim, path) = over_ipv6(2);
    judge(&mut sim, &path, true);
    assert!(judge(&mut sim, &path, false));
    assert!(!is_used(&mut sim, &path));
    let another = Path { ifindex: 8, ..path };
    reaches(&mut sim, another);
    assert!(judge(&mut sim, &another, false));
    assert!(!is_used(&mut sim, &another));
    assert!(judge(&mut sim, &another, true));
    assert!(is_used(&mut sim, &another));
}

#[test]
fn that_a_source_over_ipv6_was_good_is_known_when_it_was_forgotten_or_the_endpoint_set_anew() {
    let changes: [fn(&mut Sim); 2] = [
        |sim| sim[B].interface.forget_sources(),
        |sim| {
            let a = sim.id(B, A);
            sim[B].interface.set_endpoint(a, Some(elsewhere())).unwrap();
        },
    ];
    for change in changes {
        let (mut sim, path) = over_ipv6(3);
        judge(&mut sim, &path, true);
        change(&mut sim);
        reaches(&mut sim, path);
        assert!(judge(&mut sim, &path, false));
    }
}

#[test]
fn that_a_source_over_ipv4_was_good_says_nothing_of_one_over_ipv6() {
    let mut sim = Sim::pair(5);
    sim.connect(A, B);
    let (_, over_ipv4) = sim[B].interface.paths().next().unwrap();
    let over_ipv4 = Path { local: Some("203.0.113.5".parse().unwrap()), ifindex: 2, ..over_ipv4 };
    reaches(&mut sim, over_ipv4);
    judge(&mut sim, &over_ipv4, true);
    sim[A].address = SocketAddr::new(address_of(A), 51820);
    let path = Path { remote: sim[A].address, local: Some(address_of(B)), ifindex: 2 };
    reaches(&mut sim, path);
    assert!(!judge(&mut sim, &path, false));
    assert!(is_used(&mut sim, &path));
}

#[test]
fn over_ipv4_a_source_is_rejected_though_none_was_good() {
    for mapped in [false, true] {
        let mut sim = Sim::pair(4);
        sim.connect(A, B);
        let (_, path) = sim[B].interface.paths().next().unwrap();
        let IpAddr::V4(remote) = path.remote.ip() else { panic!("IPv4 was expected") };
        let remote = if mapped { IpAddr::V6(remote.to_ipv6_mapped()) } else { remote.into() };
        sim[A].address = SocketAddr::new(remote, 4_242);
        let path = Path { remote: sim[A].address, ..path };
        reaches(&mut sim, path);
        let (_, path) = sim[B].interface.paths().next().unwrap();
        assert!(judge(&mut sim, &path, false), "mapped: {mapped}");
    }
}
