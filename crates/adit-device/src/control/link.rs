//! What happens to the interface, here or in another network namespace.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;

use mio::Interest;
use mio::unix::SourceFd;

use super::{Control, FAR_LINKS, LOOK, Verdict};
use crate::netlink::{FarLinkMonitor, Link, LinkEvent, LinkMonitor, Netlink};
use crate::shared::now;
use crate::sys;

/// The longest packet that a datagram can carry: 65,507 bytes less 16 each for the header and the tag.
const LONGEST: u16 = 65_507 - 32;

/// What is heard of other network namespaces.
pub(super) enum Far {
    /// Nothing: this process was never permitted to, or the right was used in vain.
    Nothing,
    /// Nothing so far: here is the right to listen.
    Unused(FarLinkMonitor),
    /// What happens to the interfaces of all, this one's among them.
    All(LinkMonitor),
}

impl Far {
    /// What holds the right to listen, which cannot be taken again.
    pub(super) fn right(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Nothing => None,
            Self::Unused(right) => Some(right.as_fd()),
            Self::All(monitor) => Some(monitor.as_fd()),
        }
    }
}

impl Control {
    /// Reads the news of this network namespace.
    pub(super) fn read_link_events(&mut self) -> Verdict {
        // Only the latest state counts: if the link went down and came up again meanwhile, what has been sent since
        // must not be given up.
        let mut latest = None;
        let (mut left, mut lost) = (false, false);
        loop {
            let event = match self.monitor.next_event() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => {
                    // What comes next is announced again.
                    tracing::warn!(%error, "news of interfaces cannot be read");
                    self.routes.news_lost();
                    self.shared.interface().forget_sources();
                    lost = true;
                    break;
                }
            };
            match event {
                LinkEvent::Changed(link) => {
                    // The kernel reports nothing about the routes of a link that goes down, or comes back.
                    self.routes.link_is(&link);
                    if self.namespace.is_some() {
                        // The interface may have come back.
                        left = true;
                    } else if link.index == self.configurator.device.ifindex {
                        latest = Some(link);
                    }
                }
                LinkEvent::Deleted(link) => {
                    self.routes.link_gone(link.index);
                    left |= self.namespace.is_some() || link.index == self.configurator.device.ifindex;
                }
                LinkEvent::AddressRemoved { address, .. } => self.shared.interface().forget_source_address(address),
                LinkEvent::Lost => {
                    self.routes.news_lost();
                    self.shared.interface().forget_sources();
                    lost = true;
                }
                _ => {}
            }
        }
        // Events read after a loss are older than what was lost: none of them says how the link is now.
        match latest {
            _ if left => self.follow(),
            _ if lost => self.look_at_link(),
            Some(link) => {
                self.link_changed(&link);
                Verdict::GoOn
            }
            None => Verdict::GoOn,
        }
    }

    /// Reads the news of all network namespaces. None says which it is from, so that the links and addresses that they
    /// tell of mean nothing here: they are no more than an occasion to ask for the interface.
    pub(super) fn read_far_link_events(&mut self) -> Verdict {
        let Far::All(monitor) = &mut self.far else { return Verdict::GoOn };
        let mut may_have_changed = false;
        loop {
            match monitor.next_event() {
                Ok(Some(LinkEvent::Changed(_) | LinkEvent::Deleted(_) | LinkEvent::Lost)) => may_have_changed = true,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    // What comes next is announced again.
                    tracing::warn!(%error, "news of interfaces in other network namespaces cannot be read");
                    may_have_changed = true;
                    break;
                }
            }
        }
        if may_have_changed { self.look_at_link() } else { Verdict::GoOn }
    }

    pub(super) fn tun_is_there(&self) -> bool {
        sys::tun_request(self.configurator.device.probe.as_fd()).is_ok()
    }

    /// Something has happened to the interface, and it is not in this network namespace any more.
    fn follow(&mut self) -> Verdict {
        if !self.tun_is_there() {
            return Verdict::End;
        }
        if let Err(error) = self.follow_to_its_namespace() {
            self.link_not_known(&error);
            // Taken to be up.
            if !self.shared.is_up.swap(true, Ordering::Relaxed) {
                self.shared.interface().link_up(now());
            }
        }
        Verdict::GoOn
    }

    /// The interface is in another network namespace: asks from here how it is there.
    fn follow_to_its_namespace(&mut self) -> io::Result<()> {
        let probe = self.configurator.device.probe.as_fd();
        let name = sys::tun_request(probe)?.name();
        let namespace = sys::tun_namespace(probe)?;
        let mut netlink = Netlink::open().map_err(io::Error::other)?;
        let number = netlink.namespace_number(namespace.as_fd()).map_err(io::Error::other)?;
        if self.namespace.replace(number) != Some(number) {
            tracing::info!(interface = name, "the interface is in another network namespace now");
            // Before the state is asked for: what happens after that must be heard.
            self.listen_everywhere()?;
        }
        let mut link = netlink.link_in(number, &name).map_err(io::Error::other)?;
        if matches!(self.far, Far::Nothing) {
            // The kernel sets a moved link down, and its coming up again would not be heard: so it counts as up.
            link.flags |= libc::IFF_UP as u32;
        }
        self.configurator.device.ifindex = link.index;
        self.configurator.device.name = name;
        self.link_changed(&link);
        Ok(())
    }

    fn listen_everywhere(&mut self) -> io::Result<()> {
        // If this fails the right is used up for nothing.
        match std::mem::replace(&mut self.far, Far::Nothing) {
            Far::Unused(right) => {
                let monitor = right.listen().map_err(io::Error::other)?;
                self.poll.registry().register(&mut SourceFd(&monitor.as_raw_fd()), FAR_LINKS, Interest::READABLE)?;
                self.far = Far::All(monitor);
            }
            // Listening everywhere already, or never permitted to.
            far => self.far = far,
        }
        Ok(())
    }

    /// How the link is cannot be found out: it is asked for again at the next look.
    fn link_not_known(&mut self, error: &dyn Display) {
        if !std::mem::replace(&mut self.link_is_unknown, true) {
            let every = LOOK.as_secs();
            tracing::warn!(%error, "whether the link is up, and its MTU, are not known: asked for again each {every} s");
        }
    }

    /// Asks for the link's present state.
    pub(super) fn look_at_link(&mut self) -> Verdict {
        if self.namespace.is_some() {
            return self.follow();
        }
        let index = self.configurator.device.ifindex;
        match Netlink::open().and_then(|mut netlink| netlink.link_by_index(index)) {
            Ok(link) => self.link_changed(&link),
            Err(error) if error.is_not_found() => return self.follow(),
            Err(error) => self.link_not_known(&error),
        }
        Verdict::GoOn
    }

    fn link_changed(&mut self, link: &Link) {
        self.link_is_unknown = false;
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        if self.shared.mtu.swap(mtu, Ordering::Relaxed) != mtu {
            self.shared.interface().set_mtu(mtu);
            if mtu > LONGEST {
                tracing::warn!(
                    mtu,
                    longest = LONGEST,
                    "packets as long as the MTU fit into no datagram, and are dropped"
                );
            } else {
                tracing::debug!(mtu, "the MTU has changed");
            }
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

    /// An error, with what to do about it, while the interface is in another network namespace than this process, or
    /// that cannot be known.
    pub(super) fn at_home(&self) -> io::Result<()> {
        let name = &self.configurator.device.name;
        match namespace_of(self.configurator.device.probe.as_fd()) {
            Ok(namespace) if Some(namespace) == self.home => Ok(()),
            // The new process would not find the interface by its name, or would find another one.
            Ok(_) => Err(io::Error::other(format!(
                "{name} is in another network namespace than the daemon, where a new process could not follow it; \
                 move it back before a reload, or restart the daemon"
            ))),
            // It could not be asked for from the first.
            Err(_) if self.home.is_none() => Ok(()),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("which network namespace {name} is in cannot be asked for: {error}; try again later"),
            )),
        }
    }
}

/// Identifies the network namespace of a TUN device.
///
/// # Errors
/// The kernel does not say, as older ones do not, or there are no file descriptors left.
pub(super) fn namespace_of(tun: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(sys::tun_namespace(tun)?)?;
    Ok((stat.st_dev, stat.st_ino))
}
