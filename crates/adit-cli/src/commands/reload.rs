//! Replacing a running daemon by the program on disk, without a gap.

use anyhow::{Context as _, bail};

/// Asks the daemon of the interface, and waits until another process serves it.
pub(crate) fn run(name: &str) -> anyhow::Result<()> {
    if let Some(refusal) = adit_device::name_refusal(name) {
        bail!(refusal);
    }
    let process = adit_device::handover::reload(name).with_context(|| format!("{name} was not reloaded"))?;
    tracing::debug!(process, "reloaded");
    Ok(())
}
