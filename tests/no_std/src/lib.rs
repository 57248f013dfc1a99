//! The proof that the engine, without its default features, needs `core`, `alloc` and nothing else.
//!
//! This is what a program for a machine without an operating system would be: it brings its own
//! memory and its own answer to a panic, and runs two ends of a tunnel from the handshake to the
//! first packet.
//!
//! ```text
//! cargo build --release --manifest-path tests/no_std/Cargo.toml --target-dir target/no_std
//! ```
//!
//! If anything in the tree below used `std`, the build would fail on the panic handler, which `std`
//! has too. To see that the proof can fail, add `--features std`, as `cargo xtask test` does:
//!
//! ```text
//! error[E0152]: found duplicate lang item `panic_impl`
//! ```
//!
//! Where `rustup target list --installed` names a target without an operating system, such as
//! `thumbv7em-none-eabihf`, add `--target` with it: there is no `std` at all then.
#![no_std]

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::net::SocketAddr;
use core::panic::PanicInfo;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use adit::{Ecn, Instant, Interface, Path, PrivateKey};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// Carries a packet through a tunnel between two interfaces. Returns 0, or the number of the step
/// that went wrong.
// SAFETY: no other symbol of this name is linked: it bears the package's.
#[unsafe(no_mangle)]
pub extern "C" fn adit_no_std() -> i32 {
    match tunnel() {
        Ok(()) => 0,
        Err(step) => step,
    }
}

fn tunnel() -> Result<(), i32> {
    let now = Instant::from_nanos(0);
    // A seed that everybody knows is good enough for a proof, and for nothing else.
    let rng = |seed: u8| ChaCha20Rng::from_seed([seed; 32]);
    let keys = [PrivateKey::generate(&mut rng(1)), PrivateKey::generate(&mut rng(2))];
    let addresses = [SocketAddr::from(([192, 0, 2, 1], 51_820)), SocketAddr::from(([192, 0, 2, 2], 51_820))];
    let end = |own: &PrivateKey, other: &PrivateKey, remote, seed| {
        let mut end = Interface::new(now, Duration::from_secs(1_700_000_000), Box::new(rng(seed)));
        end.set_private_key(Some(own.clone()));
        let peer = end.add_peer(other.public_key()).map_err(|_| 1)?;
        end.add_allowed_ip(peer, "10.0.0.0/8".parse().map_err(|_| 2)?).map_err(|_| 3)?;
        end.set_endpoint(peer, Some(remote)).map_err(|_| 4)?;
        Ok::<_, i32>(end)
    };
    let mut near = end(&keys[0], &keys[1], addresses[1], 3)?;
    let mut far = end(&keys[1], &keys[0], addresses[0], 4)?;

    let mut packet = [0; 20];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 20]);
    packet[12..].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let mut buffer = [0; 2_048];
    if near.handle_packet(now, &packet, &mut buffer) != Ok(None) {
        return Err(5);
    }
    // Initiation, response, and the packet that waited.
    let mut arrived = Vec::new();
    carry(&mut near, &mut far, addresses[0], &mut arrived, &mut buffer)?;
    carry(&mut far, &mut near, addresses[1], &mut arrived, &mut buffer)?;
    carry(&mut near, &mut far, addresses[0], &mut arrived, &mut buffer)?;
    if arrived != [packet] {
        return Err(6);
    }
    // There is a session now: the next one needs no handshake.
    let sent = near.handle_packet(now, &packet, &mut buffer).map_err(|_| 7)?.ok_or(8)?;
    let path = Path::to(addresses[0]);
    match far.handle_datagram(now, &path, Ecn::NotEct, &mut buffer[sent.range]) {
        Some((_, again)) if again == packet => {}
        _ => return Err(9),
    }
    let deadline = near.poll_timeout().ok_or(10)?;
    near.handle_timeout(deadline);
    Ok(())
}

/// Gives all that `from`, whose address is `source`, has to send to `to`, and keeps the packets.
fn carry(
    from: &mut Interface,
    to: &mut Interface,
    source: SocketAddr,
    arrived: &mut Vec<Vec<u8>>,
    buffer: &mut [u8],
) -> Result<(), i32> {
    let now = Instant::from_nanos(0);
    while let Some(transmit) = from.poll_transmit(now, buffer).map_err(|_| 11)? {
        let datagram = &mut buffer[transmit.range];
        if let Some((_, packet)) = to.handle_datagram(now, &Path::to(source), Ecn::NotEct, datagram) {
            arrived.push(packet.to_vec());
        }
    }
    Ok(())
}

#[panic_handler]
fn panicked(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Memory that is given out from its beginning to its end, and never taken back.
struct Arena {
    memory: UnsafeCell<[u8; Arena::LEN]>,
    used: AtomicUsize,
}

impl Arena {
    const LEN: usize = 1 << 20;
}

#[global_allocator]
static ARENA: Arena = Arena { memory: UnsafeCell::new([0; Arena::LEN]), used: AtomicUsize::new(0) };

// SAFETY: the memory is reached through `alloc` only, which gives each part of it out once.
unsafe impl Sync for Arena {}

// SAFETY: `alloc` returns memory inside of the arena, aligned as asked for, that was not given out
// before, since `used` only grows; or null.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.memory.get().cast::<u8>();
        let place = |used: usize| {
            let at = (base as usize).checked_add(used)?.checked_next_multiple_of(layout.align())? - base as usize;
            let end = at.checked_add(layout.size())?;
            (end <= Self::LEN).then_some((at, end))
        };
        let before = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(place(used)?.1));
        match before.ok().and_then(place) {
            // SAFETY: `place` checked that this lies inside of the arena.
            Some((at, _)) => unsafe { base.add(at) },
            None => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
