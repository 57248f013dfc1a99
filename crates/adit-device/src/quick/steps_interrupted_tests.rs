//! What the user ends while it is being brought up.

use super::*;

#[test]
fn an_interrupt_ends_it_before_the_next_step_that_may_wait_and_undoes_everything() {
    // Looking for name servers, PreUp; the start; the settings, two addresses, the MTU, the name servers; a route; the
    // default routes of IPv4, and of IPv6, with their rules; PostUp.
    for (operations, noticed) in [(0..=2, 2), (3..=3, 3), (4..=8, 8), (9..=9, 9), (10..=13, 13), (14..=17, 17)] {
        for operation in operations {
            let mut machine = Paper { interrupted_by: Some(operation), ..Paper::default() };
            machine.interrupted.set(operation == 0);
            let up = up(&mut machine, "wg0", &full_tunnel(), |_, _| {
                assert!(operation > 2, "names are asked for though the user has ended it");
                Ok(vec![None])
            });
            assert!(matches!(up, Err(QuickError::Interrupted)), "operation {operation}: {up:?}");
            assert_eq!(machine.noticed_after.get(), Some(noticed), "operation {operation}");
            assert_eq!(machine.traces(), Paper::default().traces(), "operation {operation}");
            let hooks: &[&str] = match noticed {
                17 => &["PreUp a wg0", "PostUp b", "PreDown c", "PostDown d wg0wg0"],
                _ => &["PreUp a wg0", "PostDown d wg0wg0"],
            };
            assert_eq!(machine.hooks, hooks, "operation {operation}");
        }
    }
}

#[test]
fn names_are_wanted_until_the_user_ends_it_and_then_it_is_the_user_who_did() {
    let mut machine = Paper::default();
    let interrupted = Rc::clone(&machine.interrupted);
    let up = up(&mut machine, "wg0", &full_tunnel(), |_, is_wanted| {
        assert!(is_wanted());
        interrupted.set(true);
        assert!(!is_wanted());
        Err(QuickError::Name("the resolver was ended".to_owned()))
    });
    assert!(matches!(up, Err(QuickError::Interrupted)), "{up:?}");
    // The same where the resolver has its answer just then.
    let mut machine = Paper::default();
    let interrupted = Rc::clone(&machine.interrupted);
    let up = super::up(&mut machine, "wg0", &full_tunnel(), |_, _| {
        interrupted.set(true);
        Ok(vec![None])
    });
    assert!(matches!(up, Err(QuickError::Interrupted)), "{up:?}");
    assert_eq!(machine.noticed_after.get(), Some(2), "nothing is started");
}

#[test]
fn without_commands_of_post_up_none_of_pre_down_is_run() {
    let config = config("[Interface]\nPreUp = a\nPreDown = c\nPostDown = d\n");
    // PreUp, the start, the settings, the MTU.
    let mut machine = Paper { interrupted_by: Some(4), ..Paper::default() };
    assert!(up(&mut machine, "wg0", &config, |_, _| Ok(vec![])).is_err());
    assert_eq!(machine.hooks, ["PreUp a", "PostDown d"]);
}
