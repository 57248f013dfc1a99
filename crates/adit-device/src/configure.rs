//! What UAPI clients ask of the interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use adit::Interface;

use crate::advice::what_to_raise;
use crate::config::{DeviceState, DeviceUpdate, Facts, PeerState, PeerUpdate};
use crate::control::Device;
use crate::device::{Workers, bind};
use crate::handover::{Reloader, State};
use crate::offload::Offloads;
use crate::shared::{Shared, now};
use crate::uapi::{Handler, Listener, SetError};
use crate::udp::Sockets;

/// How long workers may take to let go of the sockets of a former port, and how often that is checked.
const PATIENCE: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_micros(200);

/// For how long a port may still be that of a daemon that is about to end, as when `wg-quick` brings an interface down
/// and up again without waiting for it; and how often that is tried.
const OTHERS_PATIENCE: Duration = Duration::from_millis(200);
const OTHERS_PAUSE: Duration = Duration::from_millis(2);

/// Carries out what clients ask.
pub(crate) struct Configurator {
    pub(crate) shared: Arc<Shared>,
    pub(crate) device: Device,
    pub(crate) workers: Workers,
}

impl Handler for Configurator {
    fn get(&mut self) -> DeviceState {
        let interface = self.shared.interface();
        let peers = interface.peers(now()).map(|peer| PeerState {
            public_key: *peer.public_key,
            preshared_key: peer.preshared_key.cloned().map(Box::new),
            endpoint: peer.endpoint,
            persistent_keepalive: peer.persistent_keepalive,
            last_handshake: peer.last_handshake,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            allowed_ips: interface.allowed_ips(peer.id).collect(),
            protocol_version: 1,
        });
        let peers = peers.collect();
        // In the order of their names.
        let device_drops = [
            self.shared.overflows(),
            self.shared.send_errors.load(Ordering::Relaxed),
            self.shared.standing_queue.load(Ordering::Relaxed),
            self.shared.tun_errors.load(Ordering::Relaxed),
        ];
        let device_drops = Facts::DEVICE_DROPS.into_iter().zip(device_drops);
        let drops = interface.drops().iter().map(|(reason, count)| (reason.name(), count));
        let drops = drops.chain(device_drops).filter(|&(_, count)| count > 0);
        DeviceState {
            private_key: interface.private_key().cloned().map(Box::new),
            listen_port: self.device.port,
            fwmark: self.device.fwmark,
            peers,
            facts: Facts {
                drops: drops.map(|(name, count)| (name.to_owned(), count)).collect(),
                offloads: offload_words(self.shared.offloads, self.device.offload),
                threads: u32::try_from(self.workers.len()).unwrap_or(u32::MAX),
                confinement: self.device.confinement.words.clone(),
            },
        }
    }

    fn set(&mut self, update: DeviceUpdate) -> Result<(), SetError> {
        // What can fail comes first: a refused update changes nothing.
        let mark = update.fwmark.unwrap_or(self.device.fwmark);
        if let Some(port) = update.listen_port.filter(|&port| port == 0 || port != self.device.port) {
            self.bind(port, mark)?;
        } else if mark != self.device.fwmark {
            set_mark(&self.shared.all_sockets(), mark, self.device.fwmark)?;
            // Packets with another mark may leave by another link, where their sources mean nothing.
            self.shared.interface().forget_sources();
        }
        self.device.fwmark = mark;
        let mut interface = self.shared.interface();
        if let Some(key) = update.private_key {
            // Cloned, since moving it out of its box would leave it there unwiped.
            interface.set_private_key(key.as_deref().cloned());
        }
        if update.replace_peers {
            let all: Vec<_> = interface.peers(now()).map(|peer| peer.id).collect();
            for id in all {
                interface.remove_peer(id);
            }
        }
        for peer in update.peers {
            set_peer(&mut interface, peer);
        }
        Ok(())
    }
}

impl Configurator {
    /// Everything about the device that another process needs to go on with it.
    pub(crate) fn state(
        &self,
        listener: &Listener,
        reloader: &Reloader,
        far_monitor: Option<BorrowedFd<'_>>,
    ) -> io::Result<State> {
        let (shared, device) = (&self.shared, &self.device);
        let sockets = shared.all_sockets();
        let (asks, to_guardian) = (&reloader.asks, &reloader.to_guardian);
        let (first, last) = (sockets.first(), sockets.last());
        let lines = [
            ("workers", self.workers.len() as u64),
            ("v4", first.is_some_and(|sockets| sockets.v4.is_some()).into()),
            ("v6", first.is_some_and(|sockets| sockets.v6.is_some()).into()),
            ("handshakes_v4", last.is_some_and(|sockets| sockets.v4.is_some()).into()),
            ("handshakes_v6", last.is_some_and(|sockets| sockets.v6.is_some()).into()),
            ("asks", asks.is_some().into()),
            ("link", to_guardian.is_some().into()),
            ("far_monitor", far_monitor.is_some().into()),
            ("aside", self.workers.aside().is_some().into()),
            // Whether the files belong to somebody else.
            ("keep_uapi", listener.path().is_none().into()),
            ("uapi_has_file", listener.file().is_some().into()),
            ("asks_has_file", asks.as_ref().is_some_and(|asks| asks.file().is_some()).into()),
            ("keep_asks", asks.as_ref().is_some_and(|asks| asks.path().is_none()).into()),
            ("port", device.port.into()),
            ("fwmark", device.fwmark.into()),
            ("offload", device.offload.into()),
            ("landlock", device.confinement.landlock.into()),
            ("is_up", shared.is_up.load(Ordering::Relaxed).into()),
            ("mtu", shared.mtu.load(Ordering::Relaxed).into()),
            ("earlier_overflows", overflows_to_tell(shared)),
            ("send_errors", shared.send_errors.load(Ordering::Relaxed)),
            ("standing_queue", shared.standing_queue.load(Ordering::Relaxed)),
            ("tun_errors", shared.tun_errors.load(Ordering::Relaxed)),
        ];
        let text = lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        // In the order in which `successor` takes them.
        let sockets = sockets.iter().flat_map(|sockets| sockets.iter()).map(AsFd::as_fd);
        let (asks, to_guardian) = (asks.as_ref().map(AsFd::as_fd), to_guardian.as_ref().map(AsFd::as_fd));
        // New kinds go last: a version that does not know one does not take it.
        let others = [Some(listener.as_fd()), asks, to_guardian, far_monitor, self.workers.aside()];
        let fds = self.workers.queues().chain(sockets).chain(others.into_iter().flatten());
        let fds = fds.map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>();
        let fds = fds.map_err(|error| {
            let why = format!("files cannot be opened for a new process: {error}{}", what_to_raise(&error));
            io::Error::new(error.kind(), why)
        })?;
        Ok(State { text, snapshot: shared.interface().snapshot(now()), fds })
    }

    /// Ends the workers and lets go of the port.
    pub(crate) fn close(&mut self) {
        self.workers.stop();
        self.shared.replace_sockets(Vec::new());
    }

    /// Binds sockets to another port; if that fails the present ones stay.
    fn bind(&mut self, port: u16, mark: u32) -> Result<(), SetError> {
        let end = Instant::now() + OTHERS_PATIENCE;
        let sockets = loop {
            match bind(port, self.workers.len(), mark, self.device.offload) {
                Err(error) if error.errno() == libc::EADDRINUSE && Instant::now() < end => {
                    std::thread::sleep(OTHERS_PAUSE);
                }
                result => break result,
            }
        };
        let sockets = sockets.map_err(|error| SetError { errno: error.errno(), message: error.to_string() })?;
        self.device.port = sockets.first().map_or(port, |sockets| sockets.port);
        let former = self.shared.replace_sockets(sockets);
        // Answers must not try to leave from what the old sockets were bound to.
        self.shared.interface().forget_sources();
        self.workers.wake();
        // The client may want the former port for something else as soon as it has its answer.
        let end = Instant::now() + PATIENCE;
        while former.iter().any(|sockets| sockets.strong_count() > 0) && Instant::now() < end {
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// Datagrams that found no room, but for those that the kernel counts for each socket as long as any process has it.
fn overflows_to_tell(shared: &Shared) -> u64 {
    let cut_off: u64 = shared.all_sockets().iter().map(|sockets| sockets.cut_off()).sum();
    shared.earlier_overflows.load(Ordering::Relaxed) + cut_off
}

/// Marks all that is sent from now on. If one socket refuses that, those before it get their former mark back.
fn set_mark(sockets: &[Arc<Sockets>], mark: u32, former: u32) -> io::Result<()> {
    let all = || sockets.iter().flat_map(|sockets| sockets.iter());
    for (index, socket) in all().enumerate() {
        if let Err(refusal) = socket.set_mark(mark) {
            for marked in all().take(index) {
                if let Err(error) = marked.set_mark(former) {
                    tracing::error!(%error, mark, former, "a socket sends with a mark that was refused");
                }
            }
            return Err(refusal);
        }
    }
    Ok(())
}

/// The offloads of a TUN device, and whether UDP sockets have them, in words.
pub(crate) fn offload_words(tun: Offloads, udp: bool) -> String {
    let words = [
        (tun.checksum, "tun-checksum"),
        (tun.tcp4, "tun-tso4"),
        (tun.tcp6, "tun-tso6"),
        (tun.udp, "tun-uso"),
        (udp, "udp-gso udp-gro"),
    ];
    let words: Vec<_> = words.into_iter().filter_map(|(on, word)| on.then_some(word)).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(" ") }
}

/// Every value has been checked where it was parsed. What can still be wrong is no error to `wg(8)`: an update of a
/// peer that does not exist, or a peer with the interface's own key, is passed over.
fn set_peer(interface: &mut Interface, update: PeerUpdate) {
    let key = &update.public_key;
    let known = interface.peer_id(key);
    if update.remove {
        if let Some(id) = known {
            interface.remove_peer(id);
        }
        return;
    }
    let id = match known {
        Some(id) => id,
        None if update.update_only => return,
        None => match interface.add_peer(*key) {
            Ok(id) => id,
            Err(error) => {
                tracing::debug!(%error, "a peer was passed over");
                return;
            }
        },
    };
    let set = || {
        if let Some(key) = update.preshared_key {
            interface.set_preshared_key(id, key.as_deref().cloned())?;
        }
        if update.endpoint.is_some() {
            interface.set_endpoint(id, update.endpoint)?;
        }
        if update.replace_allowed_ips {
            interface.clear_allowed_ips(id)?;
        }
        for change in &update.allowed_ips {
            if change.remove {
                interface.remove_allowed_ip(id, change.net)?;
            } else {
                interface.add_allowed_ip(id, change.net)?;
            }
        }
        if let Some(seconds) = update.persistent_keepalive {
            interface.set_persistent_keepalive(now(), id, seconds)?;
        }
        Ok::<(), adit::Error>(())
    };
    if let Err(error) = set() {
        tracing::error!(%error, "a peer vanished while it was configured");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::thread;

    use getrandom::SysRng;
    use rand_core::UnwrapErr;
    use socket2::SockRef;

    use super::*;
    use crate::netlink::testing::in_new_namespace;
    use crate::refused::refuse;
    use crate::shared::unix_time;
    use crate::udp::UdpSocket;

    /// What the threads of a device with these sockets have in common.
    fn shared(sockets: Sockets) -> Shared {
        let waker = mio::Waker::new(mio::Poll::new().unwrap().registry(), mio::Token(0)).unwrap();
        let interface = Interface::new(now(), unix_time(), Box::new(UnwrapErr(SysRng)));
        Shared::new(interface, vec![Arc::new(sockets)], Offloads::NONE, true, None, waker)
    }

    #[test]
    fn what_found_no_room_is_known_to_the_next_process_and_counted_once() {
        const SIZE: usize = 200;
        let sockets = bind(0, 1, 0, true).unwrap().remove(0);
        let Sockets { v4, port, .. } = Arc::into_inner(sockets).unwrap();
        let this = shared(Sockets { v4, v6: None, port });
        this.earlier_overflows.store(5, Ordering::Relaxed);
        let sockets = this.sockets(0).unwrap();
        let socket = sockets.v4.as_ref().unwrap();
        let to = adit::Path::to(([127, 0, 0, 1], port).into());
        // Two datagrams as one, of which one is read.
        assert_eq!(sockets.send(&to, 0, &[0; 2 * SIZE], SIZE).sent, 2);
        socket.recv_many(&mut [0; SIZE], SIZE, |_, _| {}).unwrap();
        assert_eq!((this.overflows(), overflows_to_tell(&this)), (6, 6));
        // More than there is room for in the kernel.
        SockRef::from(socket).set_recv_buffer_size(4_096).unwrap();
        while this.overflows() == 6 {
            assert_eq!(sockets.send(&to, 0, &[0; 1_000], 0).sent, 1);
        }
        let next = UdpSocket::adopt(socket.as_fd().try_clone_to_owned().unwrap(), true);
        let next = shared(Sockets { v4: Some(next), v6: None, port });
        next.earlier_overflows.store(overflows_to_tell(&this), Ordering::Relaxed);
        assert_eq!(next.overflows(), this.overflows());
    }

    #[test]
    fn a_mark_that_one_socket_refuses_is_that_of_none() {
        in_new_namespace(|| {
            let sockets = bind(0, 2, 7, false).unwrap();
            let all: Vec<_> = sockets.iter().flat_map(|sockets| sockets.iter()).collect();
            let marks = || all.iter().map(|socket| SockRef::from(*socket).mark().unwrap()).collect::<Vec<_>>();
            assert_eq!((all.len(), marks()), (6, vec![7; 6]));
            set_mark(&sockets, 8, 7).unwrap();
            assert_eq!(marks(), [8; 6]);
            for refusing in &all {
                // A filter is a thread's own, and ends with it.
                let set = || {
                    refuse(libc::SYS_setsockopt, 0, refusing.as_raw_fd(), libc::ENOMEM);
                    set_mark(&sockets, 9, 8).unwrap_err()
                };
                let refusal = thread::scope(|scope| scope.spawn(set).join().unwrap());
                assert_eq!((refusal.raw_os_error(), marks()), (Some(libc::ENOMEM), vec![8; 6]));
            }
        });
    }
}
