//! Answering clients from an event loop, without ever waiting for one of them.

mod client;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::UnixStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use client::{Client, Turn};

use super::listener::{Listener, is_readable};
use super::request::MAX_REQUEST;
use crate::config::{DeviceState, DeviceUpdate};

/// The most connections at a time. Whoever comes then waits until one ends, or asks nothing and is closed.
pub const MAX_CLIENTS: usize = 64;

/// How much may be kept for clients that have not finished a request or not read a reply, besides what is kept for the
/// one that was served last: a request of any length, or a dozen replies of 10,000 peers.
const MAX_KEPT: usize = MAX_REQUEST;

/// How much may be kept for the others when another reply is begun; otherwise whoever asks waits until less is.
const MAX_UNREAD: usize = MAX_KEPT / 2;

/// How many bytes are read at a time.
const INPUT: usize = 32 << 10;

/// How many bytes a client may send and be sent before the others have their turn.
const TURN: usize = 1 << 20;

/// How long clients may take to read replies that are under way when another process takes over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a client that asks nothing is left alone while another waits that cannot be accepted for want of files, or
/// since there are too many.
const GRACE: Duration = Duration::from_millis(50);

/// How long a client that does not go on with its request, or does not read its reply, is left alone while others wait
/// for its place, or for what is kept for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the interface does for its clients.
pub trait Handler {
    /// What the interface is and has done.
    fn get(&mut self) -> DeviceState;

    /// Changes the interface.
    ///
    /// # Errors
    /// When it cannot be changed so; then it must not have been changed at all.
    fn set(&mut self, update: DeviceUpdate) -> Result<(), SetError>;
}

/// Why an interface refuses a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SetError {
    /// A positive POSIX errno, which is what the client is told.
    pub errno: i32,
    /// What is wrong, for the log.
    pub message: String,
}

impl SetError {
    /// The values make no sense together.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { errno: libc::EINVAL, message: message.into() }
    }
}

impl From<io::Error> for SetError {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error().unwrap_or(libc::EIO), message: error.to_string() }
    }
}

/// Whether clients can still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a daemon whose socket was deleted should end"]
pub enum Status {
    /// The socket is there.
    Serving,
    /// The socket's file was deleted or replaced.
    Deleted,
}

/// The listening socket and its clients.
#[derive(Debug)]
pub struct Server {
    /// Dropped before the clients: when their connections end, the socket's file is gone.
    listener: Listener,
    clients: BTreeMap<usize, Client>,
    /// Once registered.
    registered: Option<Registered>,
    /// Counts what happens, to tell who has been silent for longest.
    moment: u64,
    /// Whether somebody may still wait to be accepted, of whom no event will tell.
    has_waiting: bool,
}

impl Server {
    /// A server without clients.
    pub fn new(listener: Listener) -> Self {
        Self { listener, clients: BTreeMap::new(), registered: None, moment: 0, has_waiting: false }
    }

    /// Has the events of the listener and of its clients reported to the poll of `registry`, under these tokens: two
    /// and one for each client, up to [`MAX_CLIENTS`]. To be called once.
    ///
    /// # Errors
    /// When there are fewer than three tokens, or the kernel refuses.
    pub fn register(&mut self, registry: &Registry, tokens: Range<usize>) -> io::Result<()> {
        if tokens.len() < 3 {
            return Err(io::Error::new(ErrorKind::InvalidInput, "expected at least three tokens"));
        }
        self.listener.set_nonblocking()?;
        let registry = registry.try_clone()?;
        registry.register(&mut SourceFd(&self.listener.as_raw_fd()), Token(tokens.start), Interest::READABLE)?;
        if let Some(watch) = self.listener.watch() {
            registry.register(&mut SourceFd(&watch.as_raw_fd()), Token(tokens.start + 1), Interest::READABLE)?;
        }
        let clients = tokens.start + 2..tokens.end.min(tokens.start + 2 + MAX_CLIENTS);
        self.registered = Some(Registered { registry, listener: tokens.start, clients });
        Ok(())
    }

    /// Does what an event asks for; one whose token is not among those of [`Server::register`] asks nothing.
    pub fn handle(&mut self, event: &Event, handler: &mut dyn Handler) -> Status {
        let Some(registered) = &self.registered else { return Status::Serving };
        let Token(token) = event.token();
        if token == registered.listener {
            self.accept(Self::close_idlest);
        } else if token == registered.listener + 1 {
            self.listener.drain_watch();
            return self.status();
        } else {
            self.serve(token, handler);
        }
        Status::Serving
    }

    /// Whether no event will tell that the socket's file is gone, since the kernel had no inotify left, or that a
    /// client that could not be accepted can be now: then [`Server::look`] is to be called now and then.
    pub fn must_be_looked_after(&self) -> bool {
        self.has_waiting || self.listener.is_unwatched()
    }

    /// Accepts whoever waits, and looks whether the socket's file is there.
    pub fn look(&mut self) -> Status {
        self.accept_waiting(Self::close_idlest);
        self.status()
    }

    /// How soon a client can give way to one that waits for its place, or for room for a reply, if so: then
    /// [`Server::give_way`] is to be called.
    pub fn gives_way_in(&self) -> Option<Duration> {
        let left = |found: Option<(usize, &Client)>, time: Duration| {
            found.map(|(_, client)| time.saturating_sub(client.since.elapsed()))
        };
        let silent = left(self.idlest(Client::is_silent).filter(|_| self.has_waiting), GRACE);
        let still = left(self.idlest(Client::is_awaited).filter(|_| self.has_waiting), PATIENCE);
        let unread = match self.waits_for_room() {
            false => None,
            true if self.kept_for_others(None) <= MAX_UNREAD => Some(Duration::ZERO),
            true => left(self.idlest(Client::takes_room), PATIENCE),
        };
        [silent, still, unread].into_iter().flatten().min()
    }

    /// Has clients that have had their time give way to those that wait.
    pub fn give_way(&mut self, handler: &mut dyn Handler) {
        if self.gives_way_in() != Some(Duration::ZERO) {
            return;
        }
        self.accept_waiting(|server| server.close_silent() || server.close_still(Client::is_awaited));
        if self.waits_for_room() {
            if self.kept_for_others(None) > MAX_UNREAD {
                self.close_still(Client::takes_room);
            }
            self.serve_waiting(handler);
        }
    }

    fn status(&self) -> Status {
        if self.listener.is_deleted() { Status::Deleted } else { Status::Serving }
    }

    /// The listening socket, to be handed over.
    pub(crate) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// See [`Listener::own`].
    pub(crate) fn own(&mut self) {
        self.listener.own();
    }

    /// Serves clients that have asked for what no event has told of yet: if another process takes over next, it cannot.
    pub(crate) fn serve_those_who_ask(&mut self, handler: &mut dyn Handler) {
        let asks = |client: &Client| client.asked.is_some() || is_readable(&client.stream);
        let ask = |(&token, client): (&usize, &Client)| asks(client).then_some(token);
        let tokens: Vec<_> = self.clients.iter().filter_map(ask).collect();
        for token in tokens {
            self.serve(token, handler);
        }
    }

    /// Leaves the socket's file to another process, and sends what is left of replies: none ends in the middle, unless
    /// its client does not read in time.
    pub(crate) fn let_go(&mut self) {
        self.listener.let_go();
        let end = Instant::now() + LAST_WORDS;
        for client in self.clients.values_mut().filter(|client| !client.output.is_empty()) {
            if let Err(error) = client.finish(end) {
                tracing::debug!(%error, "a UAPI client is gone");
            }
        }
    }

    fn accept_waiting(&mut self, close_one: fn(&mut Self) -> bool) {
        // Only if somebody does: where files are short, clients would be closed for nobody.
        self.has_waiting &= self.listener.has_waiting();
        if self.has_waiting {
            self.accept(close_one);
        }
    }

    /// Accepts whoever waits. If there is no file for the first of them, `close_one` is to close a client, and to say
    /// whether it has.
    fn accept(&mut self, close_one: fn(&mut Self) -> bool) {
        self.has_waiting = false;
        let mut has_accepted = false;
        loop {
            if self.is_full() {
                // Whoever asks is served first, and the others are left where they wait.
                let is_closed =
                    self.listener.has_waiting() && (self.close_silent() || self.close_still(Client::is_awaited));
                if !is_closed {
                    self.has_waiting = self.listener.has_waiting();
                    return;
                }
            }
            match self.listener.accept() {
                Ok(stream) => {
                    has_accepted = true;
                    self.add(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                // Most likely there are too many open files, which the kernel says whether or not anybody waits. One
                // less, and it can be tried again; but those who have just come are served first.
                Err(error) => {
                    let is_closed = if has_accepted {
                        self.listener.has_waiting() && self.close_silent()
                    } else {
                        tracing::warn!(%error, "cannot accept a UAPI client");
                        close_one(self)
                    };
                    if !is_closed {
                        self.has_waiting = true;
                        return;
                    }
                }
            }
        }
    }

    fn add(&mut self, mut stream: UnixStream) {
        let Some(registered) = &self.registered else { return };
        let mut tokens = registered.clients.clone();
        let Some(token) = tokens.find(|token| !self.clients.contains_key(token)) else { return };
        match registered.registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE) {
            Ok(()) => {
                self.moment += 1;
                self.clients.insert(token, Client::new(stream, self.moment));
            }
            Err(error) => tracing::warn!(%error, "cannot serve a UAPI client"),
        }
    }

    fn is_full(&self) -> bool {
        self.registered.as_ref().is_some_and(|registered| self.clients.len() >= registered.clients.len())
    }

    fn serve(&mut self, token: usize, handler: &mut dyn Handler) {
        self.serve_one(token, handler);
        self.serve_waiting(handler);
    }

    /// Serves those who wait for room, as long as there is some.
    fn serve_waiting(&mut self, handler: &mut dyn Handler) {
        while self.kept_for_others(None) <= MAX_UNREAD
            && let Some((token, _)) = self.idlest(|client| client.asked.is_some())
        {
            self.serve_one(token, handler);
        }
    }

    fn waits_for_room(&self) -> bool {
        self.clients.values().any(|client| client.asked.is_some())
    }

    fn kept_for_others(&self, than: Option<usize>) -> usize {
        self.clients.iter().filter(|(token, _)| Some(**token) != than).map(|(_, client)| client.kept()).sum()
    }

    fn serve_one(&mut self, token: usize, handler: &mut dyn Handler) {
        let before = self.clients.len();
        let has_room = self.kept_for_others(Some(token)) <= MAX_UNREAD;
        let Some(client) = self.clients.get_mut(&token) else { return };
        self.moment += 1;
        client.moment = self.moment;
        client.since = Instant::now();
        let turn = client.take_turn(handler, has_room);
        let kept = match (turn, &self.registered) {
            (Ok(Turn::Waits), _) => Ok(true),
            (Ok(Turn::HasMore), Some(registered)) => {
                // Makes the kernel report again what it has reported already.
                let interests = Interest::READABLE | Interest::WRITABLE;
                registered.registry.reregister(&mut client.stream, Token(token), interests).map(|()| true)
            }
            (Ok(_), _) => Ok(false),
            (Err(error), _) => Err(error),
        };
        if let Err(error) = &kept {
            tracing::debug!(%error, "a UAPI client is gone");
        }
        if !kept.unwrap_or(false) {
            self.close(token);
        }
        self.make_room(token);
        if self.has_waiting && self.clients.len() < before {
            self.accept(Self::close_idlest);
        }
    }

    /// Closes connections for which something is kept, from that on which nothing has happened for longest, until the
    /// others than that of `served` keep no more than [`MAX_KEPT`].
    fn make_room(&mut self, served: usize) {
        while self.kept_for_others(Some(served)) > MAX_KEPT {
            let others = self.clients.iter().filter(|(token, client)| **token != served && client.kept() > 0);
            let Some((&token, _)) = others.min_by_key(|(_, client)| client.moment) else { return };
            tracing::debug!("closing a UAPI connection that has not gone on for long: too much is kept for its like");
            self.close(token);
        }
    }

    /// Closes the connection that has been silent for longest, if there is any.
    fn close_idlest(&mut self) -> bool {
        let idlest = self.idlest(|_| true).map(|(token, _)| token);
        idlest.is_some_and(|token| {
            tracing::debug!("closing the UAPI connection that has been silent for longest: there are too many");
            self.close(token);
            true
        })
    }

    /// The same, of those that ask nothing and have had their time.
    fn close_silent(&mut self) -> bool {
        let silent =
            self.idlest(|client| client.since.elapsed() >= GRACE && client.is_silent()).map(|(token, _)| token);
        silent.is_some_and(|token| {
            tracing::debug!("closing a UAPI connection that asks nothing: others wait");
            self.close(token);
            true
        })
    }

    /// The same, of those that are meant, whether or not they have asked.
    fn close_still(&mut self, is_meant: fn(&Client) -> bool) -> bool {
        let still =
            self.idlest(|client| is_meant(client) && client.since.elapsed() >= PATIENCE).map(|(token, _)| token);
        still.is_some_and(|token| {
            tracing::debug!("closing a UAPI connection that does not go on: others wait");
            self.close(token);
            true
        })
    }

    /// Of these connections that on which nothing has happened for longest.
    fn idlest(&self, is_meant: impl Fn(&Client) -> bool) -> Option<(usize, &Client)> {
        let meant = self.clients.iter().filter(|(_, client)| is_meant(client));
        meant.min_by_key(|(_, client)| client.moment).map(|(&token, client)| (token, client))
    }

    fn close(&mut self, token: usize) {
        if let (Some(mut client), Some(registered)) = (self.clients.remove(&token), &self.registered) {
            // Closing the file ends it as well.
            let _ = registered.registry.deregister(&mut client.stream);
        }
    }
}

#[derive(Debug)]
struct Registered {
    registry: Registry,
    listener: usize,
    clients: Range<usize>,
}

#[cfg(test)]
mod tests;
