//! What a fleet of configured peers costs before any of them has spoken.

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adit::{Instant, Interface, PresharedKey, PrivateKey, PublicKey};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

const PEERS: u32 = 100_000;

/// The system's allocator, which counts the bytes that are in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it came; counting touches no memory but
// the counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps what `GlobalAlloc::alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `place` came from `alloc` above, that is, from the system's allocator.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn key(number: u32) -> PublicKey {
    let mut bytes = [0x5a; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    PublicKey::from_bytes(bytes)
}

#[test]
fn a_hundred_thousand_cold_peers_take_at_most_a_kilobyte_and_a_half_each() {
    let now = Instant::from_nanos(0);
    let mut interface = Interface::new(now, Duration::ZERO, Box::new(ChaCha8Rng::seed_from_u64(1)));
    interface.set_private_key(Some(PrivateKey::from_bytes([1; 32])));
    let before = IN_USE.load(Ordering::Relaxed);
    for number in 0..PEERS {
        let peer = interface.add_peer(key(number)).unwrap();
        let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
        interface.add_allowed_ip(peer, std::net::IpAddr::from(address).into()).unwrap();
        interface.set_endpoint(peer, Some(SocketAddr::new(address.into(), 51820))).unwrap();
        interface.set_preshared_key(peer, Some(PresharedKey::from_bytes([2; 32]))).unwrap();
        interface.set_persistent_keepalive(now, peer, 25).unwrap();
    }
    let each = (IN_USE.load(Ordering::Relaxed) - before) / PEERS as usize;
    assert!(each <= 1_536, "{each} bytes");
    assert!(each > 100, "{each} bytes: nothing was counted");
    assert_eq!(interface.peer_count(), PEERS as usize);

    for number in 0..PEERS {
        let peer = interface.peer_id(&key(number)).unwrap();
        assert!(interface.remove_peer(peer));
    }
    // Slots for handles that may come back, and nothing for each peer that was.
    let left = (IN_USE.load(Ordering::Relaxed) - before) / PEERS as usize;
    assert!(left <= 64, "{left} bytes a peer after all are gone");
}
