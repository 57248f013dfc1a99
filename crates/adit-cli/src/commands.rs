//! One file a command.

mod daemon;
pub(crate) mod demo;
pub(crate) mod generate;
mod keys;
mod quick;
mod reload;
pub(crate) mod show;

use crate::args::{Args, Command};
use crate::logging::{self, Audience};

/// Does what the command line asks.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let Some(command) = args.command else {
        return daemon::run(args);
    };
    logging::start(args.log_format, Audience::Command);
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
        Command::Man { command } => generate::man(command.as_deref()),
    }
}
