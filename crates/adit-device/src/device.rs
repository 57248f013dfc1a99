//! Setting a device up, running it and taking it down.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use adit::Interface;
use getrandom::SysRng;
use mio::{Poll, Waker};
use rand_core::UnwrapErr;

use crate::advice::what_to_raise;
use crate::confine;
use crate::control::{self, Control, End};
use crate::flows::Flows;
use crate::handover::{self, Alone, Guardian, Parts, Reload, Reloader};
use crate::netlink::{FarLinkMonitor, LinkMonitor, Netlink, NetlinkError};
use crate::options::Options;
use crate::shared::{Shared, now, unix_time};
use crate::tun::{self, Tun, TunError, TunQueue};
use crate::uapi::{Listener, Server};
use crate::udp::{self, BindError, Sockets};
use crate::worker::{self, Gate, Worker};

/// The MTU of a new interface, as with every WireGuard: what an Ethernet frame holds, less the tunnel's overhead over
/// IPv6.
const MTU: u32 = 1420;

/// What fails when there are no file descriptors left.
const OPEN_AGAIN: &str = "a TUN queue cannot be opened once more";

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
    /// The device of another process could not be taken over.
    #[error("the device cannot be taken over: {0}")]
    Handover(String),
    /// A system call that cannot be done without failed.
    #[error("{failure}: {source}{}", what_to_raise(source))]
    System {
        /// What could not be done.
        failure: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes the interface, serves it, and takes it down again: returns when the process is told to end by SIGTERM or
/// SIGINT, or when the interface or the UAPI socket is deleted, or when another process has taken over (and, with
/// [`Reload::stays`](crate::Reload::stays), has ended in turn).
///
/// # Errors
/// [`Error`]; nothing is left behind.
pub fn run(options: Options) -> Result<(), Error> {
    let Options { name, threads, offload, busy_poll, tun_fd, uapi_fd, reload_fd, .. } = options;
    let Options { confinement, notifier, ready, reload, handover, .. } = options;
    let signals = control::Signals::listen().map_err(system("signals cannot be received"))?;
    if let Some(fd) = handover {
        let stream = UnixStream::from(fd);
        let parts = handover::receive(&stream, confine::protect_memory(&confinement)).map_err(Error::Handover)?;
        let taken_from = Some(stream);
        return serve(parts, Beginning { signals, busy_poll, confinement, notifier, ready, reload, taken_from });
    }
    let tun = match tun_fd {
        Some(fd) => Tun::from_fd(fd, threads.get(), offload)?,
        None => Tun::create(&name, threads.get(), offload)?,
    };
    if tun.is_new {
        let mut netlink = Netlink::open()?;
        netlink.set_mtu(tun.ifindex, MTU)?;
        if let Err(error) = netlink.set_no_generated_addresses(tun.ifindex) {
            tracing::debug!(%error, "the kernel may have no IPv6");
        }
    }
    let listener = match uapi_fd {
        Some(fd) => Listener::from_fd(fd),
        None => Listener::bind(&tun.name),
    };
    let listener = listener.map_err(|source| Error::Uapi { name: tun.name.clone(), source })?;
    let asks = match reload_fd {
        Some(fd) => Some(Listener::from_fd(fd).map_err(system("the socket handed over for reloads cannot be used"))?),
        // A daemon that has given reloads up still listens, to say so to those who ask.
        None if reload.is_some() || !confinement.reload => handover::listen(&tun.name),
        None => None,
    };
    let sockets = bind(0, tun.queues.len(), 0, offload)?;
    let parts = Parts {
        sockets,
        keep_uapi: listener.path().is_none(),
        keep_asks: asks.as_ref().is_some_and(|asks| asks.path().is_none()),
        listener,
        asks,
        to_guardian: None,
        far_monitor: None,
        interface: Interface::new(now(), unix_time(), Box::new(UnwrapErr(SysRng))),
        fwmark: 0,
        offload,
        has_landlock: false,
        is_up: false,
        mtu: 0,
        earlier_overflows: 0,
        send_errors: 0,
        standing_queue: 0,
        tun_errors: 0,
        tun,
    };
    serve(parts, Beginning { signals, busy_poll, confinement, notifier, ready, reload, taken_from: None })
}

/// What `serve` needs besides the device itself.
struct Beginning {
    signals: control::Signals,
    busy_poll: Option<Duration>,
    confinement: confine::Confinement,
    notifier: Option<crate::notify::Notifier>,
    ready: Option<crate::options::Ready>,
    reload: Option<Reload>,
    /// The process that hands over, which is to be told that this one has taken over.
    taken_from: Option<UnixStream>,
}

fn serve(parts: Parts, beginning: Beginning) -> Result<(), Error> {
    let Parts {
        tun, sockets, listener, asks, to_guardian, far_monitor, interface, fwmark, offload, is_up, mtu, ..
    } = parts;
    let Parts { earlier_overflows, send_errors, standing_queue, tun_errors, .. } = parts;
    let Beginning { signals, busy_poll, confinement, notifier, ready, reload, taken_from } = beginning;
    let poll = Poll::new().map_err(system("events cannot be waited for"))?;
    let waker = Waker::new(poll.registry(), control::WAKER).map_err(system("a thread cannot be woken"))?;
    let port = sockets.first().map_or(0, |sockets| sockets.port);
    let mut shared = Shared::new(interface, sockets, tun.offloads, tun.vnet_header, busy_poll, waker);
    let queues: io::Result<_> = tun.queues.iter().map(|queue| queue.as_fd().try_clone_to_owned()).collect();
    shared.flows = Flows::new(queues.map_err(system(OPEN_AGAIN))?);
    let shared = Arc::new(shared);
    shared.is_up.store(is_up, Ordering::Relaxed);
    shared.mtu.store(mtu, Ordering::Relaxed);
    for (counter, count) in [
        (&shared.earlier_overflows, earlier_overflows),
        (&shared.send_errors, send_errors),
        (&shared.standing_queue, standing_queue),
        (&shared.tun_errors, tun_errors),
    ] {
        counter.store(count, Ordering::Relaxed);
    }

    let monitor = LinkMonitor::open()?;
    // Without it the interface can still be moved to another namespace, but what happens to it there is not heard.
    let far_monitor = far_monitor.or_else(|| FarLinkMonitor::open().ok());
    let first = tun.queues.first().map(|queue| queue.as_fd().try_clone_to_owned());
    let probe: OwnedFd = first
        .ok_or(io::ErrorKind::NotFound.into())
        .flatten()
        .map_err(system("no queue of the TUN device could be opened"))?;
    tracing::info!(
        interface = %tun.name,
        threads = tun.queues.len(),
        offloads = %crate::configure::offload_words(tun.offloads, offload),
        "started"
    );
    let (guardian, to_guardian) = match &reload {
        Some(Reload { stays: true, .. }) if to_guardian.is_none() => {
            let (guardian, to_guardian) =
                Guardian::new(signals.streams()).map_err(system("no process could stay here"))?;
            (Some(guardian), Some(to_guardian))
        }
        _ => (None, to_guardian),
    };
    // Whether this process takes charge of the socket files once it has taken over.
    let [owns_uapi, owns_asks] = [parts.keep_uapi, parts.keep_asks].map(|keep| taken_from.is_some() && !keep);
    // The folder for reloads lies within that of the UAPI socket, so the latter is enough where both files are its own.
    let file = file_to_remove(&listener, owns_uapi);
    let file = file.or_else(|| asks.as_ref().and_then(|asks| file_to_remove(asks, owns_asks)));
    // Before further threads start: a thread gives things up only for itself and for those that it starts afterwards.
    let report = confine::give_up(&confinement, file.as_deref(), parts.has_landlock);
    let workers = Workers::start(&shared, tun.queues, tun.aside)?;
    let can_be_asked = reload.is_some() || asks.is_some();
    let reloader = can_be_asked.then(|| Reloader::new(reload.map(|reload| reload.program), asks, to_guardian));
    let mut control = Control::new(
        poll,
        shared.clone(),
        control::Device {
            name: tun.name.clone(),
            ifindex: tun.ifindex,
            probe,
            port,
            fwmark,
            offload,
            confinement: report,
        },
        workers,
        Server::new(listener),
        monitor,
        far_monitor,
        signals,
        reloader,
    )
    .map_err(system("events cannot be waited for"))?;
    let alone = match taken_from {
        None => Alone::with_a_new_device(),
        Some(stream) => {
            let alone = handover::say_taken(&stream).map_err(system("the process that hands over is gone"))?;
            // Only now: until "taken" is said, the socket files belong to a process that may go on.
            control.own(owns_uapi, owns_asks);
            alone
        }
    };
    control.begin(alone);
    if let Some(ready) = ready {
        ready(&tun.name);
    }
    if let Some(notifier) = &notifier {
        notifier.ready(&format!("Serving {}", tun.name));
    }
    let result = control.run(notifier.as_ref());
    let result = match result {
        Ok(End::HandedOver(process)) => {
            // Keys, sessions and files: none of them is of use here any more.
            let mut signals = control.into_signals();
            drop(shared);
            match guardian {
                Some(guardian) => {
                    confine::give_up_rest(&confinement);
                    guardian.stay(signals.streams())
                }
                None => {
                    signals.pass_on(process);
                    return Ok(());
                }
            }
        }
        Ok(End::Ended) => {
            let to_guardian = control.close();
            // Whoever waits for the process that stays finds no interface any more: it goes with the last of its
            // queues.
            drop(shared);
            drop(to_guardian);
            Ok(())
        }
        Err(error) => Err(error),
    };
    if let Some(notifier) = &notifier {
        notifier.stopping();
    }
    tracing::info!(interface = %tun.name, "ended");
    result.map_err(system("the control thread cannot go on"))
}

/// The file of a socket, if this process removes it at the end: Landlock must leave its folder open to that.
fn file_to_remove(socket: &Listener, will_own: bool) -> Option<PathBuf> {
    socket.file().filter(|_| will_own || socket.path().is_some()).map(Path::to_owned)
}

fn system(failure: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { failure, source }
}

/// Sockets for each worker and, last, those for handshakes.
pub(crate) fn bind(port: u16, workers: usize, fwmark: u32, offload: bool) -> Result<Vec<Arc<Sockets>>, BindError> {
    Ok(udp::bind(port, workers, fwmark, offload)?.into_iter().map(Arc::new).collect())
}

/// The worker threads. They end when this is dropped.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    /// A duplicate of each queue, to be handed over.
    queues: Vec<OwnedFd>,
    aside: Option<Arc<TunQueue>>,
    wakers: Vec<Waker>,
    /// Where the threads wait while they may not begin, or go on.
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts the threads, which wait for [`Workers::begin`].
    fn start(shared: &Arc<Shared>, queues: Vec<TunQueue>, aside: Option<TunQueue>) -> Result<Self, Error> {
        let copies: io::Result<_> = queues.iter().map(|queue| queue.as_fd().try_clone_to_owned()).collect();
        let mut workers = Self {
            shared: shared.clone(),
            queues: copies.map_err(system(OPEN_AGAIN))?,
            aside: aside.map(Arc::new),
            wakers: Vec::new(),
            gate: Arc::default(),
            threads: Vec::new(),
        };
        // A single queue serves as well: all packets come from there in any case.
        let first = || queues.first().map(TunQueue::try_clone).transpose();
        let aside = workers.aside.clone().map_or_else(|| Ok(first()?.map(Arc::new)), |aside| Ok(Some(aside)));
        let aside = aside.map_err(system(OPEN_AGAIN))?;
        // The last is for handshakes, and has no queue of its own.
        for (index, queue) in queues.into_iter().map(Some).chain([None]).enumerate() {
            let name = if queue.is_some() { format!("worker {index}") } else { "handshakes".to_owned() };
            let gate = workers.gate.clone();
            let start = || {
                let poll = Poll::new()?;
                let waker = Waker::new(poll.registry(), worker::WAKER)?;
                let mut worker = Worker::new(shared.clone(), index, poll, queue, aside.clone())?;
                let thread = std::thread::Builder::new().name(name).spawn(move || {
                    while let Some(_inside) = gate.pass()
                        && worker.run()
                    {}
                })?;
                Ok((waker, thread))
            };
            let (waker, thread) = start().map_err(system("a worker cannot be started"))?;
            workers.wakers.push(waker);
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Lets the threads begin.
    pub(crate) fn begin(&self) {
        self.gate.open();
    }

    /// Lets the threads rest, each after the burst that it has in hand. When this returns, none of them touches a queue
    /// or a socket before [`Workers::resume`].
    pub(crate) fn pause(&self) {
        self.gate.close();
        self.shared.ends.store(true, Ordering::Relaxed);
        self.wake();
        self.gate.wait_until_empty();
    }

    /// Lets them go on after a [`Workers::pause`]. They have all that they need: nothing can be refused to them.
    pub(crate) fn resume(&self, offload: bool) {
        for queue in &self.queues {
            // Another process may have set it up for itself.
            if let Err(error) = tun::set_up_again(queue.as_fd(), offload) {
                tracing::error!(%error, "the TUN device may be set up as another process wanted it");
            }
        }
        self.shared.ends.store(false, Ordering::Relaxed);
        self.gate.open();
    }

    /// Ends the threads, each after the burst that it has in hand.
    pub(crate) fn stop(&mut self) {
        self.gate.end();
        self.shared.ends.store(true, Ordering::Relaxed);
        self.wake();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        self.wakers.clear();
    }

    /// The TUN queues, in the order of the workers.
    pub(crate) fn queues(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(AsFd::as_fd)
    }

    /// The queue for writing only.
    pub(crate) fn aside(&self) -> Option<BorrowedFd<'_>> {
        self.aside.as_deref().map(AsFd::as_fd)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    /// Makes each worker check whether its sockets have been replaced.
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
        self.stop();
    }
}
