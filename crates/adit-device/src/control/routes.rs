//! Sources that follow the routes.
//!
//! Answers leave from the address that the peer reached. When its way leads out by another link that address is wrong there
//! as a rule, and nothing says so: what is sent from it is lost further on. Only IPv4's: over IPv6 an answer is held to the
//! link.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use adit::Instant;
use ipnet::{IpNet, Ipv4Net};

use super::Control;
use crate::netlink::{Netlink, NetlinkError};
use crate::shared::now;

/// How many changes are looked at one by one.
const MAX_CHANGED: usize = 64;
/// Where routes change all the time it takes no more than one part in so many to look.
const SHARE: u32 = 10;

/// Changes of routes that have not been looked at.
#[derive(Default)]
pub(super) struct Routes {
    changed: Vec<Ipv4Net>,
    /// When to look again at the earliest.
    not_before: Option<Instant>,
}

impl Routes {
    /// There is another way to `destination`, or one less.
    pub(super) fn changed(&mut self, destination: IpNet) {
        let IpNet::V4(destination) = destination else { return };
        if self.changed.contains(&destination) {
            return;
        }
        if self.changed.len() < MAX_CHANGED {
            self.changed.push(destination);
        } else {
            self.changed = vec![Ipv4Net::default()];
        }
    }
}

impl Control {
    /// Forgets the sources of peers to which packets leave by another link now. Returns how long to wait before there is
    /// something to look at, if there is.
    pub(super) fn look_at_routes(&mut self) -> Option<Duration> {
        if self.routes.changed.is_empty() {
            return None;
        }
        let begin = now();
        if let Some(not_before) = self.routes.not_before.filter(|&not_before| not_before > begin) {
            return Some(not_before.saturating_since(begin));
        }
        let changed = std::mem::take(&mut self.routes.changed);
        let is_affected = |remote: Ipv4Addr| changed.iter().any(|net| net.contains(&remote));
        let paths: Vec<_> = {
            let interface = self.shared.interface();
            let paths = interface.paths().filter_map(|(id, path)| match (path.remote.ip(), path.local?) {
                (IpAddr::V4(remote), IpAddr::V4(local)) if is_affected(remote) => {
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
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_kept_once_and_too_many_are_all() {
        let mut routes = Routes::default();
        let net = |number: u8| IpNet::new([10, number, 0, 0].into(), 16).unwrap();
        for number in (0..MAX_CHANGED as u8).chain([0, 1, 2]) {
            routes.changed(net(number));
        }
        assert_eq!(routes.changed.len(), MAX_CHANGED);
        routes.changed("2001:db8::/32".parse().unwrap());
        assert_eq!(routes.changed.len(), MAX_CHANGED);
        routes.changed(net(200));
        assert_eq!(routes.changed, ["0.0.0.0/0".parse().unwrap()]);
    }
}
