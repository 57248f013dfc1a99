//! The control thread: configuration, timers, handshakes, and what happens to the interface.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::configure::Configurator;
use crate::device::Workers;
use crate::netlink::{self, Link, LinkEvent, LinkMonitor, Netlink};
use crate::shared::{Shared, now, unix_time};
use crate::sys;
use crate::uapi::{MAX_CLIENTS, Server, Status};

pub(crate) const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
const LINKS: Token = Token(2);
const UAPI: usize = 3;

/// Steps of handshakes that are computed before clients and timers have their turn.
const HANDSHAKE_STEPS: usize = 32;
/// Room for what the engine sends by itself, packets that waited for a session among it.
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
}

/// SIGTERM and SIGINT, as something to wait for.
pub(crate) struct Signals(UnixStream);

impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGTERM, theirs.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGINT, theirs)?;
        Ok(Self(ours))
    }

    /// Whether a signal has come.
    fn take(&mut self) -> bool {
        self.0.read(&mut [0; 16]).is_ok_and(|len| len > 0)
    }
}

pub(crate) struct Control {
    poll: Poll,
    shared: Arc<Shared>,
    configurator: Configurator,
    server: Server,
    monitor: LinkMonitor,
    signals: Signals,
    buffer: Box<[u8]>,
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    GoOn,
    End,
}

impl Control {
    pub(crate) fn new(
        poll: Poll,
        shared: Arc<Shared>,
        device: Device,
        workers: Workers,
        mut server: Server,
        monitor: LinkMonitor,
        signals: Signals,
    ) -> io::Result<Self> {
        let registry = poll.registry();
        registry.register(&mut SourceFd(&signals.0.as_raw_fd()), SIGNALS, Interest::READABLE)?;
        registry.register(&mut SourceFd(&monitor.as_raw_fd()), LINKS, Interest::READABLE)?;
        server.register(registry, UAPI..UAPI + 2 + MAX_CLIENTS)?;
        let configurator = Configurator { shared: shared.clone(), device, workers };
        let buffer = vec![0; BUFFER_LEN].into_boxed_slice();
        let mut control = Self { poll, shared, configurator, server, monitor, signals, buffer };
        control.look_at_link();
        Ok(control)
    }

    /// Serves until the device ends.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        loop {
            let timeout = self.work();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            // Whoever has something for this thread from now on need not wake it: it is awake.
            self.shared.control_sleeps_until(Some(adit::Instant::from_nanos(0)));
            for event in &events {
                let verdict = match event.token() {
                    WAKER => Verdict::GoOn,
                    SIGNALS if self.signals.take() => Verdict::End,
                    SIGNALS => Verdict::GoOn,
                    LINKS => self.read_link_events()?,
                    _ => match self.server.handle(event, &mut self.configurator) {
                        Status::Serving => Verdict::GoOn,
                        Status::Deleted => Verdict::End,
                    },
                };
                if verdict == Verdict::End {
                    return Ok(());
                }
            }
            if self.shared.tun_is_gone.load(Ordering::Relaxed) && !self.tun_is_there() {
                return Ok(());
            }
        }
    }

    /// Timers, handshakes and what they send. Returns how long there is nothing to do.
    fn work(&mut self) -> Option<Duration> {
        let is_up = self.shared.is_up.load(Ordering::Relaxed);
        let mut interface = self.shared.interface();
        interface.set_unix_time(now(), unix_time());
        if is_up {
            interface.expire(now());
        } else if interface.has_handshakes() {
            // A worker has taken in a message for a tunnel that is down.
            interface.link_down();
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
            self.shared.transmit_all(&sockets, &mut self.buffer);
        }

        let mut interface = self.shared.interface();
        while let Some(event) = interface.poll_event() {
            log(&interface, event);
        }
        if interface.has_handshakes() || interface.has_transmits() {
            return Some(Duration::ZERO);
        }
        let deadline = interface.poll_timeout().filter(|_| is_up);
        self.shared.control_sleeps_until(deadline);
        // The poll counts in milliseconds: one more, so that it does not wake a moment too early.
        deadline.map(|deadline| deadline.saturating_since(now()) + Duration::from_millis(1))
    }

    fn read_link_events(&mut self) -> io::Result<Verdict> {
        // A link that went down and up again meanwhile is up: what has been sent since must not be given up.
        let mut latest = None;
        while let Some(event) = self.monitor.next_event()? {
            match event {
                LinkEvent::Changed(link) if link.index == self.configurator.device.ifindex => latest = Some(link),
                LinkEvent::Deleted(link) if link.index == self.configurator.device.ifindex => {
                    if !self.tun_is_there() || self.follow_to_its_namespace().is_err() {
                        return Ok(Verdict::End);
                    }
                    return Ok(Verdict::GoOn);
                }
                LinkEvent::AddressRemoved { address, .. } => self.shared.interface().forget_source_address(address),
                LinkEvent::Lost => {
                    self.shared.interface().forget_sources();
                    self.look_at_link();
                }
                _ => {}
            }
        }
        if let Some(link) = latest {
            self.link_changed(&link);
        }
        Ok(Verdict::GoOn)
    }

    fn tun_is_there(&self) -> bool {
        sys::tun_request(self.configurator.device.probe.as_fd()).is_ok()
    }

    /// The interface was moved to another network namespace: what happens to it is told there.
    fn follow_to_its_namespace(&mut self) -> io::Result<()> {
        let device = &mut self.configurator.device;
        let namespace = sys::tun_namespace(device.probe.as_fd())?;
        device.name = sys::tun_request(device.probe.as_fd())?.name();
        let monitor = netlink::namespace::run_in(namespace.as_fd(), LinkMonitor::open)?.map_err(io::Error::other)?;
        let link = Netlink::open_in(namespace.as_fd()).and_then(|mut netlink| netlink.link(&device.name));
        let link = link.map_err(io::Error::other)?;
        device.ifindex = link.index;
        // Closing removes it as well.
        let _ = self.poll.registry().deregister(&mut SourceFd(&self.monitor.as_raw_fd()));
        self.poll.registry().register(&mut SourceFd(&monitor.as_raw_fd()), LINKS, Interest::READABLE)?;
        self.monitor = monitor;
        tracing::info!(interface = %device.name, "the interface is in another network namespace now");
        self.link_changed(&link);
        Ok(())
    }

    /// Asks for the link's present state.
    fn look_at_link(&mut self) {
        let index = self.configurator.device.ifindex;
        match Netlink::open().and_then(|mut netlink| netlink.link_by_index(index)) {
            Ok(link) => self.link_changed(&link),
            Err(error) => tracing::debug!(%error, "the state of the link is not known"),
        }
    }

    fn link_changed(&mut self, link: &Link) {
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        if self.shared.mtu.swap(mtu, Ordering::Relaxed) != mtu {
            self.shared.interface().set_mtu(mtu);
            tracing::debug!(mtu, "the MTU has changed");
        }
        let is_up = link.is_up();
        if self.shared.is_up.swap(is_up, Ordering::Relaxed) != is_up {
            tracing::info!(is_up, "the link has changed");
            let mut interface = self.shared.interface();
            if is_up { interface.link_up(now()) } else { interface.link_down() }
        }
        if !link.name.is_empty() {
            self.configurator.device.name.clone_from(&link.name);
        }
    }
}

/// One line an event. Public keys name peers; nothing secret is known here.
fn log(interface: &adit::Interface, event: Event) {
    let name = |id| interface.peer(now(), id).map_or_else(|| "removed".into(), |peer| peer.public_key.to_string());
    match event {
        Event::HandshakeCompleted { peer } => tracing::debug!(peer = name(peer), "handshake completed"),
        Event::HandshakeGaveUp { peer } => tracing::info!(peer = name(peer), "no answer to the handshake, given up"),
        Event::EndpointMoved { peer, endpoint } => tracing::info!(peer = name(peer), %endpoint, "endpoint moved"),
        Event::SessionExpired { peer } => tracing::debug!(peer = name(peer), "keys erased"),
        Event::PacketDropped { reason, .. } => tracing::debug!(reason = reason.name(), "packet dropped"),
        _ => {}
    }
}
