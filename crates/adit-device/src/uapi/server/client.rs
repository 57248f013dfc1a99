//! One connection of a [`super::Server`].

use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::time::Instant;

use mio::net::UnixStream;
use socket2::SockRef;
use zeroize::Zeroizing;

use super::{Handler, INPUT, TURN};
use crate::uapi::listener::is_readable;
use crate::uapi::reply::{write_errno, write_state};
use crate::uapi::request::{Refusal, Request, RequestReader};

/// One connection. Its next request is looked at only when the reply to the one before has been sent, so that what is
/// kept for it is bounded by one request and one reply.
pub(super) struct Client {
    pub(super) stream: UnixStream,
    reader: RequestReader,
    input: Zeroizing<Box<[u8]>>,
    /// The part of `input` that has been received and not looked at.
    unread: Range<usize>,
    /// What it has asked, if there was no room for the reply.
    pub(super) asked: Option<Request>,
    pub(super) output: Zeroizing<String>,
    sent: usize,
    /// When anything last happened, as a number in the order of what happens, and by the clock.
    pub(super) moment: u64,
    pub(super) since: Instant,
}

impl Client {
    pub(super) fn new(stream: UnixStream, moment: u64) -> Self {
        Self {
            stream,
            reader: RequestReader::new(),
            input: Zeroizing::new(vec![0; INPUT].into_boxed_slice()),
            unread: 0..0,
            asked: None,
            output: Zeroizing::default(),
            sent: 0,
            moment,
            since: Instant::now(),
        }
    }

    /// About how many bytes are kept for it.
    pub(super) fn kept(&self) -> usize {
        self.reader.kept() + self.output.capacity()
    }

    /// Whether a request or a reply is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.reader.is_within_request() || !self.output.is_empty()
    }

    /// Whether it asks nothing, as far as is known and as far as can be seen.
    pub(super) fn is_silent(&self) -> bool {
        !self.is_busy() && self.is_awaited() && !is_readable(&self.stream)
    }

    /// Whether it is its turn, and not ours, to go on.
    pub(super) fn is_awaited(&self) -> bool {
        self.asked.is_none()
    }

    /// Whether others may have to wait for what is kept for it.
    pub(super) fn takes_room(&self) -> bool {
        self.is_awaited() && self.kept() > 0
    }

    pub(super) fn take_turn(&mut self, handler: &mut dyn Handler, has_room: bool) -> io::Result<Turn> {
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
            match self.asked.take().map(Ok).or_else(|| self.next_request()) {
                Some(Ok(asked @ (Request::Get | Request::GetFacts))) if !has_room => {
                    self.asked = Some(asked);
                    return Ok(Turn::Waits);
                }
                Some(request) => {
                    self.output = answer(request, handler);
                    continue;
                }
                None => {}
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
    pub(super) fn finish(&mut self, end: Instant) -> io::Result<()> {
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

pub(super) enum Turn {
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
