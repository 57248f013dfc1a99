//! The control thread: configuration, timers, handshakes, and what happens to the interface.

mod alarm;
mod link;
mod reload;
mod routes;
mod signals;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit::limits::KEEPALIVE_TIMEOUT;
use adit::{Event, Instant, Interface, PublicKey};
use arrayvec::ArrayVec;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::configure::Configurator;
use crate::device::Workers;
use crate::handover::{Alone, Reloader, ToGuardian, Word};
use crate::netlink::{FarLinkMonitor, LinkMonitor};
use crate::notify::Notifier;
use crate::shared::{Shared, Waiting, now, unix_time};
use crate::uapi::{MAX_CLIENTS, Server, Status};
use alarm::Alarm;
use link::{Far, namespace_of};
use routes::Routes;
pub(crate) use signals::Signals;

pub(crate) const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
const LINKS: Token = Token(2);
const RELOAD_SIGNAL: Token = Token(3);
const RELOAD_ASKED: Token = Token(4);
const FIRST_PROCESS: Token = Token(5);
const ROUTES: Token = Token(6);
const ALARM: Token = Token(7);
const FAR_LINKS: Token = Token(8);
const UAPI: usize = 9;

/// Steps of handshakes that are computed before clients and timers have their turn.
const HANDSHAKE_STEPS: usize = 32;
/// Events that are logged before clients and timers have their turn.
const EVENTS: usize = 64;
/// How often is looked at what no event tells of: that a file is gone, that a client can be accepted now, how a link is
/// that could not be asked.
const LOOK: Duration = Duration::from_secs(5);
/// Room for what the engine sends of its own accord, including packets that waited for a session.
const BUFFER_LEN: usize = 65_536;

/// What the control thread knows of the device.
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    /// The TUN device, to ask it whether it still is there.
    pub(crate) probe: OwnedFd,
    pub(crate) port: u16,
    pub(crate) fwmark: u32,
    pub(crate) offload: bool,
    /// What the process has given up.
    pub(crate) confinement: crate::confine::Report,
}

pub(crate) struct Control {
    poll: Poll,
    shared: Arc<Shared>,
    configurator: Configurator,
    server: Server,
    /// The news of this network namespace.
    monitor: LinkMonitor,
    far: Far,
    /// Whether it could not be found out last how the interface is.
    link_is_unknown: bool,
    /// The number of the network namespace that the interface was moved to, if it was.
    namespace: Option<i32>,
    /// The network namespace of this process, as far as the kernel tells.
    home: Option<(u64, u64)>,
    signals: Signals,
    reloader: Option<Reloader>,
    routes: Routes,
    alarm: Alarm,
    buffer: Box<[u8]>,
    /// The latest end of the next sleep, once a worker has woken this thread: see `after_wake_up`.
    sleeps_until: Option<Instant>,
}

/// How a device ends, as far as this process is concerned.
pub(crate) enum End {
    Ended,
    /// The process of this number serves now.
    HandedOver(u32),
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    GoOn,
    End,
}

impl Control {
    #[allow(clippy::too_many_arguments, reason = "called at one place, with what is made there")]
    pub(crate) fn new(
        poll: Poll,
        shared: Arc<Shared>,
        device: Device,
        workers: Workers,
        mut server: Server,
        monitor: LinkMonitor,
        far_monitor: Option<FarLinkMonitor>,
        signals: Signals,
        reloader: Option<Reloader>,
    ) -> io::Result<Self> {
        let registry = poll.registry();
        for (stream, token) in signals.streams().into_iter().zip([SIGNALS, RELOAD_SIGNAL]) {
            registry.register(&mut SourceFd(&stream.as_raw_fd()), token, Interest::READABLE)?;
        }
        if let Some(asks) = reloader.as_ref().and_then(|reloader| reloader.asks.as_ref()) {
            asks.set_nonblocking()?;
            registry.register(&mut SourceFd(&asks.as_raw_fd()), RELOAD_ASKED, Interest::READABLE)?;
        }
        registry.register(&mut SourceFd(&monitor.as_raw_fd()), LINKS, Interest::READABLE)?;
        if let Some(guardian) = reloader.as_ref().and_then(|reloader| reloader.to_guardian.as_ref()) {
            registry.register(&mut SourceFd(&guardian.as_fd().as_raw_fd()), FIRST_PROCESS, Interest::READABLE)?;
        }
        let (routes, alarm) = (Routes::listen(registry), Alarm::new(registry)?);
        server.register(registry, UAPI..UAPI + 2 + MAX_CLIENTS)?;
        let home = namespace_of(device.probe.as_fd()).ok();
        let configurator = Configurator { shared: shared.clone(), device, workers };
        let buffer = vec![0; BUFFER_LEN].into_boxed_slice();
        let far = far_monitor.map_or(Far::Nothing, Far::Unused);
        let mut control = Self {
            poll,
            shared,
            configurator,
            server,
            monitor,
            far,
            link_is_unknown: false,
            namespace: None,
            home,
            signals,
            reloader,
            routes,
            alarm,
            buffer,
            sleeps_until: None,
        };
        control.look_at_link();
        Ok(control)
    }

    /// All that is left when another process serves: the signals, some of which may not have been taken yet.
    pub(crate) fn into_signals(self) -> Signals {
        self.signals
    }

    /// Lets the workers begin.
    pub(crate) fn begin(&mut self, _: Alone) {
        self.configurator.workers.begin();
    }

    /// Takes charge of these socket files, which are removed at the end from now on.
    pub(crate) fn own(&mut self, uapi: bool, asks: bool) {
        if uapi {
            self.server.own();
        }
        if let Some(asks) = self.reloader.as_mut().and_then(|reloader| reloader.asks.as_mut()).filter(|_| asks) {
            asks.own();
        }
    }

    /// Lets go of the port and of the files' names, which whoever waits for the end may want next, and then of all
    /// else: clients wait for the end of their connections. The process that stays is told of the end; it ends when the
    /// link to it is dropped.
    pub(crate) fn close(mut self) -> Option<ToGuardian> {
        self.configurator.close();
        let mut reloader = self.reloader.take();
        drop(reloader.as_mut().and_then(|reloader| reloader.asks.take()));
        reloader.and_then(|mut reloader| reloader.to_guardian.take()).inspect(ToGuardian::end)
    }

    /// Serves until the device ends, or another process serves it.
    pub(crate) fn run(&mut self, notifier: Option<&Notifier>) -> io::Result<End> {
        let mut events = Events::with_capacity(64);
        let mut look = None;
        loop {
            // Before the time to sleep is worked out, since it may take a while.
            let until_routes = self.look_at_routes();
            let until_work = self.work();
            let asks_are_left = self.reloader.as_ref().is_some_and(Reloader::must_be_looked_after);
            let looks = asks_are_left || self.server.must_be_looked_after() || self.link_is_unknown;
            look = looks.then(|| look.unwrap_or_else(|| now() + LOOK));
            let until_way = self.server.gives_way_in().map(|time| now() + time);
            let until = [until_routes, until_work, until_way, look].into_iter().flatten().min();
            self.sleep(until, &mut events)?;
            // From now on nobody need wake this thread.
            self.shared.control_is_awake();
            for event in &events {
                if self.handle(event, notifier) == Verdict::End {
                    return Ok(End::Ended);
                }
            }
            if self.shared.tun_is_gone.load(Ordering::Relaxed) && !self.tun_is_there() {
                return Ok(End::Ended);
            }
            if look.take_if(|look| *look <= now()).is_some() {
                if asks_are_left {
                    self.reload_asked(false, notifier);
                }
                if self.server.look() == Status::Deleted || self.link_is_unknown && self.look_at_link() == Verdict::End
                {
                    return Ok(End::Ended);
                }
            }
            self.server.give_way(&mut self.configurator);
            if let Some(process) = self.conclude_reload(notifier) {
                return Ok(End::HandedOver(process));
            }
        }
    }

    /// Waits for events, but not beyond `until`.
    fn sleep(&mut self, until: Option<Instant>, events: &mut Events) -> io::Result<()> {
        let timeout = until.filter(|&until| until <= now()).map(|_| Duration::ZERO);
        if timeout.is_none() {
            self.alarm.set(until)?;
        }
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn handle(&mut self, event: &mio::event::Event, notifier: Option<&Notifier>) -> Verdict {
        match event.token() {
            WAKER => self.sleeps_until = Some(after_wake_up(now())),
            SIGNALS if self.signals.take() => return Verdict::End,
            SIGNALS | ALARM => {}
            RELOAD_SIGNAL | RELOAD_ASKED => self.reload_asked(false, notifier),
            LINKS => return self.read_link_events(),
            FAR_LINKS => return self.read_far_link_events(),
            ROUTES => self.routes.are_told(),
            FIRST_PROCESS => match self.heard_of_first_process() {
                Word::Nothing => {}
                Word::HandOver => self.reload_asked(true, notifier),
                Word::End => return Verdict::End,
            },
            _ => match self.server.handle(event, &mut self.configurator) {
                Status::Serving => {}
                Status::Deleted => return Verdict::End,
            },
        }
        Verdict::GoOn
    }

    fn heard_of_first_process(&self) -> Word {
        let guardian = self.reloader.as_ref().and_then(|reloader| reloader.to_guardian.as_ref());
        guardian.map_or(Word::Nothing, ToGuardian::hear)
    }

    /// Timers, handshakes and what they send. Returns until when there is nothing to do.
    fn work(&mut self) -> Option<Instant> {
        let is_up = self.shared.is_up.load(Ordering::Relaxed);
        let mut interface = self.shared.interface();
        interface.set_unix_time(now(), unix_time());
        if is_up {
            interface.expire(now());
        } else {
            // A worker may have taken in messages for a tunnel that is down.
            interface.discard_handshakes();
        }
        for _ in 0..HANDSHAKE_STEPS {
            let Some(work) = interface.poll_handshake(now()) else { break };
            let mut next = Some(work);
            while let Some(work) = next {
                drop(interface);
                let done = work.compute();
                interface = self.shared.interface();
                next = interface.finish_handshake(now(), done);
            }
        }
        drop(interface);
        if let Some(sockets) = self.shared.sockets(0) {
            // These carry no bulk, so a link that is too slow for what one peer is sent keeps nobody from a session.
            let spare = self.shared.handshake_sockets();
            self.shared.transmit(Waiting::ForPeers, &sockets, spare.as_deref(), &mut self.buffer);
        }

        let mut interface = self.shared.interface();
        let mut events = ArrayVec::<_, EVENTS>::new();
        while !events.is_full()
            && let Some(event) = interface.poll_event()
        {
            events.push((event, peer_of(&interface, event)));
        }
        let has_more = events.is_full()
            || interface.has_handshakes()
            || interface.has_peer_transmits()
            || interface.has_sources() && !self.routes.sources_wait;
        let limit = self.sleeps_until.filter(|until| *until > now());
        let deadline = interface.poll_timeout().into_iter().chain(limit).min().filter(|_| is_up);
        if !has_more {
            self.shared.control_sleeps_until(&interface, deadline);
        }
        // Logging may wait for a slow reader: the workers need not.
        drop(interface);
        for (event, peer) in events {
            log(event, peer);
        }
        if has_more { Some(now()) } else { deadline }
    }
}

/// The peer that an event is about, if it is there still.
fn peer_of(interface: &Interface, event: Event) -> Option<PublicKey> {
    let (Event::HandshakeCompleted { peer }
    | Event::HandshakeGaveUp { peer }
    | Event::EndpointMoved { peer, .. }
    | Event::SessionExpired { peer }) = event
    else {
        return None;
    };
    interface.peer(now(), peer).map(|peer| *peer.public_key)
}

/// Logs one line per event. Public keys name peers; nothing secret is known here. What a peer can bring about as often
/// as it likes is logged for debugging only.
fn log(event: Event, peer: Option<PublicKey>) {
    let peer = || peer.map_or_else(|| "removed".into(), |key| key.to_string());
    match event {
        Event::HandshakeCompleted { .. } => tracing::debug!(peer = peer(), "handshake completed"),
        Event::HandshakeGaveUp { .. } => tracing::info!(peer = peer(), "no answer to the handshake, given up"),
        Event::EndpointMoved { endpoint, .. } => tracing::debug!(peer = peer(), %endpoint, "endpoint moved"),
        Event::SessionExpired { .. } => tracing::debug!(peer = peer(), "keys erased"),
        Event::PacketDropped { reason, .. } => tracing::debug!(reason = reason.name(), "packet dropped"),
        _ => {}
    }
}

/// The latest moment until which to sleep after a worker has woken this thread for a deadline.
///
/// A request from a peer sets a deadline, which the reply that follows at once usually clears before this thread looks.
/// If the thread then slept until the next deadline that is left, the next request would wake it again, and so would
/// each one. Deadlines set by later packets do not lie within this time, so none of them needs to wake it.
fn after_wake_up(now: Instant) -> Instant {
    now + KEEPALIVE_TIMEOUT
}

#[cfg(test)]
mod tests {
    use adit::{Ecn, Path, PrivateKey};
    use getrandom::SysRng;
    use rand_core::UnwrapErr;

    use super::*;

    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
    const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

    /// Carries messages between the ends, beginning with a packet sent by `from`; returns how many packets arrived.
    fn carry(ends: &mut [Interface; 2], from: usize, now: Instant) -> usize {
        let (mut buffer, mut arrived) = ([0; 2_048], 0);
        let mut next = ends[from].handle_packet(now, &PACKET, &mut buffer).unwrap().map(|transmit| (from, transmit));
        loop {
            let polled = [0, 1].into_iter().find_map(|end| {
                let transmit = next.is_none().then(|| ends[end].poll_transmit(now, &mut buffer).unwrap()).flatten();
                transmit.map(|transmit| (end, transmit))
            });
            let Some((end, transmit)) = next.take().or(polled) else { return arrived };
            let path = Path::to(([192, 0, 2, end as u8], 51820).into());
            arrived += usize::from(
                ends[1 - end].handle_datagram(now, &path, Ecn::NotEct, &mut buffer[transmit.range]).is_some(),
            );
        }
    }

    #[test]
    fn after_a_wake_up_no_question_sets_a_deadline_before_the_end_of_the_sleep() {
        let keys = [[1; 32], [2; 32]].map(PrivateKey::from_bytes);
        let mut ends = [0, 1].map(|own: usize| {
            let mut end = Interface::new(NOW, Duration::ZERO, Box::new(UnwrapErr(SysRng)));
            end.set_private_key(Some(keys[own].clone()));
            let peer = end.add_peer(keys[1 - own].public_key()).unwrap();
            end.add_allowed_ip(peer, "10.0.0.0/8".parse().unwrap()).unwrap();
            end.set_endpoint(peer, Some(([192, 0, 2, 1 - own as u8], 51820).into())).unwrap();
            end
        });
        assert_eq!([0, 1].map(|end| carry(&mut ends, end, NOW)), [1, 1], "a question and its answer");
        let now = NOW + Duration::from_secs(1);
        assert_eq!(carry(&mut ends, 0, now), 1, "a question, for which the thread is woken");
        assert_eq!(carry(&mut ends, 1, now), 1, "it is answered before the thread looks");
        let left = ends[1].poll_timeout();
        let until = after_wake_up(now);
        assert!(left.is_none_or(|left| left > until), "what it goes by is later: {left:?}");

        assert_eq!(carry(&mut ends, 0, now + Duration::from_millis(5)), 1, "the next question");
        assert!(!ends[1].may_be_due_before(until), "nobody need be woken for it");
        assert!(ends[1].may_be_due_before(until + Duration::from_secs(1)), "as it would be otherwise");
    }
}
