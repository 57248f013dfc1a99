//! How another process takes over.

use std::io;
use std::sync::atomic::Ordering;

use super::Control;
use crate::handover::{self, Prepared, Reloader, State};
use crate::notify::Notifier;
use crate::shared::now;

impl Control {
    /// Begins a reload that was asked for by the signal, to this process or to the first, or over the socket.
    pub(super) fn reload_asked(&mut self, passed_on: bool, notifier: Option<&Notifier>) {
        let signalled = handover::drain(self.signals.streams()[1]) || passed_on;
        let Some(mut reloader) = self.reloader.take() else { return };
        let asked = reloader.accept();
        // Whoever asks while a reload is under way is told the outcome of that one.
        let is_wanted = (signalled || asked) && !reloader.is_busy();
        let mut outcome = Ok(());
        if is_wanted && reloader.is_on() {
            if let Some(notifier) = notifier {
                notifier.reloading();
            }
            let shared = self.shared.clone();
            outcome = reloader.begin(self.state(&reloader), move || shared.wake_control());
        } else if is_wanted {
            reloader.conclude(Err(handover::OFF.to_owned()));
        }
        self.reloader = Some(reloader);
        if let Err(why) = outcome {
            self.tell_outcome(Err(why), notifier);
        }
    }

    /// If a program is prepared to take over, lets it; returns the process that serves now, if it is not this one.
    pub(super) fn conclude_reload(&mut self, notifier: Option<&Notifier>) -> Option<u32> {
        let prepared = self.reloader.as_mut().and_then(Reloader::take_prepared)?;
        let outcome = match prepared {
            Ok(prepared) => self.hand_over(prepared),
            Err(why) => Err(why),
        };
        let process = outcome.as_ref().ok().copied();
        self.tell_outcome(outcome, notifier);
        process
    }

    /// Tells the outcome of a reload of which the service manager was told that it begins.
    fn tell_outcome(&mut self, outcome: Result<u32, String>, notifier: Option<&Notifier>) {
        if let Some(notifier) = notifier {
            notifier.ready(&format!("Serving {}", self.configurator.device.name));
        }
        if let Some(reloader) = &mut self.reloader {
            reloader.conclude(outcome);
        }
    }

    /// Hands the device over to a process that is prepared for it. If that fails this one goes on.
    fn hand_over(&mut self, prepared: Prepared) -> Result<u32, String> {
        let Some(reloader) = self.reloader.take() else { return Err(handover::OFF.to_owned()) };
        let process = prepared.id();
        // If the interface was moved meanwhile, the handover fails: then the workers need not rest.
        let at_home = self.at_home();
        let rests = at_home.is_ok();
        if rests {
            self.server.serve_those_who_ask(&mut self.configurator);
            self.configurator.workers.pause();
        }
        let outcome = prepared.commit(at_home.and_then(|()| self.state(&reloader)));
        self.reloader = Some(reloader);
        match outcome {
            Ok(()) => {
                self.let_go();
                Ok(process)
            }
            Err(failure) => {
                if failure.was_taken {
                    // The other process may have used counters of the sessions, which must not be used again here.
                    let mut interface = self.shared.interface();
                    interface.link_down();
                    if self.shared.is_up.load(Ordering::Relaxed) {
                        interface.link_up(now());
                    }
                }
                if rests {
                    self.configurator.workers.resume(self.configurator.device.offload);
                }
                Err(failure.why)
            }
        }
    }

    /// What another process needs. While the workers run it is outdated at once, and good only for checking.
    fn state(&self, reloader: &Reloader) -> io::Result<State> {
        self.at_home()?;
        self.configurator.state(self.server.listener(), reloader, self.far.right())
    }

    /// Leaves the socket files to another process.
    fn let_go(&mut self) {
        self.server.let_go();
        if let Some(asks) = self.reloader.as_mut().and_then(|reloader| reloader.asks.as_mut()) {
            asks.let_go();
        }
    }
}
