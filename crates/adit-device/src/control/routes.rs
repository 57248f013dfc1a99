//! Source addresses that follow the routes.
//!
//! Answers leave from the address that the peer reached. If the route to the peer then moves to another link, that
//! address is usually wrong there, and nothing says so: what is sent from it is lost further on. That holds for IPv6
//! too, where the link that a datagram names beside its source is only a preference.
//!
//! So a source is judged when a peer has first reached it, and again when routes have changed: it is good while packets
//! from it leave by the link by which the peer's come. The kernel's WireGuard does the same for each packet that it
//! sends over IPv4. An address of another interface than that link, the loopback interface for example, is always good:
//! it is reached whichever link is used. If a source is not good the engine rejects it, since the peer's packets go on
//! to come by it.
//!
//! Over IPv6 the kernel's WireGuard only looks whether the address is still there, and a peer behind a firewall may
//! count on that: it hears answers from nowhere but where it called. So over IPv6 the engine rejects a source only if
//! routes once suited one of that peer's: see [`adit::Interface::judge_source`].
//!
//! The kernel does not tell of the IPv4 routes that vanish with a link. So when one is lost, the sources of those whose
//! packets came by it are judged, and all rejected ones: the way by which packets left instead may have led out by it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use adit::{Instant, Path, PeerId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mio::unix::SourceFd;
use mio::{Interest, Registry};

use super::{Control, ROUTES};
use crate::netlink::{Link, LinkEvent, LinkMonitor, Netlink};
use crate::shared::{link_asked_for, now};

/// How many changes of one IP family, or of links, are looked at one by one.
const MAX_CHANGED: usize = 64;
/// Looking at routes takes no more than one part in this many of the time, even if they change all the time.
const SHARE: u32 = 10;
/// How many sources that peers have newly reached are judged at a time, and how long it is at least until the next ones
/// are: a peer may go to and fro between addresses with each of its packets.
const SOURCES: usize = 256;
const PAUSE: Duration = Duration::from_millis(10);
/// How long until the kernel is asked again if it could not be.
const AGAIN: Duration = Duration::from_secs(1);
/// How many events are read before clients and timers have their turn.
const NEWS: usize = 1_024;

/// Changes of routes that have not been looked at.
#[derive(Default)]
pub(super) struct Routes {
    /// The source of events, unless it could not be opened.
    monitor: Option<LinkMonitor>,
    /// Whether it may have something to tell.
    has_news: bool,
    changed: Vec<IpNet>,
    /// Of each link that there was news of, whether it is up and has a carrier.
    carry: BTreeMap<u32, bool>,
    /// The links that have gone down or vanished.
    gone: Vec<u32>,
    /// When to look again at the earliest.
    not_before: Option<Instant>,
    /// Whether there are sources to be judged then.
    pub(super) sources_wait: bool,
    /// Those of which the kernel could not be asked.
    unasked: VecDeque<(PeerId, Path)>,
}

impl Routes {
    /// Listens for changes from now on. Without that, a source is given up only when its address goes or a handshake is
    /// not answered.
    pub(super) fn listen(registry: &Registry) -> Self {
        let monitor = LinkMonitor::open_for_routes().map_err(io::Error::other).and_then(|monitor| {
            registry.register(&mut SourceFd(&monitor.as_raw_fd()), ROUTES, Interest::READABLE)?;
            Ok(monitor)
        });
        let monitor = monitor.inspect_err(|error| tracing::warn!(%error, "changes of routes are not heard of")).ok();
        Self { monitor, ..Self::default() }
    }

    /// The monitor has something to read.
    pub(super) fn are_told(&mut self) {
        self.has_news = true;
    }

    /// A link is like this now. Whether routes lead out by one that has no carrier is up to the kernel's settings.
    pub(super) fn link_is(&mut self, link: &Link) {
        let carries = link.is_up() && link.has_carrier();
        match self.carry.insert(link.index, carries) {
            Some(before) if before == carries => {}
            _ if carries => self.all_changed(),
            _ => self.look_at(link.index),
        }
    }

    /// No route leads out by this link any more.
    pub(super) fn link_gone(&mut self, ifindex: u32) {
        self.carry.remove(&ifindex);
        self.look_at(ifindex);
    }

    /// The routes that led out by this link may lead elsewhere.
    fn look_at(&mut self, ifindex: u32) {
        if self.gone.len() < MAX_CHANGED {
            self.gone.push(ifindex);
        } else {
            self.all_changed();
        }
    }

    /// What happened to links is not known.
    pub(super) fn news_lost(&mut self) {
        self.carry.clear();
        self.all_changed();
    }

    /// Any route may have changed.
    fn all_changed(&mut self) {
        (self.changed, self.gone) = (vec![Ipv4Net::default().into(), Ipv6Net::default().into()], Vec::new());
    }

    /// A route to `destination` was added or removed.
    fn changed(&mut self, destination: IpNet) {
        if self.changed.iter().any(|net| net.contains(&destination)) {
            return;
        }
        // Each family by itself: IPv6 has much more news, of addresses and of what routers announce.
        let is_alike = |net: &IpNet| net.addr().is_ipv4() == destination.addr().is_ipv4();
        if self.changed.iter().filter(|net| is_alike(net)).count() < MAX_CHANGED {
            self.changed.push(destination);
        } else {
            self.changed.retain(|net| !is_alike(net));
            self.changed.push(match destination {
                IpNet::V4(_) => Ipv4Net::default().into(),
                IpNet::V6(_) => Ipv6Net::default().into(),
            });
        }
    }

    /// Judges sources that `reached` gives, which peers have newly reached, and then those that could not be judged the
    /// last time. Returns whether the kernel could be asked, as `judge` says, for all that were to be judged now.
    fn judge_each(
        &mut self,
        mut reached: impl FnMut() -> Option<(PeerId, Path)>,
        mut judge: impl FnMut(PeerId, &Path) -> bool,
    ) -> bool {
        for _ in 0..SOURCES {
            let next = reached().or_else(|| self.unasked.pop_front());
            self.sources_wait = next.is_some();
            let Some((id, path)) = next else { return true };
            // Another way of the same peer is out of date.
            self.unasked.retain(|(other, _)| *other != id);
            if !judge(id, &path) {
                // The last one, in case that it is only this one of which the kernel does not say anything.
                self.unasked.push_back((id, path));
                return false;
            }
        }
        true
    }

    fn hear(&mut self) {
        for _ in 0..NEWS {
            let event = match &mut self.monitor {
                Some(monitor) if self.has_news => monitor.next_event(),
                _ => return,
            };
            match event {
                Ok(Some(LinkEvent::RouteChanged { destination })) => self.changed(destination),
                Ok(Some(LinkEvent::NextHopChanged | LinkEvent::Lost)) => self.all_changed(),
                Ok(Some(_)) => {}
                Ok(None) => self.has_news = false,
                Err(error) => {
                    // What comes next is announced again.
                    tracing::warn!(%error, "changes of routes cannot be read");
                    self.has_news = false;
                    self.all_changed();
                }
            }
        }
    }
}

/// Whether a change of the routes to this network may concern the path: its address here is one that routes lead to,
/// too.
fn is_between(net: &IpNet, path: &Path) -> bool {
    net.contains(&path.remote.ip()) || path.local.is_some_and(|local| net.contains(&local))
}

impl Control {
    /// Judges the sources that peers have newly reached, and those that changes of routes concern. Returns when there
    /// is more to look at, if there is.
    pub(super) fn look_at_routes(&mut self) -> Option<Instant> {
        self.routes.hear();
        let rest = self.routes.has_news.then(now);
        self.routes.sources_wait = self.shared.interface().has_sources() || !self.routes.unasked.is_empty();
        let have_changed = !self.routes.changed.is_empty() || !self.routes.gone.is_empty();
        if !have_changed && !self.routes.sources_wait {
            return rest;
        }
        let begin = now();
        if let Some(not_before) = self.routes.not_before.filter(|&not_before| not_before > begin) {
            return rest.or(Some(not_before));
        }
        let mut netlink = match Netlink::open() {
            Ok(netlink) => netlink,
            Err(error) => {
                tracing::debug!(%error, "the kernel cannot be asked for routes: it is again in a while");
                let again = begin + AGAIN;
                self.routes.not_before = Some(again);
                return rest.or(Some(again));
            }
        };
        if have_changed {
            self.judge_changed(&mut netlink);
        }
        let could_be_asked = self.judge_new(&mut netlink);
        let end = now();
        let pause = if could_be_asked { PAUSE } else { AGAIN };
        let not_before = end + (end.saturating_since(begin) * SHARE).max(pause);
        self.routes.not_before = Some(not_before);
        rest.or(self.routes.sources_wait.then_some(not_before))
    }

    /// Judges the sources of peers to whom the routes have changed, rejected ones among them.
    fn judge_changed(&mut self, netlink: &mut Netlink) {
        let Routes { changed, gone, .. } = &mut self.routes;
        let (changed, gone) = (std::mem::take(changed), std::mem::take(gone));
        let interface = self.shared.interface();
        let is_affected = |&(id, path): &(PeerId, Path)| {
            gone.contains(&path.ifindex)
                // Packets left by another link than its own, which may be one of those.
                || !gone.is_empty() && interface.is_source_rejected(id)
                || changed.iter().any(|net| is_between(net, &path))
        };
        let paths: Vec<_> = interface.paths().filter(is_affected).collect();
        drop(interface);
        for (id, path) in paths {
            match self.is_source_good(netlink, &path) {
                Some(is_good) => self.judge(id, &path, is_good),
                // Without a source the peer has not been heard since that was forgotten: it may not know where this
                // host is, and there may be a way to show it now. If the kernel cannot be asked, the source is judged
                // when it is reached the next time.
                None => drop(self.shared.interface().forget_source(id)),
            }
        }
    }

    /// Judges sources that peers have reached since the last time; returns whether the kernel could be asked.
    fn judge_new(&mut self, netlink: &mut Netlink) -> bool {
        let mut routes = std::mem::take(&mut self.routes);
        let could_be_asked = routes.judge_each(
            || self.shared.interface().poll_source(),
            |id, path| {
                let Some(is_good) = self.is_source_good(netlink, path) else { return false };
                self.judge(id, path, is_good);
                let Path { remote, local, .. } = path;
                tracing::debug!(%remote, ?local, is_good, "a peer has reached another address than before");
                true
            },
        );
        self.routes = routes;
        could_be_asked
    }

    /// Whether packets from the source that the peer has reached leave by the link by which its own came, or the source
    /// is not that link's; `None` if the path has none, or if the kernel cannot be asked.
    fn is_source_good(&self, netlink: &mut Netlink, path: &Path) -> Option<bool> {
        let local = path.local?;
        // Asked as it is sent: a link-local peer is found on its link only.
        let device = &self.configurator.device;
        let source = (local, device.port).into();
        let route = netlink.route_of_datagram(source, link_asked_for(path), path.remote, device.fwmark);
        let route = match route {
            Ok(route) => route,
            // There is no way from there, or it is no address of this host any more.
            Err(error) if error.is_refusal && !is_want_of_memory(&error.source) => return Some(false),
            // That says nothing of the source.
            Err(_) => return None,
        };
        Some(route.ifindex == path.ifindex || netlink.link_of_address(local).is_ok_and(|link| link != path.ifindex))
    }

    fn judge(&self, id: PeerId, path: &Path, is_good: bool) {
        // The peer may be gone by now, and its source with it.
        if self.shared.interface().judge_source(id, path, is_good) == Ok(true) {
            let Path { remote, local, .. } = path;
            tracing::debug!(%remote, ?local, is_good, "whether packets leave from the address that the peer has reached");
        }
    }
}

/// Whether the kernel could not answer for want of memory.
fn is_want_of_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use getrandom::SysRng;
    use rand_core::UnwrapErr;

    use super::*;

    /// The sources of so many peers, each of which has reached another address.
    fn sources(count: u8) -> VecDeque<(PeerId, Path)> {
        let mut interface = adit::Interface::new(now(), Duration::ZERO, Box::new(UnwrapErr(SysRng)));
        let mut source = |number| {
            let id = interface.add_peer(adit::PublicKey::from_bytes([number; 32])).unwrap();
            (id, Path { local: Some([192, 0, 2, number].into()), ..Path::to(([198, 51, 100, 1], 1).into()) })
        };
        (1..=count).map(&mut source).collect()
    }

    #[test]
    fn sources_of_which_the_kernel_could_not_be_asked_are_asked_for_again() {
        let mut routes = Routes::default();
        let mut reached = sources(3);
        let all: BTreeSet<_> = reached.iter().map(|(id, _)| *id).collect();
        let mut times = 0;
        while !reached.is_empty() {
            let is_asked = routes.judge_each(
                || reached.pop_front(),
                |_, _| {
                    times += 1;
                    false
                },
            );
            assert!(!is_asked && routes.sources_wait);
        }
        assert_eq!(times, 3, "after the first one that cannot be asked for it is for a while");
        let mut judged = BTreeSet::new();
        assert!(routes.judge_each(|| None, |id, _| judged.insert(id)));
        assert_eq!(judged, all);
        assert!(!routes.sources_wait);
        assert!(routes.judge_each(|| None, |_, _| unreachable!("all are judged")));
    }

    #[test]
    fn a_source_of_which_the_kernel_says_nothing_keeps_no_other_waiting_and_gives_way_to_a_newer_one_of_its_peer() {
        let mut routes = Routes::default();
        let mut reached = sources(3);
        let (mute, first) = reached[0];
        let mut judged = BTreeSet::new();
        let mut ask = |routes: &mut Routes, reached: &mut VecDeque<_>| {
            routes.judge_each(|| reached.pop_front(), |id, path| path.local != first.local && judged.insert(id))
        };
        assert!(!ask(&mut routes, &mut reached));
        assert!(!ask(&mut routes, &mut reached), "it is asked for again, after the others");
        assert!(reached.is_empty() && routes.unasked.len() == 1);
        let newer = Path { ifindex: 7, local: Some([192, 0, 2, 9].into()), ..first };
        assert!(ask(&mut routes, &mut VecDeque::from([(mute, newer)])));
        assert!(routes.unasked.is_empty());
        assert_eq!(judged.len(), 3);
    }

    #[test]
    fn each_change_is_kept_once_and_too_many_are_all() {
        let mut routes = Routes::default();
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        for number in (0..MAX_CHANGED).chain([0, 1, 2]) {
            routes.changed(net(&format!("10.{number}.0.0/16")));
        }
        assert_eq!(routes.changed.len(), MAX_CHANGED);
        routes.changed(net("10.1.2.0/24"));
        assert_eq!(routes.changed.len(), MAX_CHANGED, "a part of one that is there");
        routes.changed(net("10.200.0.0/16"));
        assert_eq!(routes.changed, [net("0.0.0.0/0")]);
    }

    #[test]
    fn a_link_that_loses_its_carrier_or_has_it_again_may_change_the_routes() {
        let up = libc::IFF_UP as u32;
        let link = |flags| Link { index: 7, name: "eth0".into(), flags, mtu: 1500 };
        let carries = link(up | libc::IFF_LOWER_UP as u32);
        let mut routes = Routes::default();
        let mut news = |link: Option<&Link>| {
            match link {
                Some(link) => routes.link_is(link),
                None => routes.link_gone(7),
            }
            (std::mem::take(&mut routes.changed).len(), std::mem::take(&mut routes.gone))
        };
        let (nothing, all) = ((0, vec![]), (2, vec![]));
        assert_eq!(news(Some(&carries)), all, "nothing was known of it");
        assert_eq!(news(Some(&carries)), nothing, "something else has changed");
        assert_eq!(news(Some(&link(up))), (0, vec![7]), "its carrier is lost");
        assert_eq!(news(Some(&link(0))), nothing, "down it carries no more than before");
        assert_eq!(news(Some(&carries)), all, "it is back");
        assert_eq!(news(None), (0, vec![7]), "it is deleted");
        assert_eq!(news(Some(&link(up))), (0, vec![7]), "another of its number, of which nothing was known");
    }

    #[test]
    fn too_many_changes_of_one_family_are_not_all_of_the_other() {
        let mut routes = Routes::default();
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        routes.changed(net("10.0.0.0/16"));
        for number in 0..=MAX_CHANGED {
            routes.changed(net(&format!("fd00:{number}::/32")));
        }
        assert_eq!(routes.changed, [net("10.0.0.0/16"), net("::/0")]);
        routes.changed(net("10.1.0.0/16"));
        assert_eq!(routes.changed, [net("10.0.0.0/16"), net("::/0"), net("10.1.0.0/16")]);
    }
}
