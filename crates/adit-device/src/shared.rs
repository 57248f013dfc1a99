//! What the threads of a device have in common.

#[cfg(test)]
mod tests;
mod wake;

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use adit::{Instant, Interface, Path, PeerId, Transmit};
use arrayvec::ArrayVec;

use crate::flows::Flows;
use crate::offload::Offloads;
use crate::sys;
use crate::udp::{Group, SendOutcome, Sockets};

use wake::ControlSleep;

/// The most transmits that are given to the sockets at a time.
const AT_ONCE: usize = 32;
/// The most datagrams taken from the engine while its lock is held once, however few transmits they merge into: as many
/// as one burst of a flood asks for.
const HELD: usize = 192;

/// Which of the datagrams that wait in the engine are to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiting {
    /// Those for peers.
    ForPeers,
    /// Those for peers, and as many of the answers to strangers as one send takes.
    OneSend,
    /// Every one.
    All,
}

/// The engine, and what the control thread and the workers tell each other.
pub(crate) struct Shared {
    interface: Mutex<Interface>,
    /// The sockets of each worker, and of the one for handshakes; replaced when the port changes.
    sockets: Mutex<Vec<Arc<Sockets>>>,
    /// Set where there are several TUN queues.
    pub(crate) flows: Flows,
    pub(crate) offloads: Offloads,
    pub(crate) vnet_header: bool,
    /// How long a worker polls for packets before it sleeps, if the user has set that.
    pub(crate) busy_poll: Option<Duration>,
    pub(crate) mtu: AtomicU16,
    /// Whether the link is up, as far as the control thread knows. While it is down there are no
    /// sessions, and none is made.
    pub(crate) is_up: AtomicBool,
    /// Whether the workers are to end, or to rest.
    pub(crate) ends: AtomicBool,
    /// Whether the TUN device is gone.
    pub(crate) tun_is_gone: AtomicBool,
    control_sleep: ControlSleep,
    control: mio::Waker,
    /// Datagrams that found no room in sockets that have been replaced since.
    pub(crate) earlier_overflows: AtomicU64,
    /// Datagrams that the kernel did not take.
    pub(crate) send_errors: AtomicU64,
    /// Packets lost on purpose, so that those behind them wait less.
    pub(crate) standing_queue: AtomicU64,
    /// Packets that the TUN device did not take.
    pub(crate) tun_errors: AtomicU64,
}

/// What is to be done after a step with the engine, found while its lock was held.
#[derive(Clone, Copy, Debug)]
#[must_use = "something may wait to be sent or computed"]
pub(crate) struct Aftermath {
    /// [`Interface::poll_peer_transmit`] has something.
    pub(crate) peer_transmits: bool,
    /// [`Interface::poll_transmit`] has answers to strangers (cookie replies) besides.
    pub(crate) answers: bool,
    wake_control: bool,
}

impl Shared {
    pub(crate) fn new(
        interface: Interface,
        sockets: Vec<Arc<Sockets>>,
        offloads: Offloads,
        vnet_header: bool,
        busy_poll: Option<Duration>,
        control: mio::Waker,
    ) -> Self {
        Self {
            interface: Mutex::new(interface),
            flows: Flows::default(),
            sockets: Mutex::new(sockets),
            offloads,
            vnet_header,
            busy_poll,
            mtu: AtomicU16::new(0),
            is_up: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            tun_is_gone: AtomicBool::new(false),
            control_sleep: ControlSleep::new(),
            control,
            earlier_overflows: AtomicU64::new(0),
            send_errors: AtomicU64::new(0),
            standing_queue: AtomicU64::new(0),
            tun_errors: AtomicU64::new(0),
        }
    }

    /// The engine. A thread that panicked while it held the lock has ended, but has left the engine consistent, since
    /// the engine commits last.
    pub(crate) fn interface(&self) -> MutexGuard<'_, Interface> {
        #[cfg(test)]
        crate::counted::add(&crate::counted::LOCKS);
        self.interface.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sockets of worker `index`; those for handshakes come after the last worker.
    pub(crate) fn sockets(&self, index: usize) -> Option<Arc<Sockets>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).get(index).cloned()
    }

    /// The sockets for handshakes, if the kernel can tell these apart.
    pub(crate) fn handshake_sockets(&self) -> Option<Arc<Sockets>> {
        let present = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        present.last().filter(|sockets| sockets.iter().next().is_some()).cloned()
    }

    /// Whether the owner of the sockets of this index answers strangers: that is the handshake worker, or every worker
    /// where the kernel cannot tell handshakes apart.
    pub(crate) fn answers(&self, index: usize) -> bool {
        let present = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        index + 1 == present.len() || present.last().is_none_or(|sockets| sockets.iter().next().is_none())
    }

    /// The sockets of all.
    pub(crate) fn all_sockets(&self) -> Vec<Arc<Sockets>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the sockets. Returns the old ones, which their workers use until they are woken.
    pub(crate) fn replace_sockets(&self, sockets: Vec<Arc<Sockets>>) -> Vec<Weak<Sockets>> {
        let mut present = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let overflows: u64 = present.iter().map(|sockets| sockets.overflows()).sum();
        self.earlier_overflows.fetch_add(overflows, Ordering::Relaxed);
        std::mem::replace(&mut *present, sockets).iter().map(Arc::downgrade).collect()
    }

    /// Datagrams that came and found no room in a socket's buffer.
    pub(crate) fn overflows(&self) -> u64 {
        let present = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let overflows: u64 = present.iter().map(|sockets| sockets.overflows()).sum();
        self.earlier_overflows.load(Ordering::Relaxed) + overflows
    }

    /// What there is to do after a step, asked before the lock is given back.
    pub(crate) fn aftermath(&self, interface: &Interface) -> Aftermath {
        let (peer_transmits, answers) = (interface.has_peer_transmits(), interface.has_cookie_replies());
        Aftermath { peer_transmits, answers, wake_control: self.control_sleep.is_too_long(interface) }
    }

    /// Wakes the control thread if it has something to do, but at most once until it looks.
    pub(crate) fn settle(&self, aftermath: Aftermath) {
        if aftermath.wake_control && self.control_sleep.interrupt() {
            self.wake_control();
        }
    }

    /// Wakes the control thread.
    pub(crate) fn wake_control(&self) {
        if let Err(error) = self.control.wake() {
            tracing::error!(%error, "the control thread cannot be woken");
        }
    }

    /// The control thread tells until when it will sleep, with the engine's lock `held`.
    pub(crate) fn control_sleeps_until(&self, held: &Interface, deadline: Option<Instant>) {
        self.control_sleep.set(held, deadline);
    }

    /// The control thread tells that it will look before it sleeps.
    pub(crate) fn control_is_awake(&self) {
        self.control_sleep.is_awake();
    }

    /// Sends what waits in the engine, through `buffer`, many datagrams in one system call: under a flood there is an
    /// answer to every datagram. What finds the buffer of its socket full leaves from the spare one, if there is one.
    pub(crate) fn transmit(&self, waiting: Waiting, sockets: &Sockets, spare: Option<&Sockets>, buffer: &mut [u8]) {
        loop {
            let transmits = self.take_transmits(waiting, buffer);
            if transmits.is_empty() {
                return;
            }
            let groups: ArrayVec<_, AT_ONCE> = transmits.iter().map(|transmit| group(transmit, buffer)).collect();
            let peer = |index: usize| transmits.get(index).and_then(|transmit| transmit.peer);
            let mut unsent = ArrayVec::<usize, AT_ONCE>::new();
            sockets.send_many(&groups, |index, outcome| {
                if spare.is_some() && outcome.unsent > 0 && outcome.sent + outcome.dropped == 0 {
                    unsent.push(index);
                } else {
                    self.sent(peer(index), groups.get(index), &outcome);
                }
            });
            if let Some(spare) = spare.filter(|_| !unsent.is_empty()) {
                let groups: ArrayVec<_, AT_ONCE> =
                    unsent.iter().filter_map(|&index| groups.get(index).copied()).collect();
                spare.send_many(&groups, |index, outcome| {
                    self.sent(unsent.get(index).and_then(|&index| peer(index)), groups.get(index), &outcome);
                });
            }
            if waiting == Waiting::OneSend && transmits.iter().any(|transmit| transmit.peer.is_none()) {
                return;
            }
        }
    }

    /// The next datagrams, as many as go at once and fit into `buffer`.
    pub(crate) fn take_transmits(&self, waiting: Waiting, buffer: &mut [u8]) -> ArrayVec<Transmit, AT_ONCE> {
        let mut transmits = ArrayVec::new();
        let mut begin = 0;
        let mut interface = self.interface();
        let now = now();
        for _ in 0..HELD {
            if transmits.is_full() {
                break;
            }
            let rest = buffer.get_mut(begin..).unwrap_or_default();
            let next = match waiting {
                Waiting::ForPeers => interface.poll_peer_transmit(now, rest),
                Waiting::OneSend | Waiting::All => interface.poll_transmit(now, rest),
            };
            match next {
                Ok(Some(transmit)) => {
                    let range = begin + transmit.range.start..begin + transmit.range.end;
                    begin = range.end;
                    let transmit = Transmit { range, ..transmit };
                    if !transmits.last_mut().is_some_and(|last| joins(last, &transmit)) {
                        transmits.push(transmit);
                    }
                }
                Ok(None) => break,
                // A datagram that does not fit any more begins the next batch.
                Err(_) if !transmits.is_empty() => break,
                Err(error) => {
                    tracing::error!(%error, "a datagram cannot be sent");
                    break;
                }
            }
        }
        transmits
    }

    /// Takes note of what has become of a group for a peer.
    pub(crate) fn sent(&self, peer: Option<PeerId>, group: Option<&Group<'_>>, outcome: &SendOutcome) {
        let lost = outcome.dropped + outcome.unsent;
        if lost > 0 {
            self.send_errors.fetch_add(lost as u64, Ordering::Relaxed);
            if let Some(error) = &outcome.error {
                tracing::debug!(%error, datagrams = lost, "not sent");
            }
            if let (Some(peer), Some(group)) = (peer, group) {
                // The last one, which may be shorter, is counted in full unless nothing was sent.
                let bytes = group.contents.len().min(lost * group.segment_size);
                self.interface().take_back_sent(peer, bytes as u64);
            }
        }
        if outcome.source_gone
            && let Some(peer) = peer
        {
            // The peer may be gone by now, and its source with it.
            let _ = self.interface().forget_source(peer);
        }
    }
}

/// Merges two answers to the same stranger that lie back to back and are of a kind into one GSO send: answering a flood
/// from one address then costs much less than the flood.
fn joins(last: &mut Transmit, next: &Transmit) -> bool {
    let kind = |transmit: &Transmit| (transmit.peer, transmit.path, transmit.tos, transmit.segment_size);
    let is_whole = next.range.len() == next.segment_size && next.range.start == last.range.end;
    let joins = last.peer.is_none() && kind(last) == kind(next) && is_whole;
    if joins {
        last.range.end = next.range.end;
    }
    joins
}

/// The link that datagrams on a path ask for (0: none).
///
/// An answer keeps its source address, but the routing table chooses the link (`control::routes` looks after what that
/// means for the source). If a link without a route to the peer were forced, IPv4 would take the peer for a neighbour
/// on that link and look for it nowhere else: a peer whose packets come in by another link than answers leave by would
/// get none, and the addresses that strangers make up would fill the kernel's neighbour table. To IPv6, the link beside
/// a source is no more than a preference. Link-local addresses mean nothing without their link, and keep it.
pub(crate) fn link_asked_for(path: &Path) -> u32 {
    match path.remote.ip() {
        IpAddr::V4(remote) if !remote.is_link_local() => 0,
        _ => path.ifindex,
    }
}

/// A transmit of the engine as the sockets want it.
pub(crate) fn group<'a>(transmit: &Transmit, buffer: &'a [u8]) -> Group<'a> {
    let path = Path { ifindex: link_asked_for(&transmit.path), ..transmit.path };
    Group {
        path,
        tos: transmit.tos,
        contents: buffer.get(transmit.range.clone()).unwrap_or_default(),
        segment_size: transmit.segment_size,
    }
}

/// The engine's clock: it goes on while the machine sleeps.
pub(crate) fn now() -> Instant {
    Instant::from_nanos(u64::try_from(sys::boottime().as_nanos()).unwrap_or(u64::MAX))
}

/// The wall clock's time since the Unix epoch.
pub(crate) fn unix_time() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Whether an error only says that there is nothing to be had now.
pub(crate) fn is_idle(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
