//! What a storm is made of: a schedule is a list of these, drawn from one seed.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::sim::{A, Kind, millis, secs};

/// What goes wrong in a schedule, besides the weather. Each has a test of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Theme {
    /// Loss, delay, reordering, duplication, corruption and cuts: nobody loses a key.
    Weather,
    /// Reordering, duplication and lost handshake messages: no packet may be lost.
    Calm,
    /// The same while preshared keys, a node's address and allowed IPs change, each so that nothing is on its way into
    /// the void: still no packet may be lost.
    Changes,
    /// Processes end and begin again, with and without the same key; links go down.
    Restarts,
    /// Peers are removed and added again, also in the middle of a handshake.
    Peers,
    /// Preshared keys change, at one end first.
    PresharedKeys,
    /// Clocks jump, machines sleep, the wall clock is set.
    Clocks,
    /// A peer roams, prefixes change their owner, and somebody lies about its address.
    Addresses,
    /// All of these but changes with care, which are promised to lose nothing.
    Everything,
}

impl Theme {
    const ALL: [Self; 9] = [
        Self::Weather,
        Self::Calm,
        Self::Changes,
        Self::Restarts,
        Self::Peers,
        Self::PresharedKeys,
        Self::Clocks,
        Self::Addresses,
        Self::Everything,
    ];
    pub(super) const COUNT: u64 = Self::ALL.len() as u64;

    /// The theme of the schedule with this seed.
    pub(super) fn of(seed: u64) -> Self {
        Self::ALL[(seed % Self::COUNT) as usize]
    }

    /// Whether every packet must arrive.
    pub(super) fn is_lossless(self) -> bool {
        matches!(self, Self::Calm | Self::Changes)
    }

    /// The first seed with this theme; each [`Theme::COUNT`]th after it has it too.
    pub(super) fn first_seed(self) -> u64 {
        Self::ALL.iter().position(|&theme| theme == self).unwrap() as u64
    }
}

#[derive(Clone, Debug)]
pub(super) enum Fault {
    Send {
        from: usize,
        to: usize,
        count: usize,
    },
    /// Both ends begin to send at the same instant, after a silence.
    SendAtOnce {
        silence: Duration,
    },
    Run(Duration),
    /// Loss, duplication and corruption in thousandths, and the spread of delays.
    Weather {
        loss: u64,
        duplication: u64,
        corruption: u64,
        spread: Duration,
    },
    /// This share of the handshake messages is lost, in thousandths, and nothing else.
    LoseHandshakes(u64),
    Cut {
        from: usize,
        to: usize,
    },
    Heal,
    /// A's address changes, as behind a NAT that forgot it.
    Move(u16),
    /// A process ends and another begins, knowing what is in its configuration.
    Restart(usize),
    NewKey(usize),
    /// A process gives all that its interface is and knows to the next one, which takes over, or looks at it and says
    /// no.
    Reload {
        node: usize,
        takes_over: bool,
    },
    /// The same after some steps while, after a silence, the node has something to say to `peer`, and perhaps `peer` to
    /// it.
    ReloadAmidst {
        node: usize,
        peer: usize,
        silence: Duration,
        both: bool,
        steps: u32,
        takes_over: bool,
    },
    /// A node learns the key that another one has now.
    Tell {
        node: usize,
        of: usize,
    },
    LinkDownAndUp(usize),
    Remove {
        node: usize,
        peer: usize,
    },
    Add {
        node: usize,
        peer: usize,
    },
    Keepalive {
        node: usize,
        peer: usize,
        seconds: u16,
    },
    PresharedKey {
        node: usize,
        peer: usize,
        key: u8,
    },
    /// One end changes the preshared key, and the other one some time later; both go on sending.
    AgreeOnKey {
        first: usize,
        second: usize,
        key: u8,
        pause: Duration,
    },
    /// A's address changes while nothing is on its way, and A is the first to speak.
    Roam(u16),
    /// At `node` all prefixes of a peer are taken from it and given back in one step, and a wider one besides.
    Reassign {
        node: usize,
        peer: usize,
    },
    /// At `node` the address of `of`, who is silent meanwhile, goes over to another peer, is used, and comes back.
    Lend {
        node: usize,
        of: usize,
        to: usize,
    },
    /// A node's clock, by which it knows how old its keys are, goes ahead.
    Jump {
        node: usize,
        by: Duration,
    },
    /// A machine sleeps while the others go on; its clock goes on too.
    Suspend {
        node: usize,
        time: Duration,
    },
    /// A node's wall clock is set to a time that is this many seconds off the true one.
    WallClock {
        node: usize,
        offset: i64,
    },
    /// At `node` the address of `of` goes over to another peer.
    MovePrefix {
        node: usize,
        of: usize,
        to: usize,
    },
    /// A packet that claims to come from somebody else.
    Lie {
        from: usize,
        to: usize,
        as_from: usize,
    },
    /// Something that was sent before is sent again by somebody else.
    Replay {
        to: usize,
        which: u64,
    },
    /// After a silence strangers who know the public key of `to` want to be answered, for some seconds; meanwhile
    /// `from` and `to` have something to say to each other.
    Crowd {
        from: usize,
        to: usize,
        silence: Duration,
        seconds: u64,
    },
    Garbage {
        to: usize,
        kind: u8,
        len: usize,
    },
    /// One packet is overtaken by `count` others; afterwards those at the window's edge are replayed.
    Overtake {
        count: usize,
    },
}

/// A random generator, all of whose numbers come from one seed.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed ^ 0xad17_5701_2770_57a2))
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end
    }

    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn node(&mut self, nodes: usize) -> usize {
        self.below(nodes as u64) as usize
    }

    /// Two that are not the same.
    pub(super) fn pair(&mut self, nodes: usize) -> (usize, usize) {
        let one = self.node(nodes);
        (one, (one + 1 + self.node(nodes - 1)) % nodes)
    }
}

/// The schedule of a seed. Some begin with a session, some without.
pub(super) fn schedule(theme: Theme, nodes: usize, dice: &mut Dice) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !dice.one_in(3) {
        let (from, to) = dice.pair(nodes);
        faults.extend([Fault::Send { from, to, count: 1 }, Fault::Run(millis(100))]);
    }
    for _ in 0..dice.between(3, 12) {
        let fault = if dice.one_in(3) { Some(special(theme, nodes, dice)) } else { None };
        faults.push(fault.unwrap_or_else(|| common(theme, nodes, dice)));
        // Most faults do not wait for each other, some do.
        if dice.one_in(3) {
            faults.push(Fault::Run(millis(dice.between(1, 40))));
        }
    }
    faults
}

/// What every theme has: traffic, time, processes that hand over to the next and, save for calm ones, weather.
fn common(theme: Theme, nodes: usize, dice: &mut Dice) -> Fault {
    let (from, to) = dice.pair(nodes);
    let is_calm = theme.is_lossless();
    match dice.below(22) {
        // More than may wait for a session, save where nothing may be lost.
        0 => Fault::Send { from, to, count: dice.between(1, if is_calm { 80 } else { 240 }) as usize },
        1..7 => Fault::Send { from, to, count: dice.between(1, 12) as usize },
        7..10 => Fault::Run(millis(dice.between(1, 300))),
        10..13 => Fault::Run(millis(dice.between(300, 16_000))),
        13 => Fault::Run(secs(dice.between(20, 70))),
        14 if dice.one_in(2) => Fault::Run(secs(dice.between(70, 200))),
        14 | 15 if is_calm => Fault::Weather {
            loss: 0,
            duplication: dice.below(500),
            corruption: 0,
            spread: millis(dice.between(0, 1_500)),
        },
        14 | 15 => Fault::Weather {
            loss: dice.below(600),
            duplication: dice.below(300),
            corruption: dice.below(200),
            spread: if dice.one_in(2) { Duration::ZERO } else { millis(dice.between(1, 300)) },
        },
        16 => Fault::SendAtOnce { silence: [Duration::ZERO, millis(5), secs(6), secs(181)][dice.below(4) as usize] },
        17 if dice.one_in(3) => {
            let silence = [Duration::ZERO, secs(121), secs(181)][dice.below(3) as usize];
            Fault::Crowd { from, to, silence, seconds: dice.between(1, 8) }
        }
        17 => Fault::Replay { to, which: dice.below(u64::MAX) },
        18 if dice.one_in(2) => Fault::Garbage { to, kind: dice.below(6) as u8, len: dice.below(200) as usize },
        18 => Fault::Keepalive { node: from, peer: to, seconds: [0, 10, 25][dice.below(3) as usize] },
        19 => Fault::Reload { node: from, takes_over: !dice.one_in(5) },
        20 => {
            let silence = [Duration::ZERO, secs(6), secs(dice.between(121, 180)), secs(181)][dice.below(4) as usize];
            let (both, steps, takes_over) = (dice.one_in(2), dice.below(8) as u32, !dice.one_in(5));
            Fault::ReloadAmidst { node: from, peer: to, silence, both, steps, takes_over }
        }
        _ if is_calm => Fault::LoseHandshakes(dice.between(100, 350)),
        _ if dice.one_in(2) => Fault::Heal,
        _ => Fault::Cut { from, to },
    }
}

fn special(theme: Theme, nodes: usize, dice: &mut Dice) -> Fault {
    let (node, peer) = dice.pair(nodes);
    match theme {
        Theme::Weather => match dice.below(3) {
            0 => Fault::Cut { from: node, to: peer },
            1 => Fault::LoseHandshakes(dice.between(300, 1_000)),
            _ => common(theme, nodes, dice),
        },
        Theme::Calm => match dice.below(12) {
            0 => Fault::Overtake { count: dice.between(1, 200) as usize },
            1 if dice.one_in(5) => Fault::Overtake { count: 8_128 },
            2 => Fault::SendAtOnce { silence: secs(dice.between(121, 180)) },
            _ => common(theme, nodes, dice),
        },
        Theme::Changes => match dice.below(4) {
            0 => {
                let (key, pause) = (dice.below(3) as u8, millis(dice.below(20_000)));
                Fault::AgreeOnKey { first: node, second: peer, key, pause }
            }
            1 => Fault::Roam(dice.between(1, 60_000) as u16),
            2 => Fault::Reassign { node, peer },
            _ => Fault::Lend { node, of: peer, to: 3 - node - peer },
        },
        Theme::Restarts => match dice.below(5) {
            0 | 1 => Fault::Restart(node),
            2 => Fault::NewKey(node),
            3 => Fault::Tell { node, of: peer },
            _ => Fault::LinkDownAndUp(node),
        },
        Theme::Peers => match dice.below(4) {
            0 | 1 => Fault::Remove { node, peer },
            2 => Fault::Add { node, peer },
            _ => Fault::SendAtOnce { silence: Duration::ZERO },
        },
        Theme::PresharedKeys => Fault::PresharedKey { node, peer, key: dice.below(3) as u8 },
        Theme::Clocks => match dice.below(7) {
            0 | 1 => Fault::Jump { node, by: jump(dice) },
            2 => Fault::Suspend { node, time: jump(dice).min(secs(400)) },
            3 => Fault::WallClock { node, offset: -(dice.between(1, 7_200) as i64) },
            4 => Fault::WallClock { node, offset: dice.between(0, 7_200) as i64 },
            5 => Fault::Reload { node, takes_over: true },
            _ => Fault::Restart(node),
        },
        Theme::Addresses => match dice.below(4) {
            0 => Fault::Move(dice.between(1, 60_000) as u16),
            1 => Fault::MovePrefix { node, of: peer, to: 3 - node - peer },
            _ => Fault::Lie { from: node, to: peer, as_from: dice.below(nodes as u64) as usize },
        },
        Theme::Everything => {
            let themes =
                [Theme::Weather, Theme::Restarts, Theme::Peers, Theme::PresharedKeys, Theme::Clocks, Theme::Addresses];
            special(themes[dice.below(themes.len() as u64) as usize], nodes, dice)
        }
    }
}

/// Some seconds, some minutes, or hours.
fn jump(dice: &mut Dice) -> Duration {
    match dice.below(4) {
        0 => millis(dice.between(1, 30_000)),
        1 => secs(dice.between(30, 200)),
        2 => secs(dice.between(200, 600)),
        _ => secs(dice.between(600, 36_000)),
    }
}

/// Whether a handshake message is to be lost, by a chance of its own.
pub(super) fn lose_handshakes(share: u64, seed: u64) -> impl FnMut(&crate::sim::Sent) -> bool {
    let mut dice = Dice::new(seed);
    move |sent| matches!(sent.kind(), Kind::Initiation | Kind::Response) && dice.below(1_000) < share
}

/// The node whose address changes: if both did at once neither could find the other again.
pub(super) const ROAMER: usize = A;
