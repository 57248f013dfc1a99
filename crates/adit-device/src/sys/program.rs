//! Programs for the kernel's packet filter machine (classic BPF): as much of it as is used.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// One instruction. The machine has an accumulator, and a register to keep a value in.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Instruction(libc::sock_filter);

impl Instruction {
    const fn new(code: u32, value: u32) -> Self {
        Self(libc::sock_filter { code: code as u16, jt: 0, jf: 0, k: value })
    }

    const fn jump_unless(code: u32, value: u32, over: u8) -> Self {
        Self(libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_K | code) as u16, jt: 0, jf: over, k: value })
    }

    /// The packet's length.
    pub(crate) const fn load_length() -> Self {
        Self::new(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0)
    }

    /// Four bytes of the packet.
    pub(crate) const fn load_word(at: u32) -> Self {
        Self::new(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
    }

    /// Two bytes of the packet.
    pub(crate) const fn load_half(at: u32) -> Self {
        Self::new(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, at)
    }

    /// Skips `over` instructions unless the accumulator is at least `value`.
    pub(crate) const fn unless_at_least(value: u32, over: u8) -> Self {
        Self::jump_unless(libc::BPF_JGE, value, over)
    }

    /// Skips `over` instructions unless the accumulator is `value`.
    pub(crate) const fn unless_equal(value: u32, over: u8) -> Self {
        Self::jump_unless(libc::BPF_JEQ, value, over)
    }

    pub(crate) const fn multiply(by: u32) -> Self {
        Self::new(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, by)
    }

    pub(crate) const fn shift_right(by: u32) -> Self {
        Self::new(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, by)
    }

    pub(crate) const fn modulo(by: u32) -> Self {
        Self::new(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, by)
    }

    /// Keeps the accumulator's value.
    pub(crate) const fn keep() -> Self {
        Self::new(libc::BPF_MISC | libc::BPF_TAX, 0)
    }

    pub(crate) const fn xor_with_kept() -> Self {
        Self::new(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X, 0)
    }

    /// Ends the program with the accumulator as its result.
    pub(crate) const fn give() -> Self {
        Self::new(libc::BPF_RET | libc::BPF_A, 0)
    }

    pub(crate) const fn give_value(value: u32) -> Self {
        Self::new(libc::BPF_RET | libc::BPF_K, value)
    }
}

/// Lets a program choose which socket of a reuseport group gets a packet (`SO_ATTACH_REUSEPORT_CBPF`): it sees what is
/// behind the UDP header, and returns the socket's index in the order of binding.
pub(crate) fn attach_to_group(fd: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel only reads, though the type says otherwise.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let length = size_of_val(&program) as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes at the pointer, which is exactly the local `program`, and `len`
    // instructions where that points to; an `Instruction` is a `sock_filter`.
    check(unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
        libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const program).cast(), length)
    })
    .map(drop)
}
