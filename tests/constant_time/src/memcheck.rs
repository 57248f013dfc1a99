//! Requests to valgrind's memcheck from within the program that it runs.
//!
//! Memcheck follows, bit by bit, what is computed from memory that has never been written, and tells where a branch
//! or an address depends on it. A secret that is declared to be such memory is followed in the same way.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the request to valgrind is written for x86-64 only");

const RUNNING_ON_VALGRIND: u64 = 0x1001;
const MAKE_MEM_UNDEFINED: u64 = TOOL + 1;
const MAKE_MEM_DEFINED: u64 = TOOL + 2;
const GET_VBITS: u64 = TOOL + 8;
/// Memcheck's own requests begin here.
const TOOL: u64 = (b'M' as u64) << 24 | (b'C' as u64) << 16;

/// Whether valgrind runs this program.
pub(crate) fn is_watching() -> bool {
    request(RUNNING_ON_VALGRIND, [0; 3]) != 0
}

/// From here on these bytes are secret, and so is what is computed from them.
pub(crate) fn classify(bytes: &[u8]) {
    request(MAKE_MEM_UNDEFINED, [bytes.as_ptr() as u64, bytes.len() as u64, 0]);
}

/// From here on these bytes are no secret: they leave for the network.
pub(crate) fn declassify(bytes: &[u8]) {
    request(MAKE_MEM_DEFINED, [bytes.as_ptr() as u64, bytes.len() as u64, 0]);
}

/// Whether each of these bytes depends on a secret.
pub(crate) fn are_secret(bytes: &[u8]) -> bool {
    let mut marks = vec![0_u8; bytes.len()];
    request(GET_VBITS, [bytes.as_ptr() as u64, marks.as_mut_ptr() as u64, bytes.len() as u64]);
    marks.iter().all(|&mark| mark != 0)
}

/// What valgrind answers, and 0 where it does not listen.
fn request(number: u64, [a, b, c]: [u64; 3]) -> u64 {
    let words = [number, a, b, c, 0, 0];
    let answer: u64;
    // SAFETY: the four rotations come to 128 bits in all and leave rdi as it was, and the exchange does nothing; only
    // valgrind takes the six for a request. It then reads the six words that rax points at, writes rdx and, for
    // GET_VBITS, the memory that the words name, which the caller has borrowed for that. The compiler takes the block
    // for one that may read and write all memory that it knows an address of, as these all are.
    unsafe {
        core::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") words.as_ptr().expose_provenance(),
            inout("rdx") 0_u64 => answer,
        );
    }
    answer
}
