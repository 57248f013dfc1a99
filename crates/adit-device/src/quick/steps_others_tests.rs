//! Rules and routes of others, what the machine has already, and what has changed since the interface was made.

use super::*;

const PEER: &str = "[Peer]\nPublicKey = KEY\nAllowedIPs";

/// Brings this interface up, adds rules of others, and takes it down; returns the rules that are left.
fn rules_left(config: &Config, others: &[Rule], meanwhile: impl FnOnce(&mut Paper)) -> Vec<Rule> {
    let mut machine = Paper::default();
    up(&mut machine, "wg0", config, |_, _| Ok(vec![None])).unwrap();
    machine.rules.extend(others);
    meanwhile(&mut machine);
    down(&mut machine, "wg0", config, |_| Ok(())).unwrap();
    machine.rules
}

#[test]
fn another_tunnels_rule_stays() {
    let mut machine = Paper::default();
    up(&mut machine, "wg0", &full_tunnel(), |_, _| Ok(vec![None])).unwrap();
    machine.rules.push(Rule::unless_marked(false, 99, 99));
    down(&mut machine, "wg0", &full_tunnel(), |_| Ok(())).unwrap();
    assert_eq!(machine.rules, [Rule::main_without_default(false), Rule::unless_marked(false, 99, 99)]);
}

#[test]
fn only_a_tunnel_with_a_default_route_of_its_own_table_takes_rules_away() {
    let others = [false, true].map(|v6| [Rule::unless_marked(v6, 16, 16), Rule::main_without_default(v6)]).concat();
    for (table, nets) in [("auto", "10.0.0.0/8, fd00::/8"), ("off", "0.0.0.0/0, ::/0"), ("77", "0.0.0.0/0, ::/0")] {
        let config = config(&format!("[Interface]\nFwMark = 16\nTable = {table}\n{PEER} = {nets}\n"));
        assert_eq!(rules_left(&config, &others, |_| ()), others, "Table = {table}, {nets}");
    }
}

#[test]
fn the_rules_of_the_other_family_stay() {
    for (net, v6) in [("0.0.0.0/0", true), ("::/0", false)] {
        let config = config(&format!("[Interface]\nFwMark = 16\n{PEER} = {net}\n"));
        let others = [Rule::unless_marked(v6, 16, 16), Rule::main_without_default(v6)];
        assert_eq!(rules_left(&config, &others, |_| ()), others, "{net}");
    }
}

#[test]
fn where_the_mark_was_taken_away_meanwhile_no_rule_is_known_for_the_tunnels_own() {
    let config = config(&format!("[Interface]\n{PEER} = 0.0.0.0/0\n"));
    let mark_is_taken_away = |machine: &mut Paper| {
        machine.state.fwmark = 0;
        // Whose this one is nobody can say then.
        machine.rules.retain(|rule| rule.table == MAIN_TABLE);
    };
    assert_eq!(rules_left(&config, &[], mark_is_taken_away), [Rule::main_without_default(false)]);
}

#[test]
fn rules_that_only_resemble_those_of_a_tunnel_stay() {
    let config = config(&format!("[Interface]\n{PEER} = 0.0.0.0/0\n"));
    let suppress = Rule::main_without_default(false);
    let others = [
        Rule { suppress_prefix_length: None, ..suppress },
        Rule { suppress_prefix_length: Some(8), ..suppress },
        Rule { table: 99, ..suppress },
        // These need no rule for the main table, as another tunnel would.
        Rule { invert: false, ..Rule::unless_marked(false, 99, 99) },
        Rule { fwmark: None, ..Rule::unless_marked(false, 99, 99) },
        Rule::unless_marked(false, 98, 99),
    ];
    assert_eq!(rules_left(&config, &others, |_| ()), others);
}

#[test]
fn a_rule_that_somebody_else_has_removed_does_not_keep_the_end_back_but_any_other_error_is_told() {
    let config = config(&format!("[Interface]\n{PEER} = 0.0.0.0/0\n"));
    for (errno, is_told) in [(libc::ENOENT, false), (libc::ESRCH, false), (libc::EPERM, true), (libc::EEXIST, true)] {
        let mut machine = Paper::default();
        up(&mut machine, "wg0", &config, |_, _| Ok(vec![None])).unwrap();
        // The list, and the first of two rules.
        (machine.operations, machine.fails, machine.errno) = (0, Some(2), Some(errno));
        let down = down(&mut machine, "wg0", &config, |_| Ok(()));
        assert_eq!(matches!(down, Err(QuickError::Netlink(_))), is_told, "{down:?}");
        assert_eq!(down.is_err(), is_told);
    }
}

#[test]
fn name_servers_that_stay_are_told_of_and_the_rest_is_done() {
    let config = config("[Interface]\nDNS = 10.0.0.1\nPostDown = d\n");
    let mut machine = Paper::default();
    up(&mut machine, "wg0", &config, |_, _| Ok(vec![])).unwrap();
    (machine.operations, machine.fails) = (0, Some(1));
    assert!(matches!(down(&mut machine, "wg0", &config, |_| Ok(())), Err(QuickError::Io { .. })));
    assert_eq!(machine.hooks, ["PostDown d"]);
}

#[test]
fn the_first_of_several_rules_that_stays_is_told_of_and_the_rest_is_removed() {
    let config = config(&format!("[Interface]\n{PEER} = 0.0.0.0/0\n"));
    let mut machine = Paper::default();
    up(&mut machine, "wg0", &config, |_, _| Ok(vec![None])).unwrap();
    machine.rules.insert(0, Rule { priority: Some(1), ..machine.rules[0] });
    // The list, and the first rule.
    (machine.operations, machine.fails) = (0, Some(2));
    assert!(matches!(down(&mut machine, "wg0", &config, |_| Ok(())), Err(QuickError::Io { .. })));
    assert_eq!(machine.rules, [Rule { priority: Some(1), ..Rule::unless_marked(false, 51820, 51820) }]);
}

#[test]
fn what_is_in_the_way_is_an_error_of_a_route_but_none_of_a_rule() {
    let config = config(&format!("[Interface]\n{PEER} = 0.0.0.0/0, 10.0.0.0/8\n"));
    let try_up = |fails, errno| {
        let mut machine = Paper { fails: Some(fails), errno: Some(errno), ..Paper::default() };
        let up = up(&mut machine, "wg0", &config, |_, _| Ok(vec![None]));
        assert!(machine.failed);
        up
    };
    // The start, the settings, the MTU; a route, the default route, its rules.
    for (fails, route, in_table) in [(4, "10.0.0.0/8", MAIN_TABLE), (5, "0.0.0.0/0", 51820)] {
        let up = try_up(fails, libc::EEXIST);
        let is_named =
            matches!(up, Err(QuickError::Route { net: there, table }) if (there, table) == (net(route), in_table));
        assert!(is_named, "{up:?}");
        assert!(matches!(try_up(fails, libc::EPERM), Err(QuickError::Netlink(_))));
    }
    for fails in [6, 7] {
        try_up(fails, libc::EEXIST).unwrap();
        assert!(matches!(try_up(fails, libc::EPERM), Err(QuickError::Netlink(_))));
    }
}

#[test]
fn a_network_of_two_peers_has_one_route() {
    let mut config = config(&format!("[Interface]\n{PEER} = 10.0.0.0/8\n{PEER} = 10.0.0.0/8\n"));
    config.peers[1].public_key = PublicKey::from_bytes([8; 32]);
    let mut machine = Paper::default();
    up(&mut machine, "wg0", &config, |_, _| Ok(vec![None, None])).unwrap();
    assert_eq!(tables(&machine), [("10.0.0.0/8".to_owned(), 254)]);
}

#[test]
fn a_check_of_sources_that_minded_the_mark_before_does_so_after_an_attempt_that_failed() {
    for before in [false, true] {
        let config = config(&format!("[Interface]\nPostUp = b\n{PEER} = 0.0.0.0/0\n"));
        // The start, the settings, the MTU, the route, two rules, the check; PostUp.
        let mut machine = Paper { fails: Some(8), src_valid_mark: before, ..Paper::default() };
        assert!(up(&mut machine, "wg0", &config, |_, _| Ok(vec![None])).is_err());
        assert_eq!((machine.src_valid_mark, machine.hooks.len()), (before, 1));
    }
}

#[test]
fn packets_are_marked_for_a_default_route_or_as_the_file_says() {
    for (mark, nets, expected) in [
        ("", "10.0.0.0/8", 0),
        ("FwMark = 16\n", "10.0.0.0/8", 16),
        ("FwMark = 16\n", "0.0.0.0/0", 16),
        ("FwMark = off\n", "0.0.0.0/0", 51820),
    ] {
        let config = config(&format!("[Interface]\n{mark}{PEER} = {nets}\n"));
        let mut machine = Paper::default();
        let endpoint = "192.0.2.1:1".parse().unwrap();
        up(&mut machine, "wg0", &config, |_, _| Ok(vec![Some(endpoint)])).unwrap();
        // With which the way to the endpoint is looked for, too.
        assert_eq!((machine.state.fwmark, machine.marks), (expected, vec![expected]), "{mark}{nets}");
    }
}

#[test]
fn the_mtu_of_the_default_route_counts_where_there_is_no_way_to_an_endpoint_and_no_mtu_is_impossible() {
    let endpoint: SocketAddr = "192.0.2.1:1".parse().unwrap();
    for (way, default, expected) in [
        (None, Some(1400), 1320),
        (Some(1500), Some(1400), 1420),
        (None, None, 1420),
        (Some(657), None, 577),
        (Some(656), None, 576),
        (Some(655), None, 576),
        (Some(79), None, 576),
    ] {
        let mtus = way.map(|way| (endpoint.ip(), way)).into_iter().collect();
        let mut machine = Paper { mtus, default_mtu: default, ..Paper::default() };
        up(&mut machine, "wg0", &config("[Interface]\n"), |_, _| Ok(vec![Some(endpoint)])).unwrap();
        assert_eq!(Machine::mtu(&mut machine, INDEX).unwrap(), expected, "{way:?}, {default:?}");
    }
}

#[test]
fn the_own_networks_are_not_asked_for_where_all_routes_go_elsewhere() {
    for (table, listings) in [("auto", 1), ("77", 0), ("off", 0)] {
        let mut machine = Paper::default();
        up(&mut machine, "wg0", &config(&format!("[Interface]\nTable = {table}\n")), |_, _| Ok(vec![])).unwrap();
        assert_eq!(machine.listings, listings, "{table}");
    }
}

#[test]
fn what_is_saved_is_the_file_with_what_has_changed_since() {
    let text =
        "[Interface]\nAddress = 10.0.0.2/24, fe80::5/64\nMTU = 1300\nSaveConfig = true\nTable = off\nPostUp = b\n";
    let config = config(text);
    let mut machine = Paper::default();
    up(&mut machine, "wg0", &config, |_, _| Ok(vec![])).unwrap();
    machine.there.retain(|line| line != "mtu 1300");
    machine
        .there
        .extend(["address fe80::1234/64", "address 10.5.0.1/32", "address fd00::1/64", "mtu 1350"].map(str::to_owned));
    let key = || Some(Box::new(PrivateKey::from_bytes([5; 32])));
    (machine.state.listen_port, machine.state.fwmark, machine.state.private_key) = (1234, 16, key());
    machine.state.peers = vec![PeerState::new(PublicKey::from_bytes([1; 32]))];
    let saved = saved(&mut machine, &config);
    let mut expected = config.interface.clone();
    expected.addresses =
        ["10.0.0.2/24", "10.5.0.1/32", "fd00::1/64", "fe80::5/64"].map(|net| net.parse().unwrap()).to_vec();
    (expected.mtu, expected.listen_port, expected.fwmark, expected.private_key) =
        (Some(1350), Some(1234), Some(16), key());
    assert_eq!((saved.interface, saved.peers.len()), (expected, 1));
}

#[test]
fn an_mtu_is_saved_only_where_the_file_has_one_and_as_the_most_that_it_can_have() {
    for (line, live, expected) in
        [("", 1420, None), ("MTU = 1300\n", 65_536, Some(65_535)), ("MTU = 1300\n", 65_535, Some(65_535))]
    {
        let config = config(&format!("[Interface]\nSaveConfig = true\n{line}"));
        let mut machine = Paper::default();
        up(&mut machine, "wg0", &config, |_, _| Ok(vec![])).unwrap();
        machine.there.retain(|there| !there.starts_with("mtu "));
        machine.there.insert(format!("mtu {live}"));
        assert_eq!(saved(&mut machine, &config).interface.mtu, expected, "{live}");
    }
}

/// What becomes of the file when the interface is taken down.
fn saved(machine: &mut Paper, config: &Config) -> Config {
    let mut saved = None;
    down(machine, "wg0", config, |config| {
        saved = Some(config.clone());
        Ok(())
    })
    .unwrap();
    saved.unwrap()
}
