//! Where workers wait while they must not touch a packet: before they begin, and while the device changes hands. Those
//! that wait keep all that they have, so that going on takes nothing that could be refused.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Closed at first.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    order: Order,
    /// How many are inside.
    inside: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Order {
    #[default]
    Wait,
    Pass,
    End,
}

/// Shows that its owner is inside, until it is dropped.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    /// Waits until the gate is open; `None` if there is nothing to wait for any more.
    pub(crate) fn pass(&self) -> Option<Inside<'_>> {
        let mut state = self.state();
        while state.order == Order::Wait {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (state.order == Order::Pass).then(|| {
            state.inside += 1;
            Inside(self)
        })
    }

    pub(crate) fn open(&self) {
        self.give(Order::Pass);
    }

    /// From now on nobody passes.
    pub(crate) fn close(&self) {
        self.give(Order::Wait);
    }

    /// From now on nobody passes or waits.
    pub(crate) fn end(&self) {
        self.give(Order::End);
    }

    /// Waits until nobody is inside, and what they have done there can be seen. To be called when it is not open.
    pub(crate) fn wait_until_empty(&self) {
        let mut state = self.state();
        while state.inside > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give(&self, order: Order) {
        self.state().order = order;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.state().inside -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// Ends the threads of a test that fails as well.
    struct Ends<'a>(&'a Gate);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.end();
        }
    }

    #[test]
    fn when_it_is_closed_and_empty_nobody_does_anything_until_it_is_opened_again() {
        let (gate, ends) = (Gate::default(), AtomicBool::new(false));
        let done = [(); 3].map(|()| AtomicUsize::new(0));
        let count = || done.each_ref().map(|done| done.load(Ordering::Relaxed));
        std::thread::scope(|scope| {
            let _ends = Ends(&gate);
            for done in &done {
                let (gate, ends) = (&gate, &ends);
                scope.spawn(move || {
                    while let Some(_inside) = gate.pass() {
                        let mut left = 100;
                        while left > 0 {
                            // What is in hand when it is to rest is done first.
                            left -= i32::from(ends.load(Ordering::Relaxed));
                            done.fetch_add(1, Ordering::Relaxed);
                            std::thread::yield_now();
                        }
                    }
                });
            }
            assert_eq!(count(), [0; 3], "it is closed at first");
            for _ in 0..200 {
                let before = count();
                ends.store(false, Ordering::Relaxed);
                gate.open();
                while count().iter().zip(before).any(|(&now, before)| now == before) {
                    std::thread::yield_now();
                }
                gate.close();
                ends.store(true, Ordering::Relaxed);
                gate.wait_until_empty();
                let rested = count();
                std::thread::yield_now();
                assert_eq!(count(), rested);
            }
        });
    }

    #[test]
    fn whoever_panics_inside_is_outside_and_nobody_waits_for_it() {
        let gate = Gate::default();
        gate.open();
        std::thread::scope(|scope| {
            let panics = scope.spawn(|| {
                let _inside = gate.pass();
                std::panic::resume_unwind(Box::new(()));
            });
            assert!(panics.join().is_err());
        });
        gate.close();
        gate.wait_until_empty();
        gate.end();
        assert!(gate.pass().is_none());
    }
}
