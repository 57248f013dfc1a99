//! Packets against the edge of what may be touched: a page without access
//! begins where they end, or ends where they begin.
#![cfg(target_os = "linux")]

use std::ptr;
use std::slice;

use adit_aead::{Backend, Key, Packet, TAG_LEN, open_with, seal_with};

const PAGE: usize = 4096;
/// One packet more than are worked on together.
const COUNT: usize = 9;
/// The longest text.
const LONGEST: usize = 2_048;

#[test]
fn no_byte_before_or_after_a_packet_is_touched() {
    let mut arenas: Vec<Guarded> = (0..COUNT).map(|_| Guarded::new()).collect();
    let key = Key::new([0x17; 32]);
    for backend in Backend::available() {
        for length in 0..=LONGEST {
            for at_end in [true, false] {
                // One, as many as are worked on together, and any other number; all as long as the first, then each of
                // another length.
                for (count, step) in [(1, 0), (2 + length % (COUNT - 2), 0), (COUNT, 0), (COUNT, 7)] {
                    let mut places: Vec<&mut [u8]> = arenas[..count]
                        .iter_mut()
                        .enumerate()
                        .map(|(i, arena)| arena.place((length + i * step) % (LONGEST + 1) + TAG_LEN, at_end))
                        .collect();
                    there_and_back(backend, &key, &mut places);
                }
            }
        }
    }
}

fn there_and_back(backend: Backend, key: &Key, places: &mut [&mut [u8]]) {
    for place in places.iter_mut() {
        place.fill(0x3c);
    }
    let mut packets: Vec<Packet<'_>> = places.iter_mut().filter_map(|place| Packet::new(key, 1, place)).collect();
    seal_with(backend, &mut packets);
    open_with(backend, &mut packets);
    assert!(packets.iter().all(Packet::is_authentic));
    drop(packets);
    for place in places {
        let (text, _) = place.split_at(place.len() - TAG_LEN);
        assert!(text.iter().all(|&byte| byte == 0x3c));
    }
}

/// A page of memory between two that cannot be accessed.
struct Guarded {
    start: *mut u8,
}

impl Guarded {
    fn new() -> Guarded {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), 3 * PAGE, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let start = start.cast::<u8>();
        // SAFETY: the middle page of the mapping made above, which nothing refers to yet.
        let result = unsafe {
            let middle = start.add(PAGE).cast();
            libc::mprotect(middle, PAGE, libc::PROT_READ | libc::PROT_WRITE)
        };
        assert_eq!(result, 0);
        Guarded { start }
    }

    /// Bytes at the end of the page, or at its beginning.
    fn place(&mut self, length: usize, at_end: bool) -> &mut [u8] {
        assert!(length <= PAGE);
        let offset = if at_end { 2 * PAGE - length } else { PAGE };
        // SAFETY: within the page that can be accessed, and borrowed as long as `self` is.
        unsafe { slice::from_raw_parts_mut(self.start.add(offset), length) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, to which all borrows have ended.
        unsafe { libc::munmap(self.start.cast(), 3 * PAGE) };
    }
}
