//! Showing interfaces, as `wg show` does: for people, by field for scripts, or as JSON.

mod fields;
mod json;
mod pretty;

use std::env;
use std::io::{self, IsTerminal as _};
use std::time::SystemTime;

use adit_device::config::DeviceState;
use adit_device::uapi::{Client, interfaces};
use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use crate::args::Offered;

pub(crate) use fields::Field;

/// What to show.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// An interface; or `interfaces`: only the names; or `all`, as when nothing is given
    #[arg(value_name = "NAME|interfaces|all")]
    #[arg(value_parser = Offered(&["all", "interfaces"]), hide_possible_values = true)]
    which: Option<String>,

    /// Only this, in lines and tabs for scripts
    #[arg(requires = "which")]
    field: Option<Field>,

    /// As JSON, in place of a field, with what only Adit knows: drops, offloads, threads
    #[arg(long, conflicts_with = "field")]
    json: bool,
}

/// An interface by its name.
type Named = (String, DeviceState);

pub(crate) fn run(args: &ShowArgs) -> anyhow::Result<()> {
    let which = args.which.as_deref().unwrap_or("all");
    if which == "interfaces" {
        if args.field.is_some() {
            bail!("found a field after \"interfaces\", expected nothing");
        }
        return Ok(super::print(&[names(args.json)?.as_bytes()])?);
    }
    let (all, refused) = states(which)?;
    let text = match args.field {
        Some(field) => fields::write(&all, field, which == "all"),
        None if args.json => json::write(&all, shows_keys())?,
        None => pretty::write(&all, SystemTime::now(), shows_keys(), has_colors()),
    };
    super::print(&[text.as_bytes()])?;
    if refused > 0 {
        bail!("{refused} of {} interfaces could not be asked", refused + all.len());
    }
    Ok(())
}

fn names(json: bool) -> anyhow::Result<Zeroizing<String>> {
    let names = interfaces().context("cannot list the interfaces")?;
    let mut text = if json { serde_json::to_string(&names)? } else { names.join(" ") };
    if json || !names.is_empty() {
        text.push('\n');
    }
    Ok(Zeroizing::new(text))
}

/// The interfaces that are meant, and how many of them could not be asked.
fn states(which: &str) -> anyhow::Result<(Vec<Named>, usize)> {
    if which != "all" {
        if let Some(refusal) = adit_device::name_refusal(which) {
            bail!(refusal);
        }
        return Ok((vec![(which.to_owned(), Client::connect(which)?.get_facts()?)], 0));
    }
    let (mut all, mut refused) = (Vec::new(), 0);
    // An interface that may not be asked does not hide the others.
    for name in interfaces().context("cannot list the interfaces")? {
        match Client::connect(&name).and_then(|mut client| client.get_facts()) {
            Ok(state) => all.push((name, state)),
            // It has just ended.
            Err(_) if Client::connect(&name).is_err_and(|error| error.is_deserted()) => {}
            Err(error) => {
                tracing::warn!(interface = %name, %error, "cannot be asked");
                refused += 1;
            }
        }
    }
    Ok((all, refused))
}

fn shows_keys() -> bool {
    env::var_os("WG_HIDE_KEYS").is_some_and(|value| value == "never")
}

fn has_colors() -> bool {
    match env::var("WG_COLOR_MODE").as_deref() {
        Ok("always") => true,
        Ok("never") => false,
        _ => io::stdout().is_terminal(),
    }
}
