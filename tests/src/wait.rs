//! Waiting for a condition instead of for a time.

use std::time::{Duration, Instant};

/// Longer than anything waited for takes on a busy machine; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(40);

const PAUSE: Duration = Duration::from_millis(20);

/// Tries until there is something, and fails the test when there never is.
#[track_caller]
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    match for_a_while(PATIENCE, attempt) {
        Some(found) => found,
        None => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Tries until there is something or the time is over.
pub fn for_a_while<T>(time: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time;
    loop {
        if let Some(found) = attempt() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Fails the test if the condition is broken within the time: for what must *not* happen.
#[track_caller]
pub fn stays(what: &str, time: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    if for_a_while(time, || (!holds()).then_some(())).is_some() {
        panic!("no longer after {:?}: {what}", start.elapsed());
    }
}
