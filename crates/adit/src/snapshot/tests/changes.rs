//! Whatever of an interface changes, its snapshot is another one, and what is restored has the change too.

use alloc::format;
use alloc::string::String;
use core::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use super::*;
use crate::key::PresharedKey;
use crate::keypair::{Keypair, Role};
use crate::noise::{Identity, InitiatorState, SessionKeys};
use crate::peer::{Initiating, Peer};
use crate::timers::TIMERS;

/// What changes, by its name.
type Changes<T> = &'static [(&'static str, fn(&mut T))];

const OF_THE_INTERFACE: Changes<Interface> = &[
    ("private key", |end| end.identity = Some(Arc::new(Identity::new(PrivateKey::from_bytes([9; 32]))))),
    ("no private key", |end| (end.identity, end.checker) = (None, None)),
    ("mtu", |end| end.mtu += 1),
    ("last timestamp", |end| end.last_timestamp = end.last_timestamp.successor()),
    ("cookie secret", |end| set_cookie_secret(end, [9; 32], NOW)),
    ("when the cookie secret was made", |end| set_cookie_secret(end, [8; 32], LATER)),
    ("how often something was dropped", |end| end.drops.add(DropReason::BadMac1, 1)),
    ("why something was dropped", |end| end.drops.add(DropReason::NoRoute, 1)),
    ("events of drops", |end| end.drop_events = false),
    ("a peer more", |end| {
        end.add_peer(PublicKey::from_bytes([11; 32])).unwrap();
    }),
    ("no incoming message", |end| end.incoming.clear()),
    ("an incoming message's path", |end| change_incoming(end, |path, _| path.ifindex += 1)),
    ("an incoming message's bytes", |end| change_incoming(end, |_, bytes| bytes[100] ^= 1)),
    ("an incoming message's length", |end| change_incoming(end, |_, bytes| bytes.truncate(92))),
    ("no outgoing message", |end| end.outgoing.clear()),
    ("an outgoing message's path", |end| end.outgoing[0].path.ifindex += 1),
    ("an outgoing message's tos", |end| end.outgoing[0].tos ^= 1),
    ("an outgoing message's peer", |end| end.outgoing[0].peer = Some(id(end, 0))),
    ("an outgoing message's bytes", |end| {
        let (peer, &path, tos, bytes) = end.outgoing[0].parts();
        end.outgoing[0] = Outgoing::new(peer, path, tos, &bytes[1..]).unwrap();
    }),
    ("no cookie reply", |end| end.cookie_replies.clear()),
    ("who wants an initiation", |end| end.wanted[0] = id(end, 0)),
    ("no initiation is wanted", |end| end.wanted.clear()),
    ("a second initiation is wanted", |end| end.wanted.push_front(id(end, 1))),
    ("who may send what waited", |end| end.ready[0] = id(end, 1)),
    ("nobody may send what waited", |end| end.ready.clear()),
    ("another prefix", |end| add_allowed_ip(end, "10.0.2.0/24")),
    ("another prefix of another length", |end| add_allowed_ip(end, "10.0.0.0/25")),
    ("another prefix of IPv6", |end| add_allowed_ip(end, "fd00:0:0:1::/64")),
    ("a prefix's owner", |end| {
        end.allowed_ips.insert("10.0.0.0/24".parse().unwrap(), id(end, 1));
    }),
    ("no prefix", |end| {
        end.allowed_ips.remove_all(id(end, 0));
    }),
];

const OF_A_PEER: Changes<Peer> = &[
    ("public key", |peer| peer.public_key = PublicKey::from_bytes([11; 32])),
    ("preshared key", |peer| peer.preshared_key = Some(PresharedKey::from_bytes([5; 32]).into())),
    ("no endpoint", |peer| peer.endpoint = None),
    ("endpoint of IPv4", |peer| set_endpoint(peer, "192.0.2.9:51820".parse().unwrap())),
    ("endpoint's port", |peer| set_endpoint(peer, "[2001:db8::2]:51821".parse().unwrap())),
    ("endpoint's address", |peer| set_endpoint(peer, "[2001:db8::3]:51820".parse().unwrap())),
    ("endpoint's flow", |peer| set_endpoint(peer, of_link_local(1, 0))),
    ("endpoint's scope", |peer| set_endpoint(peer, of_link_local(0, 1))),
    ("this host's address", |peer| peer.endpoint.as_mut().unwrap().local = Some(IpAddr::V4(Ipv4Addr::LOCALHOST))),
    ("this host's interface", |peer| peer.endpoint.as_mut().unwrap().ifindex += 1),
    ("endpoint may move", |peer| peer.is_pinned ^= true),
    ("source is good", |peer| peer.is_source_rejected ^= true),
    ("a source was good", |peer| peer.had_good_source ^= true),
    ("persistent keepalive", |peer| peer.timers.persistent_keepalive += 1),
    ("received bytes", |peer| peer.rx_bytes += 1),
    ("sent bytes", |peer| peer.tx_bytes += 1),
    ("second of the last handshake", |peer| add_to_last_handshake(peer, Duration::from_secs(1))),
    ("nanosecond of the last handshake", |peer| add_to_last_handshake(peer, Duration::from_nanos(1))),
    ("timestamp of the last initiation accepted", |peer| peer.latest_timestamp = Some(Tai64n::from_bytes([9; 12]))),
    ("timestamp of the last initiation sent", |peer| peer.sent_timestamp = Some(Tai64n::from_bytes([9; 12]))),
    ("when an initiation was accepted", |peer| peer.last_initiation_received = Some(LATER)),
    ("when an initiation was sent", |peer| peer.last_initiation_sent = Some(LATER)),
    ("when the attempt began", |peer| peer.timers.attempt_began = Some(LATER)),
    ("since when it is attempted", |peer| peer.timers.attempting_since = Some(LATER)),
    ("whether a session was asked for", |peer| peer.timers.asked ^= true),
    ("when something was received", |peer| peer.timers.last_received = Some(LATER)),
    ("another keepalive", |peer| peer.timers.need_another_keepalive ^= true),
    ("a late packet has asked for a session", |peer| peer.timers.renewed_on_receipt ^= true),
    ("cookie", |peer| peer.cookie.cookie = Some(([7; 16], NOW))),
    ("when the cookie came", |peer| peer.cookie.cookie = Some(([5; 16], LATER))),
    ("mac1", |peer| peer.cookie.last_mac1 = Some([7; 16])),
    ("which of two sessions is preferred", |peer| peer.keypairs.next_is_preferred ^= true),
    ("whether a session is overtaken", |peer| peer.keypairs.next_is_overtaken ^= true),
    ("whether a session has a rival", |peer| peer.keypairs.next_is_rival ^= true),
    ("no current session", |peer| peer.keypairs.current = None),
    ("no previous session", |peer| peer.keypairs.previous = None),
    ("no next session", |peer| peer.keypairs.next = None),
    ("the order of sessions", |peer| core::mem::swap(&mut peer.keypairs.previous, &mut peer.keypairs.next)),
    ("a packet that waits more", |peer| peer.staged.push(&[1])),
    ("a packet that waits less", |peer| drop(peer.staged.pop())),
    ("all that waited", |peer| {
        peer.staged.clear();
    }),
    ("a handshake", |peer| {
        let state = InitiatorState::from_parts([&[1; 32], &[2; 32], &[3; 32]]);
        peer.handshake = Some(Initiating { state, local_index: 4 }.into());
    }),
];

/// Those of a peer with a handshake under way.
const OF_A_HANDSHAKE: Changes<Initiating> = &[
    ("index", |begun| begun.local_index ^= 1),
    ("chaining key", |begun| change_state(begun, 0)),
    ("hash", |begun| change_state(begun, 1)),
    ("ephemeral key", |begun| change_state(begun, 2)),
];

const OF_A_SESSION: Changes<Keypair> = &[
    ("key for sending", |session| change_key(session, 0)),
    ("key for receiving", |session| change_key(session, 1)),
    ("index here", |session| session.local_index ^= 4),
    ("index there", |session| session.remote_index ^= 4),
    ("role", |session| {
        session.role = if session.role == Role::Initiator { Role::Responder } else { Role::Initiator };
    }),
    ("when it was made", |session| session.created = LATER),
    ("counter", |session| session.counter += 1),
    ("newest counter received", |session| assert!(session.replay.accept(9_001))),
    ("an older counter received", |session| assert!(session.replay.accept(8_000))),
];

fn id(end: &Interface, slot: usize) -> PeerId {
    end.peers.iter().nth(slot).unwrap().0
}

fn peer(end: &mut Interface, slot: usize) -> &mut Peer {
    let id = id(end, slot);
    end.peers.get_mut(id).unwrap()
}

fn set_cookie_secret(end: &mut Interface, secret: [u8; 32], made: Instant) {
    Arc::get_mut(end.checker.as_mut().unwrap()).unwrap().set_parts((&secret, made));
}

fn change_incoming(end: &mut Interface, change: impl FnOnce(&mut Path, &mut Vec<u8>)) {
    let (path, bytes) = end.incoming[0].parts();
    let (mut path, mut bytes) = (*path, bytes.to_vec());
    change(&mut path, &mut bytes);
    end.incoming[0] = Incoming::new(path, &bytes).unwrap();
}

fn add_allowed_ip(end: &mut Interface, prefix: &str) {
    end.allowed_ips.insert(prefix.parse().unwrap(), id(end, 0));
}

fn set_endpoint(peer: &mut Peer, remote: SocketAddr) {
    peer.endpoint.as_mut().unwrap().remote = remote;
}

fn of_link_local(flow: u32, scope: u32) -> SocketAddr {
    SocketAddrV6::new("fe80::1".parse().unwrap(), 51_820, flow, scope).into()
}

fn add_to_last_handshake(peer: &mut Peer, time: Duration) {
    *peer.last_handshake.as_mut().unwrap() += time;
}

fn change_state(begun: &mut Initiating, which: usize) {
    let mut parts = begun.state.parts().map(|part| *part);
    parts[which][31] ^= 1;
    begun.state = InitiatorState::from_parts(parts.each_ref());
}

fn change_key(session: &mut Keypair, which: usize) {
    let mut bytes = session.keys.bytes.clone();
    bytes[which][31] ^= 1;
    session.keys = Arc::new(SessionKeys::new(bytes));
}

/// Adds a change's name to those that a snapshot does not tell of, or that are lost on the way.
fn note(unnoticed: &mut Vec<String>, name: String, change: impl FnOnce(&mut Interface)) {
    let mut end = eventful();
    let before = end.snapshot(NOW);
    change(&mut end);
    let after = end.snapshot(NOW);
    let restored = restore(&after).map(|restored| restored.snapshot(NOW));
    let survives = restored.is_ok_and(|again| again.as_bytes() == after.as_bytes());
    if before.as_bytes() == after.as_bytes() || !survives {
        unnoticed.push(name);
    }
}

#[test]
fn each_change_makes_another_snapshot_and_is_there_when_it_was_restored() {
    let mut unnoticed = Vec::new();
    for (name, change) in OF_THE_INTERFACE {
        note(&mut unnoticed, (*name).into(), change);
    }
    for (name, change) in OF_A_PEER {
        note(&mut unnoticed, format!("a peer's {name}"), |end| change(peer(end, 0)));
    }
    note(&mut unnoticed, "no preshared key".into(), |end| peer(end, 1).preshared_key = None);
    for (name, change) in OF_A_HANDSHAKE {
        let change = |end: &mut _| change(peer(end, 1).handshake.as_mut().unwrap());
        note(&mut unnoticed, format!("a handshake's {name}"), change);
    }
    for (name, change) in OF_A_SESSION {
        for session in ["current", "previous", "next"] {
            let change = |end: &mut _| {
                let keypairs = &mut peer(end, 0).keypairs;
                let place = match session {
                    "current" => &mut keypairs.current,
                    "previous" => &mut keypairs.previous,
                    _ => &mut keypairs.next,
                };
                change(place.as_mut().unwrap());
            };
            note(&mut unnoticed, format!("the {session} session's {name}"), change);
        }
    }
    for (number, timer) in TIMERS.iter().enumerate() {
        for deadline in [None, Some(LATER)] {
            let change = |end: &mut _| {
                let place = &mut peer(end, 0).timers.deadlines[number];
                *place = if place.is_none() { deadline.or(Some(NOW)) } else { deadline };
            };
            note(&mut unnoticed, format!("{timer:?} at {deadline:?}"), change);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}
