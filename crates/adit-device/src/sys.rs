//! The system calls that the standard library, `socket2` and `rustix` do not offer, and the CPU's vector instructions,
//! behind safe functions: all `unsafe` code of this crate except what takes over inherited files. Nothing on the path
//! of a packet allocates.

mod message;
mod namespace;
mod process;
mod program;
mod vectors;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

#[cfg(test)]
pub(crate) use message::segmentation;
pub(crate) use message::{Outgoing, Received, receive, receive_many, send, send_many};
pub(crate) use namespace::{effective_ids, enter, unshare_network, unshare_user_and_network};
pub(crate) use process::{MARK, answer_to_mark};
pub(crate) use program::{Instruction, attach_to_group};
pub(crate) use vectors::with_vectors;

/// Asks for the network namespace of a TUN device. `libc` has no name for it.
pub(crate) const TUNGETDEVNETNS: u32 = 0x54e3;

/// Turns the result of a system call into a `Result`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Time since the machine booted, sleep included.
///
/// Asks the C library, which the kernel tells at process start where the clock can be read without a system call (the
/// vDSO). `rustix` looks for that place later, in ways that are closed to a program started by a confined one.
pub(crate) fn boottime() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that outlives the call, which writes nothing else.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    debug_assert_eq!(result, 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Sets an option whose value is a C `int`.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes at the pointer, which is exactly the local `value`.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length) }).map(drop)
}

/// What the kernel says of a socket's receive buffer (`SO_MEMINFO`).
pub(crate) struct ReceiveBuffer {
    /// Bytes of memory that datagrams use which wait to be read; by up to a quarter of the limit too many.
    pub(crate) used: u32,
    /// The most bytes they may use.
    pub(crate) limit: u32,
    /// Datagrams that were dropped since there was no room.
    pub(crate) dropped: u32,
}

/// Asks the kernel how a socket's receive buffer is.
pub(crate) fn receive_buffer(fd: BorrowedFd<'_>) -> io::Result<ReceiveBuffer> {
    /// `SK_MEMINFO_RMEM_ALLOC`, `SK_MEMINFO_RCVBUF`, `SK_MEMINFO_DROPS`.
    const USED: usize = 0;
    const LIMIT: usize = 1;
    const DROPPED: usize = 8;
    let mut values = [0u32; DROPPED + 1];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes at `values`, and the length written at `length`; both are
    // locals.
    check(unsafe {
        let values = values.as_mut_ptr().cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, values, &mut length)
    })?;
    Ok(ReceiveBuffer { used: values[USED], limit: values[LIMIT], dropped: values[DROPPED] })
}

/// Bytes of memory that what was sent still uses (`SIOCOUTQ`).
pub(crate) fn waiting(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one `int` at the pointer, which is that of a local.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Reads an option whose value is a C `int`.
pub(crate) fn option(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes at `value`, and the length written at `length`; both are locals.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &mut length) })?;
    Ok(value)
}

/// Makes reads and writes of this description return `WouldBlock` where they would wait.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

/// An open netlink socket, as the type of the netlink library.
pub(crate) fn netlink_socket(fd: OwnedFd) -> netlink_sys::Socket {
    // SAFETY: the descriptor is open, and its only owner gives it away here.
    unsafe { netlink_sys::Socket::from_raw_fd(fd.into_raw_fd()) }
}

/// The index of the interface of this name in the calling thread's network namespace.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    // Any socket will do; this kind (without a protocol: for routes) is one that a confined process may open too.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(netdevice::name_to_index(socket, name)?)
}

/// A `struct ifreq` as far as TUN devices use it: a name and flags.
#[derive(Clone, Copy)]
pub(crate) struct InterfaceRequest {
    raw: libc::ifreq,
}

impl InterfaceRequest {
    /// A request for the interface `name`; `None` if the name is too long or holds a NUL.
    pub(crate) fn new(name: &str, flags: i32) -> Option<InterfaceRequest> {
        let bytes = name.as_bytes();
        if bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
            return None;
        }
        // SAFETY: `ifreq` is a C struct of integers, pointers and unions of these, for which all zeros is a valid
        // value.
        let mut raw: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in raw.ifr_name.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        raw.ifr_ifru.ifru_flags = flags as libc::c_short;
        Some(InterfaceRequest { raw })
    }

    /// The interface's name, as the kernel has filled it in.
    pub(crate) fn name(&self) -> String {
        let bytes: Vec<u8> = self.raw.ifr_name.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The flags, as the kernel has filled them in.
    pub(crate) fn flags(&self) -> i32 {
        // SAFETY: every request is made zeroed with its flags set, so these bytes of the union are initialised, and
        // any value of them is a valid integer.
        i32::from(unsafe { self.raw.ifr_ifru.ifru_flags } as u16)
    }
}

/// `TUNSETIFF`: attaches this description to a TUN device as one more queue, creating the device if need be.
pub(crate) fn tun_attach(fd: BorrowedFd<'_>, request: &mut InterfaceRequest) -> io::Result<()> {
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` holds.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request.raw) }).map(drop)
}

/// `TUNGETIFF`: name and flags of the device this description is attached to.
pub(crate) fn tun_request(fd: BorrowedFd<'_>) -> io::Result<InterfaceRequest> {
    let mut request = InterfaceRequest::new("", 0).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: TUNGETIFF writes one `ifreq`, which `request` holds.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request.raw) })?;
    Ok(request)
}

/// `TUNGETDEVNETNS`: the network namespace that the device is in.
pub(crate) fn tun_namespace(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: TUNGETDEVNETNS takes no argument, and returns a new file descriptor or an error.
    let namespace = check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETDEVNETNS as _) })?;
    // SAFETY: the kernel has just opened the descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

/// `TUNSETQUEUE`: the kernel gives this queue no more packets, and learns nothing from what is written to it.
pub(crate) fn tun_detach(fd: BorrowedFd<'_>) -> io::Result<()> {
    let request = InterfaceRequest::new("", libc::IFF_DETACH_QUEUE).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: TUNSETQUEUE reads one `ifreq`, which `request` holds.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETQUEUE as _, &raw const request.raw) }).map(drop)
}

/// `TUNSETOFFLOAD`: what the kernel may hand over unfinished.
pub(crate) fn tun_set_offload(fd: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags)) }).map(drop)
}

/// `TUNSETVNETHDRSZ`: the length of the header before every packet.
pub(crate) fn tun_set_vnet_header_len(fd: BorrowedFd<'_>, length: i32) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one C `int`, which is the local `length`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const length) }).map(drop)
}

/// `TUNGETVNETHDRSZ`: the length of the header before every packet.
#[cfg(test)]
pub(crate) fn tun_vnet_header_len(fd: BorrowedFd<'_>) -> io::Result<i32> {
    let mut length: libc::c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one C `int`, which is the local `length`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETVNETHDRSZ as _, &raw mut length) })?;
    Ok(length)
}

/// `TUNSETPERSIST`: whether the device outlives its last queue.
#[cfg(test)]
pub(crate) fn tun_set_persistent(fd: BorrowedFd<'_>, persistent: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value and touches no memory of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST as _, libc::c_ulong::from(persistent)) }).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// Set in the environment of the process for which the machine has slept.
    const SLEPT: &str = "ADIT_TEST_SLEPT";

    #[test]
    fn time_goes_on_while_the_machine_sleeps() {
        if std::env::var_os(SLEPT).is_some() {
            let uptime = fs::read_to_string("/proc/uptime").unwrap();
            let uptime: f64 = uptime.split_whitespace().next().unwrap().parse().unwrap();
            // A clock that stops during sleep would be behind by that time.
            assert!((boottime().as_secs_f64() - uptime).abs() < 1_000.0, "{:?} beside {uptime} s", boottime());
            return;
        }
        let mut command = Command::new("unshare");
        command.args(["--time", "--boottime", "1000000", "--fork"]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "sys::tests::time_goes_on_while_the_machine_sleeps", "--nocapture"]).env(SLEPT, "");
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "this test needs root: {output:?}");
    }
}
