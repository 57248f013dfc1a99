//! Capabilities: which are left in each set, and that none comes back.

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities,
};

use super::*;

const CAPABILITIES_ALONE: Confinement = Confinement { drop_capabilities: true, ..Confinement::NONE };
/// Those of serving: `CAP_NET_BIND_SERVICE` and `CAP_NET_ADMIN`.
const SERVING: u64 = 1 << 10 | 1 << 12;
const IPC_LOCK: u64 = 1 << 14;
/// Inheritable, permitted, effective, bounding, ambient: as `/proc` calls them.
const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// The sets of the thread whose state is in this file.
fn sets(status: &str) -> BTreeMap<&str, u64> {
    let set = |line: &'_ str| -> Option<u64> { u64::from_str_radix(line.trim(), 16).ok() };
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(name, _)| SETS.contains(name)).filter_map(|(name, value)| Some((name, set(value)?))).collect()
}

fn own_sets(status: &mut File) -> [u64; 5] {
    let mut text = String::new();
    status.rewind().and_then(|()| status.read_to_string(&mut text)).unwrap();
    let sets = sets(&text);
    SETS.map(|name| sets[name])
}

/// The state of this thread; opened before, it can be read afterwards.
fn status() -> File {
    File::open("/proc/thread-self/status").unwrap()
}

/// Whether this process may do what is tried here; says so if not.
fn has(needed: CapabilitySet) -> bool {
    let has = capabilities(None).unwrap().effective.contains(needed);
    if !has {
        eprintln!("skipped in part: this takes {needed:?}");
    }
    has
}

#[test]
fn the_capabilities_of_serving_are_left_in_every_set_and_no_others() {
    let output = in_a_process("rights::the_capabilities_of_serving_are_left_in_every_set_and_no_others", || {
        let mut status = status();
        let had = capabilities(None).unwrap();
        let [.., bounding, _] = own_sets(&mut status);
        let may_bound = has(CapabilitySet::SETPCAP);
        if may_bound {
            // What a careless parent has passed on.
            let one = CapabilitySet::SYS_CHROOT;
            set_capabilities(None, CapabilitySets { inheritable: had.inheritable | one, ..had }).unwrap();
            configure_capability_in_ambient_set(one, true).unwrap();
        }
        let report = give_up(&CAPABILITIES_ALONE, None, false);
        let left = had.permitted.bits() & SERVING;
        let bounding = if may_bound { bounding & SERVING } else { bounding };
        assert_eq!(own_sets(&mut status), [left, left, left, bounding, left], "{SETS:?}: {report:?}");
        assert_eq!(report.words.contains("cap_net_admin"), left & 1 << 12 != 0, "{report:?}");
        // Threads that start afterwards have no others either.
        std::thread::spawn(move || {
            let mut status = self::status();
            assert_eq!(own_sets(&mut status), [left, left, left, bounding, left], "{SETS:?}");
        })
        .join()
        .unwrap();
    });
    assert_ended_well(&output);
}

#[test]
fn what_was_given_up_does_not_come_back() {
    let output = in_a_process("rights::what_was_given_up_does_not_come_back", || {
        let mut status = status();
        give_up(&CAPABILITIES_ALONE, None, false);
        let left = own_sets(&mut status);
        let kept = capabilities(None).unwrap();
        for bit in (0..=CapabilitySet::CHECKPOINT_RESTORE.bits().ilog2()).filter(|bit| SERVING & 1 << bit == 0) {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            for more in [
                CapabilitySets { effective: kept.effective | one, ..kept },
                CapabilitySets { permitted: kept.permitted | one, ..kept },
                CapabilitySets { inheritable: kept.inheritable | one, ..kept },
            ] {
                assert_eq!(set_capabilities(None, more), Err(Errno::PERM), "{one:?} in {more:?}");
            }
            assert_eq!(configure_capability_in_ambient_set(one, true), Err(Errno::PERM), "{one:?}");
        }
        assert_eq!(own_sets(&mut status), left);
        if left[3] & !SERVING != 0 {
            eprintln!("skipped in part: only root can have a program started without its rights");
            return;
        }
        // Root's processes are given all that is not out of bounds when they start a program.
        let started = Command::new("cat").arg("/proc/self/status").output().unwrap();
        let text = String::from_utf8(started.stdout).unwrap();
        let sets = sets(&text);
        assert_eq!(SETS.map(|name| sets[name]), left, "{SETS:?} of a program that was started");
    });
    assert_ended_well(&output);
}

#[test]
fn the_right_to_lock_memory_is_kept_only_where_nothing_else_permits_it() {
    let name = "rights::the_right_to_lock_memory_is_kept_only_where_nothing_else_permits_it";
    let output = in_a_process(name, || {
        let mut status = status();
        let had = capabilities(None).unwrap();
        let wanted = Confinement { lock_memory: true, ..CAPABILITIES_ALONE };
        if !has(CapabilitySet::IPC_LOCK | CapabilitySet::SETPCAP) {
            return;
        }
        // With a limit that it may not raise.
        let limit = Rlimit { current: Some(65_536), maximum: Some(65_536) };
        setrlimit(Resource::Memlock, limit).unwrap();
        let without = |set: CapabilitySet| set & !CapabilitySet::SYS_RESOURCE;
        let sets = CapabilitySets { effective: without(had.effective), permitted: without(had.permitted), ..had };
        set_capabilities(None, sets).unwrap();
        let report = give_up(&wanted, None, false);
        assert!(report.words.contains("locked memory"), "{report:?}");
        let left = had.permitted.bits() & SERVING | IPC_LOCK;
        assert_eq!(own_sets(&mut status), [left; 5], "{SETS:?}");
    });
    assert_ended_well(&output);
}

#[test]
fn memory_is_locked_by_no_right_where_there_is_no_limit() {
    let output = in_a_process("rights::memory_is_locked_by_no_right_where_there_is_no_limit", || {
        let mut status = status();
        let unlimited = rustix::process::getrlimit(Resource::Memlock).current.is_none();
        if !unlimited && !has(CapabilitySet::SYS_RESOURCE) {
            return;
        }
        let had = capabilities(None).unwrap();
        let report = give_up(&Confinement { lock_memory: true, ..CAPABILITIES_ALONE }, None, false);
        assert!(report.words.contains("locked memory"), "{report:?}");
        assert_eq!(own_sets(&mut status)[1], had.permitted.bits() & SERVING);
    });
    assert_ended_well(&output);
}

/// A filter does not see what a message asks for. `SECURITY.md` says so.
#[test]
fn with_the_right_over_the_network_links_can_still_be_made_and_removed() {
    let name = "rights::with_the_right_over_the_network_links_can_still_be_made_and_removed";
    let output = in_a_process(name, || {
        if !has(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN) {
            return;
        }
        crate::sys::unshare_network().unwrap();
        give_up(&Confinement::FULL, None, false);
        let mut netlink = crate::netlink::Netlink::open().unwrap();
        netlink.create_veth("made", "other", None).unwrap();
        let link = netlink.link("made").unwrap();
        netlink.delete_link(link.index).unwrap();
    });
    assert_ended_well(&output);
}
