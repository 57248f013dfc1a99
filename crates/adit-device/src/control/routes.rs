//! Source addresses that follow the routes.
//!
//! Answers leave from the address that the peer reached. If the route to the peer then moves to another link, that
//! address is usually wrong there, and nothing says so: what is sent from it is lost further on. This concerns IPv4
//! only: over IPv6 an answer is bound to its link.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use adit::Instant;
use ipnet::{IpNet, Ipv4Net};
use mio::unix::SourceFd;
use mio::{Interest, Registry};

use super::{Control, ROUTES};
use crate::netlink::{LinkEvent, LinkMonitor, Netlink, NetlinkError};
use crate::shared::now;

/// How many changes are looked at one by one.
const MAX_CHANGED: usize = 64;
/// Looking at routes takes no more than one part in this many of the time, even if they change all the time.
const SHARE: u32 = 10;
/// How many events are read before clients and timers have their turn.
const NEWS: usize = 1_024;

/// Changes of routes that have not been looked at.
#[derive(Default)]
pub(super) struct Routes {
    /// The source of events, unless it could not be opened.
    monitor: Option<LinkMonitor>,
    /// Whether it may have something to tell.
    has_news: bool,
    changed: Vec<Ipv4Net>,
    /// The links that have gone down or vanished.
    gone: Vec<u32>,
    /// When to look again at the earliest.
    not_before: Option<Instant>,
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

    /// No route leads out by this link any more.
    pub(super) fn link_gone(&mut self, ifindex: u32) {
        if self.gone.len() < MAX_CHANGED {
            self.gone.push(ifindex);
        } else {
            self.all_changed();
        }
    }

    /// Any route may have changed.
    fn all_changed(&mut self) {
        (self.changed, self.gone) = (vec![Ipv4Net::default()], Vec::new());
    }

    /// A route to `destination` was added or removed.
    fn changed(&mut self, destination: Ipv4Net) {
        if self.changed.iter().any(|net| net.contains(&destination)) {
            return;
        }
        if self.changed.len() < MAX_CHANGED {
            self.changed.push(destination);
        } else {
            self.all_changed();
        }
    }

    fn hear(&mut self) {
        for _ in 0..NEWS {
            let event = match &mut self.monitor {
                Some(monitor) if self.has_news => monitor.next_event(),
                _ => return,
            };
            match event {
                Ok(Some(LinkEvent::RouteChanged { destination: IpNet::V4(destination) })) => self.changed(destination),
                Ok(Some(LinkEvent::Lost)) => self.all_changed(),
                Ok(Some(_)) => {}
                Ok(None) => self.has_news = false,
                Err(error) => {
                    tracing::warn!(%error, "changes of routes are not heard of any more");
                    (self.monitor, self.has_news) = (None, false);
                }
            }
        }
    }
}

impl Control {
    /// Forgets the sources of peers that are reached by another link now. Returns how long to wait before there is more
    /// to look at, if there is.
    pub(super) fn look_at_routes(&mut self) -> Option<Duration> {
        self.routes.hear();
        let rest = self.routes.has_news.then_some(Duration::ZERO);
        if self.routes.changed.is_empty() && self.routes.gone.is_empty() {
            return rest;
        }
        let begin = now();
        if let Some(not_before) = self.routes.not_before.filter(|&not_before| not_before > begin) {
            return rest.or(Some(not_before.saturating_since(begin)));
        }
        let Routes { changed, gone, .. } = &mut self.routes;
        let (changed, gone) = (std::mem::take(changed), std::mem::take(gone));
        let is_affected =
            |remote: Ipv4Addr, ifindex: u32| gone.contains(&ifindex) || changed.iter().any(|net| net.contains(&remote));
        let paths: Vec<_> = {
            let interface = self.shared.interface();
            let paths = interface.paths().filter_map(|(id, path)| match (path.remote.ip(), path.local?) {
                (IpAddr::V4(remote), IpAddr::V4(local)) if is_affected(remote, path.ifindex) => {
                    Some((id, remote, local, path.ifindex))
                }
                _ => None,
            });
            paths.collect()
        };
        let mark = self.configurator.device.fwmark;
        let leaves_elsewhere =
            |netlink: &mut Result<Netlink, NetlinkError>, remote: Ipv4Addr, local: Ipv4Addr, ifindex| {
                let Ok(netlink) = netlink else { return true };
                netlink.route_from(local.into(), remote.into(), mark).map_or(true, |route| route.ifindex != ifindex)
            };
        if !paths.is_empty() {
            let mut netlink = Netlink::open();
            for (id, remote, local, ifindex) in paths {
                if leaves_elsewhere(&mut netlink, remote, local, ifindex) {
                    tracing::debug!(%remote, %local, "packets leave by another link now, from an address of its own");
                    // The peer may be gone by now, and its source with it.
                    let _ = self.shared.interface().forget_source(id);
                }
            }
        }
        let end = now();
        self.routes.not_before = Some(end + end.saturating_since(begin) * SHARE);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_kept_once_and_too_many_are_all() {
        let mut routes = Routes::default();
        let net = |number: u8| Ipv4Net::new([10, number, 0, 0].into(), 16).unwrap();
        for number in (0..MAX_CHANGED as u8).chain([0, 1, 2]) {
            routes.changed(net(number));
        }
        assert_eq!(routes.changed.len(), MAX_CHANGED);
        routes.changed("10.1.2.0/24".parse().unwrap());
        assert_eq!(routes.changed.len(), MAX_CHANGED, "a part of one that is there");
        routes.changed(net(200));
        assert_eq!(routes.changed, ["0.0.0.0/0".parse().unwrap()]);
    }
}
