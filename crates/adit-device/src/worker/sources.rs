//! From where a worker reads, and when.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::{TUN, WAKER, Worker};
use crate::udp::Sockets;

const UDP_V4: Token = Token(2);
const UDP_V6: Token = Token(3);

/// How many errors one upon the other are read past.
const MAX_FAILURES: u32 = 16;
/// How often sockets that are not watched are read, and it is tried again to have them watched.
const UNWATCHED: Duration = Duration::from_millis(250);

/// The sources that may have something to read. The poll is edge-triggered, so each is then read until it is empty.
#[derive(Clone, Copy, Default)]
pub(super) struct Ready {
    pub(super) tun: bool,
    pub(super) v4: bool,
    pub(super) v6: bool,
}

impl Ready {
    pub(super) fn any(self) -> bool {
        self.tun || self.v4 || self.v6
    }
}

/// Errors of a source that came one upon the other. An error says nothing about what waits behind it, which is not
/// announced again: so reading goes on, unless there is no end of errors.
#[derive(Default)]
pub(super) struct Failures(u32);

impl Failures {
    /// Whether a source that could not be read is to be read again at once.
    pub(super) fn let_read_on(&mut self, error: &io::Error) -> bool {
        let is_empty = error.kind() == io::ErrorKind::WouldBlock;
        self.0 = if is_empty || self.0 == MAX_FAILURES { 0 } else { self.0 + 1 };
        self.0 > 0
    }
}

/// Of which families the sockets are watched by the poll.
#[derive(Default)]
pub(super) struct Watched {
    v4: bool,
    v6: bool,
}

impl Watched {
    /// Has those watched that are not yet.
    pub(super) fn watch(&mut self, poll: &Poll, sockets: &Sockets) -> io::Result<()> {
        let families = [(&sockets.v4, UDP_V4, &mut self.v4), (&sockets.v6, UDP_V6, &mut self.v6)];
        let mut outcome = Ok(());
        for (socket, token, is_watched) in families {
            let Some(socket) = socket.as_ref().filter(|_| !*is_watched) else { continue };
            match poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE) {
                Ok(()) => *is_watched = true,
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    fn all(&self, sockets: &Sockets) -> bool {
        (self.v4 || sockets.v4.is_none()) && (self.v6 || sockets.v6.is_none())
    }
}

impl Worker {
    /// Waits until something can be read, at most for `timeout`, and notes what in `ready`. Returns whether the poll
    /// works.
    pub(super) fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> bool {
        let all_watched = self.watched.all(&self.sockets);
        let timeout = if all_watched { timeout } else { Some(timeout.map_or(UNWATCHED, |most| most.min(UNWATCHED))) };
        match self.poll.poll(events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            Err(error) => {
                tracing::error!(%error, "a worker cannot wait for packets");
                self.shared.tun_is_gone.store(true, Ordering::Relaxed);
                self.shared.wake_control();
                return false;
            }
        }
        if !all_watched {
            (self.ready.v4, self.ready.v6) = (true, true);
            let _ = self.watched.watch(&self.poll, &self.sockets);
        }
        for event in &*events {
            match event.token() {
                WAKER => self.adopt_sockets(),
                TUN => self.ready.tun = true,
                UDP_V4 => self.ready.v4 = true,
                _ => self.ready.v6 = true,
            }
        }
        true
    }

    /// The control thread may have bound other sockets.
    fn adopt_sockets(&mut self) {
        let new = self.shared.sockets(self.index);
        let Some(sockets) = new.filter(|sockets| !Arc::ptr_eq(sockets, &self.sockets)) else { return };
        for socket in self.sockets.iter() {
            // Closing removes it as well.
            let _ = self.poll.registry().deregister(&mut SourceFd(&socket.as_raw_fd()));
        }
        self.watched = Watched::default();
        if let Err(error) = self.watched.watch(&self.poll, &sockets) {
            // Mostly for want of memory, or of what fs.epoll.max_user_watches leaves to this user.
            tracing::warn!(%error, "the new sockets cannot be watched: they are read four times a second until they can");
        }
        self.sockets = sockets;
        self.answers = self.shared.answers(self.index);
        // What another worker owed may be this one's to send now.
        self.owes_answers = self.answers;
        (self.ready.v4, self.ready.v6) = (true, true);
    }
}
