//! Answering clients from an event loop, without ever waiting for one of them.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::UnixStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::SockRef;
use zeroize::Zeroizing;

use super::listener::{Listener, is_readable};
use super::reply::{write_errno, write_state};
use super::request::{MAX_REQUEST, Refusal, Request, RequestReader};
use crate::config::{DeviceState, DeviceUpdate};

/// The most connections at a time; one more, and that which has been silent for longest is closed.
pub const MAX_CLIENTS: usize = 64;

/// How much may be kept for clients that have not finished a request or not read a reply, besides what is kept for the
/// one that was served last: a request of any length, or a dozen replies of 10,000 peers.
const MAX_KEPT: usize = MAX_REQUEST;

/// How many bytes are read at a time.
const INPUT: usize = 32 << 10;

/// How many bytes a client may send and be sent before the others have their turn.
const TURN: usize = 1 << 20;

/// How long clients may take to read replies that are under way when another process takes over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a client that asks nothing is left alone while another waits that cannot be accepted for want of files.
const GRACE: Duration = Duration::from_millis(50);

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

    /// Has the events of the listener and of its clients reported to the poll of `registry`, under these tokens: two and
    /// one for each client, up to [`MAX_CLIENTS`]. To be called once.
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

    /// Whether no event will tell that the socket's file is gone, since the kernel had no inotify left, or that a client
    /// that could not be accepted can be now: then [`Server::look`] is to be called now and then.
    pub fn must_be_looked_after(&self) -> bool {
        self.has_waiting || self.listener.is_unwatched()
    }

    /// Accepts whoever waits, and looks whether the socket's file is there.
    pub fn look(&mut self) -> Status {
        self.accept_waiting(Self::close_idlest);
        self.status()
    }

    /// How soon a client that asks nothing can give way to one that waits for want of files, if so: then
    /// [`Server::give_way`] is to be called.
    pub fn gives_way_in(&self) -> Option<Duration> {
        let silent = self.idlest(|client| !client.is_busy()).filter(|_| self.has_waiting);
        silent.map(|(_, client)| GRACE.saturating_sub(client.since.elapsed()))
    }

    /// Has clients that ask nothing give way to those that wait, if they have had their time.
    pub fn give_way(&mut self) {
        if self.gives_way_in() == Some(Duration::ZERO) {
            self.accept_waiting(Self::close_silent);
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
        let ask = |(&token, client): (&usize, &Client)| is_readable(&client.stream).then_some(token);
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
        let Some(clients) = self.registered.as_ref().map(|registered| registered.clients.clone()) else { return };
        if self.clients.len() >= clients.len() {
            self.close_idlest();
        }
        let Some(token) = clients.into_iter().find(|token| !self.clients.contains_key(token)) else { return };
        let Some(registered) = &self.registered else { return };
        match registered.registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE) {
            Ok(()) => {
                self.moment += 1;
                self.clients.insert(token, Client::new(stream, self.moment));
            }
            Err(error) => tracing::warn!(%error, "cannot serve a UAPI client"),
        }
    }

    fn serve(&mut self, token: usize, handler: &mut dyn Handler) {
        let before = self.clients.len();
        let Some(client) = self.clients.get_mut(&token) else { return };
        self.moment += 1;
        client.moment = self.moment;
        client.since = Instant::now();
        let turn = client.take_turn(handler);
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
        loop {
            let others = self.clients.iter().filter(|(token, client)| **token != served && client.kept() > 0);
            if others.clone().map(|(_, client)| client.kept()).sum::<usize>() <= MAX_KEPT {
                return;
            }
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
        let silent = self.idlest(|client| !client.is_busy() && client.since.elapsed() >= GRACE).map(|(token, _)| token);
        silent.is_some_and(|token| {
            tracing::debug!("closing a UAPI connection that asks nothing: others wait");
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

/// One connection. Its next request is looked at only when the reply to the one before has been sent, so that what is
/// kept for it is bounded by one request and one reply.
struct Client {
    stream: UnixStream,
    reader: RequestReader,
    input: Zeroizing<Box<[u8]>>,
    /// The part of `input` that has been received and not looked at.
    unread: Range<usize>,
    output: Zeroizing<String>,
    sent: usize,
    /// When anything last happened, as a number in the order of what happens, and by the clock.
    moment: u64,
    since: Instant,
}

impl Client {
    fn new(stream: UnixStream, moment: u64) -> Self {
        Self {
            stream,
            reader: RequestReader::new(),
            input: Zeroizing::new(vec![0; INPUT].into_boxed_slice()),
            unread: 0..0,
            output: Zeroizing::default(),
            sent: 0,
            moment,
            since: Instant::now(),
        }
    }

    /// About how many bytes are kept for it.
    fn kept(&self) -> usize {
        self.reader.kept() + self.output.capacity()
    }

    /// Whether a request or a reply is under way.
    fn is_busy(&self) -> bool {
        self.reader.is_within_request() || !self.output.is_empty()
    }

    fn take_turn(&mut self, handler: &mut dyn Handler) -> io::Result<Turn> {
        let mut moved = 0;
        loop {
            match self.flush() {
                Ok(bytes) => moved += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Waits),
                Err(error) => return Err(error),
            }
            if moved > TURN {
                return Ok(Turn::HasMore);
            }
            if let Some(request) = self.next_request() {
                self.output = answer(request, handler);
                continue;
            }
            match self.stream.read(&mut self.input) {
                // One that only listens from now on is told what becomes of half a request.
                Ok(0) => match self.reader.end() {
                    Some(refusal) => self.output = answer(Err(refusal), handler),
                    None => return Ok(Turn::Closed),
                },
                Ok(bytes) => {
                    self.unread = 0..bytes;
                    moved += bytes;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Waits),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends the rest of a reply, and waits until `end` for the client to read.
    fn finish(&mut self, end: Instant) -> io::Result<()> {
        SockRef::from(&self.stream).set_nonblocking(false)?;
        loop {
            let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
            SockRef::from(&self.stream).set_write_timeout(Some(left.ok_or(ErrorKind::TimedOut)?))?;
            match self.stream.write(self.output.as_bytes().get(self.sent..).unwrap_or_default()) {
                Ok(0) => return Ok(()),
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn next_request(&mut self) -> Option<Result<Request, Refusal>> {
        let mut rest = self.input.get(self.unread.clone()).unwrap_or_default();
        let request = self.reader.read(&mut rest);
        self.unread.start = self.unread.end - rest.len();
        request
    }

    /// Sends what is to be sent, and returns how many bytes that were.
    fn flush(&mut self) -> io::Result<usize> {
        let before = self.sent;
        while let Some(rest) = self.output.as_bytes().get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let bytes = self.sent - before;
        self.output = Zeroizing::default();
        self.sent = 0;
        Ok(bytes)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unsent = self.output.len() - self.sent;
        f.debug_struct("Client").field("stream", &self.stream).field("unsent", &unsent).finish_non_exhaustive()
    }
}

enum Turn {
    /// For the client, to read or to write.
    Waits,
    /// It could go on at once.
    HasMore,
    Closed,
}

fn answer(request: Result<Request, Refusal>, handler: &mut dyn Handler) -> Zeroizing<String> {
    let update = match request {
        Ok(Request::Get) => return write_state(&handler.get(), false),
        Ok(Request::GetFacts) => return write_state(&handler.get(), true),
        Ok(Request::Set(update)) => update,
        Err(refusal) => {
            tracing::warn!(%refusal, "refused a UAPI request");
            return Zeroizing::new(write_errno(refusal.is_get, refusal.errno));
        }
    };
    let errno = match handler.set(update) {
        Ok(()) => 0,
        Err(error) => {
            tracing::warn!(%error, "refused a UAPI request");
            error.errno
        }
    };
    Zeroizing::new(write_errno(false, errno))
}

#[cfg(test)]
mod tests;
