//! The process that takes over.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::sync::Arc;

use adit::{Bounds, Interface, Snapshot};
use getrandom::SysRng;
use rand_core::UnwrapErr;

use super::channel::{Channel, Kind, Message, STATE};
use super::guardian::ToGuardian;
use crate::confine::Protected;
use crate::netlink::FarLinkMonitor;
use crate::shared::{now, unix_time};
use crate::tun::{Tun, TunQueue};
use crate::uapi::Listener;
use crate::udp::{Sockets, UdpSocket};

/// All that a device is made of, new or handed over, before any of its threads is started.
pub(crate) struct Parts {
    pub(crate) tun: Tun,
    pub(crate) sockets: Vec<Arc<Sockets>>,
    pub(crate) listener: Listener,
    pub(crate) asks: Option<Listener>,
    /// Whether the files of these two sockets stay when the device ends.
    pub(crate) keep_uapi: bool,
    pub(crate) keep_asks: bool,
    pub(crate) to_guardian: Option<ToGuardian>,
    pub(crate) far_monitor: Option<FarLinkMonitor>,
    pub(crate) interface: Interface,
    pub(crate) fwmark: u32,
    pub(crate) offload: bool,
    /// Whether this process has inherited rules of Landlock.
    pub(crate) has_landlock: bool,
    pub(crate) is_up: bool,
    pub(crate) mtu: u16,
    /// See [`crate::shared::Shared::earlier_overflows`].
    pub(crate) earlier_overflows: u64,
    pub(crate) send_errors: u64,
    pub(crate) standing_queue: u64,
    pub(crate) tun_errors: u64,
}

/// Shows that no other process serves the device: nothing may be sent without it.
#[derive(Debug)]
pub(crate) struct Alone(());

impl Alone {
    /// Of a device that has not been handed over.
    pub(crate) fn with_a_new_device() -> Self {
        Self(())
    }
}

/// Shows that this process can take over, and receives the device when the other one has stopped.
///
/// # Errors
/// It cannot take over, or is not to; the process that hands over has been told why.
pub(crate) fn receive(stream: &UnixStream, _: Protected) -> Result<Parts, String> {
    drop(receive_once(stream)?);
    Channel::patient(stream).send(Kind::Prepared, "", &[], &[]).map_err(|error| error.to_string())?;
    receive_once(stream)
}

/// Says that this process has taken over; nothing can go wrong after.
///
/// # Errors
/// Nobody has heard it: this process must end.
pub(crate) fn say_taken(stream: &UnixStream) -> io::Result<Alone> {
    Channel::patient(stream).send(Kind::Taken, "", &[], &[]).map(Alone)
}

/// Says why this process cannot take over.
pub(super) fn refuse(stream: &UnixStream, why: &str) {
    // If this is not heard, the end of this process will be noticed.
    let _ = Channel::patient(stream).send(Kind::Refused, why, &[], &[]);
}

fn receive_once(stream: &UnixStream) -> Result<Parts, String> {
    let message = Channel::patient(stream).receive(STATE).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "the process that hands over has changed its mind".to_owned(),
        _ => format!("the device is not handed over: {error}"),
    })?;
    build(message).inspect_err(|why| refuse(stream, why))
}

fn build(message: Message) -> Result<Parts, String> {
    if message.kind != Kind::State {
        return Err("expected the state of a device".to_owned());
    }
    let Message { text, bytes, fds, .. } = message;
    let lines = Lines(&text);
    let offload = lines.is_set("offload");
    let mut fds = fds.into_iter();
    let mut next = |what: &str| fds.next().ok_or_else(|| format!("{what} is missing"));

    let workers: usize = lines.number("workers");
    let mut tun = adopt_tun(next("a TUN queue")?, offload)?;
    for _ in 1..workers {
        tun.queues.append(&mut adopt_tun(next("a TUN queue")?, offload)?.queues);
    }
    let mut sockets = Vec::with_capacity(tun.queues.len() + 1);
    for index in 0..=tun.queues.len() {
        let families = if index < tun.queues.len() { ["v4", "v6"] } else { ["handshakes_v4", "handshakes_v6"] };
        let mut adopt = |family| -> Result<Option<UdpSocket>, String> {
            if !lines.is_set(family) {
                return Ok(None);
            }
            Ok(Some(UdpSocket::adopt(next("a UDP socket")?, offload)))
        };
        let [v4, v6] = families.map(&mut adopt);
        let (v4, v6) = (v4?, v6?);
        sockets.push(Arc::new(Sockets { v4, v6, port: lines.number("port") }));
    }
    let mut adopt_listener = |what, has_file| {
        let listener = Listener::from_fd(next(what)?).map_err(|error| error.to_string())?;
        // The process that hands over notices by itself that its file is gone, and ends; this one never would.
        if has_file && listener.file().is_none() {
            return Err(format!("the file of {what} is gone"));
        }
        Ok(listener)
    };
    let listener = adopt_listener("the UAPI socket", lines.is_set("uapi_has_file"))?;
    let asks = match lines.is_set("asks") {
        true => Some(adopt_listener("the socket for reloads", lines.is_set("asks_has_file"))?),
        false => None,
    };
    let to_guardian = match lines.is_set("link") {
        true => Some(ToGuardian::adopt(next("the way to the first process")?)),
        false => None,
    };
    let far_monitor = match lines.is_set("far_monitor") {
        true => Some(FarLinkMonitor::adopt(next("the way to listen everywhere")?)),
        false => None,
    };
    if lines.is_set("aside") {
        tun.aside = Some(TunQueue::adopt(next("the TUN queue for writing only")?));
    }

    let snapshot = Snapshot::from_bytes(bytes).map_err(|error| error.to_string())?;
    let rng = Box::new(UnwrapErr(SysRng));
    let interface = Interface::restore(snapshot, now(), unix_time(), rng, Bounds::default());
    Ok(Parts {
        tun,
        sockets,
        listener,
        asks,
        keep_uapi: lines.is_set("keep_uapi"),
        keep_asks: lines.is_set("keep_asks"),
        to_guardian,
        far_monitor,
        interface: interface.map_err(|error| error.to_string())?,
        fwmark: lines.number("fwmark"),
        offload,
        has_landlock: lines.is_set("landlock"),
        is_up: lines.is_set("is_up"),
        mtu: lines.number("mtu"),
        earlier_overflows: lines.number("earlier_overflows"),
        send_errors: lines.number("send_errors"),
        standing_queue: lines.number("standing_queue"),
        tun_errors: lines.number("tun_errors"),
    })
}

fn adopt_tun(fd: OwnedFd, offload: bool) -> Result<Tun, String> {
    Tun::from_fd(fd, 1, offload).map_err(|error| error.to_string())
}

/// Lines `key=value`. An unknown key is passed over, a missing one is 0.
pub(super) struct Lines<'a>(pub(super) &'a str);

impl Lines<'_> {
    pub(super) fn number<T: FromStr + Default>(&self, key: &str) -> T {
        let value = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    pub(super) fn is_set(&self, key: &str) -> bool {
        self.number::<u8>(key) != 0
    }
}
