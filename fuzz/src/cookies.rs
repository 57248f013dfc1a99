//! Cookies: a responder under load that is asked by anybody, and an initiator that is given any cookie.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use adit::{Bounds, Datagrams, DropReason, Ecn, Instant, Interface, Path, PeerId, PublicKey, RateLimiter};
use arbitrary::{Result, Unstructured};

use crate::reference::{
    COOKIE_TIME, START, cookie_reply, interface, mac1, mac2, open_cookie, private_key, put_mac1, socket,
};

/// A script for one of the two.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let _ = match input.arbitrary::<u8>() {
        Ok(shape) if shape & 1 == 0 => Responder::run(&mut input, shape),
        _ => Initiator::run(&mut input),
    };
}

/// Messages with a right mac1 come in and are counted, but never computed.
struct Responder {
    now: Instant,
    interface: Interface,
    public_key: PublicKey,
    bounds: Bounds,
    /// The last cookie that each address was given, and the secret it was made from.
    cookies: BTreeMap<SocketAddr, ([u8; 16], u32)>,
    /// Which secret it is, and since when; none before the first reply.
    secret: (u32, Option<Instant>),
    limiter: RateLimiter,
    /// The present moment, and how many sound messages have come at it.
    come: (Instant, u32),
    /// When the second began in which the engine counts, and how many it has let in since.
    let_in: (Instant, u32),
    queued: usize,
    replies: usize,
}

impl Responder {
    fn run(input: &mut Unstructured<'_>, shape: u8) -> Result<()> {
        let mut bounds = Bounds::default();
        // Load from the first message on, or from some number on.
        bounds.handshakes_per_second = [0, 2, 1_000][usize::from(shape >> 1) % 3];
        bounds.handshake_queue = [4, 16, 512][usize::from(shape >> 3) % 3];
        bounds.outgoing = [2, 1_024][usize::from(shape >> 5 & 1)];
        let key = private_key(0);
        let mut script = Self {
            now: START,
            interface: interface(START, &key, 1, bounds),
            public_key: key.public_key(),
            bounds,
            cookies: BTreeMap::new(),
            secret: (0, None),
            limiter: RateLimiter::new(bounds.rate_limited_sources, [1, 2]),
            come: (START, 0),
            let_in: (Instant::default(), 0),
            queued: 0,
            replies: 0,
        };
        while !input.is_empty() {
            match input.arbitrary::<u8>()? & 7 {
                0..=4 => script.message(input)?,
                5 => script.now += Duration::from_millis(input.arbitrary::<u8>()?.into()),
                6 => script.now += Duration::from_secs(u64::from(input.arbitrary::<u8>()?) / 2),
                _ => script.drain(),
            }
        }
        Ok(())
    }

    /// An initiation from some address, with a mac2 from whatever cookie.
    fn message(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let (shape, from): (u8, u8) = input.arbitrary()?;
        let source = socket(from);
        let mut message = [shape >> 4; 148];
        message[..4].copy_from_slice(&[1, 0, 0, 0]);
        message[4] = from;
        put_mac1(&mut message, &self.public_key);
        let sent_mac1: [u8; 16] = message[116..132].try_into().expect("16 bytes");
        // Whose cookie: one's own, or another's.
        let owner = if shape & 1 == 0 { source } else { socket(input.arbitrary()?) };
        let cookie = self.cookies.get(&owner).copied();
        let mac2 = match cookie {
            Some((cookie, _)) if shape & 6 != 6 => mac2(&cookie, &message[..132]),
            _ => [shape & 8; 16],
        };
        message[132..].copy_from_slice(&mac2);
        let is_changed = shape & 6 == 6 && shape & 0x18 != 0;
        if is_changed {
            message[116 + usize::from(from & 15)] ^= 1 << (shape >> 5);
        }

        let is_fresh = self.secret.1.is_some_and(|made| !made.is_older_than(COOKIE_TIME, self.now));
        let is_proven =
            is_fresh && shape & 6 != 6 && owner == source && cookie.is_some_and(|(_, secret)| secret == self.secret.0);
        let (outcome, reply) = self.give(&mut message, source);

        // Whoever has no cookie, and could be given none, is not looked at.
        let is_passed_over = mac2 == [0; 16] && outcome == Some(DropReason::ReplyQueueFull);
        if is_changed && !is_passed_over {
            assert_eq!((outcome, reply), (Some(DropReason::BadMac1), None));
            return Ok(());
        }
        // Load comes of the rate and of the queue, and is remembered; always there is load where no rate is allowed.
        let is_loaded = self.bounds.handshakes_per_second == 0;
        if self.come.0 != self.now {
            self.come = (self.now, 0);
        }
        if self.let_in.0.is_older_than(Duration::from_secs(1), self.now) {
            self.let_in = (self.now, 0);
        }
        let is_full = self.queued >= (self.bounds.handshake_queue / 8).max(1);
        let is_loaded_now = is_full || self.come.1 >= self.bounds.handshakes_per_second;
        self.come.1 += 1;
        match outcome {
            None => {
                assert!(is_proven || !is_loaded_now, "{source} has proven nothing");
                self.queued += 1;
                self.let_in.1 += 1;
                assert!(self.queued <= self.bounds.handshake_queue, "the queue has a bound");
                if is_loaded {
                    assert!(self.limiter.allow(self.now, source.ip()), "{source} has had its share");
                }
            }
            Some(DropReason::CookieSent) => {
                assert!(!is_proven, "{source} has proven its address");
                if !is_fresh {
                    self.secret = (self.secret.0 + 1, Some(self.now));
                }
                self.replies += 1;
                assert!(self.replies <= self.bounds.outgoing, "the replies have a bound");
                // Replies are looked at one by one unless they are let pile up.
                if let Some(reply) = reply {
                    self.replies -= 1;
                    let (index, cookie) =
                        open_cookie(&self.public_key, &sent_mac1, &reply).expect("an answer to this message");
                    assert_eq!(index, message[4..8]);
                    self.cookies.insert(source, (cookie, self.secret.0));
                }
            }
            Some(DropReason::RateLimited) => {
                assert!(is_proven, "only who has proven its address is counted");
                let is_scarce = is_full || self.let_in.1 >= self.bounds.handshakes_per_second;
                assert!(is_scarce, "there is no need for shares");
                assert!(!is_loaded || !self.limiter.allow(self.now, source.ip()), "{source} has a share left");
            }
            Some(DropReason::HandshakeQueueFull) => {
                assert_eq!(self.queued, self.bounds.handshake_queue);
                assert!(is_proven || !is_loaded);
            }
            Some(DropReason::ReplyQueueFull) => {
                assert!(!is_proven);
                assert_eq!(self.replies, self.bounds.outgoing);
            }
            Some(other) => panic!("{other:?} of a sound message"),
        }
        Ok(())
    }

    /// What becomes of a message, and the answer to it, which is taken at once unless others are waiting.
    fn give(&mut self, message: &mut [u8], source: SocketAddr) -> (Option<DropReason>, Option<Vec<u8>>) {
        let before = *self.interface.drops();
        let mut burst = Datagrams::new();
        assert!(burst.push(0..message.len(), &Path::to(source), Ecn::NotEct));
        let opened = self.interface.begin_open(self.now, burst, message).open(message);
        let delivered = self.interface.commit(self.now, opened, message);
        assert_eq!(delivered.packets().count(), 0);
        let counted = |&&reason: &&DropReason| self.interface.drops().get(reason) > before.get(reason);
        let reasons: Vec<DropReason> = DropReason::ALL.iter().filter(counted).copied().collect();
        assert!(reasons.len() <= 1, "{reasons:?}");
        let is_alone = self.replies == 0 && message[8] & 1 == 0;
        let reply = if is_alone { self.take_reply(source) } else { None };
        (reasons.first().copied(), reply)
    }

    fn take_reply(&mut self, source: SocketAddr) -> Option<Vec<u8>> {
        let mut buffer = [0; 148];
        let transmit = self.interface.poll_transmit(self.now, &mut buffer).expect("there is room")?;
        assert_eq!((transmit.path.remote, transmit.range.len(), transmit.peer), (source, 64, None));
        Some(buffer[transmit.range].to_vec())
    }

    /// What was taken in is forgotten, and what is to be sent as well.
    fn drain(&mut self) {
        let works = std::iter::from_fn(|| self.interface.poll_handshake(self.now)).count();
        assert_eq!(works, self.queued);
        let mut buffer = [0; 148];
        let mut replies = 0;
        while let Some(transmit) = self.interface.poll_transmit(self.now, &mut buffer).expect("there is room") {
            assert_eq!(transmit.range.len(), 64, "a cookie and nothing else");
            replies += 1;
        }
        assert_eq!(replies, self.replies);
        (self.queued, self.replies) = (0, 0);
    }
}

/// An interface that asks a peer for a session again and again, and never gets one.
struct Initiator {
    now: Instant,
    interface: Interface,
    peer: PeerId,
    responder: PublicKey,
    /// The last initiation's index and mac1, until a reply to it was taken.
    last: Option<([u8; 4], [u8; 16])>,
    index: [u8; 4],
    cookie: Option<([u8; 16], Instant)>,
}

impl Initiator {
    fn run(input: &mut Unstructured<'_>) -> Result<()> {
        let responder = private_key(1).public_key();
        let mut interface = interface(START, &private_key(0), 2, Bounds::default());
        let peer = interface.add_peer(responder).expect("another's key");
        interface.set_endpoint(peer, Some(socket(0))).expect("the peer is there");
        let mut script = Self { now: START, interface, peer, responder, last: None, index: [0; 4], cookie: None };
        script.ask();
        while !input.is_empty() {
            match input.arbitrary::<u8>()? & 3 {
                0 => script.pass(Duration::from_secs(u64::from(input.arbitrary::<u8>()?))),
                1 => script.pass(Duration::from_millis(u64::from(input.arbitrary::<u16>()?))),
                _ => script.reply(input)?,
            }
        }
        Ok(())
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.interface.handle_timeout(self.now);
        self.ask();
    }

    /// Looks at what leaves.
    fn ask(&mut self) {
        self.interface.set_persistent_keepalive(self.now, self.peer, 1).expect("the peer is there");
        self.interface.handle_timeout(self.now);
        let mut buffer = [0; 148];
        while let Some(transmit) = self.interface.poll_transmit(self.now, &mut buffer).expect("there is room") {
            let message = &buffer[transmit.range];
            assert_eq!((message.len(), message[0]), (148, 1), "an initiation and nothing else");
            let mac1 = mac1(&self.responder, &message[..116]);
            assert_eq!(message[116..132], mac1);
            self.cookie = self.cookie.filter(|(_, received)| !received.is_older_than(COOKIE_TIME, self.now));
            let expected = self.cookie.map_or([0; 16], |(cookie, _)| mac2(&cookie, &message[..132]));
            assert_eq!(message[132..], expected, "mac2 with the cookie that is still good, or none");
            self.index = message[4..8].try_into().expect("4 bytes");
            self.last = Some((self.index, mac1));
        }
    }

    fn reply(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let (shape, value): (u8, u8) = input.arbitrary()?;
        let (mut index, mut mac1) = self.last.unwrap_or((self.index, [0; 16]));
        if shape & 0x30 == 0x30 {
            index = input.arbitrary()?;
        }
        if shape & 0xc0 == 0xc0 {
            mac1[usize::from(value & 15)] ^= 1;
        }
        let cookie = [value; 16];
        let mut reply = cookie_reply(&self.responder, index, &mac1, [shape; 24], cookie);
        let changed = shape & 0x0c == 0x0c;
        if changed {
            let place = 8 + usize::from(value) % 56;
            reply[place] ^= 1 << (shape & 3);
        }
        let is_known = index == self.index;
        let is_good = !changed && self.last == Some((index, mac1));
        let before = *self.interface.drops();
        assert!(self.interface.handle_datagram(self.now, &Path::to(socket(value)), Ecn::NotEct, &mut reply).is_none());
        let reason = if is_known { DropReason::BadCookieReply } else { DropReason::UnknownIndex };
        let dropped = self.interface.drops().get(reason) - before.get(reason);
        assert_eq!(dropped, u64::from(!is_good), "{reason:?}");
        if is_good {
            self.cookie = Some((cookie, self.now));
            self.last = None;
        }
        Ok(())
    }
}
