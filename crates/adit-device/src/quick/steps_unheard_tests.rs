//! Rules that the kernel was asked for, and to which no answer came.

use super::*;

/// What is left of a full tunnel when no answer comes to this operation of bringing it up.
fn left(fails: usize, unheard: Unheard, rules: Vec<Rule>) -> Paper {
    let (fails, errno, unheard) = (Some(fails), Some(libc::ENOBUFS), Some(unheard));
    let mut machine = Paper { rules, fails, errno, unheard, ..Paper::default() };
    let up = up(&mut machine, "wg0", &full_tunnel(), |_, _| Ok(vec![None]));
    assert!(matches!(up, Err(QuickError::Netlink(_))), "operation {fails:?}: {up:?}");
    machine
}

#[test]
fn a_rule_of_which_the_kernel_was_not_heard_is_undone_if_it_was_made() {
    // The route of a family comes before its rules.
    for fails in [11, 12, 15, 16] {
        for unheard in [Unheard::Done, Unheard::NotDone] {
            let machine = left(fails, unheard, Vec::new());
            assert_eq!(machine.traces(), Paper::default().traces(), "operation {fails}");
        }
    }
}

#[test]
fn a_rule_that_another_tunnel_needs_stays_though_the_kernel_was_not_heard() {
    let others = vec![Rule::unless_marked(false, 99, 99), Rule::main_without_default(false)];
    assert_eq!(left(12, Unheard::NotDone, others.clone()).rules, others);
}
