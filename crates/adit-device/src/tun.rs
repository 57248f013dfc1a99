//! The TUN device: several queues, each with the offloads that the kernel has.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::netlink::Netlink;
use crate::offload::{Offloads, VnetHeader};
use crate::options::name_refusal;
use crate::sys::{self, InterfaceRequest};

/// A TUN device. It vanishes with its last queue, unless it is persistent.
#[derive(Debug)]
pub struct Tun {
    /// The interface's name.
    pub name: String,
    /// The interface's index.
    pub ifindex: u32,
    /// One queue per worker; at least one, but fewer than asked for if the device allows only one, or no more can be
    /// had.
    pub queues: Vec<TunQueue>,
    /// One more queue, for writing only, if the device has several of the others: the kernel gives it no packets, and
    /// what is written there does not change from which queue a flow's packets come.
    pub aside: Option<TunQueue>,
    /// The offloads in use: which packets are read, and may be written, unfinished.
    pub offloads: Offloads,
    /// Whether a [`VnetHeader`] stands before every packet read and written.
    pub vnet_header: bool,
    /// Whether the interface was made here, and still is as the kernel makes them.
    pub is_new: bool,
}

/// One queue of a TUN device. Reads and writes do not block.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
}

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunError {
    /// The kernel has no TUN driver, or the file may not be opened.
    #[error("{TUN_FILE} cannot be opened: {0}{advice}", advice = what_to_do(.0))]
    Open(#[source] io::Error),
    /// Not a possible name for an interface: see [`name_refusal`], and `%d` for a number of the kernel's choice.
    #[error("found the name {0:?}, expected 1 to 15 letters, digits, %d once and any of _ = + . -, not . or .. alone")]
    BadName(String),
    /// The process lacks `CAP_NET_ADMIN`.
    #[error("interface {0}: not permitted; run it as root or with CAP_NET_ADMIN")]
    NotPermitted(String),
    /// An interface of this name exists and is something else.
    #[error("interface {0} exists and is not a TUN device")]
    NotTun(String),
    /// An interface of this name exists and another process serves it.
    #[error("interface {0} is in use by another process")]
    InUse(String),
    /// The given file descriptor is not a TUN device that can be used.
    #[error("the given file descriptor cannot be used: {0}")]
    BadDescriptor(&'static str),
    /// Another system call failed.
    #[error("interface {name}: {failure}: {source}")]
    System {
        /// The interface.
        name: String,
        /// What could not be done.
        failure: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What to do about a TUN device that cannot be opened; empty if there is nothing to say.
fn what_to_do(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES) => {
            "; run it as root, or let everybody open it (chmod 666 /dev/net/tun) and run it with CAP_NET_ADMIN"
        }
        Some(libc::EPERM) => {
            "; run it as root or with CAP_NET_ADMIN; in a container, start it with --device /dev/net/tun"
        }
        Some(libc::ENOENT) => "; load the driver: modprobe tun; in a container, start it with --device /dev/net/tun",
        _ => "",
    }
}

/// How many queues of a multi-queue device are open; `None` for anything else.
fn queues_of(name: &str) -> Option<u32> {
    Netlink::open().and_then(|mut netlink| netlink.tun_queues(name)).ok()
}

const TUN_FILE: &str = "/dev/net/tun";
const KIND: i32 = libc::IFF_TUN | libc::IFF_NO_PI;
/// The kernel has room for 256, one of which is set aside.
const MAX_QUEUES: usize = 255;
/// What all queues of a device have in common besides.
const MULTI: i32 = libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR;

impl Tun {
    /// Creates the interface `name`, in which `%d` stands for a number of the kernel's choice, or attaches to the
    /// persistent TUN device of that name that nobody serves.
    ///
    /// # Errors
    /// The interface cannot be made, belongs to something else, or is in use. Nothing is left behind.
    pub fn create(name: &str, queues: usize, offload: bool) -> Result<Tun, TunError> {
        // Two digits in place of `%d`, for the number that the kernel will put there.
        if name_refusal(&name.replacen("%d", "00", 1)).is_some() {
            return Err(TunError::BadName(name.to_owned()));
        }
        let vnet = if offload { libc::IFF_VNET_HDR } else { 0 };
        let first = open()?;
        // A multi-queue device would let us in beside the process that serves it; IFF_TUN_EXCL tells whether one was
        // there before us.
        let multi = KIND | libc::IFF_MULTI_QUEUE | vnet;
        let attached = attach(&first, name, multi | libc::IFF_TUN_EXCL);
        let is_new = attached.is_ok();
        let attached = match attached {
            // One more queue would take packets from the process that serves the device, so its queues are counted
            // first.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && queues_of(name) > Some(0) => {
                return Err(TunError::InUse(name.to_owned()));
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => match attach(&first, name, multi) {
                Ok(name) => match queues_of(&name) {
                    Some(2..) => return Err(TunError::InUse(name)),
                    _ => Ok(name),
                },
                // A device made without multi-queue, or no TUN device.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => attach(&first, name, KIND | vnet),
                Err(error) => Err(error),
            },
            attached => attached,
        };
        let name = attached.map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted(name.to_owned()),
            Some(libc::EBUSY) => TunError::InUse(name.to_owned()),
            Some(libc::EINVAL) => TunError::NotTun(name.to_owned()),
            _ => system(name, "cannot be created", source),
        })?;
        Ok(Tun { is_new, ..Tun::set_up(first, name, queues, offload)? })
    }

    /// Takes over a TUN device that another process has opened, and opens further queues of it if it has several.
    ///
    /// # Errors
    /// It is not a TUN device, or one whose packets have a header that is not understood here.
    pub fn from_fd(fd: OwnedFd, queues: usize, offload: bool) -> Result<Tun, TunError> {
        let request = sys::tun_request(fd.as_fd()).map_err(|_| TunError::BadDescriptor("it is not a TUN device"))?;
        if request.flags() & libc::IFF_TUN == 0 {
            return Err(TunError::BadDescriptor("it is a TAP device"));
        }
        // The flags do not tell: the kernel uses the bit of IFF_NO_PI for something else as well in this answer.
        let name = request.name();
        let header = Netlink::open().and_then(|mut netlink| netlink.tun_has_packet_information(&name));
        if header.is_ok_and(|header| header) {
            return Err(TunError::BadDescriptor("it was not opened with IFF_NO_PI"));
        }
        Tun::set_up(File::from(fd), name, queues, offload)
    }

    fn set_up(first: File, name: String, queues: usize, offload: bool) -> Result<Tun, TunError> {
        let error = |failure| {
            let name = name.clone();
            move |source| TunError::System { name, failure, source }
        };
        let (flags, offloads) = set_options(first.as_fd(), &name, offload)?;
        let ifindex = sys::interface_index(&name).map_err(error("its index cannot be read"))?;

        let mut files = vec![first];
        if flags & libc::IFF_MULTI_QUEUE != 0 {
            let flags = KIND | flags & MULTI;
            while files.len() < queues.min(MAX_QUEUES) {
                match another_queue(&name, flags) {
                    Ok(file) => files.push(file),
                    // One is enough to serve.
                    Err(error) => {
                        let found = files.len();
                        tracing::warn!(found, asked = queues, %error, "fewer threads serve than asked for");
                        break;
                    }
                }
            }
        }
        let aside = (files.len() > 1).then(|| detached_queue(&name, KIND | flags & MULTI)).transpose();
        let aside = aside.unwrap_or_else(|error| {
            tracing::warn!(%error, "packets of a flow may overtake each other when its first answer comes");
            None
        });
        let mut queues = Vec::with_capacity(files.len());
        for file in files {
            queues.push(TunQueue::new(file).map_err(error("it cannot be made non-blocking"))?);
        }
        let vnet_header = flags & libc::IFF_VNET_HDR != 0;
        Ok(Tun { name, ifindex, queues, aside, offloads, vnet_header, is_new: false })
    }
}

impl TunQueue {
    fn new(file: File) -> io::Result<TunQueue> {
        sys::set_nonblocking(file.as_fd())?;
        Ok(TunQueue { file })
    }

    /// A queue that another process of this program has opened and set up.
    pub(crate) fn adopt(fd: OwnedFd) -> TunQueue {
        TunQueue { file: File::from(fd) }
    }

    /// A duplicate of the queue.
    ///
    /// # Errors
    /// There are no file descriptors left.
    pub(crate) fn try_clone(&self) -> io::Result<TunQueue> {
        Ok(TunQueue { file: self.file.try_clone()? })
    }

    /// Reads one packet, with its [`VnetHeader`] before it if the device has them. What does not fit into `buffer` is
    /// lost.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; EBADFD if the interface was deleted.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet, of which `slices` are the parts: first its [`VnetHeader`] if the device has them.
    ///
    /// # Errors
    /// EIO if the interface is down, EBADFD if it was deleted, EINVAL if the packet is malformed.
    pub fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(slices)
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for TunQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn open() -> Result<File, TunError> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(TUN_FILE).map_err(TunError::Open)
}

/// One more queue of a device that has several.
fn another_queue(name: &str, flags: i32) -> Result<File, TunError> {
    let file = open()?;
    match attach(&file, name, flags) {
        Ok(_) => Ok(file),
        Err(source) if source.raw_os_error() == Some(libc::E2BIG) => {
            Err(system(name, "the kernel gives a device no more queues", source))
        }
        Err(source) => Err(system(name, "a queue cannot be added", source)),
    }
}

/// One more queue of a device that has several, to which the kernel gives no packets.
fn detached_queue(name: &str, flags: i32) -> Result<TunQueue, TunError> {
    let file = another_queue(name, flags)?;
    let detached = sys::tun_detach(file.as_fd()).and_then(|()| TunQueue::new(file));
    detached.map_err(|source| system(name, "a queue cannot be set aside", source))
}

/// Attaches a freshly opened file and returns the interface's name.
fn attach(file: &File, name: &str, flags: i32) -> io::Result<String> {
    let mut request = InterfaceRequest::new(name, flags).ok_or(io::Error::from_raw_os_error(libc::ENAMETOOLONG))?;
    sys::tun_attach(file.as_fd(), &mut request)?;
    Ok(request.name())
}

/// Sets up a queue that is served again, and may have been set up for another process since. The interface need not be
/// found by its name: it may be in another network namespace by now.
pub(crate) fn set_up_again(queue: BorrowedFd<'_>, offload: bool) -> Result<(), TunError> {
    let request = sys::tun_request(queue).map_err(|_| TunError::BadDescriptor("it is not a TUN device"))?;
    set_options(queue, &request.name(), offload).map(drop)
}

/// Sets the packet format of a device; returns its flags and the offloads in use.
fn set_options(queue: BorrowedFd<'_>, name: &str, offload: bool) -> Result<(i32, Offloads), TunError> {
    let error = |failure| move |source| system(name, failure, source);
    let flags = sys::tun_request(queue).map_err(error("its flags cannot be read"))?.flags();
    let vnet_header = flags & libc::IFF_VNET_HDR != 0;
    if vnet_header {
        sys::tun_set_vnet_header_len(queue, VnetHeader::LEN as i32)
            .map_err(error("the length of its packet header cannot be set"))?;
    }
    if vnet_header && offload {
        return Ok((flags, set_offloads(|flags| sys::tun_set_offload(queue, flags))));
    }
    // A persistent device may have offloads on from its last use. Without a vnet header there are none to turn off.
    let _ = sys::tun_set_offload(queue, 0);
    Ok((flags, Offloads::NONE))
}

/// Turns on as much as the kernel has: as much as `set` takes.
fn set_offloads(mut set: impl FnMut(u32) -> io::Result<()>) -> Offloads {
    let checksum = libc::TUN_F_CSUM;
    let tcp = libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let choices = [
        (checksum | tcp | udp, Offloads::ALL),
        (checksum | tcp, Offloads { udp: false, ..Offloads::ALL }),
        (checksum, Offloads { checksum: true, ..Offloads::NONE }),
    ];
    for (flags, offloads) in choices {
        if set(flags).is_ok() {
            return offloads;
        }
    }
    Offloads::NONE
}

fn system(name: &str, failure: &'static str, source: io::Error) -> TunError {
    TunError::System { name: name.to_owned(), failure, source }
}

#[cfg(test)]
mod tests;
