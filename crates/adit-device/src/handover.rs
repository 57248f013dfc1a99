//! Restart without a gap: the program on disk is started, and takes over the device while it runs.
//!
//! | | this process | the one that is started |
//! |---|---|---|
//! | prepare | starts the program, sends it the state and every open file | parses it to the last field, and says that it can take over, or why not |
//! | commit | lets its workers rest, sends the present state | builds the device from it, up to threads that wait to begin; **says "taken"** |
//! | then | lets go | begins |
//!
//! "Taken" is the one moment at which the device changes hands. The new process says it before it sends any packet;
//! until then this process can go on, since its workers only rest and have kept all that they need. It goes on if the
//! new process refuses, ends, or has not answered in time; then it first cuts the connection and kills the new process,
//! so that a late "taken" is impossible. Only what the started process itself says counts, not what a process says that
//! it has started in turn. No counter of a session is ever used by both. Packets that come meanwhile wait in the
//! kernel's queues, which are handed over with the files.
//!
//! The state goes through an unnamed pair of connected Unix sockets. Of all ways to give it to a child this is the one
//! that cannot reach a disk: a socket's buffer is kernel memory, which is never swapped, while a `memfd`, though it is
//! memory too, may be. Both ends wipe their copies.
//!
//! # Processes
//!
//! A daemon in the background just ends when another one has taken over. In the foreground somebody waits for it: a
//! shell, a service manager, a container; and a service manager follows the first process of a service in the
//! background as well. So the first process stays as long as the interface is served, and keeps nothing but a
//! connection to the process that serves; over that it passes signals on, and it ends as that one ends. Reloading again
//! and again leaves two processes, not more. Nobody has to be told of another process identifier, not even the first
//! process.

mod ask;
mod channel;
mod guardian;
mod successor;
#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use adit::Snapshot;
use rustix::net::sockopt::set_socket_passcred;

use crate::advice::what_to_raise;
use crate::uapi::Listener;
use channel::{ANSWER, Channel, Kind, Message};

pub use ask::reload;
pub(crate) use ask::{RELOAD_ENDING, listen, reload_path};
pub(crate) use guardian::{Guardian, ToGuardian, Word};
pub(crate) use successor::{Alone, Parts, receive, say_taken};

/// Set in the environment of a program that is to take over: its standard input is a socket to the process that hands
/// over.
pub const VARIABLE: &str = "ADIT_HANDOVER";

/// How long the new process may take to show that it can take over; the tunnel works meanwhile.
const PREPARE_TIME: Duration = Duration::from_secs(10);
/// How long it may take to take over; packets wait meanwhile.
const COMMIT_TIME: Duration = Duration::from_secs(3);
/// The answer to requests for a reload where no program may take over.
pub(crate) const OFF: &str = "reloads are off: this daemon starts no other program";
/// How many clients may wait for the outcome of a reload.
const MAX_ASKING: usize = 16;

/// How this process can be replaced while it serves.
#[derive(Clone, Debug)]
pub struct Reload {
    /// The program to start; it is started with the arguments of this one.
    pub program: PathBuf,
    /// Whether somebody waits for this process, so that it must not end before the device does.
    pub stays: bool,
}

/// What another process needs to go on with the device.
pub(crate) struct State {
    /// Everything but the engine, in lines `key=value`.
    pub(crate) text: String,
    pub(crate) snapshot: Snapshot,
    pub(crate) fds: Vec<OwnedFd>,
}

impl State {
    fn send(&self, channel: &mut Channel<'_>) -> io::Result<()> {
        let fds: Vec<_> = self.fds.iter().map(AsFd::as_fd).collect();
        channel.send(Kind::State, &self.text, self.snapshot.as_bytes(), &fds)
    }
}

/// Reloads, one at a time, and the clients that have asked for them.
pub(crate) struct Reloader {
    /// The program to start; without it clients are told that reloads are [`OFF`].
    program: Option<PathBuf>,
    /// The socket on which `adit reload` asks, if it could be opened.
    pub(crate) asks: Option<Listener>,
    /// The connection to the process that stays, if that is another one.
    pub(crate) to_guardian: Option<ToGuardian>,
    asking: Vec<mio::net::UnixStream>,
    /// Whether somebody may still wait to be accepted, of whom no event will tell.
    has_waiting: bool,
    attempt: Option<Attempt>,
}

/// A program that is being prepared, by a thread.
struct Attempt {
    /// What comes of it.
    outcome: Receiver<Result<Prepared, String>>,
    /// This process's end of the connection to the program.
    stream: UnixStream,
    thread: JoinHandle<()>,
}

impl Reloader {
    pub(crate) fn new(program: Option<PathBuf>, asks: Option<Listener>, to_guardian: Option<ToGuardian>) -> Self {
        Self { program, asks, to_guardian, asking: Vec::new(), has_waiting: false, attempt: None }
    }

    /// Whether there is a program that may take over.
    pub(crate) fn is_on(&self) -> bool {
        self.program.is_some()
    }

    /// Accepts the clients that ask; returns whether there were any.
    pub(crate) fn accept(&mut self) -> bool {
        let mut any = false;
        self.has_waiting = loop {
            match self.asks.as_ref().map(Listener::accept) {
                Some(Ok(stream)) => {
                    any = true;
                    if self.asking.len() < MAX_ASKING {
                        self.asking.push(stream);
                    }
                }
                Some(Err(error)) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Some(Err(error)) if error.kind() != ErrorKind::WouldBlock => {
                    // Most likely there are too many open files, which the kernel says whether or not anybody waits.
                    let waits = self.asks.as_ref().is_some_and(Listener::has_waiting);
                    if waits {
                        tracing::warn!(%error, "cannot accept one who asks for a reload");
                    }
                    // No event will tell when there are files again.
                    break waits;
                }
                _ => break false,
            }
        };
        any
    }

    /// Whether somebody may wait who could not be accepted: then [`Reloader::accept`] is to be called now and then.
    pub(crate) fn must_be_looked_after(&self) -> bool {
        self.has_waiting
    }

    /// Whether a reload is going on.
    pub(crate) fn is_busy(&self) -> bool {
        self.attempt.is_some()
    }

    /// Starts the program and lets it check the present state, on a thread of its own, which calls `done` at its end.
    /// If that cannot be begun, there is no attempt, and nobody who asks has been told why.
    pub(crate) fn begin(
        &mut self,
        state: io::Result<State>,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        let program = self.program.clone().ok_or_else(|| OFF.to_owned())?;
        let (sender, outcome) = channel();
        let spawn = || -> io::Result<Attempt> {
            let (ours, theirs) = UnixStream::pair()?;
            let stream = ours.try_clone()?;
            let thread = std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
                let state = state.map_err(|error| error.to_string());
                // The receiver may be gone.
                let _ = sender.send(state.and_then(|state| Prepared::start(&program, &state, ours, theirs)));
                done();
            })?;
            Ok(Attempt { outcome, stream, thread })
        };
        let attempt =
            spawn().map_err(|error| format!("no program can be started: {error}{}", what_to_raise(&error)))?;
        self.attempt = Some(attempt);
        Ok(())
    }

    /// The outcome of the preparation, once.
    pub(crate) fn take_prepared(&mut self) -> Option<Result<Prepared, String>> {
        match self.attempt.as_ref()?.outcome.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err("the thread that prepares has ended".to_owned())),
        }
    }

    /// Tells the outcome to all clients that wait.
    pub(crate) fn conclude(&mut self, result: Result<u32, String>) {
        self.attempt = None;
        let answer = match &result {
            Ok(pid) => format!("ok {pid}\n"),
            Err(why) => format!("error {}\n", why.replace('\n', " ")),
        };
        match result {
            Ok(pid) => tracing::info!(pid, "handed over"),
            Err(why) => tracing::error!(why, "not handed over, this process goes on"),
        }
        for mut stream in self.asking.drain(..) {
            // The client may have gone; the answer fits any buffer.
            let _ = stream.write_all(answer.as_bytes());
        }
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        // A program that is being prepared holds the device open, and must not outlive this: once the connection is
        // shut down, the thread ends it.
        if let Some(attempt) = self.attempt.take() {
            // It may have ended already.
            let _ = attempt.stream.shutdown(Shutdown::Both);
            let _ = attempt.thread.join();
        }
    }
}

/// A process that has shown that it can take over. It is ended when this is dropped, unless it has taken over.
#[derive(Debug)]
pub(crate) struct Prepared {
    child: Child,
    stream: UnixStream,
    /// It says that it has taken over, whether or not it may.
    has_said_taken: bool,
    /// It has taken over.
    has_taken: bool,
}

/// Why a process that could have taken over did not.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) why: String,
    /// It had said that it took over before it was ended: it may have sent something.
    pub(crate) was_taken: bool,
}

impl Prepared {
    fn start(program: &Path, state: &State, ours: UnixStream, theirs: UnixStream) -> Result<Self, String> {
        // Each message is to tell which process has sent it.
        set_socket_passcred(&ours, true).map_err(|error| format!("the new program could not be known: {error}"))?;
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, "1").stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn();
        let child = child
            .map_err(|error| format!("{} cannot be started: {error}{}", program.display(), what_to_raise(&error)))?;
        // The child's end is closed here with the command, so that its death can be seen.
        drop(command);
        let mut prepared = Self { child, stream: ours, has_said_taken: false, has_taken: false };
        prepared.ask(state, Kind::Prepared, PREPARE_TIME).map(|()| prepared)
    }

    /// Sends the present state. When this returns `Ok` the other process serves, and this one must not.
    pub(crate) fn commit(mut self, state: io::Result<State>) -> Result<(), Failure> {
        let state = state.map_err(|error| error.to_string());
        match state.and_then(|state| self.ask(&state, Kind::Taken, COMMIT_TIME)) {
            Ok(()) => {
                self.has_taken = true;
                Ok(())
            }
            Err(why) => {
                self.end();
                // It is dead now, so all that it has ever said can be read here: that decides.
                let mut channel = Channel::within(&self.stream, COMMIT_TIME);
                let mut said = std::iter::from_fn(|| channel.receive(ANSWER).ok());
                let was_taken = self.has_said_taken || said.any(|message| message.kind == Kind::Taken);
                Err(Failure { why, was_taken })
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn ask(&mut self, state: &State, expected: Kind, time: Duration) -> Result<(), String> {
        let mut channel = Channel::within(&self.stream, time);
        let answer = state.send(&mut channel).and_then(|()| channel.receive(ANSWER));
        self.has_said_taken |= matches!(answer, Ok(Message { kind: Kind::Taken, .. }));
        match answer {
            // Only the process that was started here can be ended here for certain.
            Ok(Message { from, .. }) if from.map(|from| from.as_raw_pid().cast_unsigned()) != Some(self.id()) => {
                Err("not the new program itself answers: a script that starts it must do so by exec".to_owned())
            }
            Ok(Message { kind, .. }) if kind == expected => Ok(()),
            Ok(Message { kind: Kind::Refused, text, .. }) => Err(format!("the new program refuses: {text}")),
            Ok(Message { kind, .. }) => Err(format!("the new program says {kind:?}, where {expected:?} was expected")),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    format!("the new program has not answered within {} seconds", time.as_secs())
                }
                // If it said why, it did so on standard error.
                io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                    "the new program ended, or is another program".to_owned()
                }
                _ => format!("talking to the new program: {error}"),
            }),
        }
    }

    /// Makes sure that the other process is dead.
    fn end(&mut self) {
        // Whatever it has started lives on, and can say no more.
        let _ = self.stream.shutdown(Shutdown::Both);
        // It may be dead already.
        let _ = self.child.kill();
        if let Err(error) = self.child.wait() {
            tracing::error!(%error, "the end of the new process cannot be awaited");
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.has_taken {
            self.end();
        }
    }
}

/// Empties a stream that does not block; returns whether there was anything. No event tells of it again.
pub(crate) fn drain(mut stream: impl io::Read) -> bool {
    let mut any = false;
    loop {
        match stream.read(&mut [0; 16]) {
            Ok(1..) => any = true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return any,
        }
    }
}
