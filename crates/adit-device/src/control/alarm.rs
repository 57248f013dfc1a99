//! The alarm by which the control thread wakes. It runs by the engine's clock, which goes on while the machine sleeps:
//! what a poll is told to wait at most stands still meanwhile, and all that is due would be late by as much.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use adit::Instant;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime};

use super::ALARM;

/// Wakes the thread that polls. Which event it is that has come does not matter.
pub(super) struct Alarm(OwnedFd);

impl Alarm {
    pub(super) fn new(registry: &Registry) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), ALARM, Interest::READABLE)?;
        Ok(Self(timer))
    }

    /// Goes off at `time`, at once if that has passed, and not any more at the time that was set before. Without a time
    /// it never does.
    pub(super) fn set(&self, time: Option<Instant>) -> io::Result<()> {
        let nanos = time.map_or(0, Instant::as_nanos);
        let it_value = Timespec { tv_sec: (nanos / 1_000_000_000) as _, tv_nsec: (nanos % 1_000_000_000) as _ };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let wanted = Itimerspec { it_interval, it_value };
        // Setting it clears what it has told, which therefore need not be read.
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &wanted).map(drop).map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;
    use crate::shared::now;

    #[test]
    fn the_alarm_goes_off_by_the_clock_that_goes_on_while_the_machine_sleeps() {
        let poll = Poll::new().unwrap();
        let alarm = Alarm::new(poll.registry()).unwrap();
        let kernel = fs::read_to_string(format!("/proc/self/fdinfo/{}", alarm.0.as_raw_fd())).unwrap();
        assert!(kernel.lines().any(|line| line == format!("clockid: {}", libc::CLOCK_BOOTTIME)), "{kernel}");
    }

    #[test]
    fn the_alarm_goes_off_each_time_that_it_is_set_and_not_once_it_is_set_to_never() {
        let mut poll = Poll::new().unwrap();
        let alarm = Alarm::new(poll.registry()).unwrap();
        let mut events = Events::with_capacity(4);
        for time in [now() + Duration::from_millis(1), now(), Instant::from_nanos(1)] {
            alarm.set(Some(time)).unwrap();
            poll.poll(&mut events, None).unwrap();
            assert_eq!(events.iter().map(|event| event.token()).collect::<Vec<_>>(), [ALARM]);
            assert!(now() >= time);
        }
        alarm.set(Some(now())).unwrap();
        alarm.set(None).unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        // That it had gone off may still be told, once.
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty());
    }
}
