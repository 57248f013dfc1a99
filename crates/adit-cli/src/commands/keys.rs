//! Making keys, as `wg genkey`, `wg pubkey` and `wg genpsk` do.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;

use adit::{PresharedKey, PrivateKey};
use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

/// More than a key and the white space around it.
const MAX_INPUT: u64 = 4096;

pub(crate) fn genkey() -> anyhow::Result<()> {
    warn_if_world_accessible();
    print(&PrivateKey::from_bytes(*random()?).to_base64())
}

pub(crate) fn genpsk() -> anyhow::Result<()> {
    warn_if_world_accessible();
    print(&PresharedKey::from_bytes(*random()?).to_base64())
}

pub(crate) fn pubkey() -> anyhow::Result<()> {
    let mut text = Zeroizing::new(String::with_capacity(MAX_INPUT as usize));
    io::stdin().take(MAX_INPUT).read_to_string(&mut text).context("cannot read the key")?;
    match PrivateKey::from_base64(text.trim()) {
        Ok(key) => print(&key.public_key().to_base64()),
        Err(error) => bail!("standard input: {error}"),
    }
}

fn random() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).context("no random bytes")?;
    Ok(bytes)
}

fn print(key: &str) -> anyhow::Result<()> {
    Ok(super::print(&[key.as_bytes(), b"\n"])?)
}

fn warn_if_world_accessible() {
    let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let Ok(metadata) = stdout.and_then(|stdout| stdout.metadata()) else { return };
    if metadata.is_file() && metadata.permissions().mode() & 0o007 != 0 {
        eprintln!(
            "adit: warning: others can read the file that the key goes to; `umask 077` before makes it yours alone"
        );
    }
}
