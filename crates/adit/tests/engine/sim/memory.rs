//! How much memory is in use, as the allocator sees it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Bytes that this thread has been given and has not given back.
pub(super) fn in_use() -> isize {
    IN_USE.get()
}

/// The system's allocator, which counts the bytes that are in use.
struct Counting;

thread_local! {
    /// By thread, since the tests may run side by side.
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
