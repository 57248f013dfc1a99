//! Tests of [`super`] on a simulated machine, on which any operation can be made to fail.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use adit::PublicKey;

use super::*;
use crate::config::{DeviceState, DeviceUpdate, PeerState};
use crate::netlink::NetlinkError;

#[path = "steps_interrupted_tests.rs"]
mod interrupted;
#[path = "steps_killed_tests.rs"]
mod killed;
#[path = "steps_others_tests.rs"]
mod others;
#[path = "steps_unheard_tests.rs"]
mod unheard;

const INDEX: u32 = 7;

/// What is there, each as a line of text.
#[derive(Default)]
struct Paper {
    there: BTreeSet<String>,
    rules: Vec<Rule>,
    routes: Vec<Route>,
    state: DeviceState,
    hooks: Vec<String>,
    src_valid_mark: bool,
    mtus: Vec<(IpAddr, u32)>,
    default_mtu: Option<u32>,
    /// The marks with which ways were asked for.
    marks: Vec<u32>,
    operations: usize,
    /// How often routes were listed.
    listings: usize,
    /// The number of the operation that fails.
    fails: Option<usize>,
    /// What the kernel says then.
    errno: Option<i32>,
    /// Whether it is not heard then, and may have done what it was asked.
    unheard: Option<Unheard>,
    /// Whether the user has asked to end this, the number of the operation during which that is so for the first time,
    /// and the one after which it is noticed.
    interrupted: Rc<Cell<bool>>,
    interrupted_by: Option<usize>,
    noticed_after: Cell<Option<usize>>,
    /// Whether the daemon does not end when its link goes.
    lingers: bool,
    /// Whether the file of a socket is left on which nobody listens.
    has_remains: bool,
    /// Whether nobody answers for the interface.
    is_mute: bool,
    /// While undoing, all goes well.
    failed: bool,
}

/// What became of a request to which no answer came.
#[derive(Clone, Copy, PartialEq)]
enum Unheard {
    Done,
    NotDone,
}

impl Paper {
    fn operate(&mut self) -> Result<(), QuickError> {
        self.operations += 1;
        if self.interrupted_by == Some(self.operations) {
            self.interrupted.set(true);
        }
        if self.fails == Some(self.operations) && !self.failed {
            self.failed = true;
            let action = "go on".to_owned();
            return Err(match self.errno.map(io::Error::from_raw_os_error) {
                Some(source) => NetlinkError { action, source, hint: None, is_refusal: self.unheard.is_none() }.into(),
                None => QuickError::Io { action, source: io::ErrorKind::Other.into() },
            });
        }
        Ok(())
    }

    /// What goes with the interface, whether its daemon ends or is killed.
    fn lose_interface(&mut self) {
        self.there.retain(|line| line.starts_with("dns "));
        self.routes.retain(|route| route.ifindex != INDEX);
    }

    /// All that an attempt that fails must leave as it was.
    fn traces(&self) -> (usize, usize, usize, bool) {
        (self.there.len(), self.rules.len(), self.routes.len(), self.src_valid_mark)
    }
}

impl Machine for Paper {
    fn check_interrupted(&self) -> Result<(), QuickError> {
        if !self.interrupted.get() {
            return Ok(());
        }
        self.noticed_after.set(self.noticed_after.get().or(Some(self.operations)));
        Err(QuickError::Interrupted)
    }

    fn exists(&mut self, name: &str) -> Result<bool, QuickError> {
        Ok(self.there.contains(&format!("link {name}")))
    }

    fn take_remains(&mut self, _name: &str) -> bool {
        std::mem::take(&mut self.has_remains)
    }

    fn start(&mut self, name: &str) -> Result<u32, QuickError> {
        self.operate()?;
        self.there.insert(format!("link {name}"));
        Ok(INDEX)
    }

    fn find(&mut self, name: &str) -> Result<u32, QuickError> {
        if self.exists(name)? && !self.is_mute { Ok(INDEX) } else { Err(QuickError::Missing(name.into())) }
    }

    fn stop(&mut self, name: &str, _index: u32) -> Result<(), QuickError> {
        self.lose_interface();
        if std::mem::take(&mut self.lingers) { Err(QuickError::Stop(name.to_owned())) } else { Ok(()) }
    }

    fn configure(&mut self, _name: &str, update: &DeviceUpdate) -> Result<(), QuickError> {
        self.operate()?;
        self.state.fwmark = update.fwmark.unwrap_or(0);
        self.state.peers = update
            .peers
            .iter()
            .map(|peer| PeerState {
                allowed_ips: peer.allowed_ips.iter().map(|change| change.net).collect(),
                ..PeerState::new(peer.public_key)
            })
            .collect();
        Ok(())
    }

    fn state(&mut self, _name: &str) -> Result<DeviceState, QuickError> {
        Ok(self.state.clone())
    }

    fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), QuickError> {
        self.operate()?;
        self.there.insert(format!("address {address}"));
        self.routes.push(Route { destination: address.trunc(), table: MAIN_TABLE, ifindex: index, metric: None });
        Ok(())
    }

    fn addresses(&mut self, _index: u32) -> Result<Vec<IpNet>, QuickError> {
        Ok(self.there.iter().filter_map(|line| line.strip_prefix("address ")?.parse().ok()).collect())
    }

    fn mtu_towards(&mut self, address: IpAddr, mark: u32) -> Option<u32> {
        self.marks.push(mark);
        self.mtus.iter().find(|(to, _)| *to == address).map(|(_, mtu)| *mtu)
    }

    fn default_mtu(&mut self) -> Option<u32> {
        self.default_mtu
    }

    fn mtu(&mut self, _index: u32) -> Result<u32, QuickError> {
        Ok(self.there.iter().find_map(|line| line.strip_prefix("mtu ")?.parse().ok()).unwrap())
    }

    fn set_mtu_and_up(&mut self, _index: u32, mtu: u32) -> Result<(), QuickError> {
        self.operate()?;
        self.there.insert(format!("mtu {mtu}"));
        Ok(())
    }

    fn check_dns(&mut self) -> Result<(), QuickError> {
        self.operate()
    }

    fn set_dns(&mut self, _name: &str, words: &[String]) -> Result<(), QuickError> {
        // One that fails may have set some.
        self.there.insert(format!("dns {}", words.join(" ")));
        self.operate()
    }

    fn unset_dns(&mut self, _name: &str) -> Result<(), QuickError> {
        self.operate()?;
        self.there.retain(|line| !line.starts_with("dns "));
        Ok(())
    }

    fn is_in_use(&mut self, table: u32) -> Result<bool, QuickError> {
        Ok(self.routes.iter().any(|route| route.table == table))
    }

    fn routes(&mut self, table: u32) -> Result<Vec<Route>, QuickError> {
        self.listings += 1;
        Ok(self.routes.iter().filter(|route| route.table == table).copied().collect())
    }

    fn add_route(&mut self, route: &Route) -> Result<(), QuickError> {
        self.operate()?;
        self.routes.push(*route);
        Ok(())
    }

    fn rules(&mut self, v6: bool) -> Result<Vec<Rule>, QuickError> {
        self.operate()?;
        Ok(self.rules.iter().filter(|rule| rule.v6 == v6).copied().collect())
    }

    fn add_rule(&mut self, rule: &Rule) -> Result<(), QuickError> {
        let answer = self.operate();
        if answer.is_ok() || self.unheard == Some(Unheard::Done) {
            self.rules.push(*rule);
        }
        answer
    }

    fn remove_rule(&mut self, rule: &Rule) -> Result<(), QuickError> {
        self.operate()?;
        let place = self.rules.iter().position(|there| there == rule);
        match place.map(|place| self.rules.remove(place)) {
            None if self.unheard == Some(Unheard::NotDone) => {
                let (action, source) = ("remove it".to_owned(), io::Error::from_raw_os_error(libc::ENOENT));
                Err(NetlinkError { action, source, hint: None, is_refusal: true }.into())
            }
            None => panic!("there is no such rule: {rule:?}"),
            Some(_) => Ok(()),
        }
    }

    fn set_src_valid_mark(&mut self, on: bool) -> Result<bool, QuickError> {
        self.operate()?;
        Ok(std::mem::replace(&mut self.src_valid_mark, on))
    }

    fn run_hook(&mut self, _name: &str, hook: &str, command: &str) -> Result<(), QuickError> {
        self.hooks.push(format!("{} {command}", hook.split(' ').next().unwrap()));
        self.operate()
    }
}

fn config(text: &str) -> Config {
    let key = PublicKey::from_bytes([9; 32]);
    Config::parse(text.replace("KEY", &key.to_base64()).as_bytes()).unwrap()
}

fn full_tunnel() -> Config {
    config(
        "[Interface]\nAddress = 10.0.0.2/24, fd00::2/64\nDNS = 10.0.0.1, corp\nPreUp = a %i\nPostUp = b\nPreDown = c\nPostDown = d %i%i\n\
         [Peer]\nPublicKey = KEY\nAllowedIPs = 10.0.0.1/32, 0.0.0.0/0, ::/0, 192.168.0.0/16\n",
    )
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn tables(machine: &Paper) -> Vec<(String, u32)> {
    machine.routes.iter().map(|route| (route.destination.to_string(), route.table)).collect()
}

#[test]
fn a_full_tunnel_gets_a_table_of_its_own_and_rules() {
    let mut machine = Paper::default();
    machine.routes.push(Route { destination: "10.9.0.0/16".parse().unwrap(), table: 51820, ifindex: 1, metric: None });
    up(&mut machine, "wg0", &full_tunnel(), |_, _| Ok(vec![None])).unwrap();
    assert_eq!(machine.state.fwmark, 51821, "51820 is in use");
    let expected = [
        ("10.9.0.0/16", 51820),
        ("10.0.0.0/24", 254),
        ("fd00::/64", 254),
        ("192.168.0.0/16", 254),
        ("0.0.0.0/0", 51821),
        ("::/0", 51821),
    ];
    assert_eq!(tables(&machine), expected.map(|(net, table)| (net.to_owned(), table)));
    let rules = [false, true].map(|v6| [Rule::unless_marked(v6, 51821, 51821), Rule::main_without_default(v6)]);
    assert_eq!(machine.rules, rules.concat());
    assert!(
        machine.src_valid_mark && machine.there.contains("mtu 1420") && machine.there.contains("dns 10.0.0.1 corp")
    );
    assert_eq!(machine.hooks, ["PreUp a wg0", "PostUp b"]);

    down(&mut machine, "wg0", &full_tunnel(), |_| panic!("saved")).unwrap();
    assert_eq!(machine.hooks[2..], ["PreDown c", "PostDown d wg0wg0"]);
    assert!(machine.rules.is_empty() && machine.there.is_empty());
    assert_eq!(tables(&machine), [("10.9.0.0/16".to_owned(), 51820)]);
}

#[test]
fn what_the_node_has_itself_does_not_go_through_the_tunnel_though_a_shared_list_of_peers_names_it() {
    let mut config = config(
        "[Interface]\nAddress = 10.0.0.2/24\n[Peer]\nPublicKey = KEY\nAllowedIPs = 192.168.1.0/24, 0.0.0.0/0\n\
         [Peer]\nPublicKey = KEY\nAllowedIPs = 192.168.2.0/24\n",
    );
    let own = adit::PrivateKey::from_bytes([5; 32]);
    config.peers[0].public_key = own.public_key();
    config.interface.private_key = Some(Box::new(own));
    let mut machine = Paper::default();
    up(&mut machine, "wg0", &config, |_, _| Ok(vec![])).unwrap();
    let expected = [("10.0.0.0/24", 254), ("192.168.2.0/24", 254)];
    assert_eq!(tables(&machine), expected.map(|(net, table)| (net.to_owned(), table)));
    assert!(machine.rules.is_empty());
}

#[test]
fn of_several_sections_for_a_peer_the_last_one_counts_for_routes_as_it_does_for_the_daemon() {
    let peer = |net: &str| format!("[Peer]\nPublicKey = KEY\nAllowedIPs = {net}\n");
    let config = config(&format!("[Interface]\n{}{}", peer("10.0.0.0/8"), peer("10.1.0.0/16")));
    let mut machine = Paper::default();
    up(&mut machine, "wg0", &config, |_, _| Ok(vec![])).unwrap();
    assert_eq!(tables(&machine), [("10.1.0.0/16".to_owned(), 254)]);
}

#[test]
fn the_routes_there_are_already_are_listed_once_for_however_many_networks() {
    let nets: Vec<String> = (1..200).map(|number| format!("10.0.{number}.0/24")).collect();
    let peer = format!("[Peer]\nPublicKey = KEY\nAllowedIPs = {}, 10.9.0.0/16, 10.8.0.0/16\n", nets.join(", "));
    let mut machine = Paper::default();
    machine.routes.push(Route { destination: net("10.8.0.0/15"), table: MAIN_TABLE, ifindex: 1, metric: None });
    up(&mut machine, "wg0", &config(&format!("[Interface]\nAddress = 10.0.2.1/23\n{peer}")), |_, _| Ok(vec![None]))
        .unwrap();
    assert_eq!(machine.listings, 1);
    let has = |destination: &str| tables(&machine).iter().any(|(there, _)| there == destination);
    assert!(has("10.0.1.0/24") && !has("10.0.2.0/24") && !has("10.0.3.0/24"), "there is one for its own network");
    assert!(has("10.8.0.0/16") && has("10.9.0.0/16"), "another interface's counts for nothing");
}

#[test]
fn names_are_resolved_when_the_commands_before_everything_else_have_run() {
    let mut machine = Paper::default();
    let nobody = |_: &Config, _: &dyn Fn() -> bool| Err(QuickError::Name("nobody can be asked".to_owned()));
    assert!(up(&mut machine, "wg0", &full_tunnel(), nobody).is_err());
    assert_eq!(machine.hooks, ["PreUp a wg0", "PostDown d wg0wg0"]);
    assert_eq!(machine.traces(), Paper::default().traces(), "nothing was begun");
}

#[test]
fn whatever_step_fails_all_before_it_are_undone() {
    let mut whole = Paper::default();
    up(&mut whole, "wg0", &full_tunnel(), |_, _| Ok(vec![None])).unwrap();
    assert!(whole.operations > 12);
    for fails in 1..=whole.operations {
        let mut machine = Paper { fails: Some(fails), ..Paper::default() };
        let before = machine.traces();
        assert!(up(&mut machine, "wg0", &full_tunnel(), |_, _| Ok(vec![None])).is_err());
        assert_eq!(machine.traces(), before, "operation {fails}");
        // The first operation checks whether name servers can be set, before any command is run.
        let last = machine.hooks.last().map(String::as_str);
        assert_eq!(last, (fails > 1).then_some("PostDown d wg0wg0"), "operation {fails}");
        let has_begun = machine.hooks.iter().any(|hook| hook == "PostUp b");
        assert_eq!(machine.hooks.iter().any(|hook| hook == "PreDown c"), has_begun, "operation {fails}");
    }
}

#[test]
fn whatever_fails_while_an_interface_ends_the_rest_is_done_and_the_first_error_is_told() {
    let make = || {
        let mut machine = Paper::default();
        up(&mut machine, "wg0", &full_tunnel(), |_, _| Ok(vec![None])).unwrap();
        machine.operations = 0;
        machine
    };
    let mut whole = make();
    down(&mut whole, "wg0", &full_tunnel(), |_| Ok(())).unwrap();
    // The command of PreDown, two lists of rules, four rules, the name servers, the command of PostDown.
    assert_eq!(whole.operations, 9);
    for fails in 2..=9 {
        let mut machine = Paper { fails: Some(fails), lingers: true, ..make() };
        let error = down(&mut machine, "wg0", &full_tunnel(), |_| Ok(())).unwrap_err();
        assert_eq!(matches!(error, QuickError::Stop(_)), fails > 7, "operation {fails}: {error}");
        assert_eq!(machine.hooks.last().unwrap(), "PostDown d wg0wg0", "operation {fails}");
        let rules = match fails {
            // The list of a family's.
            2 | 5 => 2,
            3 | 4 | 6 | 7 => 1,
            _ => 0,
        };
        assert_eq!((machine.rules.len(), machine.routes.len()), (rules, 0), "operation {fails}");
        assert_eq!(machine.there.len(), usize::from(fails == 8), "operation {fails}: {:?}", machine.there);
    }
}

#[test]
fn name_servers_and_commands_are_cleaned_up_though_the_daemon_does_not_end() {
    let mut machine = Paper { lingers: true, ..Paper::default() };
    up(&mut machine, "wg0", &full_tunnel(), |_, _| Ok(vec![None])).unwrap();
    assert!(matches!(down(&mut machine, "wg0", &full_tunnel(), |_| Ok(())), Err(QuickError::Stop(_))));
    assert_eq!(machine.hooks.last().unwrap(), "PostDown d wg0wg0");
    assert!(machine.there.is_empty(), "{:?}", machine.there);
}

#[test]
fn domains_without_a_name_server_ask_nothing_of_resolvconf() {
    let operations = |dns: &str| {
        let config = config(&format!("[Interface]\n{dns}"));
        let mut machine = Paper::default();
        up(&mut machine, "wg0", &config, |_, _| Ok(vec![])).unwrap();
        down(&mut machine, "wg0", &config, |_| Ok(())).unwrap();
        machine.operations
    };
    let none = operations("");
    assert_eq!(operations("DNS = corp, example.com\n"), none);
    assert_eq!(operations("DNS = corp, fd00::1\n"), none + 3, "look for it, set, unset");
}

#[test]
fn nothing_is_cleaned_up_after_commands_that_were_not_run() {
    let config = config("[Interface]\nAddress = 10.0.0.2/24\nPostUp = b\nPreDown = c\nPostDown = d\n");
    for (fails, hooks) in [(3, vec![]), (5, vec!["PostUp b", "PreDown c", "PostDown d"])] {
        let mut machine = Paper { fails: Some(fails), ..Paper::default() };
        assert!(up(&mut machine, "wg0", &config, |_, _| Ok(vec![])).is_err());
        assert_eq!(machine.hooks, hooks);
    }
}

#[test]
fn an_interface_that_exists_is_left_alone() {
    let mut machine = Paper::default();
    machine.there.insert("link wg0".into());
    assert!(matches!(up(&mut machine, "wg0", &full_tunnel(), |_, _| Ok(vec![])), Err(QuickError::Exists(_))));
    assert_eq!((machine.operations, machine.there.len()), (0, 1));
}

#[test]
fn the_table_may_be_off_or_a_number() {
    for (table, expected) in
        [("off", vec![]), ("77", vec![("10.0.0.0/8".to_owned(), 77), ("0.0.0.0/0".to_owned(), 77)])]
    {
        let config = config(
            &format!("[Interface]\nTable = {table}\n[Peer]\nPublicKey = KEY\nAllowedIPs = ::ffff:0:0/96\n")
                .replace("::ffff:0:0/96", "0.0.0.0/0, 10.0.0.0/8"),
        );
        let mut machine = Paper::default();
        up(&mut machine, "wg0", &config, |_, _| Ok(vec![None])).unwrap();
        assert_eq!(tables(&machine), expected);
        assert_eq!((machine.state.fwmark, machine.rules.len(), machine.src_valid_mark), (0, 0, false));
    }
}

#[test]
fn the_mark_of_the_file_names_the_table_too() {
    let config = config("[Interface]\nFwMark = 0x10\n[Peer]\nPublicKey = KEY\nAllowedIPs = ::/0\n");
    let mut machine = Paper::default();
    up(&mut machine, "wg0", &config, |_, _| Ok(vec![None])).unwrap();
    assert_eq!(machine.rules, [Rule::unless_marked(true, 16, 16), Rule::main_without_default(true)]);
    assert!(!machine.src_valid_mark, "it is IPv4's");
}

#[test]
fn the_mtu_fits_through_the_way_to_every_endpoint() {
    let endpoints =
        ["192.0.2.1:1", "[2001:db8::1]:2", "192.0.2.3:3"].map(|text| Some(text.parse::<SocketAddr>().unwrap()));
    let mtu = |text: &str, mtus: &[u32]| {
        let addresses = endpoints.iter().flatten().map(SocketAddr::ip);
        let mut machine = Paper { mtus: addresses.zip(mtus.iter().copied()).collect(), ..Paper::default() };
        up(&mut machine, "wg0", &config(text), |_, _| Ok(endpoints.to_vec())).unwrap();
        Machine::mtu(&mut machine, INDEX).unwrap()
    };
    assert_eq!(mtu("", &[1500, 1400, 9000]), 1320);
    assert_eq!(mtu("", &[9000]), 8920, "no way to the others");
    assert_eq!(mtu("", &[]), 1420);
    assert_eq!(mtu("", &[65_700]), 65_535);
    assert_eq!(mtu("[Interface]\nMTU = 1280", &[9000]), 1280);
}
