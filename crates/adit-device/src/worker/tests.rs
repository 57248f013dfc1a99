//! What a packet costs on its way through a worker. A Unix socket stands in for the TUN device: it preserves message
//! boundaries too.

mod answers;
mod codel;
mod cost;
mod first;
mod marks;
mod moved;
mod rest;
mod sources;
mod strays;
mod unreachable;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;

use adit::{Ecn, Path, PrivateKey};
use getrandom::SysRng;
use mio::Waker;
use rand_core::UnwrapErr;

use super::*;
use crate::counted::{self, LOCKS, SENDS};
use crate::offload::Offloads;
use crate::offload::testing::Spec;
use crate::refused::refuse;
use crate::udp::bind;

/// The system's allocator, which counts how often a thread asks it for memory.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator as it came; counting touches no memory but the counter.
// `realloc` is the default one, which comes back to `alloc`.
#[allow(unsafe_code, reason = "an allocator that counts cannot be had otherwise")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps what `GlobalAlloc::alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: `place` came from `alloc` above, that is, from the system's allocator.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MTU: u16 = 1420;
/// Payload of a TCP segment that makes a packet as long as the MTU.
const SEGMENT: usize = MTU as usize - 40;

/// A worker, and the inside of its tunnel.
struct End {
    worker: Worker,
    inside: UnixDatagram,
}

/// Two workers with a session between them.
fn connected() -> [End; 2] {
    let keys = [[1; 32], [2; 32]].map(PrivateKey::from_bytes);
    let mut sockets = [(); 2].map(|()| bind(0, 1, 0, true).unwrap().remove(0));
    let path = |of: &Sockets| Path::to(SocketAddr::from(([127, 0, 0, 1], of.port)));
    let paths = [path(&sockets[0]), path(&sockets[1])];
    for socket in &mut sockets {
        socket.v6 = None;
    }
    let mut interfaces = [0, 1].map(|own| {
        let mut bounds = adit::Bounds::default();
        // With 64 waiting there is load.
        bounds.handshake_queue = 8 * 64;
        let rng = Box::new(UnwrapErr(SysRng));
        let mut interface = adit::Interface::with_bounds(now(), crate::shared::unix_time(), rng, bounds);
        interface.set_private_key(Some(keys[own].clone()));
        interface.set_mtu(MTU);
        let peer = interface.add_peer(keys[1 - own].public_key()).unwrap();
        interface.add_allowed_ip(peer, "0.0.0.0/0".parse().unwrap()).unwrap();
        interface.set_endpoint(peer, Some(paths[1 - own].remote)).unwrap();
        interface
    });
    let mut buffer = vec![0; 2_048];
    let first = Spec::udp4(8).build();
    assert!(interfaces[0].handle_packet(now(), &first, &mut buffer).unwrap().is_none(), "there is no session yet");
    for from in [0, 1, 0] {
        while let Some(transmit) = interfaces[from].poll_transmit(now(), &mut buffer).unwrap() {
            let _ = interfaces[1 - from].handle_datagram(now(), &paths[from], Ecn::NotEct, &mut buffer[transmit.range]);
        }
    }
    let mut ends = interfaces.into_iter().zip(sockets).map(|(interface, sockets)| {
        let (device, inside) = UnixDatagram::pair().unwrap();
        device.set_nonblocking(true).unwrap();
        inside.set_nonblocking(true).unwrap();
        let poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), WAKER).unwrap();
        let sockets = vec![Arc::new(sockets)];
        let shared = Shared::new(interface, sockets, Offloads::ALL, true, None, waker);
        shared.mtu.store(MTU, Ordering::Relaxed);
        let queue = TunQueue::adopt(device.into());
        End { worker: Worker::new(Arc::new(shared), 0, poll, Some(queue), None).unwrap(), inside }
    });
    [ends.next().unwrap(), ends.next().unwrap()]
}

impl End {
    /// A packet, with the header that the kernel would put before it, to be sent.
    fn put(&self, (vnet, packet): &(VnetHeader, Vec<u8>)) {
        let message = [vnet.to_bytes().as_slice(), packet].concat();
        assert_eq!(self.inside.send(&message).unwrap(), message.len());
    }

    /// Sends all that there is to send, and returns how many allocations that took.
    fn serve_tun(&mut self) -> usize {
        let before = ALLOCATIONS.get();
        self.worker.ready.tun = true;
        while self.worker.ready.tun || self.worker.rest.is_some() {
            self.worker.serve_tun();
        }
        ALLOCATIONS.get() - before
    }

    /// Receives all that there is to receive, and returns how many allocations that took.
    fn serve_network(&mut self) -> usize {
        let before = ALLOCATIONS.get();
        self.worker.ready.v4 = true;
        while self.worker.ready.v4 {
            self.worker.serve_network();
        }
        ALLOCATIONS.get() - before
    }

    /// What has come out, without the headers of the device.
    fn take(&self, buffer: &mut [u8]) -> Option<Vec<u8>> {
        let len = self.inside.recv(buffer).ok()?;
        Some(buffer[VnetHeader::LEN..len].to_vec())
    }

    fn take_all(&self) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        std::iter::from_fn(|| self.take(&mut buffer)).collect()
    }
}

fn finished(packet: Vec<u8>) -> (VnetHeader, Vec<u8>) {
    (VnetHeader::default(), packet)
}

#[test]
fn no_packet_costs_an_allocation_once_the_buffers_have_grown() {
    let [mut a, mut b] = connected();
    // Segments that fill three sends and more, then packets of all kinds.
    let bulk = Spec::tcp4(46 * SEGMENT).build_unfinished(Some(SEGMENT as u16));
    let small = finished(Spec::udp4(64).build());
    for round in 0..20 {
        for _ in 0..3 {
            a.put(&bulk);
            b.put(&small);
            a.put(&small);
        }
        let sending = [a.serve_tun(), b.serve_tun()];
        let receiving = [b.serve_network(), a.serve_network()];
        let arrived: usize = b.take_all().iter().map(|packet| packet.len()).sum();
        assert!(arrived > 3 * 46 * SEGMENT, "round {round}: {arrived} bytes arrived");
        let arrived: usize = a.take_all().iter().map(|packet| packet.len()).sum();
        assert!(arrived > 3 * 64, "round {round}: {arrived} bytes came back");
        if round >= 5 {
            assert_eq!((sending, receiving), ([0, 0], [0, 0]), "round {round}");
        }
    }
}

#[test]
fn a_worker_that_is_to_end_sends_first_what_it_has_read_and_not_yet_cut_apart() {
    const SMALL: usize = 20;
    const COUNT: usize = 3_000;
    let [mut a, mut b] = connected();
    a.put(&Spec::tcp4(COUNT * SMALL).build_unfinished(Some(SMALL as u16)));
    a.worker.ready.tun = true;
    a.worker.serve_tun();
    assert!(a.worker.rest.is_some(), "more than a burst has room for");
    b.serve_network();
    a.worker.shared.ends.store(true, Ordering::Relaxed);
    a.worker.run();
    b.serve_network();
    // Each packet that comes out has its headers, of 40 bytes, and some segments.
    let arrived: usize = b.take_all().iter().map(|packet| packet.len() - 40).sum();
    assert_eq!(arrived, COUNT * SMALL);
}

#[test]
fn a_whole_packet_is_sealed_where_it_was_read_and_written_from_where_it_was_opened() {
    let [mut a, mut b] = connected();
    a.worker.outbound.fill(0);
    let packet = Spec::udp4(1_000).build();
    a.put(&finished(packet.clone()));
    a.serve_tun();
    // The datagram is at the beginning of the buffer, where the packet was read, and nothing is where it would be cut.
    let datagram = a.worker.outbound[..TRANSPORT_OVERHEAD + packet.len().next_multiple_of(16)].to_vec();
    assert_eq!(datagram[..4], [4, 0, 0, 0]);
    assert!(a.worker.outbound[datagram.len() + VnetHeader::LEN..].iter().all(|&byte| byte == 0), "no second copy");
    b.serve_network();
    let place = TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN + packet.len();
    assert_eq!(b.worker.inbound[place], packet, "opened where it was received");
    assert!(b.worker.inbound[datagram.len()..].iter().all(|&byte| byte == 0), "no second copy");
    assert_eq!(b.take_all(), [packet]);
}

#[test]
fn segments_and_whole_packets_arrive_in_order_whichever_was_expected() {
    let [mut a, mut b] = connected();
    // Few enough for the queue of a Unix socket.
    let bulk = Spec::tcp4(2 * SEGMENT);
    let mut expected = Vec::new();
    for segments in [true, false, false, true, true, false] {
        let spec = if segments { bulk.clone() } else { Spec { port: 9, ..Spec::udp4(500) } };
        a.put(&if segments { spec.build_unfinished(Some(SEGMENT as u16)) } else { finished(spec.build()) });
        expected.extend(if segments { spec.segments(SEGMENT) } else { vec![spec] });
    }
    a.serve_tun();
    // Nothing is put together again, so that each packet is seen.
    let shared = Arc::get_mut(&mut b.worker.shared).unwrap();
    shared.offloads = Offloads::NONE;
    b.serve_network();
    let expected: Vec<Vec<u8>> = expected.iter().map(Spec::build).collect();
    let arrived = b.take_all();
    assert_eq!(arrived.len(), expected.len());
    assert!(arrived == expected, "in order, and each checksum right");
}

#[test]
fn what_the_kernel_refuses_is_not_looked_for_in_its_queue_and_does_not_count_as_sent() {
    let mut ends = connected();
    let [a, _] = &mut ends;
    let packet = finished(Spec::udp4(64).build());
    let sent = |a: &End| a.worker.shared.interface().peers(now()).map(|peer| peer.tx_bytes).sum::<u64>();
    let before = sent(a);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = a.worker.sockets.v4.as_ref().unwrap().as_raw_fd();
            for call in [libc::SYS_sendmsg, libc::SYS_sendmmsg] {
                refuse(call, 0, socket, libc::ENOBUFS);
            }
            // Sent, so many would be worth a look.
            for _ in 0..1_000 {
                a.put(&packet);
                a.serve_tun();
            }
        });
    });
    assert_eq!(a.worker.shared.send_errors.load(Ordering::Relaxed), 1_000);
    assert!(!a.worker.codel.is_to_look());
    assert_eq!(sent(a), before);
}

#[test]
fn a_worker_gives_way_after_a_burst_that_is_full_of_packets_that_came_one_by_one() {
    let [mut a, _] = connected();
    socket2::SockRef::from(&a.inside).set_send_buffer_size(1 << 20).unwrap();
    // A few that are long make a burst full, and leave more.
    let single = finished(Spec::udp4(40_000).build());
    let segments = Spec::tcp4(46 * SEGMENT).build_unfinished(Some(SEGMENT as u16));
    for (packet, gives_way) in [(&single, true), (&segments, false)] {
        for _ in 0..5 {
            a.put(packet);
        }
        a.worker.ready.tun = true;
        let count = a.worker.serve_tun();
        assert!(a.worker.ready.tun, "more wait");
        assert_eq!(a.worker.gives_way(count), gives_way);
        a.serve_tun();
        assert!(!a.worker.gives_way(count), "none waits");
    }
    a.worker.ready.tun = true;
    assert!(!a.worker.gives_way(1), "one that was served alone keeps nobody from anything");
}

#[test]
fn a_flood_over_one_family_does_not_keep_the_other_waiting() {
    // A worker, and the handshake worker.
    for (index, kind) in [(0, 4), (1, 1)] {
        let sockets: Vec<_> = bind(0, 1, 0, false).unwrap().into_iter().map(Arc::new).collect();
        let port = sockets[0].port;
        let interface = adit::Interface::new(now(), crate::shared::unix_time(), Box::new(UnwrapErr(SysRng)));
        let poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), WAKER).unwrap();
        let shared = Shared::new(interface, sockets, Offloads::ALL, true, None, waker);
        let tun = (index == 0).then(|| TunQueue::adopt(UnixDatagram::pair().unwrap().0.into()));
        let mut worker = Worker::new(Arc::new(shared), index, poll, tun, None).unwrap();
        let mut message = [0; 64];
        message[0] = kind;
        let (v4, v6) = (std::net::UdpSocket::bind("127.0.0.1:0"), std::net::UdpSocket::bind("[::1]:0"));
        let v4 = v4.unwrap();
        for _ in 0..3 * BURST {
            v4.send_to(&message, ("127.0.0.1", port)).unwrap();
        }
        v6.unwrap().send_to(&message, ("::1", port)).unwrap();
        (worker.ready.v4, worker.ready.v6) = (true, true);
        worker.serve_network();
        worker.serve_network();
        assert_eq!((worker.ready.v4, worker.ready.v6), (true, false), "messages of type {kind}");
    }
}

#[test]
fn a_source_that_never_becomes_empty_keeps_neither_others_nor_new_sockets_waiting() {
    let bound = || bind(0, 1, 0, false).unwrap().into_iter().map(Arc::new).collect::<Vec<_>>();
    let interface = adit::Interface::new(now(), crate::shared::unix_time(), Box::new(UnwrapErr(SysRng)));
    let poll = Poll::new().unwrap();
    let waker = Waker::new(poll.registry(), WAKER).unwrap();
    let sockets = bound();
    let port = sockets[0].port;
    let shared = Arc::new(Shared::new(interface, sockets, Offloads::ALL, true, None, waker));
    let inside = TunQueue::adopt(UnixDatagram::pair().unwrap().0.into());
    let mut worker = Worker::new(shared.clone(), 0, poll, Some(inside), None).unwrap();
    worker.tun = Some(TunQueue::adopt(std::fs::File::open("/dev/zero").unwrap().into()));
    worker.ready.tun = true;
    let thread = std::thread::spawn(move || worker.run());

    let unknown = || shared.interface().drops().get(adit::DropReason::UnknownIndex);
    let mut message = [0; 64];
    message[0] = 4;
    let hears = |sent: u64, from: &str, to: &str, port| {
        let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
        socket.send_to(&message, (to, port)).unwrap();
        let patience = Instant::now() + Duration::from_secs(20);
        while unknown() < sent && Instant::now() < patience {
            std::thread::yield_now();
        }
        assert_eq!(unknown(), sent, "what was sent to {to} is read");
    };
    hears(1, "127.0.0.1", "127.0.0.1", port);
    hears(2, "::1", "::1", port);
    let others = bound();
    let port = others[0].port;
    shared.replace_sockets(others);
    // In this test the control thread's waker is the worker's.
    shared.wake_control();
    hears(3, "127.0.0.1", "127.0.0.1", port);
    shared.ends.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}

/// A valid initiation from a stranger.
fn initiation(to: adit::PublicKey, number: u64) -> Vec<u8> {
    let own = PrivateKey::from_bytes(std::array::from_fn(|at| number.to_le_bytes()[at % 8] ^ at as u8));
    let mut stranger = adit::Interface::new(now(), crate::shared::unix_time(), Box::new(UnwrapErr(SysRng)));
    stranger.set_private_key(Some(own));
    let peer = stranger.add_peer(to).unwrap();
    stranger.set_endpoint(peer, Some(SocketAddr::from(([127, 0, 0, 1], 9)))).unwrap();
    stranger.set_persistent_keepalive(now(), peer, 1).unwrap();
    stranger.handle_timeout(now());
    let mut buffer = [0; 148];
    let transmit = stranger.poll_transmit(now(), &mut buffer).unwrap().unwrap();
    buffer[transmit.range].to_vec()
}

#[test]
fn more_small_segments_than_a_burst_holds_all_leave() {
    let [mut a, mut b] = connected();
    let bulk = Spec::tcp4(20_000);
    a.put(&bulk.build_unfinished(Some(8)));
    a.put(&finished(Spec { port: 9, ..Spec::udp4(500) }.build()));
    a.serve_tun();
    let mut bytes = 0;
    b.worker.ready.v4 = true;
    while b.worker.ready.v4 {
        b.worker.serve_network();
        bytes += b.take_all().iter().map(|packet| packet.len() - 40).sum::<usize>();
    }
    assert!(bytes >= 20_000, "{bytes} bytes of payload arrived");
}
