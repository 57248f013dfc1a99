//! What is generated from the description of the command line: completions and manual pages.

use std::fs;
use std::iter;
use std::path::Path;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};

use crate::args::{Args, PAGES};
use crate::manual;

pub(crate) use clap_complete::Shell;

pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut without_hidden(&Args::command()), "adit", &mut text);
    Ok(super::print(&[&text])?)
}

/// A command without its hidden options, which are for the program itself: shells would offer them too.
fn without_hidden(command: &Command) -> Command {
    // A name has to last as long as the program, which ends soon.
    let name: &'static str = command.get_name().to_owned().leak();
    let mut shown = Command::new(name)
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().map(without_hidden));
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if command.get_version().is_some() {
        shown = shown.version(env!("CARGO_PKG_VERSION"));
    }
    shown
}

/// Prints the manual page of the program or of one command.
pub(crate) fn page(command: Option<&str>) -> anyhow::Result<()> {
    let whole = whole();
    let command = match command {
        None => &whole,
        Some(name) => {
            let wrong = || format!("found {name:?}, expected a command: {}", PAGES.join(", "));
            whole.find_subcommand(name).with_context(wrong)?
        }
    };
    Ok(super::print(&[&manual::page(command)?])?)
}

/// Writes every manual page into a folder, under the names by which they refer to each other.
pub(crate) fn all_pages(folder: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write manual pages to {}", folder.display());
    fs::create_dir_all(folder).with_context(cannot)?;
    let whole = whole();
    for command in iter::once(&whole).chain(whole.get_subcommands()) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        fs::write(folder.join(format!("{name}.8")), manual::page(command)?).with_context(cannot)?;
    }
    Ok(())
}

/// The command line, but for `help`, which needs no page.
fn whole() -> Command {
    let mut whole = Args::command().disable_help_subcommand(true);
    whole.build();
    whole
}
