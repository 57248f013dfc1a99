//! One file per command.

mod daemon;
pub(crate) mod demo;
pub(crate) mod generate;
mod keys;
mod quick;
mod reload;
pub(crate) mod show;

use std::io::{self, Write};

use crate::args::{Args, Command};
use crate::logging::{self, Audience};

/// Does what the command line asks.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let audience = if args.command.is_some() { Audience::Command } else { Audience::Daemon };
    logging::start(args.log_format, audience);
    // The process that started a daemon with `--report` has said it already.
    if !args.report {
        logging::warn_of_unknown_level();
    }
    let Some(command) = args.command else {
        return daemon::run(args);
    };
    match command {
        Command::Up { file, daemon } => quick::up(&file, &daemon, args.log_format),
        Command::Down { file } => quick::down(&file),
        Command::Reload { name } => reload::run(&name),
        Command::Show(show) => show::run(&show),
        Command::Genkey => keys::genkey(),
        Command::Pubkey => keys::pubkey(),
        Command::Genpsk => keys::genpsk(),
        Command::Demo(demo) => demo::run(&demo),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { output: Some(folder), .. } => generate::all_pages(&folder),
        Command::Man { command, output: None } => generate::page(command.as_deref()),
    }
}

/// Writes to standard output at once, so that whoever reads it has it, or a full disk is told of.
fn print(parts: &[&[u8]]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for part in parts {
        stdout.write_all(part)?;
    }
    stdout.flush()
}
