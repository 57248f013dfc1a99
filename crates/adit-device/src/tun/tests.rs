use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use adit::Path;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use socket2::SockRef;

use super::*;
use crate::netlink::namespace;
use crate::netlink::testing::{add_address, in_new_namespace, new_namespace};
use crate::offload::{Gso, Joiner, Split};
use crate::udp;

/// A TUN device that is up and has addresses.
fn tun(queues: usize, offload: bool, addresses: &[&str]) -> Tun {
    let tun = Tun::create("tun%d", queues, offload).expect("created");
    let mut netlink = Netlink::open().expect("netlink");
    netlink.set_up(tun.ifindex, true).expect("up");
    for address in addresses {
        add_address(&mut netlink, tun.ifindex, address);
    }
    tun
}

/// Reads until there is a packet to this port (in a header without options); what the kernel sends by itself is passed
/// over.
fn read(tun: &Tun, port: u16) -> (VnetHeader, Vec<u8>) {
    let mut poll = Poll::new().expect("poll");
    let queue = &tun.queues[0];
    poll.registry().register(&mut SourceFd(&queue.as_raw_fd()), Token(0), Interest::READABLE).expect("registered");
    let mut buffer = vec![0; VnetHeader::LEN + 65_536];
    loop {
        match queue.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut events = Events::with_capacity(1);
                poll.poll(&mut events, Some(Duration::from_secs(10))).expect("polled");
                assert!(!events.is_empty(), "no packet to port {port} in 10 seconds");
            }
            read => {
                let mut packet = buffer[..read.expect("read")].to_vec();
                let header = match tun.vnet_header {
                    true => packet.drain(..VnetHeader::LEN).collect::<Vec<u8>>(),
                    false => vec![0; VnetHeader::LEN],
                };
                let l4 = if packet[0] >> 4 == 4 { 20 } else { 40 };
                if packet.get(l4 + 2..l4 + 4) == Some(&port.to_be_bytes()) {
                    return (VnetHeader::from_bytes(header.first_chunk().expect("ten bytes")), packet);
                }
            }
        }
    }
}

fn path(address: &str) -> Path {
    Path { remote: address.parse().expect("address"), local: None, ifindex: 0 }
}

/// Cuts what was read into packets and turns each round: from a request to its reply.
fn answers(vnet: &VnetHeader, packet: &mut [u8]) -> Vec<Vec<u8>> {
    let split = Split::new(vnet, packet).expect("a sound packet");
    (0..split.count())
        .map(|i| {
            let mut packet = vec![0; split.len(i)];
            split.write(i, &mut packet).expect("room");
            // Exchanging addresses and ports changes no checksum.
            let (addresses, length, l4) = if packet[0] >> 4 == 4 { (12, 4, 20) } else { (8, 16, 40) };
            let (source, destination) = packet[addresses..addresses + 2 * length].split_at_mut(length);
            source.swap_with_slice(destination);
            let (source, destination) = packet[l4..l4 + 4].split_at_mut(2);
            source.swap_with_slice(destination);
            packet
        })
        .collect()
}

#[test]
fn datagrams_go_out_as_one_packet_and_come_back_as_one() {
    in_new_namespace(|| {
        let tun = tun(1, true, &["10.7.0.1/24", "fd07::1/64"]);
        assert!(tun.vnet_header);
        let sockets = udp::bind(0, 1, 0, true).expect("bound").remove(0);
        for socket in sockets.iter() {
            let socket = SockRef::from(socket);
            socket.set_nonblocking(false).expect("blocking");
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        }
        let contents: Vec<u8> = (0..5_500).map(|i| (i / 11) as u8).collect();
        for remote in ["10.7.0.2:9999", "[fd07::2]:9999"] {
            let outcome = sockets.send(&path(remote), 0, &contents, 1_000);
            assert_eq!(outcome.sent, 6, "{outcome:?}");
            let mut packets = Vec::new();
            let mut reads = 0;
            while packets.len() < 6 {
                let (vnet, mut packet) = read(&tun, 9_999);
                packets.extend(answers(&vnet, &mut packet));
                reads += 1;
            }
            assert_eq!(reads, if tun.offloads.udp { 1 } else { 6 }, "{remote}");

            // Written in one go where the kernel has it, they are received as they were sent.
            let mut arena = packets.concat();
            let places = packets.iter().scan(0, |end, packet| {
                *end += packet.len();
                Some(*end - packet.len()..*end)
            });
            let places: Vec<_> = places.collect();
            let mut joiner = Joiner::new();
            for run in joiner.join(&mut arena, places, tun.offloads) {
                let written = run.with_slices(true, |slices| tun.queues[0].write_vectored(slices)).expect("written");
                assert_eq!(written, VnetHeader::LEN + run.len());
            }
            let socket = sockets.socket(&path(remote).remote).expect("both families");
            let mut buffer = vec![0; udp::MAX_RECEIVED];
            let mut datagrams: Vec<Vec<u8>> = Vec::new();
            while datagrams.len() < 6 {
                let received = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("from {remote}: {error}"));
                assert_eq!(received.path.remote, path(remote).remote);
                datagrams.extend(received.datagrams().map(|range| buffer[range].to_vec()));
            }
            assert_eq!(datagrams, contents.chunks(1_000).map(<[u8]>::to_vec).collect::<Vec<_>>(), "{remote}");
        }
    });
}

#[test]
fn tcp_passes_through_in_runs() {
    // The relay moves each packet from one network to the other and back: the client, 10.7.0.3, is 10.8.0.2 to the
    // server, and the server, 10.8.0.3, is 10.7.0.4 to the client.
    passes_tcp_in_runs(Gso::Tcp4, ["10.7.0.3/24", "10.8.0.3/24"], ["10.7.0.4:5000", "10.8.0.3:5000"]);
    passes_tcp_in_runs(Gso::Tcp6, ["fd07::3/64", "fd08::3/64"], ["[fd07::4]:5000", "[fd08::3]:5000"]);
}

/// The server is the second of `servers`, and the first to the client.
fn passes_tcp_in_runs(gso: Gso, addresses: [&str; 2], servers: [&str; 2]) {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    in_new_namespace(|| {
        let tun = tun(1, true, &addresses);
        let listener = TcpListener::bind(servers[1]).expect("bound");
        let contents: Vec<u8> = (0..400_000u32).map(|i| (i / 7) as u8).collect();
        let expected = contents.clone();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut stream = TcpStream::connect(servers[0]).expect("connected");
                stream.write_all(&contents).expect("written");
            });
            let receiver = scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("accepted");
                let mut received = Vec::new();
                stream.read_to_end(&mut received).expect("read");
                received
            });
            let (read, largest) = relay(&tun, || receiver.is_finished());
            assert_eq!(receiver.join().expect("no panic"), expected);
            // Joined too, so that ThreadSanitizer sees that it has ended.
            sender.join().expect("no panic");
            assert!(read.contains(&gso) && read.iter().all(|kind| [gso, Gso::None].contains(kind)), "{read:?}");
            assert!(largest > 2, "the longest run written had {largest} segments");
        });
    });
}

/// Gives each packet of TCP back to the kernel as from the other network, until it is told to end. Returns of which
/// kinds the packets read were, and the most packets written as one.
fn relay(tun: &Tun, ends: impl Fn() -> bool) -> (HashSet<Gso>, usize) {
    let mut poll = Poll::new().expect("poll");
    let queue = &tun.queues[0];
    poll.registry().register(&mut SourceFd(&queue.as_raw_fd()), Token(0), Interest::READABLE).expect("registered");
    let mut events = Events::with_capacity(1);
    let mut buffer = vec![0; VnetHeader::LEN + 65_536];
    let (mut joiner, mut kinds, mut largest) = (Joiner::new(), HashSet::new(), 0);
    while !ends() {
        poll.poll(&mut events, Some(Duration::from_millis(20))).expect("polled");
        while let Ok(length) = queue.read(&mut buffer) {
            let (header, packet) = buffer[..length].split_at_mut(VnetHeader::LEN);
            let vnet = VnetHeader::from_bytes(header.first_chunk().expect("ten bytes"));
            // Where the protocol, the addresses and the last byte of an address are.
            let (protocol, addresses, last) = if packet[0] >> 4 == 4 { (9, [12, 16], 3) } else { (6, [8, 24], 15) };
            if packet[protocol] != 6 {
                continue;
            }
            kinds.insert(Gso::from_bits(vnet.gso_type).expect("a known kind"));
            let split = Split::new(&vnet, packet).expect("a sound packet");
            let mut arena = Vec::new();
            let mut places = Vec::new();
            for i in 0..split.count() {
                let begin = arena.len();
                arena.resize(begin + split.len(i), 0);
                split.write(i, &mut arena[begin..]).expect("room");
                for address in addresses {
                    // One network up and one host down, or back: no checksum changes.
                    let change: i8 = if arena[begin + address + 1] == 7 { 1 } else { -1 };
                    let [network, host] = [address + 1, address + last].map(|at| begin + at);
                    arena[network] = arena[network].wrapping_add_signed(change);
                    arena[host] = arena[host].wrapping_add_signed(-change);
                }
                places.push(begin..arena.len());
            }
            for run in joiner.join(&mut arena, places, tun.offloads) {
                largest = largest.max(run.count());
                run.with_slices(true, |slices| queue.write_vectored(slices)).expect("written");
            }
        }
    }
    (kinds, largest)
}

#[test]
fn as_many_offloads_are_turned_on_as_the_kernel_has() {
    let (checksum, tcp, udp) = (1, 2 | 4 | 8, 0x20 | 0x40);
    let all = checksum | tcp | udp;
    let without_udp = Offloads { udp: false, ..Offloads::ALL };
    let only_checksum = Offloads { checksum: true, ..Offloads::NONE };
    for (known, asked, expected) in [
        (Some(all), vec![all], Offloads::ALL),
        (Some(checksum | tcp), vec![all, checksum | tcp], without_udp),
        (Some(checksum), vec![all, checksum | tcp, checksum], only_checksum),
        (None, vec![all, checksum | tcp, checksum], Offloads::NONE),
    ] {
        let mut flags_asked = Vec::new();
        let offloads = set_offloads(|flags| {
            flags_asked.push(flags);
            // The kernel refuses all if there is one that it does not know.
            if known.is_some_and(|known| flags & !known == 0) {
                Ok(())
            } else {
                Err(io::ErrorKind::InvalidInput.into())
            }
        });
        assert_eq!((flags_asked, offloads), (asked, expected), "{known:?}");
    }
}

#[test]
fn without_offloads_packets_come_and_go_whole_and_without_a_header() {
    in_new_namespace(|| {
        let tun = tun(1, false, &["10.7.0.1/24"]);
        assert_eq!((tun.vnet_header, tun.offloads), (false, Offloads::NONE));
        let socket = std::net::UdpSocket::bind("10.7.0.1:0").expect("bound");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        socket.send_to(b"question", "10.7.0.2:9999").expect("sent");
        let (vnet, mut packet) = read(&tun, 9_999);
        for answer in answers(&vnet, &mut packet) {
            let written = tun.queues[0].write_vectored(&[IoSlice::new(&answer)]).expect("written");
            assert_eq!(written, answer.len());
        }
        let mut buffer = [0; 100];
        let (length, from) = socket.recv_from(&mut buffer).expect("the checksum was complete");
        assert_eq!((&buffer[..length], from), (&b"question"[..], SocketAddr::from(([10, 7, 0, 2], 9_999))));
    });
}

#[test]
fn there_are_as_many_queues_as_asked_for() {
    in_new_namespace(|| {
        for queues in [1, 3] {
            let tun = tun(queues, true, &[]);
            assert_eq!(tun.queues.len(), queues);
            let mut netlink = Netlink::open().expect("netlink");
            assert_eq!(netlink.tun_queues(&tun.name).expect("counted"), queues as u32);
            assert_eq!(netlink.link(&tun.name).expect("link").index, tun.ifindex);
            for queue in &tun.queues {
                let error = queue.read(&mut [0; 1_000]).err();
                assert!(error.is_none_or(|error| error.kind() == io::ErrorKind::WouldBlock));
            }
        }
        assert_eq!(tun(0, true, &[]).queues.len(), 1, "at least one");
    });
}

#[test]
fn the_device_vanishes_with_its_last_queue() {
    in_new_namespace(|| {
        let mut tun = tun(2, true, &[]);
        let mut netlink = Netlink::open().expect("netlink");
        tun.queues.pop();
        tun.aside = None;
        assert!(netlink.link(&tun.name).is_ok());
        tun.queues.pop();
        assert!(netlink.link(&tun.name).is_err_and(|error| error.is_not_found()));
    });
}

#[test]
fn a_deleted_device_is_an_error_not_silence() {
    in_new_namespace(|| {
        let tun = tun(1, true, &[]);
        Netlink::open().expect("netlink").delete_link(tun.ifindex).expect("deleted");
        let error = tun.queues[0].read(&mut [0; 100]).expect_err("it is gone");
        assert_eq!(error.raw_os_error(), Some(libc::EBADFD));
        let error = tun.queues[0].write_vectored(&[IoSlice::new(&[0; 100])]).expect_err("it is gone");
        assert_eq!(error.raw_os_error(), Some(libc::EBADFD));
    });
}

#[test]
fn a_name_that_belongs_to_something_else_is_refused() {
    in_new_namespace(|| {
        Netlink::open().expect("netlink").create_veth("other0", "other1", None).expect("veth");
        for name in ["lo", "other0"] {
            assert!(matches!(Tun::create(name, 2, true), Err(TunError::NotTun(n)) if n == name));
        }
        // One with several queues, and one with one only.
        for flags in [KIND | libc::IFF_MULTI_QUEUE, KIND] {
            let other = open().expect("opened");
            attach(&other, "busy0", flags).expect("attached");
            assert!(matches!(Tun::create("busy0", 2, true), Err(TunError::InUse(name)) if name == "busy0"));
            let mut netlink = Netlink::open().expect("netlink");
            assert!(netlink.link("busy0").is_ok(), "it is left as it was");
        }
    });
}

#[test]
fn a_persistent_device_that_nobody_serves_is_attached() {
    in_new_namespace(|| {
        for (flags, queues) in [(KIND | libc::IFF_MULTI_QUEUE, 2), (KIND, 1)] {
            let maker = open().expect("opened");
            attach(&maker, "mine0", flags).expect("attached");
            sys::tun_set_persistent(maker.as_fd(), true).expect("persistent");
            drop(maker);
            let mut netlink = Netlink::open().expect("netlink");
            let index = netlink.link("mine0").expect("it outlives its maker").index;

            let tun = Tun::create("mine0", 2, true).expect("attached");
            assert_eq!((tun.ifindex, tun.queues.len()), (index, queues));
            assert!(tun.vnet_header);
            assert_eq!(sys::tun_vnet_header_len(tun.queues[0].as_fd()).expect("length"), 10);
            drop(tun);
            netlink.delete_link(index).expect("still there");
        }
    });
}

#[test]
fn a_device_opened_by_another_process_is_taken_over() {
    in_new_namespace(|| {
        let table = [
            (KIND | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR, 2, true),
            (KIND | libc::IFF_VNET_HDR, 1, true),
            (KIND | libc::IFF_MULTI_QUEUE, 2, false),
        ];
        for (flags, queues, vnet_header) in table {
            let file = open().expect("opened");
            let name = attach(&file, "given%d", flags).expect("attached");
            let tun = Tun::from_fd(OwnedFd::from(file), 2, true).expect("taken over");
            assert_eq!((&tun.name, tun.queues.len(), tun.vnet_header), (&name, queues, vnet_header));
            assert_eq!(tun.offloads.checksum, vnet_header);
        }
    });
}

#[test]
fn a_queue_is_served_again_though_its_interface_is_in_another_namespace() {
    in_new_namespace(|| {
        let tun = tun(2, true, &[]);
        let queue = &tun.queues[1];
        let other = new_namespace();
        let done = namespace::run_in(other.as_fd(), || set_up_again(queue.as_fd(), true)).expect("the namespace");
        done.expect("set up again");
        let error = queue.read(&mut [0; 1_000]).err();
        assert!(error.is_none_or(|error| error.kind() == io::ErrorKind::WouldBlock));
    });
}

#[test]
fn more_queues_than_a_device_can_have_are_as_many_as_it_has() {
    in_new_namespace(|| {
        let tun = tun(300, true, &[]);
        assert_eq!((tun.queues.len(), tun.aside.is_some()), (255, true));
    });
}

#[test]
fn a_descriptor_that_is_no_usable_tun_device_is_refused() {
    in_new_namespace(|| {
        let refused = |file: File, why: &str| match Tun::from_fd(OwnedFd::from(file), 1, true) {
            Err(TunError::BadDescriptor(reason)) => assert!(reason.contains(why), "{reason}"),
            other => panic!("{other:?}"),
        };
        refused(File::open("/dev/null").expect("opened"), "not a TUN device");
        refused(open().expect("opened, but not attached"), "not a TUN device");
        let tap = open().expect("opened");
        attach(&tap, "tap0", libc::IFF_TAP | libc::IFF_NO_PI).expect("attached");
        refused(tap, "TAP");
        let with_header = open().expect("opened");
        attach(&with_header, "pi0", libc::IFF_TUN).expect("attached");
        refused(with_header, "IFF_NO_PI");
    });
}

#[test]
fn impossible_names_are_refused() {
    for name in ["", ".", "..", "a/b", "a b", "a:b", "a\0b", "sixteen_bytes_16", "größe", "a%", "%d%d"] {
        assert!(matches!(Tun::create(name, 1, true), Err(TunError::BadName(n)) if n == name), "{name:?}");
    }
}

#[test]
fn without_the_right_to_make_one_the_error_says_so() {
    in_new_namespace(|| {
        // Capabilities are a thread's own, and this thread ends with the closure.
        let mut sets = capabilities(None).expect("what it may");
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).expect("a thread may give up");
        let error = Tun::create("wg0", 1, true).expect_err("it may not");
        assert!(matches!(error, TunError::NotPermitted(_)), "{error:?}");
        assert_eq!(error.to_string(), "interface wg0: not permitted; run it as root or with CAP_NET_ADMIN");
    });
}
