use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;

use super::testing::{add_address, connect, in_new_namespace, net, new_namespace};
use super::*;

#[test]
fn a_pair_of_interfaces_joins_two_namespaces() {
    in_new_namespace(|| {
        let other = new_namespace();
        let (left, _) = connect(&other, 1_400, &["10.0.0.1/24"], &["10.0.0.2/24"]);
        let mut here = Netlink::open().expect("netlink");
        let link = here.link("left").expect("link");
        assert_eq!((link.index, link.mtu, link.is_up()), (left, 1_400, true));
        assert_eq!(here.link_by_index(left).expect("link"), link);
        assert!(here.link("right").is_err_and(|error| error.is_not_found()), "it is in the other namespace");

        // And packets pass.
        let receiver = namespace::run_in(other.as_fd(), || UdpSocket::bind("10.0.0.2:7000")).expect("entered");
        let receiver = receiver.expect("bound");
        receiver.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        let sender = UdpSocket::bind("10.0.0.1:0").expect("bound");
        sender.send_to(b"hello", "10.0.0.2:7000").expect("sent");
        let mut buffer = [0; 16];
        let (length, from) = receiver.recv_from(&mut buffer).expect("received");
        assert_eq!((&buffer[..length], from), (&b"hello"[..], sender.local_addr().expect("address")));
    });
}

#[test]
fn an_interface_is_changed_and_deleted() {
    in_new_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        netlink.create_veth("a", "b", None).expect("veth");
        let index = netlink.link("a").expect("link").index;
        assert!(!netlink.link("a").expect("link").is_up());
        netlink.set_up(index, true).expect("up");
        netlink.set_mtu(index, 1_280).expect("MTU");
        let link = netlink.link("a").expect("link");
        assert_eq!((link.is_up(), link.mtu), (true, 1_280));
        netlink.set_up(index, false).expect("down");
        assert!(!netlink.link("a").expect("link").is_up());
        netlink.delete_link(index).expect("deleted");
        for name in ["a", "b"] {
            assert!(netlink.link(name).is_err_and(|error| error.is_not_found()), "{name}");
        }
    });
}

#[test]
fn an_error_says_what_was_tried_and_why_it_failed() {
    in_new_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        let error = netlink.link("nowhere0").expect_err("there is none");
        assert_eq!(error.errno(), libc::ENODEV);
        assert!(error.to_string().starts_with("cannot find the interface nowhere0: No such device"), "{error}");
        netlink.create_veth("a", "b", None).expect("veth");
        assert!(netlink.create_veth("a", "c", None).is_err_and(|error| error.is_exists()));
        let index = netlink.link("a").expect("link").index;
        let error = netlink.set_mtu(index, 1_000_000).expect_err("too large");
        assert_eq!(error.errno(), libc::EINVAL);
        assert!(error.hint.is_some(), "the kernel explains itself: {error}");
    });
}

#[test]
fn addresses_are_added_once_listed_and_removed() {
    in_new_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        netlink.create_veth("a", "b", None).expect("veth");
        let index = netlink.link("a").expect("link").index;
        let addresses = ["10.1.0.1/24", "10.1.0.2/24", "10.2.0.1/32", "fd00::1/64", "fd00:1::1/128"].map(net);
        for address in addresses {
            netlink.add_address(index, address, true).expect("added");
            netlink.add_address(index, address, true).expect("added again");
        }
        let mut listed = netlink.addresses(index).expect("listed");
        listed.sort();
        assert_eq!(listed, addresses);
        netlink.remove_address(index, addresses[2]).expect("removed");
        assert!(netlink.remove_address(index, addresses[2]).is_err_and(|error| error.is_not_found()));
        assert_eq!(netlink.addresses(index).expect("listed").len(), 4);
    });
}

#[test]
fn an_ipv6_address_without_duplicate_detection_is_usable_at_once() {
    in_new_namespace(|| {
        let other = new_namespace();
        connect(&other, 1_500, &["fd00::1/64"], &["fd00::2/64"]);
        UdpSocket::bind("[fd00::1]:0").expect("a tentative address could not be bound");
    });
}

#[test]
fn a_table_is_in_use_though_its_routes_lead_to_no_interface_or_to_several() {
    in_new_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        netlink.create_veth("a", "b", None).expect("veth");
        for (table, route) in [(51_820, "unreachable 192.0.2.0/24"), (77, "192.0.2.0/24 nexthop dev a nexthop dev b")] {
            assert!(!netlink.has_routes(table).expect("listed"));
            for name in ["a", "b"] {
                let index = netlink.link(name).expect("link").index;
                netlink.set_up(index, true).expect("up");
            }
            let arguments = format!("route add table {table} {route}");
            assert!(Command::new("ip").args(arguments.split(' ')).status().expect("ip").success(), "{route}");
            assert!(netlink.has_routes(table).expect("listed"), "{route}");
        }
    });
}

#[test]
fn routes_are_added_once_and_listed_in_any_table() {
    in_new_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        netlink.create_veth("a", "b", None).expect("veth");
        let index = netlink.link("a").expect("link").index;
        netlink.set_up(index, true).expect("up");
        for destination in ["0.0.0.0/0", "192.0.2.0/24", "::/0", "2001:db8::/32"].map(net) {
            for table in [MAIN_TABLE, 200, 51_820] {
                let route = Route { destination, table, ifindex: index, metric: Some(700) };
                netlink.add_route(&route).expect("added");
                assert!(netlink.add_route(&route).is_err_and(|error| error.is_exists()), "{route:?}");
                assert!(netlink.routes(table).expect("listed").contains(&route), "{route:?}");
            }
        }
    });
}

#[test]
fn the_way_to_an_address_is_told() {
    in_new_namespace(|| {
        let other = new_namespace();
        let (left, _) = connect(&other, 1_400, &["10.0.0.1/24", "fd00::1/64"], &["10.0.0.2/24", "fd00::2/64"]);
        let mut netlink = Netlink::open().expect("netlink");
        for (to, source) in [("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")] {
            let lookup = netlink.route_to(to.parse().expect("address"), 0).expect("found");
            assert_eq!(lookup.ifindex, left);
            assert_eq!(lookup.source, Some(source.parse::<IpAddr>().expect("address")));
            assert_eq!((lookup.gateway, lookup.mtu), (None, None));
        }
        let far = "192.0.2.1".parse().expect("address");
        assert_eq!(netlink.route_to(far, 0).expect_err("no way").errno(), libc::ENETUNREACH);

        // With a mark that a rule sends elsewhere.
        netlink
            .add_route(&Route { destination: net("0.0.0.0/0"), table: 99, ifindex: left, metric: None })
            .expect("route");
        let rule = Rule { invert: false, ..Rule::unless_marked(false, 7, 99) };
        netlink.add_rule(&rule).expect("rule");
        assert_eq!(netlink.route_to(far, 7).expect("found").ifindex, left);
        assert_eq!(netlink.route_to(far, 8).expect_err("no way").errno(), libc::ENETUNREACH);
    });
}

#[test]
fn rules_are_added_listed_and_removed() {
    in_new_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        for v6 in [false, true] {
            let before = netlink.rules(v6).expect("listed");
            let rules = [Rule::unless_marked(v6, 51_820, 51_820), Rule::main_without_default(v6)];
            for rule in rules {
                netlink.add_rule(&rule).expect("added");
                let listed = netlink.rules(v6).expect("listed");
                let found = listed.iter().find(|found| Rule { priority: None, ..**found } == rule);
                assert!(found.is_some(), "{rule:?} in {listed:?}");
            }
            for rule in rules {
                netlink.remove_rule(&rule).expect("removed");
                assert!(netlink.remove_rule(&rule).is_err_and(|error| error.is_not_found()), "{rule:?}");
            }
            assert_eq!(netlink.rules(v6).expect("listed"), before);
        }
    });
}

#[test]
fn the_monitor_tells_of_changes_deletions_and_lost_addresses() {
    in_new_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        netlink.create_veth("a", "b", None).expect("veth");
        let index = netlink.link("a").expect("link").index;
        netlink.add_address(index, net("10.3.0.1/24"), true).expect("address");
        netlink.add_address(index, net("fd03::1/64"), true).expect("address");
        let mut monitor = LinkMonitor::open().expect("monitor");
        // The kernel queues its news before it answers a request, so that all are there once a request is answered.
        let mut news = || std::iter::from_fn(|| monitor.next_event().expect("monitor")).collect::<Vec<_>>();
        assert_eq!(news(), [], "nothing has happened yet");

        netlink.set_mtu(index, 1_300).expect("MTU");
        let of_a = |event: &LinkEvent| matches!(event, LinkEvent::Changed(l) if l.index == index && l.mtu == 1_300 && !l.is_up());
        assert!(news().iter().any(of_a));

        netlink.set_up(index, true).expect("up");
        assert!(news().iter().any(|event| matches!(event, LinkEvent::Changed(l) if l.name == "a" && l.is_up())));

        for address in ["10.3.0.1/24", "fd03::1/64"].map(net) {
            netlink.remove_address(index, address).expect("removed");
            assert!(news().contains(&LinkEvent::AddressRemoved { ifindex: index, address: address.addr() }));
        }

        netlink.delete_link(index).expect("deleted");
        assert!(news().iter().any(|event| matches!(event, LinkEvent::Deleted(l) if l.index == index && l.name == "a")));
        assert_eq!(news(), [], "then it is silent");
    });
}

#[test]
fn the_monitor_tells_of_routes_and_rules_of_both_families() {
    in_new_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        netlink.create_veth("a", "b", None).expect("veth");
        let [ifindex, other] = ["a", "b"].map(|name| netlink.link(name).expect("link").index);
        netlink.set_up(ifindex, true).expect("up");
        netlink.set_up(other, true).expect("up");
        let mut monitor = LinkMonitor::open_for_routes().expect("monitor");
        let mut news = || std::iter::from_fn(|| monitor.next_event().expect("monitor")).collect::<Vec<_>>();
        for destination in ["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0", "::/0"].map(net) {
            netlink.add_route(&Route { destination, table: MAIN_TABLE, ifindex, metric: None }).expect("route");
            assert!(news().contains(&LinkEvent::RouteChanged { destination }), "{destination}");
        }
        for (v6, destination) in [(false, net("0.0.0.0/0")), (true, net("::/0"))] {
            netlink.add_rule(&Rule::unless_marked(v6, 7, 99)).expect("rule");
            assert!(news().contains(&LinkEvent::RouteChanged { destination }), "a rule of {destination}");
        }
        let command = "-6 route add 2001:db8:1::/48 nexthop via fe80::1 dev a nexthop via fe80::2 dev b";
        assert!(Command::new("ip").args(command.split(' ')).status().expect("ip").success());
        assert!(
            news().contains(&LinkEvent::RouteChanged { destination: net("2001:db8:1::/48") }),
            "over several links"
        );
    });
}

#[test]
fn the_monitor_tells_that_a_next_hop_has_changed_though_its_routes_are_not_told() {
    in_new_namespace(|| {
        let ip = |command: &str| assert!(Command::new("ip").args(command.split(' ')).status().expect("ip").success());
        // The routes of a next hop are told with it unless this is off.
        std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0").expect("this test needs root");
        let mut netlink = Netlink::open().expect("netlink");
        netlink.create_veth("a", "b", None).expect("veth");
        for name in ["a", "b"] {
            let index = netlink.link(name).expect("link").index;
            netlink.set_up(index, true).expect("up");
        }
        ip("nexthop add id 5 dev a");
        ip("route add 192.0.2.0/24 nhid 5");
        let mut monitor = LinkMonitor::open_for_routes().expect("monitor");
        let mut news = || std::iter::from_fn(|| monitor.next_event().expect("monitor")).collect::<Vec<_>>();
        for command in ["nexthop replace id 5 dev b", "nexthop del id 5"] {
            ip(command);
            assert!(news().contains(&LinkEvent::NextHopChanged), "{command}");
        }
    });
}

#[test]
fn the_way_of_a_packet_that_names_its_source_and_a_link_is_told() {
    in_new_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        let [first, second] = [("a", "b", "fd00::1/128"), ("c", "d", "fd01::1/128")].map(|(name, other, address)| {
            netlink.create_veth(name, other, None).expect("veth");
            let [index, other] = [name, other].map(|name| netlink.link(name).expect("link").index);
            netlink.set_up(other, true).expect("up");
            netlink.set_up(index, true).expect("up");
            add_address(&mut netlink, index, address);
            index
        });
        let far = net("2001:db8::1/128");
        netlink
            .add_route(&Route { destination: far, table: MAIN_TABLE, ifindex: first, metric: Some(100) })
            .expect("route");
        let source = net("fd00::1/128").addr();
        let link = |netlink: &mut Netlink, to: IpNet, index| {
            netlink.route_of_datagram((source, 1).into(), index, (to.addr(), 2).into(), 0).expect("found").ifindex
        };
        for index in [first, second] {
            assert_eq!(link(&mut netlink, net("fe80::5/64"), index), index, "link-local");
        }
        assert_eq!(link(&mut netlink, far, first), first);
        netlink
            .add_route(&Route { destination: far, table: MAIN_TABLE, ifindex: second, metric: Some(50) })
            .expect("route");
        assert_eq!(link(&mut netlink, far, first), second, "the better route, whatever link is named");
        let nowhere = netlink.route_of_datagram((source, 1).into(), first, "[2001:db8::2]:2".parse().unwrap(), 0);
        assert_eq!(nowhere.expect_err("no way").errno(), libc::ENETUNREACH);
    });
}

#[test]
fn which_link_has_an_address_is_told_of_both_families() {
    in_new_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        netlink.create_veth("a", "b", None).expect("veth");
        let [link, other, loopback] = ["a", "b", "lo"].map(|name| netlink.link(name).expect("link").index);
        for index in [link, other, loopback] {
            netlink.set_up(index, true).expect("up");
        }
        for (address, of) in [("10.0.0.1/24", link), ("fd00::1/64", link), ("192.0.2.1/32", loopback)] {
            add_address(&mut netlink, of, address);
            assert_eq!(netlink.link_of_address(net(address).addr()).expect("an answer"), of, "{address}");
        }
        let error = netlink.link_of_address("198.51.100.1".parse().unwrap()).expect_err("of nobody here");
        assert_eq!(error.errno(), libc::ENETUNREACH);
    });
}

#[test]
fn a_connection_speaks_of_the_namespace_in_which_it_was_opened() {
    in_new_namespace(|| {
        Netlink::open().expect("netlink").create_veth("a", "b", None).expect("veth");
        let other = new_namespace();
        let mut there = Netlink::open_in(other.as_fd()).expect("netlink");
        assert!(there.link("a").is_err_and(|error| error.is_not_found()));
        let own = namespace::current().expect("namespace");
        let mut here =
            namespace::run_in(other.as_fd(), || Netlink::open_in(own.as_fd())).expect("entered").expect("netlink");
        assert!(here.link("a").is_ok());
    });
}

#[test]
fn an_answer_that_is_lost_is_no_refusal_of_the_kernels() {
    in_new_namespace(|| {
        let mut netlink = Netlink::open().expect("netlink");
        let rule = Rule::unless_marked(false, 99, 99);
        assert!(netlink.remove_rule(&rule).is_err_and(|error| error.is_refusal), "there is none");
        // No answer has room behind others that nobody has read.
        let socket = socket2::SockRef::from(&netlink.socket);
        socket.set_recv_buffer_size(0).expect("the least buffer");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
        let mut unknown = [0; MESSAGE_HEADER];
        unknown[0] = MESSAGE_HEADER as u8;
        unknown[4] = 0xff;
        unknown[6] = (NLM_F_REQUEST | NLM_F_ACK) as u8;
        for _ in 0..64 {
            netlink.socket.send(&unknown, 0).expect("sent");
        }
        let error = netlink.add_rule(&rule).expect_err("no answer came");
        assert!(!error.is_refusal, "{error}");
        let rules = Netlink::open().expect("netlink").rules(false).expect("rules");
        assert!(rules.iter().any(|there| (there.fwmark, there.table) == (Some(99), 99)), "it is made: {rules:?}");
    });
}

#[test]
fn what_is_not_understood_is_passed_over() {
    let message = |kind: u16, length: u32| {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes
    };
    let known = message(1, 16);
    let table = [
        ("a known kind", known.clone(), 1),
        ("an unknown kind before a known one", [message(999, 16), known.clone()].concat(), 1),
        ("a length of zero", [message(1, 0), known.clone()].concat(), 0),
        ("a length shorter than a header", [message(1, 4), known.clone()].concat(), 0),
        ("a length beyond the end", message(1, 17), 0),
        ("a cut header", known[..3].to_vec(), 0),
        ("nothing", Vec::new(), 0),
    ];
    for (name, bytes, expected) in table {
        assert_eq!(messages(&bytes).count(), expected, "{name}");
    }
}
