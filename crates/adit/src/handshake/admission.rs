//! Whether a handshake message that has arrived is worth a Diffie-Hellman: mac1, then, under load, mac2, and where
//! there is more to compute than can be, the source's share (paper, §5.3).
//!
//! An attacker may send such messages by the hundred thousand, so they take the same three steps as transport messages:
//! bookkeeping under the caller's lock, work without it, bookkeeping again. Everything that costs time, the MACs and
//! the cookies, is in the second step, for which nobody has to wait.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use zeroize::Zeroizing;

use super::Incoming;
use super::turns::Turns;
use crate::batch::{Batch, Fate};
use crate::bounds::Bounds;
use crate::cookie::{self, CookieChecker, NONCE_LEN};
use crate::crypto;
use crate::error::DropReason;
use crate::interface::Interface;
use crate::limits::{COOKIE_REPLY_LEN, HANDSHAKE_TOS};
use crate::message::Message;
use crate::path::Path;
use crate::time::Instant;
use crate::transmit::Outgoing;

/// Of how many messages in a burst cookies are checked though there would be no answer for them: a check takes some
/// nine compressions of BLAKE2s, a few times as long as to read a message and pass it over.
const MOST_CLAIMS: usize = 16;

/// Whether there is more to compute than is healthy, whoever it comes from: too many messages wait, or too many arrive,
/// whether they are let in or not.
#[derive(Clone, Copy, Default)]
pub(crate) struct Load {
    until: Option<Instant>,
    window: Instant,
    /// How many messages have arrived in this window, except those with a wrong mac1 and responses that nobody waits
    /// for. Those that are passed over count, though their mac1 is not looked at.
    come: u32,
    /// How many of them were let in under load, since they had proven their address.
    let_in: u32,
}

impl Load {
    /// How long a moment of load is remembered.
    const MEMORY: Duration = Duration::from_secs(1);

    /// Takes note of one message more, and says whether there is load.
    fn note(&mut self, now: Instant, queued: usize, bounds: &Bounds) -> bool {
        self.renew(now);
        if has_backlog(queued, bounds) || self.come >= bounds.handshakes_per_second {
            self.until = Some(now + Self::MEMORY);
        }
        self.come = self.come.saturating_add(1);
        self.is_high(now)
    }

    /// Whether there is load, as far as is known.
    fn is_high(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until && until.is_within(2 * Self::MEMORY, now))
    }

    /// Begins a new window if the last one is over.
    fn renew(&mut self, now: Instant) {
        if !self.window.is_within(Self::MEMORY, now) {
            (self.window, self.come, self.let_in) = (now, 0, 0);
        }
    }

    /// Whether what can be computed has to be shared out: as much as may come without load was let in, or waits. A
    /// flood alone, which costs no more than MACs and cookies, does not make it so.
    fn is_scarce(&self, queued: usize, bounds: &Bounds) -> bool {
        self.let_in >= bounds.handshakes_per_second || has_backlog(queued, bounds)
    }

    /// Whether there may be load before `more` messages are through.
    fn may_become_high(mut self, now: Instant, queued: usize, more: usize, bounds: &Bounds) -> bool {
        self.renew(now);
        self.come = self.come.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        self.note(now, queued.saturating_add(more), bounds)
    }
}

/// Whether so many wait to be computed that they wait for long.
fn has_backlog(queued: usize, bounds: &Bounds) -> bool {
    queued >= (bounds.handshake_queue / 8).max(1)
}

/// The handshake messages of a burst, and what is needed to judge them without the interface.
#[derive(Default)]
pub(crate) struct Admission {
    candidates: Vec<Candidate>,
    judge: Option<Judge>,
}

/// A message that has the form of an initiation or a response.
struct Candidate {
    /// Its place among the burst's entries.
    entry: usize,
    sender_index: u32,
    /// It begins a handshake, or answers one that was begun here.
    is_expected: bool,
    /// It comes from a network that asks for few cookies; looked at only while they may be scarce.
    is_quiet: bool,
    verdict: Verdict,
}

#[derive(Clone, Copy)]
enum Verdict {
    Refused(DropReason),
    /// Under load: the sender has to prove its address first, with the cookie in this reply.
    Cookie([u8; COOKIE_REPLY_LEN]),
    /// Likewise, but so many replies wait to be sent that there is no room for this one. Its mac1 may be wrong.
    NoCookie,
    /// Under load, and the sender has proven its address.
    Proven,
    /// Without load.
    Admitted,
}

/// What was known when the burst began.
struct Judge {
    now: Instant,
    checker: Arc<CookieChecker>,
    /// From which the nonces of cookie replies are made. `None` if there cannot be load in this burst.
    seed: Option<Zeroizing<[u8; 32]>>,
    bounds: Bounds,
    /// Updated through the burst as the interface will update its own.
    load: Load,
    queued: usize,
    turns: Turns,
    /// How many cookie replies can still be sent.
    room: usize,
    /// How many of those who would otherwise be passed over can still have the cookies checked that they claim to have.
    claims: usize,
}

impl Admission {
    pub(crate) fn clear(&mut self) {
        self.candidates.clear();
        self.judge = None;
    }

    /// Judges the messages, which lie in `buffer`. Needs no lock.
    pub(crate) fn check(batch: &mut Batch, buffer: &[u8]) {
        let Batch { entries, paths, admission, .. } = batch;
        let Some(judge) = &mut admission.judge else { return };
        for (number, candidate) in admission.candidates.iter_mut().enumerate() {
            let entry = entries.get(candidate.entry);
            let path = entry.and_then(|entry| paths.get(entry.path as usize));
            let datagram = entry.and_then(|entry| buffer.get(entry.datagram()));
            if let (Some(path), Some(datagram)) = (path, datagram) {
                candidate.verdict = judge.verdict(candidate, number, path, datagram);
            }
        }
    }
}

impl Judge {
    fn verdict(&mut self, candidate: &Candidate, number: usize, path: &Path, datagram: &[u8]) -> Verdict {
        // Whoever would be passed over with a right mac1 is passed over without a look at it: a flood may be more than
        // can be looked at. Nor can all who claim to have a cookie be looked at, since anybody can claim it.
        let is_passed_over = candidate.is_expected && self.is_passed_over(candidate, path);
        if is_passed_over && self.load.is_high(self.now) {
            if !cookie::has_mac2(datagram) || !candidate.is_quiet && self.claims == 0 {
                self.load.note(self.now, self.queued, &self.bounds);
                return Verdict::NoCookie;
            }
            self.claims -= usize::from(!candidate.is_quiet);
        }
        if !self.checker.mac1_is_good(datagram) {
            return Verdict::Refused(DropReason::BadMac1);
        }
        if !candidate.is_expected {
            return Verdict::Refused(DropReason::UnknownIndex);
        }
        let is_high = self.load.note(self.now, self.queued, &self.bounds);
        if is_high && !self.checker.mac2_is_good(self.now, datagram, path.remote) {
            if is_passed_over {
                return Verdict::NoCookie;
            }
            self.room -= 1;
            let nonce = self.seed.as_ref().map(|seed| nonce(seed, number));
            let reply = nonce
                .and_then(|nonce| self.checker.create_reply(datagram, candidate.sender_index, path.remote, &nonce));
            return reply.map_or(Verdict::NoCookie, Verdict::Cookie);
        }
        self.queued += 1;
        if is_high { Verdict::Proven } else { Verdict::Admitted }
    }

    /// Whether there is no cookie reply for this message, should it need one. When less than half of the room for
    /// replies is left, the less there is, the fewer addresses have their turn.
    fn is_passed_over(&self, candidate: &Candidate, path: &Path) -> bool {
        let (room, half) = (self.room, self.bounds.outgoing / 2);
        let is_among = || candidate.is_quiet || self.turns.is_among(self.now, path.remote.ip(), (room, half));
        room == 0 || room < half && !is_among()
    }
}

/// The nonce for a number, derived from a secret seed: without the seed nobody can tell it from a random one.
fn nonce(seed: &[u8; 32], number: usize) -> [u8; NONCE_LEN] {
    let hash = crypto::hash(&[seed, &(number as u64).to_le_bytes()]);
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(hash.split_at(NONCE_LEN).0);
    nonce
}

impl Interface {
    /// The first step, for one message: notes it down.
    pub(crate) fn note_candidate(&self, admission: &mut Admission, entry: usize, message: &Message<'_>) {
        let (sender_index, is_expected) = match message {
            Message::Initiation(message) => (message.sender_index, true),
            Message::Response(message) => {
                let waits = |peer: &crate::peer::Peer| {
                    let handshake = peer.handshake.as_ref();
                    handshake.is_some_and(|handshake| handshake.local_index == message.receiver_index)
                };
                let peer = self.indices.get(&message.receiver_index).and_then(|&id| self.peers.get(id));
                (message.sender_index, peer.is_some_and(waits))
            }
            _ => return,
        };
        // The verdict until it is judged, which without a private key it never is.
        let verdict = Verdict::Refused(DropReason::NoPrivateKey);
        admission.candidates.push(Candidate { entry, sender_index, is_expected, is_quiet: false, verdict });
    }

    /// The first step, at the end of the burst: hands over what it takes to judge the messages.
    pub(crate) fn begin_admission(&mut self, now: Instant, batch: &mut Batch) {
        let Batch { entries, paths, admission, .. } = batch;
        let Some(checker) = self.checker.as_ref().filter(|_| !admission.candidates.is_empty()) else { return };
        let (load, queued, bounds, turns) = (self.load, self.incoming.len(), self.bounds, self.turns);
        let room = bounds.outgoing.saturating_sub(self.cookie_replies.len());
        // Otherwise nobody in this burst can be passed over.
        if room < bounds.outgoing / 2 + admission.candidates.len() {
            for candidate in &mut admission.candidates {
                let entry = entries.get(candidate.entry);
                let path = entry.and_then(|entry| paths.get(entry.path as usize));
                candidate.is_quiet = path.is_some_and(|path| self.crowd.is_quiet(path.remote.ip()));
            }
        }
        let mut checker = checker.clone();
        let seed = load.may_become_high(now, queued, admission.candidates.len(), &bounds).then(|| {
            if checker.is_stale(now) {
                // A new secret for this burst; it becomes the interface's if a cookie is made from it.
                Arc::make_mut(&mut checker).renew_secret(now, &mut *self.rng);
            }
            let mut seed = Zeroizing::new([0; 32]);
            self.rng.fill_bytes(&mut *seed);
            seed
        });
        admission.judge = Some(Judge { now, checker, seed, bounds, load, queued, turns, room, claims: MOST_CLAIMS });
    }

    /// The last step: carries out the verdicts.
    pub(crate) fn finish_admission(&mut self, now: Instant, batch: &mut Batch, buffer: &[u8]) {
        let Batch { entries, paths, admission, .. } = batch;
        let bound = self.bounds.handshake_queue;
        for candidate in &admission.candidates {
            let Some(entry) = entries.get_mut(candidate.entry) else { continue };
            entry.fate = Fate::Gone;
            let (Some(path), Some(datagram)) = (paths.get(entry.path as usize), buffer.get(entry.datagram())) else {
                continue;
            };
            if !matches!(candidate.verdict, Verdict::Refused(_)) {
                // Whether or not they are let in.
                self.load.note(now, self.incoming.len(), &self.bounds);
            }
            let outcome = match candidate.verdict {
                Verdict::Refused(reason) => Err(reason),
                Verdict::NoCookie => Err(DropReason::ReplyQueueFull),
                // Another thread may have filled the queue.
                Verdict::Cookie(_) if self.cookie_replies.len() >= self.bounds.outgoing => {
                    Err(DropReason::ReplyQueueFull)
                }
                Verdict::Cookie(reply) => {
                    if let (Some(ours), Some(judge)) = (&mut self.checker, &admission.judge)
                        && ours.is_stale(now)
                    {
                        Arc::make_mut(ours).take_secret(&judge.checker);
                    }
                    self.cookie_replies.extend(Outgoing::new(None, *path, HANDSHAKE_TOS, &reply));
                    Err(DropReason::CookieSent)
                }
                Verdict::Proven | Verdict::Admitted if self.incoming.len() >= bound => {
                    Err(DropReason::HandshakeQueueFull)
                }
                // Counted in any case: who has come often before has no share left when there are shares.
                Verdict::Proven
                    if !self.limiter.allow(now, path.remote.ip())
                        && self.load.is_scarce(self.incoming.len(), &self.bounds) =>
                {
                    Err(DropReason::RateLimited)
                }
                Verdict::Proven | Verdict::Admitted => Ok(()),
            };
            if matches!(candidate.verdict, Verdict::Cookie(_) | Verdict::NoCookie) {
                self.crowd.note(now, path.remote.ip());
            }
            match outcome {
                Ok(()) => {
                    let is_proven = matches!(candidate.verdict, Verdict::Proven);
                    self.load.let_in = self.load.let_in.saturating_add(is_proven.into());
                    self.incoming.extend(Incoming::new(*path, datagram));
                }
                Err(reason) => self.drop(None, reason),
            }
        }
        admission.clear();
    }
}
