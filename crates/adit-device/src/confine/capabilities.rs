//! Capabilities: what root may do, cut into pieces.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What serving takes: marks, buffers and link states; ports below 1024.
pub(super) const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_BIND_SERVICE);

/// Drops everything else, and returns the names of what is left.
pub(super) fn keep_only(needed: CapabilitySet) -> Result<String, String> {
    drop_others(needed).map_err(|error| error.to_string())?;
    let left = capabilities(None).map_err(|error| error.to_string())?.permitted;
    Ok(names(left))
}

fn drop_others(needed: CapabilitySet) -> Result<(), Errno> {
    let had = capabilities(None)?;
    // Without this right the process has started unprivileged, and no_new_privs keeps it so.
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            match capability_is_in_bounding_set(one) {
                Ok(true) if !needed.contains(one) => remove_capability_from_bounding_set(one)?,
                Ok(_) => {}
                // The kernel has no more of them.
                Err(_) => break,
            }
        }
    }
    let kept = had.permitted & needed;
    // Inheritable, so that they can be ambient. What is neither permitted nor inheritable ceases to be ambient by this.
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })?;
    for one in kept.iter() {
        // If this fails, a program started by a reload lacks rights; this process is not concerned.
        let _ = configure_capability_in_ambient_set(one, true);
    }
    Ok(())
}

/// As `capabilities(7)` writes them.
fn names(set: CapabilitySet) -> String {
    let names: Vec<String> = set.iter_names().map(|(name, _)| format!("cap_{}", name.to_lowercase())).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}
