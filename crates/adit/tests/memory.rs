//! What a fleet of configured peers costs before any of them has spoken, and what strangers can make
//! the engine keep.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use adit::{DropReason, Ecn, Instant, Interface, Path, PresharedKey, PrivateKey, PublicKey};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

const PEERS: u32 = 100_000;

/// The system's allocator, which counts the bytes that are in use.
struct Counting;

thread_local! {
    /// By thread, since the harness may run the tests side by side.
    static IN_USE: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator as it came; counting touches no memory but
// the counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.set(IN_USE.get() + layout.size() as isize);
        // SAFETY: the caller keeps what `GlobalAlloc::alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        IN_USE.set(IN_USE.get() - layout.size() as isize);
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
    let before = IN_USE.get();
    for number in 0..PEERS {
        let peer = interface.add_peer(key(number)).unwrap();
        let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
        interface.add_allowed_ip(peer, std::net::IpAddr::from(address).into()).unwrap();
        interface.set_endpoint(peer, Some(SocketAddr::new(address.into(), 51820))).unwrap();
        interface.set_preshared_key(peer, Some(PresharedKey::from_bytes([2; 32]))).unwrap();
        interface.set_persistent_keepalive(now, peer, 25).unwrap();
    }
    let each = (IN_USE.get() - before) / PEERS as isize;
    assert!(each <= 1_536, "{each} bytes");
    assert!(each > 100, "{each} bytes: nothing was counted");
    assert_eq!(interface.peer_count(), PEERS as usize);

    for number in 0..PEERS {
        let peer = interface.peer_id(&key(number)).unwrap();
        assert!(interface.remove_peer(peer));
    }
    // What is left are slots, which new handles may use again, and nothing of the removed peers.
    let left = (IN_USE.get() - before) / PEERS as isize;
    assert!(left <= 64, "{left} bytes a peer after all are gone");
}

#[test]
fn a_flood_from_a_hundred_thousand_addresses_makes_the_engine_keep_next_to_nothing() {
    let mut now = Instant::from_nanos(0);
    let mut interface = Interface::new(now, Duration::ZERO, Box::new(ChaCha8Rng::seed_from_u64(2)));
    let private_key = PrivateKey::from_bytes([1; 32]);
    let public_key = private_key.public_key();
    interface.set_private_key(Some(private_key));
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut buffer = vec![0; 2_048];
    let before = IN_USE.get();
    for number in 0..100_000_u32 {
        now += Duration::from_micros(20);
        let remote = SocketAddr::new(Ipv4Addr::from_bits(0x0b00_0000 + number).into(), 1_000);
        // An initiation that is junk but for its mac1, a junk packet, and a junk cookie reply.
        let mut initiation = [0; 148];
        rng.fill_bytes(&mut initiation[4..116]);
        initiation[0] = 1;
        put_mac1(&mut initiation, &public_key);
        let mut data = [0; 100];
        rng.fill_bytes(&mut data[4..]);
        data[0] = 4;
        let mut reply = [0; 64];
        rng.fill_bytes(&mut reply[4..]);
        reply[0] = 3;
        for datagram in [&mut initiation[..], &mut data, &mut reply] {
            assert!(interface.handle_datagram(now, &Path::to(remote), Ecn::NotEct, datagram).is_none());
        }
        while interface.poll_transmit(now, &mut buffer).unwrap().is_some() {}
    }
    // At first the initiations were computed; then they were answered with cookies.
    assert!(interface.drops().get(DropReason::BadHandshake) >= 1_000);
    assert!(interface.drops().get(DropReason::CookieSent) >= 90_000);
    let kept = IN_USE.get() - before;
    assert!(kept <= 64 << 10, "{kept} bytes");
}

/// Makes mac1 right: BLAKE2s with a key made from the receiver's (paper, §5.4.4).
fn put_mac1(message: &mut [u8; 148], receiver: &PublicKey) {
    use blake2::digest::consts::U16;
    use blake2::digest::{Digest, FixedOutput, KeyInit, Update};
    let key: [u8; 32] = blake2::Blake2s256::new().chain(b"mac1----").chain(receiver.as_bytes()).finalize_fixed().into();
    let mut mac = blake2::Blake2sMac::<U16>::new_from_slice(&key).unwrap();
    Update::update(&mut mac, &message[..116]);
    let mac: [u8; 16] = mac.finalize_fixed().into();
    message[116..132].copy_from_slice(&mac);
}
