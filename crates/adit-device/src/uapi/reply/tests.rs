//! Tests of [`super`]: what `wg(8)` reads, what it ignores, round trips.

use proptest::prelude::*;

use super::*;
use crate::config::Facts;
use crate::uapi::arbitrary::device_state;

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd4f";

fn read(text: &str) -> Result<DeviceState, ReplyError> {
    read_state(&mut text.as_bytes())
}

#[test]
fn an_interface_without_anything_is_two_lines() {
    assert_eq!(*write_state(&DeviceState::default(), false), "listen_port=0\nerrno=0\n\n");
}

#[test]
fn the_handshake_is_told_since_the_epoch_and_never_is_zero() {
    let mut peer = PeerState::new(PublicKey::from_hex(KEY).unwrap());
    let state = DeviceState { peers: vec![peer.clone()], ..DeviceState::default() };
    assert_eq!(
        *write_state(&state, false),
        format!(
            "listen_port=0\npublic_key={KEY}\nprotocol_version=1\nlast_handshake_time_sec=0\n\
             last_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\nerrno=0\n\n"
        )
    );
    peer.last_handshake = Some(Duration::new(1_700_000_000, 5));
    let state = DeviceState { peers: vec![peer], ..DeviceState::default() };
    let text = write_state(&state, false);
    assert!(text.contains("\nlast_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\n"), "{}", *text);
}

#[test]
fn facts_are_told_only_to_those_who_ask() {
    let drops = vec![("bad\nerrno=0".into(), 2)];
    let facts = Facts { drops, offloads: "tso4 uso".into(), threads: 3, confinement: "seccomp\nfwmark=1".into() };
    let state = DeviceState { facts, ..DeviceState::default() };
    assert!(!write_state(&state, false).contains("adit_"));
    assert_eq!(
        *write_state(&state, true),
        "listen_port=0\nadit_threads=3\nadit_offloads=tso4 uso\nadit_confinement=seccomp\nadit_dropped=2 bad\nerrno=0\n\n"
    );
}

#[test]
fn unknown_keys_are_skipped() {
    let state = read(&format!("new=1\nlisten_port=7\npublic_key={KEY}\nnewer=2\nrx_bytes=8\nerrno=0\n\n")).unwrap();
    assert_eq!((state.listen_port, state.peers[0].rx_bytes), (7, 8));
}

#[test]
fn an_errno_has_either_sign() {
    for text in ["errno=22\n\n", "errno=-22\n\n"] {
        assert!(matches!(read(text), Err(ReplyError::Refused(libc::EINVAL))));
    }
    assert_eq!(write_errno(false, libc::EINVAL), "errno=-22\n\n");
    assert_eq!(write_errno(true, libc::EINVAL), "errno=22\n\n");
    assert_eq!(write_errno(false, 0), "errno=0\n\n");
}

#[test]
fn a_reply_that_ends_early_is_an_error() {
    let whole = format!("listen_port=7\npublic_key={KEY}\nerrno=0\n\n");
    for end in 0..whole.len() {
        let error = read(&whole[..end]).unwrap_err();
        assert!(
            matches!(&error, ReplyError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof),
            "{end}: {error}"
        );
    }
}

#[test]
fn a_message_says_what_was_found_unless_it_may_be_a_secret() {
    for (second, words) in [
        (format!("private_key={KEY}0"), "2 of the reply: found a private_key that is not shown here, expected a key"),
        (format!("listen_port={KEY}"), "2 of the reply: found the listen_port of 64 characters, expected a port"),
        ("listen_port=http".to_owned(), "2 of the reply: found the listen_port \"http\", expected a port"),
        (format!("private_key {KEY}"), "2 of the reply: found a line without '=', expected KEY=VALUE"),
        ("errno=0".to_owned(), "3 of the reply: found more behind errno, expected the blank line that ends it"),
    ] {
        let error = read(&format!("fwmark=1\n{second}\nerrno=0\n\n")).unwrap_err().to_string();
        assert_eq!(error, format!("line {words}"));
    }
}

#[test]
fn a_line_without_end_is_not_swallowed() {
    let mut endless = io::BufReader::new(io::repeat(b'x'));
    assert!(matches!(read_state(&mut endless), Err(ReplyError::BadLine { line: 1, .. })));
}

proptest! {
    #[test]
    fn what_is_written_is_read(state in device_state()) {
        prop_assert_eq!(read(&write_state(&state, true)).unwrap(), state.clone());
        let plain = DeviceState { facts: Facts::default(), ..state };
        prop_assert_eq!(read(&write_state(&plain, false)).unwrap(), plain);
    }

    #[test]
    fn garbage_is_an_error(bytes: Vec<u8>, lines in "([a-z_]{0,12}=?[-0-9a-z./:]{0,12}\n{1,2}){0,20}") {
        let _ = read_state(&mut bytes.as_slice());
        let _ = read(&lines);
        let _ = read(&format!("public_key={KEY}\n{lines}"));
    }
}
