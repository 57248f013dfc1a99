//! Who gets which datagram, decided in the kernel.
//!
//! All sockets of a family share one port. Transport messages go to the workers' sockets, those of one sender always to
//! the same one; everything else, whatever it is, goes to a socket of its own. So a flood of handshakes, or of bytes
//! without meaning, fills a buffer in which no packet of a session waits.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;

use adit::limits::TRANSPORT_OVERHEAD;

use super::bind::Family;
use crate::sys::{self, Instruction};

/// The first four bytes of a transport message, as the BPF machine loads them: the most significant first.
const TRANSPORT: u32 = 0x0400_0000;
/// Added to the offset of a load, this makes it read from the IP header, wherever the program's view of the packet
/// begins.
const NETWORK_HEADER: u32 = libc::SKF_NET_OFF as u32;
/// Multiplying by this spreads a difference in any bit over the high bits.
const GOLDEN: u32 = 0x9e37_79b1;

/// Gives transport messages to the first `workers` sockets of the reuseport group that `fd` belongs to, and the rest to
/// the next.
///
/// # Errors
/// The socket shares its port with no other, or the kernel is older than Linux 4.6 and has no such programs.
pub(super) fn steer(fd: BorrowedFd<'_>, family: Family, workers: u32) -> io::Result<()> {
    sys::attach_to_group(fd, &program(family, workers))
}

/// The program, which returns the index of the socket in the group. A load beyond the packet would end it with 0, so
/// nothing is loaded that may not be there.
fn program(family: Family, workers: u32) -> [Instruction; 14] {
    use Instruction as I;
    // The offsets of the last four bytes of the source address and, behind a header without options, of the source
    // port.
    let (address, port) = match family {
        Family::V4 => (12, 20),
        Family::V6 => (20, 40),
    };
    [
        I::load_length(),
        I::unless_at_least(TRANSPORT_OVERHEAD as u32, 11),
        I::load_word(0),
        I::unless_equal(TRANSPORT, 9),
        I::load_word(NETWORK_HEADER.wrapping_add(address)),
        I::multiply(GOLDEN),
        I::keep(),
        I::load_half(NETWORK_HEADER.wrapping_add(port)),
        I::xor_with_kept(),
        I::multiply(GOLDEN),
        I::shift_right(16),
        I::modulo(workers),
        I::give(),
        I::give_value(workers),
    ]
}
