//! The command line.

use std::env;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::error::{ContextKind, ErrorKind};
use clap::{Args as ClapArgs, CommandFactory as _, Parser, Subcommand, ValueEnum, ValueHint};

use crate::commands::{demo, generate, show};
use crate::confinement::ConfinementArgs;
use crate::manual;

/// A WireGuard tunnel, wholly in userspace.
///
/// With the name of an interface, makes it and serves it in the background until it is deleted (`ip link delete NAME`)
/// or its socket is; `wg` and `wg-quick` configure it as any other. A word that is a command is always that: an
/// interface cannot be called `show`.
#[derive(Debug, Parser)]
#[command(name = "adit", version, arg_required_else_help = true, args_conflicts_with_subcommands = true)]
#[command(after_help = manual::environment())]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// The interface to make and to serve
    #[arg(value_name = "NAME", required = true)]
    pub(crate) name: Option<String>,

    /// Stay in the foreground
    #[arg(short, long)]
    pub(crate) foreground: bool,

    /// Tell on standard output when the interface is there, then let go of it and of the session
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) report: bool,

    /// How log lines are written
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    pub(crate) log_format: LogFormat,

    // The last, for its heading stands above all that comes after it.
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

impl Args {
    /// The command line of this process; ends it if that is wrong, or asks for help.
    pub(crate) fn read() -> Self {
        let line: Vec<OsString> = env::args_os().collect();
        Self::try_parse_from(&line).unwrap_or_else(|error| explain(error, &line).exit())
    }

    /// The command that stands behind options of the daemon or `--`, and so was taken for the name of an interface.
    pub(crate) fn misplaced_command(&self) -> Option<&str> {
        self.name.as_deref().filter(|name| is_command(name))
    }
}

/// A command behind options of the daemon is taken for the name of an interface, and what follows it for an error. That
/// is explained.
fn explain(error: clap::Error, line: &[OsString]) -> clap::Error {
    let blames = |word: &OsString| match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument | ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(option)) => {
            let word = word.to_string_lossy();
            let word = word.split('=').next().unwrap_or_default();
            option.to_string().split(' ').next() == Some(word)
        }
        _ => false,
    };
    let comes_first = |command: &str| !line.iter().take_while(|word| *word != command).any(blames);
    match first_word(line).filter(|word| error.use_stderr() && is_command(word) && comes_first(word)) {
        Some(command) => Args::command().error(ErrorKind::ArgumentConflict, not_a_name(command)),
        None => error,
    }
}

/// The first word that is neither an option nor the value of one, if anything stands before it.
fn first_word(line: &[OsString]) -> Option<&str> {
    let command = Args::command();
    let takes_value = |option: &str| {
        command.get_arguments().any(|arg| {
            arg.get_action().takes_values()
                && arg.get_long().is_some_and(|long| option.strip_prefix("--") == Some(long))
        })
    };
    let mut words = line.iter().skip(1).map(|word| word.to_str());
    let mut has_options = false;
    loop {
        let word = words.next()??;
        match word.strip_prefix('-') {
            None => return has_options.then_some(word),
            Some("-") => return words.next()?,
            Some(_) if takes_value(word) => _ = words.next(),
            Some(_) => {}
        }
        has_options = true;
    }
}

/// What to say to whoever takes a command for the name of an interface.
pub(crate) fn not_a_name(command: &str) -> String {
    format!("{command} is a command, and no interface can have its name; options of a command stand behind it")
}

/// Whether a word is a command, and so cannot name an interface.
pub(crate) fn is_command(name: &str) -> bool {
    name == "help" || Args::command().find_subcommand(name).is_some()
}

/// How a daemon does its work.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct DaemonArgs {
    /// Worker threads, 255 at most; as many as there are cores, unless given
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,

    /// Do not let the kernel split and join packets
    #[arg(long)]
    pub(crate) no_offload: bool,

    /// Look for packets for so long before sleeping: quicker answers for the price of a busy core a thread. 0: never;
    /// unless given, up to 250 while packets go to and fro, few at a time and faster than that, and up to 500 after a
    /// single request where replies usually come as soon, the latter for a sixteenth of the time at most
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(crate) busy_poll: Option<u32>,

    #[command(flatten)]
    pub(crate) confinement: ConfinementArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// A JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an interface as its wg-quick file says
    #[command(after_help = manual::configuration())]
    Up {
        /// A file NAME.conf, or NAME for /etc/wireguard/NAME.conf
        #[arg(value_name = "FILE|NAME", value_hint = ValueHint::FilePath)]
        file: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// End an interface that was made by its file
    #[command(after_help = manual::configuration())]
    Down {
        /// A file NAME.conf, or NAME for /etc/wireguard/NAME.conf
        #[arg(value_name = "FILE|NAME", value_hint = ValueHint::FilePath)]
        file: String,
    },
    /// Let the program on disk take over a running interface: sessions go on, and packets wait meanwhile
    ///
    /// The daemon starts the program that is where its own was, with its own arguments, and hands it the interface
    /// while it runs. If that one cannot take over, the daemon goes on as before, and this command fails and tells why.
    /// SIGUSR2 makes the daemon do the same. As a service, `systemctl reload adit@NAME` is the same too.
    ///
    /// Connections of `wg` and other programs to the daemon end: an answer that is under way is given whole, a question
    /// that is not answered has to be asked again. An interface that was moved to another network namespace is not
    /// handed over until it is back.
    Reload {
        /// The interface
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Show interfaces and what they have done, as `wg show` does
    ///
    /// After that come the packets that were dropped, by reason (docs/drops.md in the sources says what each means and
    /// what to do about it), and then what the daemon has given up of its rights.
    Show(show::ShowArgs),
    /// Print a new private key
    Genkey,
    /// Read a private key and print its public key
    Pubkey,
    /// Print a new preshared key
    Genpsk,
    /// Try both ends of a tunnel, in network namespaces of their own
    Demo(demo::DemoArgs),
    /// Print what a shell needs to complete this command line
    Completions {
        /// The shell
        shell: generate::Shell,
    },
    /// Print the manual page, or that of a command
    Man {
        /// The command
        #[arg(value_parser = Offered(PAGES), hide_possible_values = true)]
        command: Option<String>,

        /// Write all pages into this folder instead
        #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath, conflicts_with = "command")]
        output: Option<PathBuf>,
    },
}

/// The commands, each with a page of its own.
pub(crate) const PAGES: &[&str] =
    &["up", "down", "reload", "show", "genkey", "pubkey", "genpsk", "demo", "completions", "man"];

/// Any text; these words are what a shell offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offered(pub(crate) &'static [&'static str]);

impl TypedValueParser for Offered {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(|word| PossibleValue::new(*word))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_name_makes_a_daemon_and_a_command_is_never_a_name() {
        let args = Args::try_parse_from(["adit", "-f", "--threads", "2", "wg0"]).unwrap();
        assert_eq!(
            (args.name.as_deref(), args.foreground, args.daemon.threads.map(NonZeroUsize::get)),
            (Some("wg0"), true, Some(2))
        );
        assert!(args.command.is_none());
        let args = Args::try_parse_from(["adit", "show"]).unwrap();
        assert!(args.name.is_none() && matches!(args.command, Some(Command::Show(_))));
        for line in [&["adit", "--log-format", "json", "show"][..], &["adit", "-f", "up"], &["adit", "-f", "help"]] {
            // clap stops looking for commands at the first option.
            let args = Args::try_parse_from(line).unwrap();
            assert_eq!(args.misplaced_command(), line.last().copied());
        }
        assert_eq!(Args::try_parse_from(["adit", "-f", "wg0"]).unwrap().misplaced_command(), None);
    }

    #[test]
    fn a_command_behind_options_of_the_daemon_is_explained_whatever_follows_it() {
        let said = |line: &str| {
            let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            explain(Args::try_parse_from(&line).unwrap_err(), &line).to_string()
        };
        for line in [
            "adit --log-format json up wg0",
            "adit -f up wg0",
            "adit --threads 2 up wg0",
            "adit --threads=2 up wg0",
            "adit --no-seccomp up --no-such-option",
            "adit -f -- up wg0",
        ] {
            let text = said(line);
            assert!(text.contains("up is a command, and no interface can have its name"), "{line}: {text}");
        }
        let wrong_before = ["adit --verbose up wg0", "adit --threads=x up wg0", "adit --log-format xml up wg0"];
        for line in
            ["adit up", "adit -f wg0 up", "adit --threads up wg0", "adit -f up --help"].iter().chain(&wrong_before)
        {
            assert!(!said(line).contains("no interface can have its name"), "{line}");
        }
    }

    #[test]
    fn every_command_has_a_page_that_is_offered() {
        let command = Args::command();
        let commands: Vec<&str> = command.get_subcommands().map(|command| command.get_name()).collect();
        assert_eq!(commands, PAGES);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            &["adit", "--foreground"][..],
            &["adit", "wg0", "wg1"],
            &["adit", "--threads", "0", "wg0"],
            &["adit", "up"],
        ] {
            assert!(Args::try_parse_from(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn log_lines_of_any_command_can_be_json() {
        let args = Args::try_parse_from(["adit", "down", "wg0", "--log-format", "json"]).unwrap();
        assert_eq!(args.log_format, LogFormat::Json);
    }
}
