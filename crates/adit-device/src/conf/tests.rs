//! Tests of [`super`]: files that people write, errors, round trips.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::scratch::Scratch;
use crate::uapi::arbitrary;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHk8=";
const PEER: &str = "[Peer]\nPublicKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAU=\n";

fn parse(text: &str) -> Config {
    Config::parse(text.as_bytes()).unwrap_or_else(|wrong| panic!("{wrong}"))
}

fn wrong(text: &str) -> String {
    Config::parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn a_file_with_everything() {
    let config = parse(&format!(
        "\u{feff}# comment\r\n[interface]\r\nADDRESS = 10.0.0.1/24, fd00::1/64 # two\nAddress=192.0.2.1\nPrivateKey={KEY}\n\
         ListenPort = 51820\nFwMark = 0xca6c\nMTU = 1420\nDNS = 1.1.1.1, example.com\nTable = 1234\n\
         PreUp = echo 'a = b'; true\nPostUp=one # gone\npostup = two\nPreDown = x\nPostDown = y %i\nSaveConfig = TRUE\n\
         \n[PEER]\npublickey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAU=\nPresharedKey = {KEY}\n\
         AllowedIPs = 10.0.0.9/8,::/0\nallowedips = 1.2.3.4\nEndpoint = vpn.example.com:51820\nPersistentKeepalive = 25\n{PEER}\
         PersistentKeepalive = off"
    ));
    let interface = &config.interface;
    assert_eq!(interface.addresses, ["10.0.0.1/24", "fd00::1/64", "192.0.2.1/32"].map(|net| net.parse().unwrap()));
    assert_eq!(interface.private_key, Some(Box::new(PrivateKey::from_base64(KEY).unwrap())));
    assert_eq!((interface.listen_port, interface.fwmark, interface.mtu), (Some(51820), Some(0xca6c), Some(1420)));
    assert_eq!(interface.dns, ["1.1.1.1", "example.com"]);
    assert_eq!(interface.table, Table::Number(1234));
    assert_eq!(interface.pre_up, ["echo 'a = b'; true"]);
    assert_eq!(interface.post_up, ["one", "two"]);
    assert_eq!((interface.pre_down.len(), interface.post_down.as_slice()), (1, ["y %i".to_owned()].as_slice()));
    assert!(interface.save_config);
    let peer = &config.peers[0];
    assert_eq!(peer.preshared_key, Some(Box::new(PresharedKey::from_base64(KEY).unwrap())));
    assert_eq!(peer.allowed_ips, ["10.0.0.0/8", "::/0", "1.2.3.4/32"].map(|net| net.parse().unwrap()));
    assert_eq!(peer.endpoint, Endpoint::parse("vpn.example.com:51820"));
    assert_eq!((peer.persistent_keepalive, config.peers[1].persistent_keepalive), (Some(25), Some(0)));
}

#[test]
fn the_last_of_a_repeated_key_counts_and_a_second_interface_section_goes_on_with_the_first() {
    let config =
        parse("[Interface]\nListenPort = 1\nListenPort = 2\nMTU = 1280\n[Interface]\nMTU = 1400\nFwMark = off\n");
    assert_eq!(config.interface.listen_port, Some(2));
    assert_eq!((config.interface.mtu, config.interface.fwmark), (Some(1400), Some(0)));
}

#[test]
fn an_empty_file_is_an_interface_without_anything() {
    for text in ["", "\n\n", "# nothing\n", "[Interface]"] {
        assert_eq!(parse(text), Config::default());
    }
}

#[test]
fn what_wg_quick_reads_by_itself_may_be_empty_and_lists_may_have_spaces_between() {
    let config = parse(
        "[Interface]\nMTU = 1400\nMTU =\nTable = off\nTable =\nPreUp =\nPostUp = # nothing\nPreDown=\nPostDown = a\nDNS =\n\
         Address = 10.0.0.1/24 fd00::1/64,\nAddress =\n",
    );
    let InterfaceConfig { mtu, table, pre_up, post_up, pre_down, post_down, addresses, dns, .. } = config.interface;
    assert_eq!((mtu, table, dns), (None, Table::Auto, vec![]));
    assert_eq!((pre_up.len(), post_up.len(), pre_down.len(), post_down), (0, 0, 0, vec!["a".to_owned()]));
    assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1/24", "fd00::1/64"]);
}

#[test]
fn white_space_within_the_values_that_wg_reads_is_passed_over() {
    let spaced = KEY.replace('D', " D\t");
    let config = parse(&format!(
        "[Interface]\nPrivateKey = {spaced}\nListenPort = 518 20\nFwMark = 0x ca\t6c\n[Peer]\nPublicKey = {spaced}\n\
         PresharedKey = {spaced}\nAllowedIPs = 10.0.0.0 /8, 10.1.0.0/ 16,1.2.3 .4 , : : / 0\nEndpoint = 1.2.3.4 : 51820\n\
         PersistentKeepalive = 2 5\n"
    ));
    let InterfaceConfig { private_key, listen_port, fwmark, .. } = config.interface;
    assert_eq!(private_key, Some(Box::new(PrivateKey::from_base64(KEY).unwrap())));
    assert_eq!((listen_port, fwmark), (Some(51820), Some(0xca6c)));
    let peer = &config.peers[0];
    assert_eq!(peer.public_key, PublicKey::from_base64(KEY).unwrap());
    assert_eq!(peer.preshared_key, Some(Box::new(PresharedKey::from_base64(KEY).unwrap())));
    let networks = ["10.0.0.0/8", "10.1.0.0/16", "1.2.3.4/32", "::/0"];
    assert_eq!(peer.allowed_ips, networks.map(|net| net.parse().unwrap()));
    assert_eq!((&peer.endpoint, peer.persistent_keepalive), (&Endpoint::parse("1.2.3.4:51820"), Some(25)));
}

#[test]
fn white_space_within_titles_and_names_is_passed_over() {
    let config =
        parse(&format!("[ Interface\t]\nListen Port = 7\n[Pe er ]\nPublic\tKey = {KEY}\nAllowed IPs = ::/0\n{PEER}"));
    assert_eq!((config.interface.listen_port, config.peers.len()), (Some(7), 2));
    assert_eq!(config.peers[0].allowed_ips.len(), 1);
    assert_eq!(wrong("[ Pear ]"), "1:1: found \"[ Pear ]\", expected [Interface] or [Peer]");
}

#[test]
fn white_space_within_other_values_stays() {
    let config = parse("[Interface]\nPostUp = a  b\nDNS = 1.1.1.1 example.com\n");
    assert_eq!((config.interface.post_up, config.interface.dns.len()), (vec!["a  b".to_owned()], 2));
    for value in ["Address = 10.0.0.1 /24", "MTU = 14 20", "Table = 12 34", "Table = o ff", "SaveConfig = t rue"] {
        assert!(Config::parse(format!("[Interface]\n{value}\n").as_bytes()).is_err(), "{value}");
    }
}

#[test]
fn a_key_of_zeros_is_none_and_no_key_that_everybody_knows() {
    let zeros = PublicKey::from_bytes([0; 32]).to_base64();
    let config = parse(&format!("[Interface]\nPrivateKey = {zeros}\n{PEER}PresharedKey = {zeros}\n"));
    assert_eq!((&config.interface.private_key, &config.peers[0].preshared_key), (&None, &None));
    assert_eq!(config.to_update(&[]).private_key, Some(None), "it takes a key away");
    // Clamping makes the same key of these bits, but they are not zeros.
    let one = zeros.replacen("AA", "AQ", 1);
    assert!(parse(&format!("[Interface]\nPrivateKey = {one}\n")).interface.private_key.is_some());
}

#[test]
fn a_comment_in_another_encoding_is_passed_over() {
    let config = Config::parse(b"# B\xfcro\n[Interface]\nListenPort = 1 # \xfc\n").unwrap();
    assert_eq!(config.interface.listen_port, Some(1));
}

#[test]
fn a_later_section_of_a_peer_takes_away_nothing_that_it_does_not_name() {
    let shared = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=";
    let config = parse(&format!(
        "[Peer]\nPublicKey={KEY}\nPresharedKey={shared}\n[Peer]\nPublicKey={KEY}\nPersistentKeepalive=5\n"
    ));
    let [first, second] = &config.to_update(&[]).peers[..] else { panic!("two") };
    assert!(matches!(first.preshared_key, Some(Some(_))) && first.persistent_keepalive.is_none());
    assert!(second.preshared_key.is_none() && second.persistent_keepalive == Some(5));
}

#[test]
fn the_zone_of_an_endpoint_is_written_by_its_name() {
    let endpoint =
        |zone| Endpoint::from(SocketAddr::V6(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 51820, 0, zone)));
    assert_eq!(endpoint(1).to_string(), "[fe80::1%lo]:51820");
    assert_eq!(endpoint(2_000_000_000).to_string(), "[fe80::1%2000000000]:51820", "there is no such link");
    assert_eq!(endpoint(0).to_string(), "[fe80::1]:51820", "it has none");
}

#[test]
fn a_table_goes_by_a_word_in_any_case_or_by_its_number() {
    for (text, table) in [
        ("AUTO", Table::Auto),
        ("Off", Table::Off),
        ("Default", Table::Number(253)),
        ("MAIN", Table::Number(254)),
        ("Local", Table::Number(255)),
        ("off", Table::Off),
        ("main", Table::Number(254)),
        ("0X1f", Table::Number(31)),
        ("4294967295", Table::Number(u32::MAX)),
    ] {
        assert_eq!(parse(&format!("[Interface]\nTable = 7\nTable = {text}\n")).interface.table, table, "{text}");
    }
}

#[test]
fn a_mark_and_a_table_have_no_sign() {
    for key in ["FwMark", "Table"] {
        for number in ["0x+1", "0X+1", "+1", "-1", "0x-1", "0x", "1f"] {
            let text = format!("[Interface]\n{key} = {number}\n");
            assert!(wrong(&text).contains(&format!("found \"{number}\"")), "{text}");
        }
    }
}

#[test]
fn an_error_says_where_what_was_found_and_what_was_expected() {
    for (text, expected) in [
        ("ListenPort = 1\n", "1:1: found the key \"ListenPort\", expected [Interface] or [Peer] before it"),
        ("\n [Foo]", "2:2: found \"[Foo]\", expected [Interface] or [Peer]"),
        ("[Interface]\nListenPort = 65536\n", "2:14: found \"65536\", expected a port: 0 to 65535"),
        ("[Interface]\nListenPort =\n", "2:13: found \"\", expected a port: 0 to 65535"),
        ("[Interface]\nFwMark = 0x1ffffffff", "2:10: found \"0x1ffffffff\", expected off, or a mark: 0 to 0xffffffff"),
        ("[Interface]\nMTU=67", "2:5: found \"67\", expected an MTU: 68 to 65535"),
        ("[Interface]\nSaveConfig=1", "2:12: found \"1\", expected true or false"),
        (
            "[Interface]\nAddress = 10.0.0.1/24, é10.0.0.2/33",
            "2:24: found \"é10.0.0.2/33\", expected ADDRESS or ADDRESS/LENGTH",
        ),
        ("[Peer]\nAllowedIPs = 10.0.0.1/24,", "2:26: found \"\", expected ADDRESS or ADDRESS/LENGTH"),
        (
            "[Interface]\nTable = 0",
            "2:9: found \"0\", expected auto, off, a number from 1 to 4294967295 or a name of /etc/iproute2/rt_tables",
        ),
        ("[Interface]\nfoo", "2:1: found a line without \"=\", expected KEY = VALUE, [Interface] or [Peer]"),
        (
            &format!("[Interface]\nprivatekey {KEY}"),
            "2:1: found no \"=\" after \"PrivateKey\", expected PrivateKey = VALUE",
        ),
        ("[Interface]\n PostUp\tip route add x --y=z", "2:2: found no \"=\" after \"PostUp\", expected PostUp = VALUE"),
        ("# x\n  [Peer]\nAllowedIPs = ::/0\n", "2:3: found a peer without a key, expected PublicKey = KEY in it"),
        ("[Peer]\n[Interface]\n", "1:1: found a peer without a key, expected PublicKey = KEY in it"),
        (
            "[Peer]\nPrivateKey = secret",
            "2:1: found the key \"PrivateKey\", expected PublicKey, PresharedKey, AllowedIPs, Endpoint or PersistentKeepalive",
        ),
        ("[Peer]\nEndpoint = host", "2:12: found \"host\", expected HOST:PORT or [ADDRESS]:PORT"),
        (
            "[Peer]\nAllowedIPs = 10.0.0.0 /8,  é ::/ 129 , ::/0",
            "2:28: found \"é::/129\", expected ADDRESS or ADDRESS/LENGTH",
        ),
        ("[Peer]\nEndpoint = 1.2.3.4  : x", "2:12: found \"1.2.3.4:x\", expected HOST:PORT or [ADDRESS]:PORT"),
        ("[Peer]\nPersistentKeepalive = 1s", "2:23: found \"1s\", expected off, or seconds: 0 to 65535"),
    ] {
        assert_eq!(wrong(text), expected);
    }
    let unknown = wrong("[Interface]\nListenPrt = 1");
    assert!(unknown.starts_with("2:1: found the key \"ListenPrt\", expected PrivateKey, ListenPort, "), "{unknown}");
    let bytes = Config::parse(b"[Interface]\n= \xc3\xa9\xff").unwrap_err();
    assert_eq!(bytes.to_string(), "2:4: found bytes that are not UTF-8, expected text");
}

#[test]
fn an_error_never_repeats_a_key() {
    let secret = &KEY[..43];
    for text in [
        format!("[Interface]\nPrivateKey = {secret}\n"),
        format!("[Interface]\nPrivatKey = {secret}\n"),
        format!("[Interface]\n{secret}\n"),
        // The padding is no "=" between a name and a value.
        format!("{KEY}\n"),
        format!("[Interface]\n{KEY}\n"),
        format!("[Interface]\nPrivateKey {KEY}\n"),
        format!("[Interface]\nListenPort = {KEY}\n"),
        format!("[Interface]\nListenPort = {}\n", KEY.replace('D', "D ")),
        format!("{PEER}AllowedIPs = {}\n", KEY.replace('D', "D ")),
        format!("[{KEY}]\n"),
        format!("{PEER}PresharedKey = {secret}"),
        format!("{PEER}PrivateKey = {KEY}"),
    ] {
        let message = wrong(&text);
        assert!(!message.contains(&secret[..8]), "{message}");
    }
    let message = wrong(&format!("[Interface]\nPrivateKey = {secret}\n"));
    let expected =
        "2:14: found 43 characters that are no key, expected a key: 44 characters of base64, the last of them \"=\"";
    assert_eq!(message, expected);
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let scratch = Scratch::new();
    let path = scratch.join("wg0.conf");
    std::fs::write(&path, "[Interface]\nMTU = x\n").unwrap();
    let message = Config::read(&path).unwrap_err().to_string();
    assert_eq!(message, format!("{}:2:7: found \"x\", expected an MTU: 68 to 65535", path.display()));
    std::fs::remove_file(&path).unwrap();
    let message = Config::read(&path).unwrap_err().to_string();
    assert!(message.contains(path.to_str().unwrap()) && message.contains("No such file"), "{message}");
}

#[test]
fn the_update_replaces_everything_there_was() {
    let config = parse(&format!("{PEER}AllowedIPs = 10.0.0.0/8\n{PEER}"));
    let endpoint = "192.0.2.1:7".parse().unwrap();
    let update = config.to_update(&[Some(endpoint)]);
    assert_eq!((update.private_key, update.listen_port, update.fwmark), (Some(None), Some(0), Some(0)));
    assert!(update.replace_peers);
    assert_eq!((update.peers[0].endpoint, update.peers[1].endpoint), (Some(endpoint), None));
    assert!(update.peers.iter().all(|peer| peer.replace_allowed_ips && peer.preshared_key.is_none()));
}

#[test]
fn there_is_room_for_the_longest_text() {
    let many = 1_000;
    let longest: IpNet = "2001:db8:1111:2222:3333:4444:5555:6666/128".parse().unwrap();
    let empty = Config::default;
    let interface = |interface: InterfaceConfig| Config { interface, ..empty() };
    let hooks = || vec!["x".to_owned(); many];
    let host = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "a".repeat(61));
    let peer = PeerConfig {
        preshared_key: Some(Box::new(PresharedKey::from_base64(KEY).unwrap())),
        endpoint: Some(Endpoint::parse(&format!("{host}:65535")).unwrap()),
        persistent_keepalive: Some(u16::MAX),
        ..PeerConfig::new(PublicKey::from_base64(KEY).unwrap())
    };
    for (name, config) in [
        ("PreUp", interface(InterfaceConfig { pre_up: hooks(), ..Default::default() })),
        ("PostUp", interface(InterfaceConfig { post_up: hooks(), ..Default::default() })),
        ("PreDown", interface(InterfaceConfig { pre_down: hooks(), ..Default::default() })),
        ("PostDown", interface(InterfaceConfig { post_down: hooks(), ..Default::default() })),
        ("DNS", interface(InterfaceConfig { dns: hooks(), ..Default::default() })),
        ("Address", interface(InterfaceConfig { addresses: vec![longest; many], ..Default::default() })),
        (
            "AllowedIPs",
            Config { peers: vec![PeerConfig { allowed_ips: vec![longest; many], ..peer.clone() }], ..empty() },
        ),
        ("Peer", Config { peers: vec![peer.clone(); many], ..empty() }),
    ] {
        let (length, reserved) = (config.to_text().len(), write::capacity(&config));
        assert!(length <= reserved, "{name}: {length} bytes in {reserved}");
    }
}

fn command() -> impl Strategy<Value = String> {
    "[a-z%$'\"]([ -\"$-~é]{0,20}[a-z)=])?"
}

prop_compose! {
    fn interface()(
        private_key in of(arbitrary::private_key()),
        (listen_port, fwmark) in any::<(Option<u16>, Option<u32>)>(),
        mtu in of(68u16..),
        addresses in vec(arbitrary::network(), 0..3),
        dns in vec("[a-z0-9.:]{1,12}", 0..3),
        table in prop_oneof![Just(Table::Auto), Just(Table::Off), (1u32..).prop_map(Table::Number)],
        hooks in [vec(command(), 0..3), vec(command(), 0..3), vec(command(), 0..3), vec(command(), 0..3)],
        save_config in any::<bool>(),
    ) -> InterfaceConfig {
        let [pre_up, post_up, pre_down, post_down] = hooks;
        InterfaceConfig {
            private_key, listen_port, fwmark, addresses, mtu, dns, table, pre_up, post_up, pre_down, post_down,
            save_config,
        }
    }
}

prop_compose! {
    fn peer()(
        public_key in arbitrary::public_key(),
        preshared_key in of(arbitrary::preshared_key()),
        endpoint in of(prop_oneof![
            arbitrary::endpoint().prop_map(Endpoint::from),
            ("[a-z]{1,8}(\\.[a-z0-9-]{1,8}x){0,3}", any::<u16>())
                .prop_map(|(host, port)| Endpoint::parse(&format!("{host}:{port}")).unwrap()),
        ]),
        persistent_keepalive in any::<Option<u16>>(),
        allowed_ips in vec(arbitrary::network(), 0..4),
    ) -> PeerConfig {
        PeerConfig { public_key, preshared_key, endpoint, persistent_keepalive, allowed_ips }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(interface in interface(), peers in vec(peer(), 0..4)) {
        let config = Config { interface, peers };
        let text = config.to_text();
        let reserved = write::capacity(&config);
        prop_assert!(text.len() <= reserved && reserved <= text.capacity(), "growing would leave copies of keys behind");
        let again = Config::parse(text.as_bytes()).map_err(|wrong| TestCaseError::fail(format!("{wrong}\n{}", *text)))?;
        prop_assert_eq!(again, config);
    }

    #[test]
    fn an_interface_survives_being_saved(state in arbitrary::device_state()) {
        let config = Config::from_state(&state);
        prop_assert_eq!(Config::parse(config.to_text().as_bytes()), Ok(config));
    }

    #[test]
    fn garbage_is_an_error_and_no_panic(
        bytes: Vec<u8>,
        lines in "(\\[?(Interface|Peer|AllowedIPs|Table|Endpoint|MTU|[a-zA-Z]{0,8})\\]? ?=? ?[-0-9a-zé.,/:%#\\[\\]]{0,12}\r?\n){0,20}",
    ) {
        let _ = Config::parse(&bytes);
        let _ = Config::parse(lines.as_bytes());
        let _ = Config::parse(format!("[Interface]\n{lines}").as_bytes());
        let _ = Config::parse(format!("{PEER}{lines}").as_bytes());
    }
}
