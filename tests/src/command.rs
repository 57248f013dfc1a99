//! Programs run by the tests.

use std::io::Write;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::for_a_while;

/// What a program printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    command: String,
    output: Output,
}

impl Outcome {
    /// Runs the command to its end.
    #[track_caller]
    pub(crate) fn of(mut command: Command, input: &str) -> Self {
        let shown = show(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(&mut command);
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                // A program that fails before it has read everything says so by its exit status.
                let _not_read = stdin.write_all(input.as_bytes());
            });
            child.wait_with_output()
        });
        Self { command: shown, output: output.expect("the program's output") }
    }

    /// What was printed, of a program that has to succeed.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(self.is_success(), "`{}`: {}\n{}{}", self.command, self.output.status, self.stdout(), self.stderr());
        self.stdout()
    }

    /// What was printed as errors, of a program that has to fail.
    #[track_caller]
    pub fn failure(self) -> String {
        assert!(!self.is_success(), "`{}` succeeded\n{}{}", self.command, self.stdout(), self.stderr());
        self.stderr()
    }

    /// Whether the program succeeded.
    pub fn is_success(&self) -> bool {
        self.output.status.success()
    }

    /// What was printed.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// What was printed as errors.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

/// A program in the background, ended when this is dropped.
#[derive(Debug)]
pub struct Background {
    command: String,
    child: Child,
}

impl Background {
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Self {
        let child = spawn(&mut command);
        Self { command: show(&command), child }
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process's standard input, once.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// The process's standard output, once.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        if let Ok(process) = self.child.id().try_into() {
            let _ended_by_itself = kill(Pid::from_raw(process), signal);
        }
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        match for_a_while(std::time::Duration::from_secs(40), || self.ended()) {
            Some(status) => status,
            None => panic!("`{}` does not end", self.command),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ended_by_itself = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[track_caller]
fn spawn(command: &mut Command) -> Child {
    match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("cannot start `{}`: {error}; `cargo xtask setup` installs what is missing", show(command)),
    }
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
