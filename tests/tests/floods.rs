//! Floods at a rate that any attacker has, each against a session in use and a peer that is yet to come.
//!
//! What is measured of them, and beside the others, is `cargo xtask floods`.

use std::time::Duration;

use adit_tests::{Arena, Flood, FloodKind, Implementation, Rate, Shown, eventually, tcp_transfer};

/// Datagrams a second.
const RATE: Rate = Rate::PerSecond(20_000);

/// Of these there have to have been so many, or it was another flood than the one that was to be survived.
const LEAST: f64 = 10_000.0;

/// How much of a flood there has to have been, so that queues are full and load is noticed.
const ENOUGH: u64 = 20_000;

const BULK: usize = 4 << 20;

/// A newcomer whose first initiation meets with a cookie repeats it after 5 s and up to 333 ms; one that got no second
/// chance then would come after 10 s at the earliest.
const PATIENCE: u32 = 6;

/// A newcomer who is asked for no cookie gets in at once; a machine that does much else takes some of this time, but
/// neither a second initiation (after 5 s) nor a second ping (after 1 s) has room in it.
const AT_ONCE: Duration = Duration::from_millis(900);

/// What a flood may make a daemon keep, in KiB: the table of sources, the queues, and the heads of a few messages.
const GROWTH: u64 = 4 << 10;

/// Each flood is a test: its name, its kind, and the reasons of which nearly all of it is dropped.
macro_rules! floods {
    ($($name:ident: $kind:ident, $reasons:expr;)*) => {
        $(
            #[test]
            fn $name() {
                is_survived(FloodKind::$kind, &$reasons);
            }
        )*

        /// Handshake messages that come faster than they can be answered overflow a buffer in which no packet of a
        /// session waits; anything else is dropped as fast as it is read.
        #[test]
        fn sessions_go_on_whatever_floods_as_fast_as_a_core_can_send_it() {
            $(
                is_survived_at_full_rate(FloodKind::$kind, &$reasons);
            )*
        }
    };
}

floods! {
    a_flood_of_random_bytes_is_survived: Random, ["bad_type", "bad_length"];
    a_flood_of_initiations_from_forged_addresses_is_survived: ForgedInitiations,
        ["cookie_sent", "reply_queue_full", "handshake_queue_full", "unknown_peer"];
    a_flood_of_initiations_with_cookies_that_were_made_up_is_survived: FalseCookies,
        ["cookie_sent", "reply_queue_full", "handshake_queue_full", "unknown_peer"];
    a_flood_of_initiations_from_one_address_is_survived: OneInitiator,
        ["cookie_sent", "reply_queue_full", "handshake_queue_full", "unknown_peer"];
    a_flood_of_replayed_initiations_is_survived: Replay,
        ["cookie_sent", "reply_queue_full", "handshake_queue_full", "replayed_initiation"];
    a_flood_of_cookie_replies_is_survived: CookieReplies, ["unknown_index", "bad_cookie_reply"];
    a_flood_of_messages_to_no_session_is_survived: UnknownTransport, ["unknown_index"];
    a_flood_of_messages_to_a_session_is_survived: LiveTransport, ["bad_tag"];
    a_flood_of_tiny_datagrams_is_survived: Tiny, ["bad_length", "bad_type"];
    a_flood_of_oversized_datagrams_is_survived: Oversized, ["bad_length", "bad_type"];
}

/// Traffic goes on and is whole, a newcomer gets in, memory stays bounded, and the counters tell what was dropped.
fn is_survived(kind: FloodKind, reasons: &[&str]) {
    let mut arena = Arena::new(Implementation::Adit);
    let before = arena.trio.a.daemon().peak_memory();
    let flood = arena.flood(kind, RATE);
    let_sessions_go_on(&arena, &flood);
    arena.newcomer(PATIENCE).assert_all_answered();
    let sent = flood.sent();
    end(flood);
    let told = judge(&mut arena, before, kind, reasons).dropped(reasons);
    // Some found no room in the socket's buffer; the kernel counts those.
    assert!(told > sent / 2, "of {sent} datagrams {told} were dropped for {reasons:?}");
}

/// The same without a newcomer, and much may find no room in the socket's buffer.
fn is_survived_at_full_rate(kind: FloodKind, reasons: &[&str]) {
    let mut arena = Arena::new(Implementation::Adit);
    let before = arena.trio.a.daemon().peak_memory();
    let flood = arena.flood(kind, Rate::Max);
    let_sessions_go_on(&arena, &flood);
    end(flood);
    let told = judge(&mut arena, before, kind, &[reasons, &["receive_overflow"]].concat()).dropped(reasons);
    assert!(told > ENOUGH / 10, "{kind:?}: {told} were dropped for {reasons:?}");
}

fn let_sessions_go_on(arena: &Arena, flood: &Flood) {
    eventually("the flood is there", || (flood.sent() >= ENOUGH).then_some(()));
    let (victim, peer) = (arena.victim(), arena.peer());
    tcp_transfer(&peer.host, &victim.host, arena.inner(1), BULK);
    tcp_transfer(&victim.host, &peer.host, arena.inner(2), BULK);
}

/// Fails the test unless the daemon goes on, has not much more memory than `before`, and has dropped hardly anything for
/// other reasons than these; returns what the daemon shows.
#[track_caller]
fn judge(arena: &mut Arena, before: u64, kind: FloodKind, reasons: &[&str]) -> Shown {
    let shown = arena.victim().shown();
    let told = shown.dropped(reasons);
    let others: u64 = shown.drops.values().sum::<u64>() - told;
    assert!(others <= told / 100, "{kind:?}: {others} were dropped for others than {reasons:?}: {:?}", shown.drops);
    let daemon = arena.trio.a.daemon();
    let growth = daemon.peak_memory() - before;
    assert!(growth <= GROWTH, "{kind:?}: {growth} KiB more than before");
    assert_eq!(daemon.ended(), None, "the daemon goes on");
    shown
}

#[track_caller]
fn end(flood: Flood) {
    let rate = flood.stop();
    assert!(rate >= LEAST, "a flood of no more than {rate:.0} datagrams a second");
}

/// More cookies are asked for than can be sent, but not from where the newcomer is. Another newcomer has a try if the
/// first was unlucky: a daemon that is kept from its core for a few hundredths of a second finds its buffers full.
#[test]
fn a_newcomer_gets_in_while_initiations_flood_as_fast_as_a_core_can_send_them() {
    for kind in [FloodKind::ForgedInitiations, FloodKind::Replay] {
        let arena = Arena::new(Implementation::Adit);
        let flood = arena.flood(kind, Rate::Max);
        eventually("some are passed over", || {
            (arena.victim().shown().dropped(&["reply_queue_full"]) >= 4 * ENOUGH).then_some(())
        });
        if !arena.newcomer(PATIENCE).all_answered() {
            arena.forget_newcomer();
            arena.newcomer(PATIENCE).assert_all_answered();
        }
        end(flood);
    }
}

/// Held to the link by which a datagram came, IPv4 would ask there for a neighbour of every address that was made up,
/// and the kernel keeps so many neighbours only, whoever needs them.
#[test]
fn answers_to_forged_addresses_go_by_the_routing_table_and_ask_no_neighbours() {
    let arena = Arena::new(Implementation::Adit);
    let host = &arena.victim().host;
    host.ip("tuntap add mode tun name elsewhere");
    host.ip("link set elsewhere up");
    host.ip("route replace default dev elsewhere");
    let flood = arena.flood(FloodKind::ForgedInitiations, RATE);
    eventually("the flood is there", || (flood.sent() >= ENOUGH).then_some(()));
    end(flood);
    let dropped: u64 = host
        .ip("-s link show elsewhere")
        .lines()
        .last()
        .and_then(|line| line.split_whitespace().nth(3))
        .expect("what was dropped")
        .parse()
        .expect("a number");
    assert!(dropped > ENOUGH / 2, "{dropped} answers went by the default route");
    let neighbours = host.ip("neighbour show dev eth2");
    let is_on_the_link = |line: &str| line.starts_with("10.0.2.");
    assert!(neighbours.lines().all(is_on_the_link), "{neighbours}");
}

#[test]
fn a_newcomer_needs_no_second_try_under_a_flood_that_costs_no_handshakes() {
    let arena = Arena::new(Implementation::Adit);
    for kind in [
        FloodKind::Random,
        FloodKind::UnknownTransport,
        FloodKind::LiveTransport,
        FloodKind::CookieReplies,
        FloodKind::Tiny,
        FloodKind::Oversized,
    ] {
        let flood = arena.flood(kind, RATE);
        eventually("the flood is there", || (flood.sent() >= ENOUGH).then_some(()));
        arena.newcomer(PATIENCE).assert_all_answered_within(AT_ONCE);
        end(flood);
        arena.forget_newcomer();
    }
}
