//! Tests of [`super`]: tables of lines, pieces, limits, round trips.

use proptest::prelude::*;

use super::*;
use crate::uapi::arbitrary::device_update;

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn read_all(text: &[u8]) -> Vec<Result<Request, Refusal>> {
    let mut reader = RequestReader::new();
    let mut input = text;
    std::iter::from_fn(|| reader.read(&mut input)).collect()
}

fn read_one(text: &str) -> Result<Request, Refusal> {
    let mut all = read_all(text.as_bytes());
    assert_eq!(all.len(), 1, "{text:?}");
    all.remove(0)
}

fn set(lines: &str) -> DeviceUpdate {
    match read_one(&format!("set=1\n{lines}\n")) {
        Ok(Request::Set(update)) => update,
        other => panic!("{lines:?}: {other:?}"),
    }
}

fn refusal(text: &str) -> (i32, String) {
    let refusal = read_one(text).unwrap_err();
    (refusal.errno, refusal.to_string())
}

#[test]
fn a_get_is_one_line_and_a_blank_one() {
    assert_eq!(read_one("get=1\n\n"), Ok(Request::Get));
    assert_eq!(read_one("get=adit\n\n"), Ok(Request::GetFacts));
    let refusal = read_one("get=1\nlisten_port=1\n\n").unwrap_err();
    assert!(refusal.is_get);
    assert_eq!(refusal.to_string(), "line 2: found the key \"listen_port\", expected a blank line after get=1");
}

#[test]
fn the_device_takes_each_of_its_keys() {
    assert_eq!(set(""), DeviceUpdate::default());
    let update = set(&format!("private_key={KEY}\nlisten_port=65535\nfwmark=4294967295\nreplace_peers=true\n"));
    assert_eq!(update.private_key, Some(Some(Box::new(PrivateKey::from_hex(KEY).unwrap()))));
    assert_eq!((update.listen_port, update.fwmark, update.replace_peers), (Some(65535), Some(u32::MAX), true));
    assert_eq!(set("listen_port=0\nfwmark=0\n").fwmark, Some(0));
    assert_eq!(set("listen_port=1\nlisten_port=2\n").listen_port, Some(2));
}

#[test]
fn keys_of_zeros_remove_the_key() {
    let update = set(&format!("private_key={ZEROS}\npublic_key={KEY}\npreshared_key={ZEROS}\n"));
    assert_eq!(update.private_key, Some(None));
    assert_eq!(update.peers[0].preshared_key, Some(None));
}

#[test]
fn a_peer_takes_each_of_its_keys() {
    let update = set(&format!(
        "public_key={KEY}\nupdate_only=true\nremove=true\npreshared_key={KEY}\nendpoint=[::1]:7\n\
         persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.0.0.1/8\nallowed_ip=-::/0\n\
         protocol_version=1\n"
    ));
    let expected = PeerUpdate {
        public_key: PublicKey::from_hex(KEY).unwrap(),
        remove: true,
        update_only: true,
        preshared_key: Some(Some(Box::new(PresharedKey::from_hex(KEY).unwrap()))),
        endpoint: Some("[::1]:7".parse().unwrap()),
        persistent_keepalive: Some(25),
        replace_allowed_ips: true,
        allowed_ips: vec![
            AllowedIpChange { remove: false, net: "10.0.0.0/8".parse().unwrap() },
            AllowedIpChange { remove: true, net: "::/0".parse().unwrap() },
        ],
    };
    assert_eq!(update.peers, [expected]);
}

#[test]
fn every_peer_section_starts_from_nothing() {
    let update = set(&format!(
        "public_key={KEY}\nremove=true\nupdate_only=true\npreshared_key={KEY}\nendpoint=1.1.1.1:1\n\
         persistent_keepalive_interval=1\nreplace_allowed_ips=true\nallowed_ip=::/0\npublic_key={ZEROS}\n"
    ));
    assert_eq!(update.peers[1], PeerUpdate::new(PublicKey::from_bytes([0; 32])));
}

#[test]
fn bad_values_are_einval_and_the_message_says_where_and_what() {
    for (line, expected) in [
        ("listen_port=65536", "found \"65536\", expected a port: 0 to 65535"),
        ("listen_port=", "found \"\", expected a port: 0 to 65535"),
        ("listen_port=+1", "found \"+1\", expected a port: 0 to 65535"),
        ("fwmark=0x10", "found \"0x10\", expected a mark: 0 to 4294967295"),
        ("fwmark=4294967296", "found \"4294967296\", expected a mark: 0 to 4294967295"),
        ("replace_peers=false", "found \"false\", expected true"),
        ("private_key=abc", "found 3 characters, expected 64 hexadecimal digits"),
        ("public_key=abc", "found 3 characters, expected 64 hexadecimal digits"),
    ] {
        let (errno, message) = refusal(&format!("set=1\nfwmark=1\n{line}\n\n"));
        assert_eq!((errno, message), (libc::EINVAL, format!("line 3: {expected}")));
    }
    for (line, expected) in [
        ("remove=1", "found \"1\", expected true"),
        ("update_only=false", "found \"false\", expected true"),
        ("preshared_key=", "found 0 characters, expected 64 hexadecimal digits"),
        ("endpoint=host:5", "found \"host:5\", expected ADDRESS:PORT or [ADDRESS]:PORT"),
        ("persistent_keepalive_interval=off", "found \"off\", expected seconds: 0 to 65535"),
        ("replace_allowed_ips=yes", "found \"yes\", expected true"),
        ("allowed_ip=10.0.0.1", "found \"10.0.0.1\", expected ADDRESS/LENGTH"),
        ("allowed_ip=--10.0.0.1/8", "found \"-10.0.0.1/8\", expected ADDRESS/LENGTH"),
        ("protocol_version=2", "found \"2\", expected 1"),
    ] {
        let (errno, message) = refusal(&format!("set=1\npublic_key={KEY}\n{line}\n\n"));
        assert_eq!((errno, message), (libc::EINVAL, format!("line 3: {expected}")));
    }
}

#[test]
fn keys_that_do_not_belong_are_named_without_their_value() {
    for (text, errno, line) in [
        (format!("set=1\nprivte_key={KEY}\n\n"), libc::EINVAL, 2),
        (format!("set=1\nendpoint={KEY}\n\n"), libc::EINVAL, 2),
        (format!("set=1\npublic_key={ZEROS}\nprivate_key={KEY}\n\n"), libc::EINVAL, 3),
        (format!("private_key={KEY}\n\n"), libc::EPROTO, 1),
        (format!("set=1\n{KEY}\n\n"), libc::EPROTO, 2),
        (format!("set={KEY}\n\n"), libc::EPROTO, 1),
    ] {
        let (found, message) = refusal(&text);
        assert_eq!(found, errno, "{message}");
        assert!(message.starts_with(&format!("line {line}: ")), "{message}");
        assert!(!message.contains("0123"), "{message}");
    }
}

#[test]
fn a_refused_request_is_read_to_its_end_and_the_next_one_stands() {
    let all = read_all(b"set=1\nlisten_port=x\nfwmark=1\n\xff\n\nget=1\n\nbogus\n\nset=1\nfwmark=3\n\n");
    assert_eq!(all.len(), 4);
    assert_eq!(all[0].as_ref().unwrap_err().line, 2);
    assert_eq!(all[1], Ok(Request::Get));
    assert_eq!(all[2].as_ref().unwrap_err().errno, libc::EPROTO);
    assert_eq!(all[3], Ok(Request::Set(DeviceUpdate { fwmark: Some(3), ..DeviceUpdate::default() })));
}

#[test]
fn a_blank_line_that_ends_in_a_carriage_return_ends_a_request_which_is_refused() {
    for (text, line, found) in [
        ("set=1\r\nlisten_port=1\r\n\r\n", 1, "the key \"set\""),
        ("set=1\nlisten_port=1\n\r\n", 3, "a carriage return"),
        ("get=1\n\r\n", 2, "a carriage return"),
        ("\r\n", 1, "a carriage return"),
    ] {
        let refusal = read_one(text).unwrap_err();
        assert_eq!((refusal.errno, refusal.line, refusal.found.as_str()), (libc::EPROTO, line, found), "{text:?}");
        assert_eq!(refusal.is_get, text.starts_with("get"));
    }
    assert_eq!(read_all(b"set=1\n\r\nget=1\n\n")[1], Ok(Request::Get));
}

#[test]
fn blank_lines_between_requests_ask_nothing() {
    assert_eq!(read_all(b"\n\n\nget=1\n\n\n\n"), [Ok(Request::Get)]);
}

#[test]
fn a_line_may_have_512_bytes_in_however_many_pieces() {
    for (length, fits) in [(512, true), (513, false), (5000, false)] {
        for piece in [1, 100, 512, 513, usize::MAX] {
            let text = format!("set=1\n{}=1\n\n", "k".repeat(length - 2));
            let mut reader = RequestReader::new();
            let mut found = None;
            for mut input in text.as_bytes().chunks(piece.min(text.len())) {
                found = found.or(reader.read(&mut input));
            }
            let errno = if fits { libc::EINVAL } else { libc::EMSGSIZE };
            assert_eq!(found.unwrap().unwrap_err().errno, errno, "{length} in pieces of {piece}");
        }
    }
}

#[test]
fn a_request_beyond_64_mib_is_refused_and_forgotten() {
    let mut reader = RequestReader::new();
    assert_eq!(reader.read(&mut &b"set=1\nfwmark=1\n"[..]), None);
    let junk = vec![b'x'; 1 << 20];
    for _ in 0..65 {
        assert_eq!(reader.read(&mut junk.as_slice()), None);
    }
    assert_eq!(reader.read(&mut &b"\n"[..]), None);
    assert!(matches!(reader.state, State::Refused(_)));
    assert_eq!(reader.read(&mut &b"\n"[..]).unwrap().unwrap_err().errno, libc::EMSGSIZE);
    assert_eq!(reader.read(&mut &b"get=1\n\n"[..]), Some(Ok(Request::Get)));
}

#[test]
fn debug_shows_no_key() {
    let mut reader = RequestReader::new();
    let text = format!("set=1\nprivate_key={KEY}\npublic_key={ZEROS}\npreshared_key={KEY}\nprivate_key={KEY}");
    assert_eq!(reader.read(&mut text.as_bytes()), None);
    let shown = format!("{reader:?}");
    assert!(shown.contains("redacted") && !shown.contains("0123"), "{shown}");
}

proptest! {
    #[test]
    fn what_is_written_is_read(update in device_update()) {
        let text = write_set(&update);
        prop_assert_eq!(read_one(&text), Ok(Request::Set(update)));
    }

    #[test]
    fn pieces_make_no_difference(updates in proptest::collection::vec(device_update(), 1..4), cuts in proptest::collection::vec(1usize..200, 1..20)) {
        let text: String = updates.iter().map(|update| write_set(update).as_str().to_owned() + "get=1\n\n").collect();
        let mut reader = RequestReader::new();
        let mut found = Vec::new();
        let mut rest = text.as_bytes();
        for &cut in cuts.iter().cycle() {
            let (mut piece, after) = rest.split_at(cut.min(rest.len()));
            found.extend(std::iter::from_fn(|| reader.read(&mut piece)));
            rest = after;
            if rest.is_empty() { break; }
        }
        prop_assert_eq!(found, read_all(text.as_bytes()));
        prop_assert!(!reader.is_within_request());
    }

    #[test]
    fn garbage_is_refused_or_ignored(bytes: Vec<u8>, lines in "((set|get|[a-z_]{0,12})=?[-0-9a-z./:%\\[\\]]{0,12}\n{1,2}){0,20}") {
        read_all(&bytes);
        read_all(lines.as_bytes());
        read_all(format!("set=1\n{lines}").as_bytes());
        read_all(format!("set=1\npublic_key={KEY}\n{lines}").as_bytes());
    }
}
