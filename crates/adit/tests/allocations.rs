//! In steady state no packet costs an allocation, on the way out or on the way in.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use adit::{Datagrams, Ecn, Instant, Interface, Packets, Path, PrivateKey};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

/// The system's allocator, which counts how often it is asked for memory.
struct Counting;

thread_local! {
    /// By thread, since the harness may run the tests side by side.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator as it came; counting touches no memory but
// the counter. `realloc` is the default one, which comes back to `alloc`.
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

const START: Instant = Instant::from_nanos(0);
/// Longer than a packet of the burst with header, padding and tag.
const SLOT: usize = 256;
const BURST: usize = 40;

/// The other end's address, as each end sees it.
fn path(of: usize) -> Path {
    Path::to(std::net::SocketAddr::from(([192, 0, 2, of as u8], 51820)))
}

/// Two interfaces with a session between them.
fn connected() -> [Interface; 2] {
    let keys = [[1; 32], [2; 32]].map(PrivateKey::from_bytes);
    let mut ends = [0, 1].map(|own| {
        let rng = Box::new(ChaCha8Rng::seed_from_u64(own as u64));
        let mut end = Interface::new(START, Duration::from_secs(1_700_000_000), rng);
        end.set_private_key(Some(keys[own].clone()));
        end.set_mtu(1420);
        let peer = end.add_peer(keys[1 - own].public_key()).unwrap();
        end.add_allowed_ip(peer, "10.0.0.0/8".parse().unwrap()).unwrap();
        end.set_endpoint(peer, Some(path(1 - own).remote)).unwrap();
        end
    });
    let mut buffer = vec![0; 2_048];
    assert!(ends[0].handle_packet(START, &packet(100), &mut buffer).unwrap().is_none());
    for from in [0, 1, 0] {
        while let Some(transmit) = ends[from].poll_transmit(START, &mut buffer).unwrap() {
            let _ = ends[1 - from].handle_datagram(START, &path(from), Ecn::NotEct, &mut buffer[transmit.range]);
        }
    }
    ends
}

fn packet(len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[..4].copy_from_slice(&[0x45, 0, 0, len as u8]);
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

/// One burst from one end to the other in three steps each; returns how many packets arrived.
fn burst(
    ends: &mut [Interface; 2],
    from: usize,
    now: Instant,
    buffer: &mut [u8],
    packets: &mut Packets,
    datagrams: &mut Datagrams,
) -> usize {
    let original = packet_bytes();
    for slot in 0..BURST {
        let start = slot * SLOT;
        buffer[start + 16..start + 16 + original.len()].copy_from_slice(&original);
        packets.push(start, original.len()).unwrap();
    }
    let sealed = ends[from].begin_seal(now, std::mem::take(packets), buffer).seal(buffer);
    for transmit in sealed.transmits() {
        assert!(datagrams.push(transmit.range, &path(from), Ecn::NotEct));
    }
    *packets = sealed.into_empty();
    let opened = ends[1 - from].begin_open(now, std::mem::take(datagrams), buffer).open(buffer);
    let delivered = ends[1 - from].commit(now, opened, buffer);
    let count = delivered.packets().filter(|(_, range)| buffer[range.clone()] == original).count();
    *datagrams = delivered.into_empty();
    count
}

fn packet_bytes() -> [u8; 120] {
    let mut bytes = [7; 120];
    bytes[..4].copy_from_slice(&[0x45, 0, 0, 120]);
    bytes[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    bytes
}

#[test]
fn no_packet_of_a_burst_costs_an_allocation_in_steady_state() {
    let mut ends = connected();
    let mut buffer = vec![0; BURST * SLOT];
    let (mut packets, mut datagrams) = (Packets::new(1420), Datagrams::new());
    let mut now = START;
    let mut arrived = 0;
    let mut before = 0;
    for round in 0..2_000 {
        if round == 50 {
            before = ALLOCATIONS.get();
        }
        // For less than 120 s, so that no handshake is due.
        now += Duration::from_millis(50);
        arrived += burst(&mut ends, round % 2, now, &mut buffer, &mut packets, &mut datagrams);
        for end in &mut ends {
            if end.poll_timeout().is_some_and(|deadline| deadline <= now) {
                end.expire(now);
            }
        }
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(arrived, 2_000 * BURST);
}

#[test]
fn no_packet_by_itself_costs_an_allocation_in_steady_state() {
    let mut ends = connected();
    let mut buffer = vec![0; SLOT];
    let original = packet_bytes();
    let mut now = START;
    let mut before = 0;
    for round in 0..1_000 {
        if round == 50 {
            before = ALLOCATIONS.get();
        }
        now += Duration::from_millis(100);
        let from = round % 2;
        let transmit = ends[from].handle_packet(now, &original, &mut buffer).unwrap().unwrap();
        let datagram = &mut buffer[transmit.range];
        let (_, packet) = ends[1 - from].handle_datagram(now, &path(from), Ecn::NotEct, datagram).unwrap();
        assert_eq!(packet, original);
        for end in &mut ends {
            if end.poll_timeout().is_some_and(|deadline| deadline <= now) {
                end.handle_timeout(now);
            }
        }
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
