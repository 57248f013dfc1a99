//! The first process of a daemon for which somebody waits, after it has handed over: it stays, so that whoever waits for it
//! waits for the interface.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use signal_hook::consts::SIGCHLD;

const LINK: Token = Token(0);
const END: Token = Token(1);
const RELOAD: Token = Token(2);
const CHILDREN: Token = Token(3);
/// Sent in place of a process identifier when the interface has ended as it should.
const ENDED_WELL: [u8; 4] = [0; 4];

/// The connection from the process that serves to the one that stays.
#[derive(Debug)]
pub(crate) struct Link(UnixStream);

impl Link {
    pub(crate) fn adopt(fd: OwnedFd) -> Self {
        Self(UnixStream::from(fd))
    }

    /// Tells the process that stays that this one serves.
    pub(crate) fn serve(&self) {
        // If this fails, nobody is left to be told.
        let _ = (&self.0).write_all(&std::process::id().to_le_bytes());
    }

    /// Tells that the interface has ended as it should.
    pub(crate) fn end(&self) {
        let _ = (&self.0).write_all(&ENDED_WELL);
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The other end of a [`Link`], and all that waiting for its end takes: once another process serves, nothing can be
/// refused any more.
#[derive(Debug)]
pub(crate) struct Guardian {
    theirs: UnixStream,
    /// Becomes readable when a child has ended.
    children: UnixStream,
    poll: Poll,
    serving: Option<Pid>,
    ended_well: bool,
}

impl Guardian {
    /// Both ends, in the process that will stay, and is told by these signals that it is to end, and to hand over.
    pub(crate) fn new([end, reload]: [&UnixStream; 2]) -> io::Result<(Self, Link)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (children, told) = UnixStream::pair()?;
        children.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, told)?;
        let poll = Poll::new()?;
        for (token, stream) in [(LINK, &ours), (END, end), (RELOAD, reload), (CHILDREN, &children)] {
            poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), token, Interest::READABLE)?;
        }
        Ok((Self { theirs: ours, children, poll, serving: None, ended_well: false }, Link(theirs)))
    }

    /// Waits until no process serves any more, and passes signals on meanwhile. To be called with no [`Link`] left
    /// here, and with the signals of [`Guardian::new`].
    ///
    /// # Errors
    /// The interface has ended as it should not, or nothing can be waited for.
    pub(crate) fn stay(mut self, first: u32, [end, reload]: [&UnixStream; 2]) -> io::Result<()> {
        self.serving = i32::try_from(first).ok().and_then(Pid::from_raw);
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
                    END if super::drain(end) => self.pass_on(Signal::TERM),
                    RELOAD if super::drain(reload) => self.pass_on(Signal::USR2),
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

    fn pass_on(&self, signal: Signal) {
        if let Some(process) = self.serving {
            // It may have ended by itself, of which the link will tell.
            let _ = kill_process(process, signal);
        }
    }

    /// Reads what has come over the link; returns whether the link has ended.
    fn listen(&mut self) -> io::Result<bool> {
        loop {
            let mut said = [0; 4];
            match self.theirs.read(&mut said) {
                Ok(0) => return Ok(true),
                Ok(4) if said == ENDED_WELL => self.ended_well = true,
                // Written in one piece, and read so.
                Ok(_) => self.serving = Pid::from_raw(i32::from_le_bytes(said)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}
