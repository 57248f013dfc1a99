//! Policy rules: which packets look into which routing table.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{MAIN_TABLE, Netlink, Result};

/// A rule that sends packets to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whether it is for IPv6; otherwise for IPv4.
    pub v6: bool,
    /// The place among the rules, lower ones first; `None` is before all others but the first.
    pub priority: Option<u32>,
    /// The mark that packets must carry; `None` for any packet.
    pub fwmark: Option<u32>,
    /// Whether it is for the packets that do *not* match.
    pub invert: bool,
    /// The table to look into.
    pub table: u32,
    /// Routes of a prefix of this length or shorter are passed over.
    pub suppress_prefix_length: Option<u32>,
}

impl Rule {
    /// Every packet that does not carry this mark looks into `table`.
    pub fn unless_marked(v6: bool, fwmark: u32, table: u32) -> Rule {
        Rule { v6, priority: None, fwmark: Some(fwmark), invert: true, table, suppress_prefix_length: None }
    }

    /// The main table is used, except for its default route.
    pub fn main_without_default(v6: bool) -> Rule {
        Rule { v6, priority: None, fwmark: None, invert: false, table: MAIN_TABLE, suppress_prefix_length: Some(0) }
    }
}

impl Netlink {
    /// Adds a rule.
    ///
    /// # Errors
    /// [`NetlinkError::is_exists`](super::NetlinkError::is_exists) if there is the same one.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        let message = RouteNetlinkMessage::NewRule(rule_message(rule));
        self.request(&format!("cannot add the rule for table {}", rule.table), message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a rule; without a priority, the first that is otherwise the same.
    ///
    /// # Errors
    /// [`NetlinkError::is_not_found`](super::NetlinkError::is_not_found) if there is none.
    pub fn remove_rule(&mut self, rule: &Rule) -> Result<()> {
        // A known priority names the rule by itself; its other conditions are left out, since not all of them are known
        // here.
        let named = if rule.priority.is_some() { Rule { fwmark: None, invert: false, ..*rule } } else { *rule };
        let message = RouteNetlinkMessage::DelRule(rule_message(&named));
        self.request(&format!("cannot remove the rule for table {}", rule.table), message, 0)
    }

    /// The rules of one family that send packets to a table. Their conditions other than a mark are not told.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn rules(&mut self, v6: bool) -> Result<Vec<Rule>> {
        let mut request = RuleMessage::default();
        request.header.family = rule_family(v6);
        let answers = self.dump("cannot list the rules", RouteNetlinkMessage::GetRule(request))?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRule(message) if message.header.family == rule_family(v6) => rule_of(message),
                _ => None,
            })
            .collect())
    }
}

fn rule_family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = rule_family(rule.v6);
    message.header.action = RuleAction::ToTable;
    if rule.invert {
        message.header.flags = RuleFlags::Invert;
    }
    message.attributes.push(RuleAttribute::Table(rule.table));
    let optional = [
        rule.priority.map(RuleAttribute::Priority),
        rule.fwmark.map(RuleAttribute::FwMark),
        rule.suppress_prefix_length.map(RuleAttribute::SuppressPrefixLen),
    ];
    message.attributes.extend(optional.into_iter().flatten());
    message
}

fn rule_of(message: &RuleMessage) -> Option<Rule> {
    if message.header.action != RuleAction::ToTable {
        return None;
    }
    let mut rule = Rule {
        v6: message.header.family == AddressFamily::Inet6,
        // The kernel leaves a priority of 0 out.
        priority: Some(0),
        fwmark: None,
        invert: message.header.flags.contains(RuleFlags::Invert),
        table: u32::from(message.header.table),
        suppress_prefix_length: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Priority(priority) => rule.priority = Some(*priority),
            RuleAttribute::FwMark(mark) => rule.fwmark = Some(*mark),
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => {
                rule.suppress_prefix_length = Some(*length);
            }
            _ => {}
        }
    }
    Some(rule)
}
