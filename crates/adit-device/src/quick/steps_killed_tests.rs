//! What is left of an interface whose daemon was killed.

use super::*;

/// A machine on which the daemon of such an interface was killed, with the rules of others.
fn killed(config: &Config, others: &[Rule]) -> Paper {
    let mut machine = Paper::default();
    up(&mut machine, "wg0", config, |_, _| Ok(vec![None])).unwrap();
    machine.lose_interface();
    machine.has_remains = true;
    machine.rules.extend(others);
    machine.hooks.clear();
    machine.operations = 0;
    machine
}

fn end_missing(machine: &mut Paper, config: &Config) {
    let ended = down(machine, "wg0", config, |_| panic!("saved"));
    assert!(matches!(ended, Err(QuickError::Missing(_))), "{ended:?}");
}

#[test]
fn what_a_killed_daemon_left_is_cleaned_up_though_its_interface_is_missing() {
    let mut machine = killed(&full_tunnel(), &[]);
    assert_eq!((machine.rules.len(), machine.there.len()), (4, 1), "the daemon left something");
    end_missing(&mut machine, &full_tunnel());
    assert!(machine.rules.is_empty() && machine.there.is_empty(), "{:?} {:?}", machine.rules, machine.there);
    assert_eq!(machine.hooks, ["PostDown d wg0wg0"]);
}

#[test]
fn whatever_fails_while_cleaning_up_after_a_killed_daemon_the_rest_is_done() {
    // Two lists to find the tables and two to remove their rules, four rules, the name servers, the command.
    for fails in 1..=10 {
        let mut machine = killed(&full_tunnel(), &[]);
        machine.fails = Some(fails);
        end_missing(&mut machine, &full_tunnel());
        assert!(machine.failed, "operation {fails}");
        assert_eq!(machine.hooks, ["PostDown d wg0wg0"], "operation {fails}");
        assert!(machine.rules.len() <= 2, "operation {fails}: {:?}", machine.rules);
        assert_eq!(machine.there.len(), usize::from(fails == 9), "operation {fails}");
    }
}

#[test]
fn a_killed_daemons_rules_are_not_taken_for_those_of_a_living_tunnel() {
    let living = Rule::unless_marked(false, 51830, 51830);
    // Of a table whose number no tunnel chooses by itself.
    let foreign = Rule::unless_marked(true, 99, 99);
    let mut machine = killed(&full_tunnel(), &[living, foreign]);
    let route = Route { destination: "0.0.0.0/0".parse().unwrap(), table: 51830, ifindex: INDEX + 1, metric: None };
    machine.routes.push(route);
    end_missing(&mut machine, &full_tunnel());
    let suppress = Rule::main_without_default;
    assert_eq!(machine.rules, [suppress(false), suppress(true), living, foreign]);
    assert_eq!(machine.routes, [route]);
}

#[test]
fn the_mark_of_the_file_tells_which_rules_a_killed_daemon_left() {
    let config = config("[Interface]\nFwMark = 16\n[Peer]\nPublicKey = KEY\nAllowedIPs = 0.0.0.0/0\n");
    let another = Rule::unless_marked(false, 51820, 51820);
    let mut machine = killed(&config, &[another]);
    end_missing(&mut machine, &config);
    assert_eq!(machine.rules, [Rule::main_without_default(false), another]);
    // Another file may have the same mark.
    let mut machine = killed(&config, &[]);
    machine.routes.push(Route { destination: "0.0.0.0/0".parse().unwrap(), table: 16, ifindex: 9, metric: None });
    end_missing(&mut machine, &config);
    assert_eq!(machine.rules.len(), 2, "a tunnel lives by them");
}

#[test]
fn a_mark_that_is_off_tells_nothing_and_the_table_may_be_any_that_a_tunnel_chooses() {
    for text in ["", "FwMark = off\n"] {
        let config = config(&format!("[Interface]\n{text}[Peer]\nPublicKey = KEY\nAllowedIPs = 0.0.0.0/0\n"));
        let mut machine = Paper::default();
        machine.routes.push(Route { destination: net("10.9.0.0/16"), table: 51820, ifindex: 1, metric: None });
        up(&mut machine, "wg0", &config, |_, _| Ok(vec![None])).unwrap();
        assert_eq!(machine.rules[0], Rule::unless_marked(false, 51821, 51821));
        machine.lose_interface();
        machine.has_remains = true;
        end_missing(&mut machine, &config);
        assert!(machine.rules.is_empty(), "{text}: {:?}", machine.rules);
    }
}

#[test]
fn rules_that_only_resemble_those_of_a_killed_daemon_stay() {
    let others = [
        Rule { invert: false, ..Rule::unless_marked(false, 51830, 51830) },
        Rule { fwmark: None, ..Rule::unless_marked(false, 51830, 51830) },
        Rule::unless_marked(false, 51829, 51830),
    ];
    let mut machine = killed(&full_tunnel(), &others);
    end_missing(&mut machine, &full_tunnel());
    assert_eq!(machine.rules, others);
}

#[test]
fn a_file_without_a_default_route_of_its_own_table_cleans_up_no_rules() {
    let peer = "[Peer]\nPublicKey = KEY\nAllowedIPs = ";
    let of_table = |table: &str| format!("[Interface]\nTable = {table}\n{peer}0.0.0.0/0\n");
    for text in [format!("{peer}10.0.0.0/8\n"), of_table("off"), of_table("77")] {
        let another = Rule::unless_marked(false, 51820, 51820);
        let mut machine = killed(&config(&text), &[another]);
        end_missing(&mut machine, &config(&text));
        assert_eq!((machine.rules, machine.operations), (vec![another], 0), "{text}");
    }
}

#[test]
fn where_no_daemon_was_killed_nothing_is_done_for_an_interface_that_is_missing() {
    let mut machine = Paper { has_remains: false, ..killed(&full_tunnel(), &[]) };
    let before = machine.traces();
    end_missing(&mut machine, &full_tunnel());
    assert_eq!((machine.traces(), machine.hooks.len(), machine.operations), (before, 0, 0), "it may be down already");
}

#[test]
fn an_interface_for_which_nobody_answers_is_not_ended() {
    let mut machine = Paper { is_mute: true, ..killed(&full_tunnel(), &[]) };
    machine.there.insert("link wg0".into());
    let before = machine.traces();
    end_missing(&mut machine, &full_tunnel());
    assert_eq!((machine.traces(), machine.hooks.len(), machine.operations), (before, 0, 0));
}
