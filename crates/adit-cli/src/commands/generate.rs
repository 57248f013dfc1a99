//! What is made of the command line's description: completions and manual pages.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::args::Args;

pub(crate) use clap_complete::Shell;

pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "adit", &mut text);
    Ok(io::stdout().write_all(&text)?)
}

pub(crate) fn man(command: Option<&str>) -> anyhow::Result<()> {
    let mut whole = Args::command();
    whole.build();
    let page = match command {
        None => whole,
        Some(name) => {
            whole.find_subcommand(name).with_context(|| format!("found {name:?}, expected a command"))?.clone()
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).section("8").render(&mut text)?;
    Ok(io::stdout().write_all(&text)?)
}
