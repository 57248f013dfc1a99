//! The parts of ChaCha20 that all backends share: its rounds, over vectors of any kind, and tables to fill the vectors
//! from.

use crate::stream::LANES;

/// "expand 32-byte k", the first four words of the state.
pub(crate) const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// For each lane: all bits set from `first` on, and none before.
#[inline]
pub(crate) fn lanes_from(first: usize) -> &'static [u32; LANES] {
    static TABLE: [u32; 2 * LANES] = {
        let mut table = [0; 2 * LANES];
        let mut i = LANES;
        while i < 2 * LANES {
            table[i] = !0;
            i += 1;
        }
        table
    };
    window(&TABLE, first)
}

/// For each lane: its distance to `first`.
#[inline]
pub(crate) fn numbers_from(first: usize) -> &'static [u32; LANES] {
    static TABLE: [u32; 2 * LANES] = {
        let mut table = [0; 2 * LANES];
        let mut i = 0;
        while i < 2 * LANES {
            table[i] = (i as u32).wrapping_sub(LANES as u32);
            i += 1;
        }
        table
    };
    window(&TABLE, first)
}

/// What begins `first` words before the middle.
#[inline]
fn window(table: &[u32; 2 * LANES], first: usize) -> &[u32; LANES] {
    let from = LANES - first.min(LANES);
    // There are always that many words from there on.
    table[from..].first_chunk().unwrap_or(&[0; LANES])
}

/// A double round of `$x`, an array of sixteen vectors, each of them one word
/// of the state of many blocks.
///
/// The four quarter rounds of a round advance step by step, side by side, since they do not wait for one another as the
/// steps of a single one do.
macro_rules! double_round {
    ($x:ident, $add:ident, $xor:ident, $left_16:expr, $left_12:expr, $left_8:expr, $left_7:expr $(, $beside:expr)?) => {
        double_round!(@half_round $x, $add, $xor, $left_16, $left_12,
            (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15));
        $( $beside; )?
        double_round!(@half_round $x, $add, $xor, $left_8, $left_7,
            (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15));
        $( $beside; )?
        double_round!(@half_round $x, $add, $xor, $left_16, $left_12,
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14));
        $( $beside; )?
        double_round!(@half_round $x, $add, $xor, $left_8, $left_7,
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14));
        $( $beside; )?
    };
    (@half_round $x:ident, $add:ident, $xor:ident, $left_d:expr, $left_b:expr, $($quarter:tt),*) => {
        $( double_round!(@sum $x, $add, $quarter); )*
        $( double_round!(@turn_d $x, $xor, $left_d, $quarter); )*
        $( double_round!(@sum_c $x, $add, $quarter); )*
        $( double_round!(@turn_b $x, $xor, $left_b, $quarter); )*
    };
    (@sum $x:ident, $add:ident, ($a:literal, $b:literal, $c:literal, $d:literal)) => {
        $x[$a] = $add($x[$a], $x[$b]);
    };
    (@turn_d $x:ident, $xor:ident, $left:expr, ($a:literal, $b:literal, $c:literal, $d:literal)) => {
        $x[$d] = ($left)($xor($x[$d], $x[$a]));
    };
    (@sum_c $x:ident, $add:ident, ($a:literal, $b:literal, $c:literal, $d:literal)) => {
        $x[$c] = $add($x[$c], $x[$d]);
    };
    (@turn_b $x:ident, $xor:ident, $left:expr, ($a:literal, $b:literal, $c:literal, $d:literal)) => {
        $x[$b] = ($left)($xor($x[$b], $x[$c]));
    };
}

pub(crate) use double_round;
