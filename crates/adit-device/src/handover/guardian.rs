//! The first process of a daemon for which somebody waits, after it has handed over: it stays, so that whoever waits
//! for it waits for the interface.
//!
//! The signals that it gets it passes on over the link: a byte asks for a reload, and the end of all it has to say for
//! the end. That needs no number of a process, which may be another one's by then, and cannot miss the process that
//! serves: what is said while the device changes hands waits for whoever has it afterwards.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::SIGCHLD;

const LINK: Token = Token(0);
const END: Token = Token(1);
const RELOAD: Token = Token(2);
const CHILDREN: Token = Token(3);
/// Said by the process that serves when the interface has ended as it should.
const ENDED_WELL: [u8; 4] = [0; 4];
/// Said to it when it is to hand over; its value means nothing.
const HAND_OVER: [u8; 1] = [1];

/// The connection from the process that serves to the one that stays.
#[derive(Debug)]
pub(crate) struct ToGuardian(UnixStream);

impl ToGuardian {
    pub(crate) fn adopt(fd: OwnedFd) -> Self {
        Self(UnixStream::from(fd))
    }

    /// What the process that stays has said since this was asked last.
    pub(crate) fn hear(&self) -> Word {
        let mut word = Word::Nothing;
        loop {
            // Only this call does not wait: the flag of the socket would hold in every process that has this end.
            match recv(&self.0, &mut [0; 16], RecvFlags::DONTWAIT) {
                Ok((_, 1..)) => word = Word::HandOver,
                // If the process that stays is gone, nobody is left who could end this one.
                Ok(_) | Err(Errno::CONNRESET) => return Word::End,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return word,
                Err(error) => {
                    tracing::error!(%error, "the first process cannot be heard");
                    return word;
                }
            }
        }
    }

    /// Tells that the interface has ended as it should.
    pub(crate) fn end(&self) {
        // If this fails, nobody is left to be told.
        let _ = (&self.0).write_all(&ENDED_WELL);
    }
}

/// What a process that serves is told by the one that stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    Nothing,
    /// Somebody has asked for a reload.
    HandOver,
    /// It is to end.
    End,
}

impl AsFd for ToGuardian {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The other end of a [`ToGuardian`], and all that waiting for its end takes: once another process serves, nothing can
/// be refused any more.
#[derive(Debug)]
pub(crate) struct Guardian {
    theirs: UnixStream,
    /// Becomes readable when a child has ended.
    children: UnixStream,
    poll: Poll,
    ended_well: bool,
}

impl Guardian {
    /// Both ends, in the process that will stay, and is told by these signals that it is to end, and to hand over.
    pub(crate) fn new([end, reload]: [&UnixStream; 2]) -> io::Result<(Self, ToGuardian)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (children, told) = UnixStream::pair()?;
        children.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, told)?;
        let poll = Poll::new()?;
        for (token, stream) in [(LINK, &ours), (END, end), (RELOAD, reload), (CHILDREN, &children)] {
            poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), token, Interest::READABLE)?;
        }
        Ok((Self { theirs: ours, children, poll, ended_well: false }, ToGuardian(theirs)))
    }

    /// Waits until no process serves any more, and passes signals on meanwhile. To be called with no [`ToGuardian`]
    /// left here, and with the signals of [`Guardian::new`].
    ///
    /// # Errors
    /// The interface has ended as it should not, or nothing can be waited for.
    pub(crate) fn stay(mut self, [end, reload]: [&UnixStream; 2]) -> io::Result<()> {
        let mut events = Events::with_capacity(4);
        loop {
            if self.listen()? {
                return if self.ended_well {
                    Ok(())
                } else {
                    Err(io::Error::other("the process that served has died"))
                };
            }
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    END if super::drain(end) => self.say_end(),
                    RELOAD if super::drain(reload) => self.say_hand_over(),
                    CHILDREN => {
                        super::drain(&self.children);
                    }
                    _ => {}
                }
            }
            // Reaps the first process that took over, which was a child of this one, once it has ended.
            while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        }
    }

    fn say_end(&self) {
        // This can fail only if the other end is gone, of which the link will tell.
        let _ = self.theirs.shutdown(Shutdown::Write);
    }

    fn say_hand_over(&self) {
        // If there is no room, that has been said often enough; nor may anything be said after the end.
        let _ = (&self.theirs).write_all(&HAND_OVER);
    }

    /// Reads what has come over the link; returns whether the link has ended.
    fn listen(&mut self) -> io::Result<bool> {
        loop {
            let mut said = [0; 4];
            match self.theirs.read(&mut said) {
                Ok(0) => return Ok(true),
                // Written in one piece, and read so.
                Ok(len) => self.ended_well |= said.get(..len) == Some(&ENDED_WELL),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}
