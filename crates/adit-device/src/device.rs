//! Setting a device up, running it and taking it down.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use adit::Interface;
use getrandom::SysRng;
use mio::{Poll, Waker};
use rand_core::UnwrapErr;

use crate::control::{self, Control};
use crate::netlink::{LinkMonitor, NetlinkError};
use crate::options::Options;
use crate::shared::{Shared, now, unix_time};
use crate::tun::{Tun, TunError};
use crate::uapi::{Listener, Server};
use crate::udp::{self, BindError, Sockets};
use crate::worker::{self, Worker};

/// Why a device could not be started, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// There are no UDP sockets.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The kernel does not tell of interfaces.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// There is no UAPI socket.
    #[error("the UAPI socket of {name}: {source}")]
    Uapi {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call that cannot be done without failed.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes the interface, serves it, and takes it down again: returns when the process is told to end by SIGTERM or
/// SIGINT, or when the interface or the UAPI socket is deleted.
///
/// # Errors
/// [`Error`]; nothing is left behind.
pub fn run(options: Options) -> Result<(), Error> {
    let Options { name, threads, offload, tun_fd, uapi_fd, ready } = options;
    let signals = control::Signals::listen().map_err(system("signals cannot be received"))?;
    let tun = match tun_fd {
        Some(fd) => Tun::from_fd(fd, threads.get(), offload)?,
        None => Tun::create(&name, threads.get(), offload)?,
    };
    let listener = match uapi_fd {
        Some(fd) => Listener::from_fd(fd),
        None => Listener::bind(&tun.name),
    };
    let listener = listener.map_err(|source| Error::Uapi { name: tun.name.clone(), source })?;
    let sockets = bind(0, tun.queues.len(), 0, offload)?;
    let poll = Poll::new().map_err(system("events cannot be waited for"))?;
    let waker = Waker::new(poll.registry(), control::WAKER).map_err(system("a thread cannot be woken"))?;
    let interface = Interface::new(now(), unix_time(), Box::new(UnwrapErr(SysRng)));
    let port = sockets.first().map_or(0, |sockets| sockets.port);
    let shared = Arc::new(Shared::new(interface, sockets, tun.offloads, tun.vnet_header, waker));

    let monitor = LinkMonitor::open()?;
    let first = tun.queues.first().map(|queue| queue.as_fd().try_clone_to_owned());
    let probe: OwnedFd = first.ok_or(io::ErrorKind::NotFound.into()).flatten().map_err(system("no TUN queue"))?;
    tracing::info!(
        interface = %tun.name,
        threads = tun.queues.len(),
        offloads = ?tun.offloads,
        "started"
    );
    let workers = Workers::start(&shared, tun.queues)?;
    let mut control = Control::new(
        poll,
        shared.clone(),
        control::Device { name: tun.name.clone(), ifindex: tun.ifindex, probe, port, fwmark: 0, offload },
        workers,
        Server::new(listener),
        monitor,
        signals,
    )
    .map_err(system("events cannot be waited for"))?;
    if let Some(ready) = ready {
        ready(&tun.name);
    }
    let result = control.run();
    tracing::info!(interface = %tun.name, "ended");
    result.map_err(system("the control thread cannot go on"))
}

fn system(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { action, source }
}

/// Sockets for each worker.
pub(crate) fn bind(port: u16, workers: usize, fwmark: u32, offload: bool) -> Result<Vec<Arc<Sockets>>, BindError> {
    Ok(udp::bind(port, workers, fwmark, offload)?.into_iter().map(Arc::new).collect())
}

/// The worker threads. They end when this is dropped.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    wakers: Vec<Waker>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn start(shared: &Arc<Shared>, queues: Vec<crate::tun::TunQueue>) -> Result<Self, Error> {
        let mut workers = Self { shared: shared.clone(), wakers: Vec::new(), threads: Vec::new() };
        for (index, queue) in queues.into_iter().enumerate() {
            let start = || {
                let poll = Poll::new()?;
                let waker = Waker::new(poll.registry(), worker::WAKER)?;
                let worker = Worker::new(shared.clone(), index, poll, queue)?;
                let thread = std::thread::Builder::new().name(format!("worker {index}")).spawn(move || worker.run())?;
                Ok((waker, thread))
            };
            let (waker, thread) = start().map_err(system("a worker cannot be started"))?;
            workers.wakers.push(waker);
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.threads.len()
    }

    /// Makes each worker look whether it has other sockets now.
    pub(crate) fn wake(&self) {
        for waker in &self.wakers {
            if let Err(error) = waker.wake() {
                tracing::error!(%error, "a worker cannot be woken");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.wake();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}
