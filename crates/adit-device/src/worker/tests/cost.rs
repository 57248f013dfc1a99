//! Locks and system calls that a burst takes.

use super::*;

#[test]
fn a_burst_takes_one_lock_on_its_way_out_and_two_on_its_way_in_however_many_packets_it_has() {
    let [mut a, mut b] = connected();
    let small = |port| finished(Spec { port, ..Spec::udp4(64) }.build());
    let bulk = Spec::tcp4(40 * SEGMENT).build_unfinished(Some(SEGMENT as u16));
    for (burst, packets) in [(vec![small(1)], 1), (vec![small(1), small(2), small(1)], 3), (vec![bulk, small(1)], 41)] {
        for packet in &burst {
            a.put(packet);
        }
        (a.worker.ready.tun, b.worker.ready.v4) = (true, true);
        let (mut sent, mut received) = (0, 0);
        assert_eq!(counted::count(&LOCKS, || sent = a.worker.serve_tun()), 1, "{packets} packets out");
        assert_eq!(counted::count(&LOCKS, || received = b.worker.serve_network()), 2, "{packets} packets in");
        assert_eq!((sent, received), (packets, packets));
        b.take_all();
    }
}

#[test]
fn packets_for_several_peers_leave_in_one_system_call() {
    let [mut a, _] = connected();
    let hosts = [11, 12, 13];
    let peers = hosts.map(|host| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        meet(&a, host, socket.local_addr().unwrap());
        socket
    });
    for host in hosts.into_iter().cycle().take(6) {
        a.put(&finished(Spec { host, ..Spec::udp4(64) }.build()));
    }
    a.worker.ready.tun = true;
    let mut sent = 0;
    assert_eq!(counted::count(&SENDS, || sent = a.worker.serve_tun()), 1);
    assert_eq!(sent, 6);
    for socket in &peers {
        for _ in 0..2 {
            socket.recv(&mut [0; 256]).expect("each has two of them");
        }
    }
}

/// Gives the worker's engine a session with one more peer, which is at this address and has the packets to this host.
fn meet(end: &End, host: u8, address: SocketAddr) {
    let mut ours = end.worker.shared.interface();
    let rng = Box::new(UnwrapErr(SysRng));
    let mut theirs = adit::Interface::new(now(), crate::shared::unix_time(), rng);
    theirs.set_private_key(Some(PrivateKey::from_bytes([host; 32])));
    let own_key = PrivateKey::from_bytes([1; 32]).public_key();
    theirs.add_peer(own_key).unwrap();
    let peer = ours.add_peer(PrivateKey::from_bytes([host; 32]).public_key()).unwrap();
    let packet = Spec { host, ..Spec::udp4(8) }.build();
    let to = std::net::Ipv4Addr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap());
    ours.add_allowed_ip(peer, format!("{to}/32").parse().unwrap()).unwrap();
    ours.set_endpoint(peer, Some(address)).unwrap();
    let mut buffer = [0; 2_048];
    assert!(ours.handle_packet(now(), &packet, &mut buffer).unwrap().is_none(), "there is no session yet");
    let initiation = ours.poll_transmit(now(), &mut buffer).unwrap().unwrap();
    let path = Path::to(SocketAddr::from(([127, 0, 0, 1], end.worker.sockets.port)));
    let _ = theirs.handle_datagram(now(), &path, Ecn::NotEct, &mut buffer[initiation.range]);
    let response = theirs.poll_transmit(now(), &mut buffer).unwrap().unwrap();
    let path = Path::to(address);
    let _ = ours.handle_datagram(now(), &path, Ecn::NotEct, &mut buffer[response.range]);
    // What has waited for the session.
    while ours.poll_transmit(now(), &mut buffer).unwrap().is_some() {}
}
