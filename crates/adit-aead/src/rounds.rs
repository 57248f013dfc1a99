//! The rounds of ChaCha20, over whatever vectors a backend has.

/// "expand 32-byte k", the first four words of the state.
pub(crate) const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// A double round of `$x`, an array of sixteen vectors, each of them one word
/// of the state of many blocks.
///
/// The four quarter rounds of a round go step by step side by side, for they do
/// not wait for one another as the steps of one do.
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
        $x[$d] = $left($xor($x[$d], $x[$a]));
    };
    (@sum_c $x:ident, $add:ident, ($a:literal, $b:literal, $c:literal, $d:literal)) => {
        $x[$c] = $add($x[$c], $x[$d]);
    };
    (@turn_b $x:ident, $xor:ident, $left:expr, ($a:literal, $b:literal, $c:literal, $d:literal)) => {
        $x[$b] = $left($xor($x[$b], $x[$c]));
    };
}

pub(crate) use double_round;
