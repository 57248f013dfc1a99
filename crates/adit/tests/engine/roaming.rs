//! Where answers go, and from which address they leave.

use std::net::{IpAddr, SocketAddr};

use adit::{DropReason, Ecn, Event, Path};

use crate::sim::{A, B, DELAY, Kind, RTT, Sim, millis, secs};

pub(crate) fn elsewhere() -> SocketAddr {
    "198.51.100.7:4242".parse().unwrap()
}

#[test]
fn answers_follow_a_peer_whose_address_changed_in_the_middle_of_a_session() {
    let mut sim = Sim::pair(1);
    sim.connect(A, B);
    let _ = sim[B].events();
    sim[A].address = elsewhere();
    let lost = sim.send(B, A);
    sim.run_for(RTT);
    assert!(!sim[A].has_arrived(&lost), "B does not know yet");
    let there = sim.send(A, B);
    sim.run_for(RTT);
    let back = sim.send(B, A);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&there) && sim[A].has_arrived(&back));
    assert_eq!(sim[B].events(), [Event::EndpointMoved { peer: sim.id(B, A), endpoint: elsewhere() }]);
    assert_eq!(sim.count(A, Kind::Initiation), 1, "the session goes on");
    assert_eq!(sim.peer(B, A).endpoint, Some(elsewhere()));
}

#[test]
fn an_address_of_ipv4_that_is_written_as_ipv6_is_no_other_place() {
    let mut sim = Sim::pair(1);
    sim.connect(A, B);
    let a = sim.id(B, A);
    let _ = sim[B].events();
    let SocketAddr::V4(address) = sim[A].address else { panic!("an address of IPv4") };
    let mapped = SocketAddr::from((address.ip().to_ipv6_mapped(), address.port()));
    let there = |sim: &mut Sim| {
        sim.network.lose_kind(Kind::Data);
        sim.send(A, B);
        sim.network.heal();
        let bytes = sim.last_sent(A, Kind::Data).bytes;
        assert!(sim.inject(B, mapped, &bytes).is_some());
    };
    there(&mut sim);
    assert_eq!((sim[B].events(), sim.peer(B, A).endpoint), (vec![], Some(mapped)), "answers go as it came");
    // Nor for an endpoint that is to stay.
    sim[B].interface.set_endpoint(a, Some(address.into())).unwrap();
    sim[B].interface.set_roaming(a, false).unwrap();
    there(&mut sim);
    assert_eq!(sim.peer(B, A).endpoint, Some(mapped));
}

#[test]
fn the_endpoint_moves_on_an_empty_packet_too() {
    let mut sim = Sim::pair(2);
    sim.connect(A, B);
    sim[A].address = elsewhere();
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 25).unwrap();
    sim.run_for(RTT);
    assert_eq!(sim.last_sent(A, Kind::Keepalive).source, elsewhere());
    assert_eq!(sim.peer(B, A).endpoint, Some(elsewhere()));
}

#[test]
fn the_endpoint_moves_on_an_initiation() {
    let mut sim = Sim::pair(3);
    sim[A].address = elsewhere();
    sim.send(A, B);
    sim.run_for(DELAY);
    assert_eq!(sim.peer(B, A).endpoint, Some(elsewhere()));
    assert_eq!(sim.last_sent(B, Kind::Response).path.remote, elsewhere());
}

#[test]
fn the_endpoint_moves_on_a_response() {
    let mut sim = Sim::pair(4);
    sim.send(A, B);
    sim.run_for(DELAY / 2);
    sim.network.lose_kind(Kind::Response);
    sim.run_for(DELAY);
    let response = sim.last_sent(B, Kind::Response);
    sim.inject(A, elsewhere(), &response.bytes);
    assert_eq!(sim.peer(A, B).endpoint, Some(elsewhere()));
}

#[test]
fn the_endpoint_does_not_move_on_a_cookie_reply() {
    let mut bounds = adit::Bounds::default();
    bounds.handshakes_per_second = 0;
    let mut sim = Sim::group_with(5, 2, crate::sim::Calls::Single, bounds);
    sim.network.cut(B, A);
    sim.send(A, B);
    sim.run_for(RTT);
    let reply = sim.last_sent(B, Kind::CookieReply);
    let (before, home) = (sim[A].events(), sim[B].address);
    sim.inject(A, elsewhere(), &reply.bytes);
    assert_eq!(sim.drops(A, DropReason::BadCookieReply), 0, "the cookie was taken");
    assert_eq!((before, sim[A].events()), (vec![], vec![]));
    assert_eq!(sim.peer(A, B).endpoint, Some(home));
}

#[test]
fn the_endpoint_does_not_move_on_what_is_forged_or_replayed() {
    let mut sim = Sim::pair(6);
    sim.connect(A, B);
    sim.run_for(secs(1));
    let home = sim[A].address;
    let data = sim.last_sent(A, Kind::Data);
    let initiation = sim.last_sent(A, Kind::Initiation);
    let mut forged = data.clone();
    forged.bytes[8] += 100;
    for message in [&data, &forged, &initiation] {
        sim.inject(B, elsewhere(), &message.bytes);
        assert_eq!(sim.peer(B, A).endpoint, Some(home));
    }
    assert_eq!(sim.drops(B, DropReason::Replay), 1);
    assert_eq!(sim.drops(B, DropReason::BadTag), 1);
    assert_eq!(sim.drops(B, DropReason::ReplayedInitiation), 1);
}

#[test]
fn the_endpoint_does_not_move_on_a_response_with_another_preshared_key() {
    let mut sim = Sim::pair(7);
    let b = sim.id(A, B);
    sim[A].interface.set_preshared_key(b, Some(adit::PresharedKey::from_bytes([3; 32]))).unwrap();
    sim.network.lose_kind(Kind::Response);
    sim.send(A, B);
    sim.run_for(RTT);
    let (response, home) = (sim.last_sent(B, Kind::Response), sim[B].address);
    sim.inject(A, elsewhere(), &response.bytes);
    assert_eq!(sim.drops(A, DropReason::BadHandshake), 1);
    assert_eq!(sim.peer(A, B).endpoint, Some(home));
}

#[test]
fn a_peer_without_an_endpoint_is_answered_where_it_called_from() {
    let mut sim = Sim::pair(8);
    let a = sim.id(B, A);
    sim[B].interface.set_endpoint(a, None).unwrap();
    sim.send(B, A);
    assert_eq!(sim.drops(B, DropReason::NoEndpoint), 1);
    assert!(sim.wire.is_empty());
    sim.connect(A, B);
    assert_eq!(sim.peer(B, A).endpoint, Some(sim[A].address));
}

#[test]
fn an_ipv6_endpoint_after_ipv4_traffic_gets_answers_at_that_very_address() {
    let mut sim = Sim::pair(9);
    sim.connect(A, B);
    for address in ["[2001:db8:1:2:3:4:5:6]:51821", "192.0.2.77:7", "[fe80::1%3]:9"] {
        sim[A].address = match address.parse() {
            Ok(address) => address,
            Err(_) => SocketAddr::V6(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0, 3)),
        };
        sim.send(A, B);
        sim.run_for(RTT);
        let back = sim.send(B, A);
        assert_eq!(sim.last_sent(B, Kind::Data).path.remote, sim[A].address);
        sim.run_for(RTT);
        assert!(sim[A].has_arrived(&back));
    }
}

/// A session in which A has reached B at one of B's several addresses.
pub(crate) fn reached_at(local: IpAddr) -> Sim {
    let mut sim = Sim::pair(10);
    sim.connect(A, B);
    sim.run_for(secs(1));
    let home = sim[A].address;
    reaches(&mut sim, Path { remote: home, local: Some(local), ifindex: 7 });
    sim
}

/// A packet of A's reaches B by this way.
pub(crate) fn reaches(sim: &mut Sim, path: Path) {
    sim.network.cut(A, B);
    sim.send(A, B);
    let data = sim.last_sent(A, Kind::Data);
    assert!(sim.inject_by(B, &path, Ecn::NotEct, &data.bytes).is_some());
    sim.network.heal();
}

/// B's next source to be judged.
pub(crate) fn to_be_judged(sim: &mut Sim) -> Option<(IpAddr, u32)> {
    let (peer, path) = sim[B].interface.poll_source()?;
    assert_eq!(peer, sim.id(B, A));
    Some((path.local?, path.ifindex))
}

/// A session in which A has reached B where answers must not leave from, by the way that is returned.
fn rejected() -> (Sim, Path) {
    let mut sim = reached_at(local());
    let (a, path) = sim[B].interface.poll_source().unwrap();
    assert_eq!(sim[B].interface.judge_source(a, &path, false), Ok(true));
    (sim, path)
}

/// From which source the next packet from B to A is to leave.
pub(crate) fn next_source(sim: &mut Sim) -> (Option<IpAddr>, u32) {
    sim.send(B, A);
    let path = sim.last_sent(B, Kind::Data).path;
    assert_eq!(path.remote, sim[A].address);
    (path.local, path.ifindex)
}

pub(crate) fn local() -> IpAddr {
    "203.0.113.5".parse().unwrap()
}

#[test]
fn answers_leave_from_the_address_and_interface_that_the_peer_last_reached() {
    let mut sim = reached_at(local());
    assert_eq!(next_source(&mut sim), (Some(local()), 7));
    // An empty packet as well.
    let mut sim = reached_at(local());
    sim.run_for(secs(11));
    let keepalive = sim.last_sent(B, Kind::Keepalive).path;
    assert_eq!((keepalive.local, keepalive.ifindex), (Some(local()), 7));
}

#[test]
fn the_response_leaves_from_the_address_that_the_initiation_reached() {
    let mut sim = Sim::pair(11);
    sim.network.cut(A, B);
    sim.send(A, B);
    let initiation = sim.last_sent(A, Kind::Initiation);
    let path = Path { remote: initiation.source, local: Some(local()), ifindex: 9 };
    sim.inject_by(B, &path, Ecn::NotEct, &initiation.bytes);
    assert_eq!(sim.last_sent(B, Kind::Response).path, path);
}

#[test]
fn a_source_that_vanished_is_forgotten_for_those_who_used_it() {
    let mut sim = reached_at(local());
    sim[B].interface.forget_source_address("203.0.113.6".parse().unwrap());
    assert_eq!(next_source(&mut sim), (Some(local()), 7));
    sim[B].interface.forget_source_address(local());
    assert_eq!(next_source(&mut sim), (None, 0));
}

#[test]
fn sources_are_forgotten_when_the_socket_is_bound_anew() {
    let mut sim = reached_at(local());
    sim[B].interface.forget_sources();
    assert_eq!(next_source(&mut sim), (None, 0));
    let mut sim = reached_at(local());
    let a = sim.id(B, A);
    sim[B].interface.forget_source(a).unwrap();
    assert_eq!(next_source(&mut sim), (None, 0));
}

#[test]
fn setting_the_endpoint_that_is_there_keeps_the_source_and_another_one_forgets_it() {
    let mut sim = reached_at(local());
    let (a, home) = (sim.id(B, A), sim[A].address);
    sim[B].interface.set_endpoint(a, Some(home)).unwrap();
    assert_eq!(next_source(&mut sim), (Some(local()), 7));
    sim[A].address = elsewhere();
    sim[B].interface.set_endpoint(a, Some(elsewhere())).unwrap();
    assert_eq!(next_source(&mut sim), (None, 0));
}

#[test]
fn the_source_is_forgotten_when_data_finds_no_echo() {
    let mut sim = reached_at(local());
    sim.network.cut(B, A);
    assert_eq!(next_source(&mut sim), (Some(local()), 7));
    sim.run_for(secs(15));
    assert_eq!(sim.last_sent(B, Kind::Initiation).path.local, None);
}

#[test]
fn the_source_is_forgotten_when_an_initiation_finds_no_answer() {
    let mut sim = reached_at(local());
    sim.network.cut_both(A, B);
    sim.run_for(secs(181));
    sim.send(B, A);
    assert_eq!(sim.last_sent(B, Kind::Initiation).path.local, Some(local()));
    sim.run_for(secs(6));
    assert_eq!(sim.last_sent(B, Kind::Initiation).path.local, None);
}

#[test]
fn a_late_packet_from_the_old_address_moves_the_endpoint_back_until_the_next_one() {
    // Nothing tells which address is the newer one but the order of arrival: as in every WireGuard.
    let mut sim = Sim::pair(12);
    sim.connect(A, B);
    let home = sim[A].address;
    sim.network.cut(A, B);
    sim.send(A, B);
    let late = sim.last_sent(A, Kind::Data);
    sim.network.heal();
    sim[A].address = elsewhere();
    sim.send(A, B);
    sim.run_for(RTT);
    sim.inject(B, home, &late.bytes);
    assert_eq!(sim.peer(B, A).endpoint, Some(home));
    sim.send(A, B);
    sim.run_for(RTT);
    assert_eq!(sim.peer(B, A).endpoint, Some(elsewhere()));
}

#[test]
fn a_change_of_the_local_address_alone_is_followed_without_an_event() {
    let mut sim = reached_at(local());
    let _ = sim[B].events();
    let other: IpAddr = "203.0.113.9".parse().unwrap();
    sim.network.cut(A, B);
    sim.send(A, B);
    let data = sim.last_sent(A, Kind::Data);
    sim.inject_by(B, &Path { remote: data.source, local: Some(other), ifindex: 8 }, Ecn::NotEct, &data.bytes);
    sim.run_for(millis(1));
    assert_eq!(sim[B].events(), []);
    assert_eq!(next_source(&mut sim), (Some(other), 8));
}

#[test]
fn an_endpoint_that_is_not_to_roam_is_answered_from_the_address_that_it_last_reached() {
    let mut sim = reached_at(local());
    let a = sim.id(B, A);
    sim[B].interface.set_roaming(a, false).unwrap();
    let other: IpAddr = "203.0.113.9".parse().unwrap();
    sim.network.cut(A, B);
    sim.send(A, B);
    let data = sim.last_sent(A, Kind::Data);
    sim.inject_by(B, &Path { remote: data.source, local: Some(other), ifindex: 8 }, Ecn::NotEct, &data.bytes);
    assert_eq!(next_source(&mut sim), (Some(other), 8));
}

#[test]
fn packets_that_come_by_a_rejected_source_do_not_bring_it_back() {
    let (mut sim, path) = rejected();
    assert_eq!(next_source(&mut sim), (None, 0));
    for _ in 0..3 {
        reaches(&mut sim, path);
        assert_eq!(next_source(&mut sim), (None, 0));
        assert_eq!(to_be_judged(&mut sim), None, "it is known already");
    }
    // Nor does the initiation of the next session.
    sim.network.cut(A, B);
    sim.run_for(secs(6));
    let b = sim.id(A, B);
    sim[A].configure(|interface| interface.initiate_handshake(b).unwrap());
    sim.run_for(millis(1));
    let initiation = sim.last_sent(A, Kind::Initiation);
    sim.inject_by(B, &path, Ecn::NotEct, &initiation.bytes);
    assert_eq!(sim.last_sent(B, Kind::Response).path, Path::to(path.remote));
}

#[test]
fn answers_leave_from_another_address_that_is_reached_after_a_rejected_one() {
    let (mut sim, path) = rejected();
    let other = "203.0.113.9".parse().unwrap();
    for another in [Path { local: Some(other), ..path }, Path { ifindex: 8, ..path }] {
        reaches(&mut sim, another);
        assert_eq!(next_source(&mut sim), (another.local, another.ifindex));
        assert_eq!(to_be_judged(&mut sim), another.local.zip(Some(another.ifindex)));
    }
    // What was said of the first one is forgotten.
    reaches(&mut sim, path);
    assert_eq!(next_source(&mut sim), (Some(local()), 7));
    assert_eq!(to_be_judged(&mut sim), Some((local(), 7)));
}

#[test]
fn a_source_stays_rejected_for_a_peer_that_moves_until_it_is_judged_anew() {
    let (mut sim, _) = rejected();
    sim[A].address = elsewhere();
    let path = Path { remote: elsewhere(), local: Some(local()), ifindex: 7 };
    reaches(&mut sim, path);
    assert_eq!(next_source(&mut sim), (None, 0));
    assert_eq!(to_be_judged(&mut sim), Some((local(), 7)));
    let a = sim.id(B, A);
    assert_eq!(sim[B].interface.judge_source(a, &path, true), Ok(true));
    assert_eq!(next_source(&mut sim), (Some(local()), 7));
}

#[test]
fn a_rejected_source_that_is_good_again_is_used_at_once() {
    let (mut sim, path) = rejected();
    let a = sim.id(B, A);
    let paths: Vec<_> = sim[B].interface.paths().collect();
    assert_eq!(paths, [(a, path)], "a rejected one can be judged too");
    assert!(sim[B].interface.is_source_rejected(a));
    assert_eq!(sim[B].interface.judge_source(a, &path, true), Ok(true));
    assert!(!sim[B].interface.is_source_rejected(a));
    assert_eq!(sim[B].interface.judge_source(a, &path, true), Ok(false));
    assert_eq!(next_source(&mut sim), (Some(local()), 7));
}

#[test]
fn a_source_is_to_be_judged_once_however_many_packets_come_by_it_or_by_others_before() {
    let mut sim = reached_at(local());
    let (home, other) = (sim[A].address, "203.0.113.9".parse().unwrap());
    for number in 0..10 {
        reaches(&mut sim, Path { remote: home, local: Some([local(), other][number % 2]), ifindex: 7 });
    }
    assert!(sim[B].interface.has_sources());
    assert_eq!(to_be_judged(&mut sim), Some((other, 7)));
    assert_eq!(to_be_judged(&mut sim), None);
    assert!(!sim[B].interface.has_sources());
}

#[test]
fn a_judgement_that_comes_late_is_not_one_of_what_is_there_now() {
    let mut sim = reached_at(local());
    let (a, old) = sim[B].interface.poll_source().unwrap();
    let other = "203.0.113.9".parse().unwrap();
    reaches(&mut sim, Path { local: Some(other), ..old });
    assert_eq!(sim[B].interface.judge_source(a, &old, false), Ok(false));
    assert_eq!(next_source(&mut sim), (Some(other), 7));
    // Nor is there anything to judge where the routing table chooses.
    sim[B].interface.forget_sources();
    assert_eq!(sim[B].interface.judge_source(a, &Path::to(old.remote), false), Ok(false));
    assert_eq!(sim[B].interface.poll_source(), None, "it was forgotten meanwhile");
    sim[B].interface.remove_peer(a);
    assert_eq!(sim[B].interface.judge_source(a, &old, false), Err(adit::Error::NoSuchPeer));
}

#[test]
fn a_rejected_source_stays_rejected_when_data_finds_no_echo() {
    let (mut sim, path) = rejected();
    sim.network.cut(B, A);
    assert_eq!(next_source(&mut sim), (None, 0));
    sim.run_for(secs(15));
    let initiations: Vec<_> = sim.sent(B, Kind::Initiation).iter().map(|sent| sent.path.local).collect();
    assert_eq!(initiations, [None], "nor does an initiation leave from there");
    sim.network.heal();
    reaches(&mut sim, path);
    assert_eq!(next_source(&mut sim), (None, 0));
}

#[test]
fn a_rejection_is_forgotten_with_the_source_and_when_another_endpoint_is_set() {
    let forget: [fn(&mut Sim); 4] = [
        |sim| sim[B].interface.forget_sources(),
        |sim| sim[B].interface.forget_source_address(local()),
        |sim| {
            let a = sim.id(B, A);
            sim[B].interface.forget_source(a).unwrap();
        },
        |sim| {
            let a = sim.id(B, A);
            sim[B].interface.set_endpoint(a, Some(elsewhere())).unwrap();
        },
    ];
    for forget in forget {
        let (mut sim, path) = rejected();
        forget(&mut sim);
        assert!(!sim[B].interface.is_source_rejected(sim.id(B, A)));
        reaches(&mut sim, path);
        assert_eq!(next_source(&mut sim), (Some(local()), 7));
        assert_eq!(to_be_judged(&mut sim), Some((local(), 7)));
    }
}
