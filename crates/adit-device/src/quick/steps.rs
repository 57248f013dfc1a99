//! The steps of bringing an interface up and down, and of undoing them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use adit::PrivateKey;
use ipnet::IpNet;

use super::machine::Machine;
use super::{QuickError, dns};
use crate::conf::{Config, InterfaceConfig, Table};
use crate::netlink::{MAIN_TABLE, Route, Rule};

/// The mark and table of a default route, unless the file has a mark or the table is in use.
const FIRST_TABLE: u32 = 51820;

/// What a packet grows by on its way through the tunnel, over IPv6.
const OVERHEAD: u32 = 80;

/// The MTU of an ordinary network, where nothing better is known.
const ETHERNET: u32 = 1500;

/// Makes an interface. `resolve` gives the endpoints of the peers. It is called after the commands of `PreUp`, since
/// these may bring up what the names are resolved through.
pub(super) fn up(
    machine: &mut impl Machine,
    name: &str,
    config: &Config,
    resolve: impl FnOnce(&Config, &dyn Fn() -> bool) -> Result<Vec<Option<SocketAddr>>, QuickError>,
) -> Result<(), QuickError> {
    if machine.exists(name)? {
        return Err(QuickError::Exists(name.to_owned()));
    }
    let mut attempt = Attempt { machine, name, interface: &config.interface, done: Vec::new(), has_run_hooks: false };
    attempt.run(config, resolve).inspect_err(|_| {
        tracing::warn!(interface = name, "undoing everything");
        attempt.undo();
    })
}

/// Ends an interface. `save` is given what the file should become, if the file wants to be kept up to date. Where the
/// interface is missing since its daemon ended in another way, what that left is cleaned up.
pub(super) fn down(
    machine: &mut impl Machine,
    name: &str,
    config: &Config,
    save: impl FnOnce(&Config) -> Result<(), QuickError>,
) -> Result<(), QuickError> {
    let interface = &config.interface;
    let index = match machine.find(name) {
        Err(missing @ QuickError::Missing(_)) if !machine.exists(name)? => {
            if machine.take_remains(name) {
                let removed = remove_dead_rules(machine, config);
                if let Err(error) = removed.and(finish(machine, name, interface)) {
                    tracing::error!(interface = name, %error, "not all that was left is cleaned up");
                }
            }
            return Err(missing);
        }
        found => found?,
    };
    run_hooks(machine, "PreDown", &interface.pre_down, name)?;
    let state = machine.state(name)?;
    if interface.save_config {
        save(&current(machine, index, config, Config::from_state(&state))?)?;
    }
    // The rest is cleaned up whatever becomes of the rules, of the daemon and of the name servers.
    let mut removed = Ok(());
    let takes_all = |v6| move |net: &IpNet| net.prefix_len() == 0 && net.addr().is_ipv6() == v6;
    for v6 in [false, true] {
        let is_default = state.peers.iter().flat_map(|peer| &peer.allowed_ips).any(takes_all(v6));
        if interface.table == Table::Auto && state.fwmark != 0 && is_default {
            removed = removed.and(remove_rules(machine, v6, state.fwmark));
        }
    }
    let stopped = machine.stop(name, index);
    removed.and(stopped).and(finish(machine, name, interface))
}

/// What is left to do when the interface is gone.
fn finish(machine: &mut impl Machine, name: &str, interface: &InterfaceConfig) -> Result<(), QuickError> {
    let unset = if dns::has_servers(&interface.dns) { machine.unset_dns(name) } else { Ok(()) };
    unset.and(run_hooks(machine, "PostDown", &interface.post_down, name))
}

/// One attempt to bring an interface up.
struct Attempt<'a, M> {
    machine: &'a mut M,
    name: &'a str,
    interface: &'a InterfaceConfig,
    done: Vec<Done>,
    /// Whether any command has been begun: `PostDown` cleans up after those of `PreUp` and of `PostUp`.
    has_run_hooks: bool,
}

/// What has been done and must be undone, last first.
enum Done {
    Start {
        index: u32,
    },
    Dns,
    Rule(Rule),
    /// The kernel was not heard when it was asked for this rule: it may have made it.
    PerhapsRule {
        rule: Rule,
        table: u32,
    },
    SrcValidMark,
    PostUp,
}

impl<M: Machine> Attempt<'_, M> {
    fn run(
        &mut self,
        config: &Config,
        resolve: impl FnOnce(&Config, &dyn Fn() -> bool) -> Result<Vec<Option<SocketAddr>>, QuickError>,
    ) -> Result<(), QuickError> {
        let routes = routes(config);
        let table = self.default_table(config, &routes)?;
        if dns::has_servers(&self.interface.dns) {
            self.machine.check_dns()?;
        } else if !self.interface.dns.is_empty() {
            tracing::warn!(interface = self.name, "DNS has no address of a name server: its domains are passed over");
        }

        if !self.interface.pre_up.is_empty() {
            self.has_run_hooks = true;
            run_hooks(self.machine, "PreUp", &self.interface.pre_up, self.name)?;
        }
        self.machine.check_interrupted()?;
        let endpoints = resolve(config, &|| self.machine.check_interrupted().is_ok());
        self.machine.check_interrupted()?;
        let endpoints = endpoints?;
        let mut update = config.to_update(&endpoints);
        update.fwmark = table.or(update.fwmark);
        let index = self.machine.start(self.name)?;
        self.done.push(Done::Start { index });
        self.machine.check_interrupted()?;
        self.machine.configure(self.name, &update)?;
        for &address in &self.interface.addresses {
            self.machine.add_address(index, address)?;
        }
        let mtu = self.mtu(&endpoints, update.fwmark.unwrap_or(0));
        self.machine.set_mtu_and_up(index, mtu)?;
        if dns::has_servers(&self.interface.dns) {
            self.done.push(Done::Dns);
            self.machine.set_dns(self.name, &self.interface.dns)?;
        }
        let own = self.own_routes(index)?;
        for net in routes {
            self.machine.check_interrupted()?;
            self.add_route(index, net, table, &own)?;
        }
        if !self.interface.post_up.is_empty() {
            self.has_run_hooks = true;
            self.done.push(Done::PostUp);
            run_hooks(self.machine, "PostUp", &self.interface.post_up, self.name)?;
        }
        self.machine.check_interrupted()
    }

    /// The table, and mark, for default routes, if there are such.
    fn default_table(&mut self, config: &Config, routes: &[IpNet]) -> Result<Option<u32>, QuickError> {
        if self.interface.table != Table::Auto || routes.iter().all(|net| net.prefix_len() != 0) {
            return Ok(None);
        }
        if let Some(mark) = config.interface.fwmark.filter(|&mark| mark != 0) {
            return Ok(Some(mark));
        }
        let mut table = FIRST_TABLE;
        while self.machine.is_in_use(table)? {
            table += 1;
        }
        Ok(Some(table))
    }

    /// The MTU of the file, or else the one that fits the way to every endpoint.
    fn mtu(&mut self, endpoints: &[Option<SocketAddr>], mark: u32) -> u32 {
        if let Some(mtu) = self.interface.mtu {
            return mtu.into();
        }
        let machine = &mut *self.machine;
        let outer = endpoints.iter().flatten().filter_map(|endpoint| machine.mtu_towards(endpoint.ip(), mark)).min();
        let outer = outer.or_else(|| machine.default_mtu()).unwrap_or(ETHERNET);
        // A loopback's MTU is above what an interface can have.
        outer.saturating_sub(OVERHEAD).clamp(576, u16::MAX.into())
    }

    /// Where the routes lead that the kernel has made for the interface's own addresses. Those that are added here need
    /// not be known: none contains one that comes after it.
    fn own_routes(&mut self, ifindex: u32) -> Result<Vec<IpNet>, QuickError> {
        if self.interface.table != Table::Auto {
            return Ok(Vec::new());
        }
        let routes = self.machine.routes(MAIN_TABLE)?;
        Ok(routes.iter().filter(|route| route.ifindex == ifindex).map(|route| route.destination).collect())
    }

    fn add_route(
        &mut self,
        ifindex: u32,
        net: IpNet,
        default_table: Option<u32>,
        own: &[IpNet],
    ) -> Result<(), QuickError> {
        let route = |table| Route { destination: net, table, ifindex, metric: None };
        match (self.interface.table, default_table) {
            (Table::Off, _) => Ok(()),
            (Table::Number(table), _) => self.make_route(&route(table)),
            (Table::Auto, Some(table)) if net.prefix_len() == 0 => {
                let v6 = net.addr().is_ipv6();
                self.make_route(&route(table))?;
                self.add_rule(Rule::unless_marked(v6, table, table), table)?;
                self.add_rule(Rule::main_without_default(v6), table)?;
                if !v6 && !self.machine.set_src_valid_mark(true)? {
                    self.done.push(Done::SrcValidMark);
                }
                Ok(())
            }
            (Table::Auto, _) if own.iter().any(|own| own.contains(&net)) => Ok(()),
            (Table::Auto, _) => self.make_route(&route(MAIN_TABLE)),
        }
    }

    fn make_route(&mut self, route: &Route) -> Result<(), QuickError> {
        match self.machine.add_route(route) {
            Err(QuickError::Netlink(error)) if error.is_exists() => {
                Err(QuickError::Route { net: route.destination, table: route.table })
            }
            result => result,
        }
    }

    /// Adds a rule of the tunnel that has this table.
    fn add_rule(&mut self, rule: Rule, table: u32) -> Result<(), QuickError> {
        let added = self.machine.add_rule(&rule);
        match &added {
            // The rule is another tunnel's, where the kernel keeps no two alike; it will be removed with that tunnel.
            Err(QuickError::Netlink(error)) if error.is_exists() => return Ok(()),
            Err(QuickError::Netlink(error)) if !error.is_refusal => {
                self.done.push(Done::PerhapsRule { rule, table });
            }
            Err(_) => {}
            Ok(()) => self.done.push(Done::Rule(rule)),
        }
        added
    }

    fn undo(&mut self) {
        let report = |undone: Result<(), QuickError>| {
            if let Err(error) = undone {
                tracing::error!(interface = self.name, %error, "could not be undone");
            }
        };
        while let Some(done) = self.done.pop() {
            report(match done {
                Done::PostUp => run_hooks(self.machine, "PreDown", &self.interface.pre_down, self.name),
                Done::SrcValidMark => self.machine.set_src_valid_mark(false).map(drop),
                Done::Rule(rule) => remove_rule(self.machine, &rule),
                Done::PerhapsRule { rule, table } => remove_what_may_be(self.machine, &rule, table),
                Done::Dns => self.machine.unset_dns(self.name),
                // Its addresses and routes go with it, those too of which the kernel was not heard.
                Done::Start { index } => self.machine.stop(self.name, index),
            });
        }
        if self.has_run_hooks {
            report(run_hooks(self.machine, "PostDown", &self.interface.post_down, self.name));
        }
    }
}

/// Where routes are wanted, the most specific first. If all nodes share a list of peers, it names this node too, which
/// is no peer of its own: traffic to its own networks does not go through the tunnel.
pub(super) fn routes(config: &Config) -> Vec<IpNet> {
    let own = config.interface.private_key.as_deref().map(PrivateKey::public_key);
    // Of several sections for one peer the last one counts.
    let peers: BTreeMap<_, _> = config.peers.iter().map(|peer| (peer.public_key, peer)).collect();
    let peers = peers.values().filter(|peer| Some(peer.public_key) != own);
    let mut routes: Vec<IpNet> = peers.flat_map(|peer| &peer.allowed_ips).copied().collect();
    routes.sort_by_key(|net| (std::cmp::Reverse(net.prefix_len()), *net));
    routes.dedup();
    routes
}

fn remove_rules(machine: &mut impl Machine, v6: bool, table: u32) -> Result<(), QuickError> {
    let rules = machine.rules(v6)?;
    // Whatever becomes of one, the others go too.
    let mut removed = Ok(());
    for rule in rules.iter().filter(|rule| rule.table == table) {
        removed = removed.and(remove_rule(machine, rule));
    }
    // The other rule of this tunnel, unless another tunnel needs it too.
    let is_another = |rule: &Rule| is_of_a_tunnel(rule) && rule.table != table;
    let suppresses = |rule: &&Rule| rule.table == MAIN_TABLE && rule.suppress_prefix_length == Some(0);
    if !rules.iter().any(is_another) {
        for rule in rules.iter().filter(suppresses) {
            removed = removed.and(remove_rule(machine, rule));
        }
    }
    removed
}

/// Removes the rules that the tunnel of a killed daemon may have left. Which table was its own only the file's mark
/// tells. The routes of that table went with the interface, so one with routes is a living tunnel's.
fn remove_dead_rules(machine: &mut impl Machine, config: &Config) -> Result<(), QuickError> {
    let mark = config.interface.fwmark.filter(|&mark| mark != 0);
    let may_be_its = |table| mark.map_or(table >= FIRST_TABLE, |mark| table == mark);
    let mut remove = |v6| {
        let mut removed = Ok(());
        for rule in machine.rules(v6)?.iter().filter(|rule| is_of_a_tunnel(rule) && may_be_its(rule.table)) {
            if !machine.is_in_use(rule.table)? {
                removed = removed.and(remove_rules(machine, v6, rule.table));
            }
        }
        removed
    };
    let mut removed = Ok(());
    for net in routes(config).iter().filter(|net| config.interface.table == Table::Auto && net.prefix_len() == 0) {
        removed = removed.and(remove(net.addr().is_ipv6()));
    }
    removed
}

/// Whether it is what sends packets to the table of a default route.
fn is_of_a_tunnel(rule: &Rule) -> bool {
    rule.invert && rule.fwmark == Some(rule.table)
}

/// If somebody else has removed it, that is no reason to leave the rest.
fn remove_rule(machine: &mut impl Machine, rule: &Rule) -> Result<(), QuickError> {
    match machine.remove_rule(rule) {
        Err(QuickError::Netlink(error)) if error.is_not_found() => Ok(()),
        result => result,
    }
}

/// Removes a rule if it was made for the tunnel of this table. One that another tunnel needs too was not: the kernel
/// keeps no two alike.
fn remove_what_may_be(machine: &mut impl Machine, rule: &Rule, table: u32) -> Result<(), QuickError> {
    let is_anothers = |other: &Rule| is_of_a_tunnel(other) && other.table != table;
    if rule.table == MAIN_TABLE && machine.rules(rule.v6)?.iter().any(is_anothers) {
        return Ok(());
    }
    remove_rule(machine, rule)
}

/// Runs the commands of one kind, with `%i` standing for the interface. The commands are not logged: they may hold
/// secrets.
fn run_hooks(machine: &mut impl Machine, kind: &str, commands: &[String], name: &str) -> Result<(), QuickError> {
    for (number, command) in (1..).zip(commands) {
        let hook = format!("{kind} command {number} of {}", commands.len());
        tracing::info!(interface = name, "running {hook}");
        machine.run_hook(name, &hook, &command.replace("%i", name))?;
    }
    Ok(())
}

/// What the file should become: what is in force now, and of the settings for `wg-quick` those that the interface does
/// not have itself (`DNS`, `Table`, the commands, `SaveConfig`) as the file has them.
fn current(machine: &mut impl Machine, index: u32, config: &Config, mut current: Config) -> Result<Config, QuickError> {
    let live = std::mem::take(&mut current.interface);
    // The kernel gives a link-local address unasked.
    let is_unasked = |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
    let mut addresses = machine.addresses(index)?;
    addresses.retain(|net| !is_unasked(net) || config.interface.addresses.contains(net));
    let mtu = config.interface.mtu.map(|_| machine.mtu(index)).transpose()?;
    current.interface = InterfaceConfig {
        private_key: live.private_key,
        listen_port: live.listen_port,
        fwmark: live.fwmark,
        addresses,
        mtu: mtu.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX)),
        ..config.interface.clone()
    };
    Ok(current)
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
