//! A storm: thousands of random schedules of faults, each drawn from one number, and a witness who looks on from the
//! outside. After each step:
//!
//! - no counter is used twice under a key;
//! - no packet comes out twice, altered, or from an address that its peer does not own;
//! - no interface holds more memory than its bounds allow, whichever calls it is driven by;
//! - nobody is given a cookie who has not asked for a handshake; in a third of the schedules a few messages are enough
//!   for load, and in each theme some initiations must have got through it with a cookie;
//! - no initiation is answered twice or after a later one, no node initiates more often than every 5 s, no session is
//!   used after 180 s, by a responder before its initiator, or with differing preshared keys.
//!
//! In every theme processes hand their interface over to the next one ([`handover`]), which changes nothing of that.
//!
//! In the end, traffic flows again within a bound ([`recovery`]), or, if the network lost nothing but handshake
//! messages, every single packet has arrived, even while operators made changes with care ([`care`]).
//!
//! A schedule that fails is printed with its seed and cut down to what is needed. To run it alone:
//!
//!     ADIT_STORM_SEED=1234 cargo test -p adit --test engine storm
//!
//! `ADIT_STORM_SCHEDULES` sets how many there are in all.

mod care;
mod fault;
mod handover;
mod packets;
mod recovery;
mod truth;
mod witness;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fault::{Dice, Fault, Theme, schedule};
use witness::Cookies;
use world::World;

const SCHEDULES: u64 = 12_000;
/// Among this many schedules of one theme some must have load, in which cookies are given and used.
const ENOUGH: u64 = 500;

// From the paper.
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const REKEY_JITTER: Duration = Duration::from_millis(333);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);

#[test]
fn bad_weather_passes_and_traffic_flows_again() {
    storm(Theme::Weather);
}

#[test]
fn no_packet_is_lost_when_the_network_loses_none_but_those_of_handshakes() {
    storm(Theme::Calm);
}

#[test]
fn no_packet_is_lost_while_keys_addresses_and_prefixes_change_with_care() {
    storm(Theme::Changes);
}

#[test]
fn restarts_and_new_keys_are_got_over() {
    storm(Theme::Restarts);
}

#[test]
fn peers_that_are_removed_and_added_again_are_reached_again() {
    storm(Theme::Peers);
}

#[test]
fn preshared_keys_that_change_at_one_end_first_are_agreed_on_with_the_next_handshake() {
    storm(Theme::PresharedKeys);
}

#[test]
fn clocks_that_jump_and_machines_that_sleep_are_got_over() {
    storm(Theme::Clocks);
}

#[test]
fn nobody_speaks_for_another_while_peers_roam_and_prefixes_move() {
    storm(Theme::Addresses);
}

#[test]
fn whatever_happens_traffic_flows_again() {
    storm(Theme::Everything);
}

/// Runs every schedule with this theme, or the one that is asked for.
fn storm(theme: Theme) {
    if let Some(seed) = number("ADIT_STORM_SEED") {
        if Theme::of(seed) == theme {
            weather_one(seed);
        }
        return;
    }
    let count = number("ADIT_STORM_SCHEDULES").unwrap_or(SCHEDULES);
    let seeds = (theme.first_seed()..count).step_by(Theme::COUNT as usize);
    println!("{theme:?}: every {}th seed from {} to below {count}", Theme::COUNT, theme.first_seed());
    let mut cookies = Cookies::default();
    let mut number = 0;
    for seed in seeds {
        cookies += weather_one(seed);
        number += 1;
    }
    println!("{cookies:?}");
    if number >= ENOUGH {
        assert!(cookies.sent > 0 && cookies.answered > 0, "nobody was under load: {cookies:?}");
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text:?}")))
}

/// Runs the schedule of a seed; if it fails, tells what the seed was and which faults were needed.
fn weather_one(seed: u64) -> Cookies {
    let faults = faults(seed);
    attempt(seed, &faults).unwrap_or_else(|why| {
        let (needed, still) = cut_down(seed, faults);
        panic!(
            "seed {seed} ({:?}): {why}\nto run it alone: ADIT_STORM_SEED={seed} cargo test -p adit --test engine storm\n\
             with these faults alone: {still}\n{needed:#?}",
            Theme::of(seed)
        )
    })
}

fn nodes(seed: u64) -> usize {
    if matches!(Theme::of(seed), Theme::Addresses | Theme::Changes | Theme::Everything) { 3 } else { 2 }
}

fn faults(seed: u64) -> Vec<Fault> {
    schedule(Theme::of(seed), nodes(seed), &mut Dice::new(seed))
}

/// The faults, one after the other, and what comes after; a panic is a failure like others.
fn attempt(seed: u64, faults: &[Fault]) -> Result<Cookies, String> {
    let run = || {
        let dice = &mut Dice::new(!seed);
        let theme = Theme::of(seed);
        let mut world = World::new(theme, nodes(seed), dice);
        faults.iter().try_for_each(|fault| world.carry_out(fault))?;
        if theme.is_lossless() { world.everything_arrives() } else { recovery::recover(&mut world, dice) }?;
        Ok(world.witness.cookies)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("a panic, see above".into()))
}

/// Leaves out one fault after the other for as long as what is left still fails.
fn cut_down(seed: u64, mut faults: Vec<Fault>) -> (Vec<Fault>, String) {
    let mut still = String::new();
    let mut at = 0;
    while at < faults.len() {
        let mut fewer = faults.clone();
        fewer.remove(at);
        match attempt(seed, &fewer) {
            Err(why) => (faults, still) = (fewer, why),
            Ok(_) => at += 1,
        }
    }
    (faults, still)
}
