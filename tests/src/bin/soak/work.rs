//! What a daemon goes through in a round.

use std::fmt;
use std::io::{self, Write as _};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_tests::{
    Arena, FloodKind, Implementation, Keys, Launch, Node, Peer, Ping, Rate, Udp, eventually, preshared_key,
    tcp_transfer,
};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// The UDP port of all nodes, to which they return.
const PORT: u16 = 51820;
/// How many peers come and go at a time.
const PEERS: u32 = 2000;
/// How many clients ask at the same time.
const CLIENTS: usize = 64;
/// Datagrams a second.
const FLOOD: Rate = Rate::PerSecond(20_000);
/// Longer than a session may be used without a new one, so that some are renewed for their age alone.
pub(crate) const UNDISTURBED: Duration = Duration::from_secs(180);
/// The age in seconds at which a session is renewed: 120, but the clock may have been set a little meanwhile.
pub(crate) const RENEWAL_AGE: u64 = 118;
/// How often in a round what is quick is done, so that what it loses adds up.
pub(crate) const OFTEN: u32 = 4;
/// A peer takes no initiation so soon after the last one, and the next comes only after five seconds.
const BETWEEN_HANDSHAKES: Duration = Duration::from_millis(50);

/// Something that a daemon has to bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Streams,
    Datagrams,
    Pings,
    Keepalives,
    Rekey,
    Restart,
    Roam,
    Peers,
    Flood,
    Clients,
    Cut,
    Reload,
}

impl Work {
    const ALL: [Self; 12] = [
        Self::Streams,
        Self::Datagrams,
        Self::Pings,
        Self::Keepalives,
        Self::Rekey,
        Self::Restart,
        Self::Roam,
        Self::Peers,
        Self::Flood,
        Self::Clients,
        Self::Cut,
        Self::Reload,
    ];

    /// How often it is done in a round.
    fn times(self) -> u32 {
        match self {
            Self::Rekey | Self::Roam | Self::Cut | Self::Reload => OFTEN,
            _ => 1,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Streams => "streams",
            Self::Datagrams => "datagrams",
            Self::Pings => "pings",
            Self::Keepalives => "keepalives",
            Self::Rekey => "rekey",
            Self::Restart => "restart",
            Self::Roam => "roam",
            Self::Peers => "peers",
            Self::Flood => "flood",
            Self::Clients => "clients",
            Self::Cut => "cut",
            Self::Reload => "reload",
        })
    }
}

/// A, which runs all the time; B, its peer, which does not; C, another peer, which is reloaded; an attacker.
///
/// Sessions of A and C last as long as nothing cuts A off, those of A and B from one piece of work to the next.
pub(crate) struct World {
    pub(crate) arena: Arena,
    rng: ChaCha8Rng,
    start: Instant,
    /// Where B is.
    outside: &'static str,
    /// Of A and B.
    preshared_key: Option<String>,
    /// How many peers there have been.
    peers: u32,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            arena: Arena::new(Implementation::Adit),
            rng: ChaCha8Rng::seed_from_u64(seed),
            start: Instant::now(),
            outside: OUTSIDE[0],
            preshared_key: None,
            peers: 0,
        }
    }

    /// Everything, in an order by chance, what is quick several times; then traffic both ways with both peers. Says
    /// what was done.
    pub(crate) fn round(&mut self, check: impl Fn() -> Result<()>) -> Result<Vec<String>> {
        let mut all = Work::ALL;
        for left in (1..all.len()).rev() {
            all.swap(left, self.below(left as u64 + 1) as usize);
        }
        let mut done = Vec::new();
        for work in all {
            if work == Work::Cut && self.leaves_alone() {
                continue;
            }
            let mut how = String::new();
            for _ in 0..work.times() {
                check()?;
                how.push_str(&self.perform(work)?);
            }
            let how = if how.is_empty() { how } else { format!("({how})") };
            done.push(format!("{work}{how}"));
        }
        self.calm();
        Ok(done)
    }

    /// Says how it was done, if there are several ways.
    fn perform(&mut self, work: Work) -> Result<String> {
        let mut how = String::new();
        match work {
            Work::Streams => self.streams(),
            Work::Datagrams => self.datagrams()?,
            Work::Pings => self.pings(),
            Work::Keepalives => self.keepalives(),
            Work::Rekey => self.rekey(),
            Work::Restart => how = self.restart(),
            Work::Roam => how = self.roam(),
            Work::Peers => self.many_peers()?,
            Work::Flood => self.flood(),
            Work::Clients => self.clients()?,
            Work::Cut => self.cut(),
            Work::Reload => self.reload()?,
        }
        Ok(how)
    }

    fn streams(&mut self) {
        let bytes = [(); 2].map(|()| (1 << 20) + self.below(4 << 20) as usize);
        let Arena { trio, .. } = &self.arena;
        std::thread::scope(|scope| {
            let there = scope.spawn(|| tcp_transfer(&trio.a.host, &trio.b.host, self.arena.inner(2), bytes[0]));
            let back = scope.spawn(|| tcp_transfer(&trio.b.host, &trio.a.host, self.arena.inner(1), bytes[1]));
            there.join().expect("the stream there");
            back.join().expect("the stream back");
        });
    }

    fn datagrams(&mut self) -> Result<()> {
        let lengths: Vec<usize> = (0..16).map(|_| 1 + self.below(4000) as usize).collect();
        let length = 4 + self.below(100) as usize;
        let Arena { trio, .. } = &self.arena;
        let udp = Udp::between(&trio.a.host, self.arena.inner(1), &trio.b.host, self.arena.inner(2));
        udp.echo(lengths);
        let mut arrived = udp.burst(5000, length);
        ensure!(!arrived.is_empty(), "nothing of a burst of datagrams arrives");
        let count = arrived.len();
        arrived.sort_unstable();
        arrived.dedup();
        ensure!(arrived.len() == count, "datagrams arrive twice");
        Ok(())
    }

    fn pings(&self) {
        let Arena { trio, .. } = &self.arena;
        // Some may be lost on a busy machine; whether the tunnel works is asked elsewhere.
        let _report = Ping::to(self.arena.inner(3)).flood(300).patience(1).from(&trio.a.host);
        let _report = Ping::to(self.arena.inner(1)).flood(300).patience(1).payload(3000).from(&trio.b.host);
    }

    /// Waits, with nothing to be said, until something is said all the same.
    fn keepalives(&self) {
        let Arena { trio, .. } = &self.arena;
        trio.a.set(&format!("peer {} persistent-keepalive 1", trio.b.keys.public));
        let before = trio.b.peer(&trio.a.keys).received;
        eventually("keepalives come", || (trio.b.peer(&trio.a.keys).received >= before + 64).then_some(()));
        trio.a.set(&format!("peer {} persistent-keepalive 0", trio.b.keys.public));
    }

    /// A forgets B, and both use another preshared key from then on.
    fn rekey(&mut self) {
        std::thread::sleep(BETWEEN_HANDSHAKES);
        let key = preshared_key();
        let Arena { trio, .. } = &self.arena;
        let endpoint = trio.a.peer(&trio.b.keys).endpoint;
        trio.a.set(&format!("peer {} remove", trio.b.keys.public));
        introduce(&trio.a, &trio.b.keys, &endpoint, Some(&key));
        trio.b.set_with_input(&format!("peer {} preshared-key /dev/stdin", trio.a.keys.public), &key);
        self.preshared_key = Some(key);
        self.reach(1, 2);
    }

    /// B ends, as asked or at once, and comes again, as itself or as another.
    fn restart(&mut self) -> String {
        let (is_killed, is_new) = (self.by_chance(), self.by_chance());
        let Arena { trio, .. } = &mut self.arena;
        let daemon = trio.b.daemon();
        daemon.signal(if is_killed { Signal::SIGKILL } else { Signal::SIGTERM });
        daemon.wait();
        eventually("the interface goes", || (!trio.b.host.has_link(trio.b.interface())).then_some(()));
        if is_new {
            let old = std::mem::replace(&mut trio.b.keys, Keys::generate());
            trio.a.set(&format!("peer {} remove", old.public));
            let endpoint = format!("{}:{PORT}", self.outside);
            introduce(&trio.a, &trio.b.keys, &endpoint, self.preshared_key.as_deref());
        }
        trio.b.start_as(Launch::QUIET);
        let peer = Peer::new(&trio.a.keys, "192.168.7.0/24").at(&format!("10.0.0.1:{PORT}"));
        trio.b.configure(Some(PORT), &[peer.with_preshared_key(self.preshared_key.as_deref())]);
        trio.b.up(&["192.168.7.2/16"], 1420);
        // A may still have a session that B knows nothing of.
        self.reach(2, 1);
        self.reach(1, 2);
        let how = if is_killed { "killed" } else { "ended" };
        format!("{how}, {} key", if is_new { "new" } else { "same" })
    }

    /// B goes to another address and another port, or A to another port and back.
    fn roam(&mut self) -> String {
        let port = 20_000 + self.below(10_000) as u16;
        if self.by_chance() {
            for port in [port, PORT] {
                self.arena.trio.a.set(&format!("listen-port {port}"));
                self.reach(1, 2);
                self.reach(1, 3);
            }
            return "A".to_owned();
        }
        let Arena { trio, .. } = &self.arena;
        let old = self.outside;
        self.outside = OUTSIDE[usize::from(old == OUTSIDE[0])];
        trio.b.host.ip(&format!("address delete {old}/24 dev eth0"));
        trio.b.host.add_address(&format!("{}/24", self.outside), "eth0");
        trio.b.move_port(port);
        self.reach(2, 1);
        self.reach(1, 2);
        let endpoint = format!("{}:{port}", self.outside);
        eventually("A knows where B is", || (trio.a.peer(&trio.b.keys).endpoint == endpoint).then_some(()));
        "B".to_owned()
    }

    /// Peers come, some are spoken to, and all go again, while something else is going on.
    fn many_peers(&mut self) -> Result<()> {
        let first = self.peers + 1;
        self.peers += PEERS;
        let Arena { trio, .. } = &self.arena;
        std::thread::scope(|scope| {
            let stream = scope.spawn(|| tcp_transfer(&trio.c.host, &trio.a.host, self.arena.inner(1), 2 << 20));
            let peers: Vec<Peer> = (0..PEERS).map(|number| nobody(first + number, number)).collect();
            let sections: String = peers.iter().map(Peer::section).collect();
            trio.a.try_wg(&format!("addconf {} /dev/stdin", trio.a.interface()), &sections).success();
            let count = trio.a.status().peers.len();
            ensure!(count == PEERS as usize + 2, "{count} peers after {PEERS} have come");
            trio.a.host.enter(|| {
                let socket = UdpSocket::bind("192.168.7.1:0").expect("a socket");
                for peer in (0..PEERS).step_by(20) {
                    // Nobody hears it.
                    let _lost = socket.send_to(&[0; 1000], (inside(peer), 9));
                }
            });
            let words: Vec<String> = peers.iter().map(|peer| format!("peer {} remove", peer.public_key)).collect();
            trio.a.set(&words.join(" "));
            let count = trio.a.status().peers.len();
            ensure!(count == 2, "{count} peers after {PEERS} have gone");
            stream.join().expect("the stream beside");
            Ok(())
        })
    }

    /// Everything there is to flood with, since each kind needs other buffers; pings pass meanwhile, or some of them.
    fn flood(&self) {
        for kind in FloodKind::ALL {
            let flood = self.arena.flood(*kind, FLOOD);
            let _report = Ping::to(self.arena.inner(3)).count(5, 0.03).patience(1).from(&self.arena.trio.a.host);
            flood.stop();
        }
    }

    /// Clients that ask and do not read, that stop half-way, that talk nonsense, and that say nothing.
    fn clients(&self) -> Result<()> {
        let a = &self.arena.trio.a;
        let path = format!("/run/wireguard/{}.sock", a.interface());
        let said: [&[u8]; 4] = [b"get=1\n\n", b"set=1\nlisten_p", b"set=1\nnonsense=1\n\n", b""];
        let connect = |number: usize| -> io::Result<UnixStream> {
            let mut stream = UnixStream::connect(&path)?;
            // It may be refused already.
            let _refused = stream.write_all(said[number % said.len()]);
            Ok(stream)
        };
        let clients: io::Result<Vec<UnixStream>> = a.host.enter(|| (0..CLIENTS).map(connect).collect());
        drop(clients?);
        eventually("a client is served again", || a.try_wg("show wg0 dump", "").is_success().then_some(()));
        Ok(())
    }

    /// A's interface goes down and comes up, and A has another key for a moment.
    fn cut(&self) {
        std::thread::sleep(BETWEEN_HANDSHAKES);
        let a = &self.arena.trio.a;
        a.host.ip("link set wg0 down");
        a.host.ip("link set wg0 up");
        a.host.ip("route replace 10.9.0.0/16 dev wg0");
        a.set_with_input("private-key /dev/stdin", &Keys::generate().private);
        a.set_with_input("private-key /dev/stdin", &a.keys.private);
        self.reach(1, 2);
        self.reach(1, 3);
    }

    /// C's daemon is replaced by the program on disk, which leaves its sessions as they are.
    fn reload(&self) -> Result<()> {
        let Arena { trio, .. } = &self.arena;
        let (a, c) = (&trio.a, &trio.c);
        // There is a session, and what is the other's turn to say has been said.
        self.reach(3, 1);
        let before = a.peer(&c.keys).latest_handshake;
        // Another one would be in another second.
        eventually("the session is a second old", || (unix_seconds() > before).then_some(()));
        let mut command = Command::new(Implementation::Adit.binary());
        command.args(["reload", c.interface()]);
        c.host.complete(command, "").success();
        eventually("the process that handed over ends", || (c.host.processes().len() == 2).then_some(()));
        self.reach(3, 1);
        let after = a.peer(&c.keys).latest_handshake;
        is_kept(before, after, unix_seconds())
    }

    /// Traffic that touches whatever a daemon allocates when it is first used.
    fn calm(&self) {
        let Arena { trio, .. } = &self.arena;
        for (from, to) in [(1, 2), (2, 1), (1, 3), (3, 1)] {
            self.reach(from, to);
        }
        for (number, other) in [(2, &trio.b), (3, &trio.c)] {
            tcp_transfer(&trio.a.host, &other.host, self.arena.inner(number), 1 << 20);
            tcp_transfer(&other.host, &trio.a.host, self.arena.inner(1), 1 << 20);
        }
    }

    fn reach(&self, from: u8, to: u8) {
        let Arena { trio, .. } = &self.arena;
        let node = match from {
            1 => &trio.a,
            2 => &trio.b,
            _ => &trio.c,
        };
        let what = format!("a ping from 192.168.7.{from} to 192.168.7.{to} is answered");
        let ping = Ping::to(self.arena.inner(to)).patience(1);
        eventually(&what, || ping.from(&node.host).all_answered().then_some(()));
    }

    /// Whether this is a time in which A is not cut off.
    fn leaves_alone(&self) -> bool {
        !(self.start.elapsed().as_secs() / UNDISTURBED.as_secs()).is_multiple_of(2)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.rng.next_u64() % limit
    }

    fn by_chance(&mut self) -> bool {
        self.below(2) == 0
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Fails if a session that was there before a reload is not there after it, and was too young to be renewed; all in
/// seconds since the Unix epoch.
fn is_kept(before: u64, after: u64, now: u64) -> Result<()> {
    let age = now.saturating_sub(before);
    ensure!(
        after == before || age >= RENEWAL_AGE,
        "a reload lost C's session with A: the latest handshake was at {before} before it and is at {after} after it, \
         though the session was {age} s old",
    );
    Ok(())
}

/// The addresses between which B moves.
const OUTSIDE: [&str; 2] = ["10.0.0.2", "10.0.0.12"];

/// Makes B a peer of A.
fn introduce(a: &Node, b: &Keys, endpoint: &str, preshared_key: Option<&str>) {
    let peer = Peer::new(b, "192.168.7.2/32").at(endpoint).with_preshared_key(preshared_key);
    a.try_wg(&format!("addconf {} /dev/stdin", a.interface()), &peer.section()).success();
}

/// A peer that never answers; of some A wants to hear something all the time.
fn nobody(key: u32, number: u32) -> Peer {
    let peer = Peer::nobody(key, &format!("{}/32", inside(number)));
    if number.is_multiple_of(20) { peer.at("10.0.2.2:9").with_keepalive(1) } else { peer }
}

fn inside(number: u32) -> std::net::Ipv4Addr {
    let [_, _, high, low] = number.to_be_bytes();
    [10, 9, high, low].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_after_which_a_young_session_is_another_has_failed() {
        assert!(is_kept(1000, 1000, 1010).is_ok(), "the same");
        assert!(is_kept(1000, 1120, 1120).is_ok(), "renewed for its age");
        let error = is_kept(1000, 1010, 1010).expect_err("lost").to_string();
        assert!(error.starts_with("a reload lost C's session with A") && error.ends_with("10 s old"), "{error}");
    }
}
