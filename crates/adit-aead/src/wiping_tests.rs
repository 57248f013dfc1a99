//! That secrets are overwritten when they are dropped.

use core::mem::ManuallyDrop;

use crate::Key;

/// A value whose drop has run, to be looked at.
pub(crate) fn dropped<T>(value: T) -> ManuallyDrop<T> {
    let mut value = ManuallyDrop::new(value);
    // SAFETY: it is dropped this once. What these tests then read of it are numbers, which a drop leaves valid.
    unsafe { ManuallyDrop::drop(&mut value) };
    value
}

#[test]
fn a_dropped_key_leaves_nothing_behind() {
    assert_eq!(dropped(Key::new([0x5a; 32])).bytes, [0; 32]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn dropped_key_stream_leaves_nothing_behind() {
    let mut stream = crate::stream::KeyStream::<4>::new();
    stream.0 = [[0x5a; 64]; 4];
    assert_eq!(dropped(stream).0, [[0; 64]; 4]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn dropped_authenticators_leave_neither_keys_nor_sums_behind() {
    let state = dropped(crate::poly1305::State::<3> { r: [[1; 8]; 3], s: [[2; 8]; 2], sums: [[3; 8]; 3] });
    assert_eq!((state.r, state.s, state.sums), ([[0; 8]; 3], [[0; 8]; 2], [[0; 8]; 3]));
}
