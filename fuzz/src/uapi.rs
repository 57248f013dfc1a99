//! The UAPI, both ways: requests as they arrive in pieces, and replies as a client reads them.

use adit_device::uapi::reply::{read_state, write_state};
use adit_device::uapi::request::{MAX_LINE, Refusal, Request, RequestReader, write_set};

type Outcome = Result<Request, Refusal>;

/// The first byte says who speaks, and how long the pieces are; the others are what is said.
pub fn run(input: &[u8]) {
    match input {
        [b'<', reply @ ..] => read_reply(reply),
        [size, requests @ ..] => read_requests(requests, usize::from(*size)),
        [] => {}
    }
}

fn read_requests(input: &[u8], size: usize) {
    let mut reader = RequestReader::new();
    let whole = read_all(&mut reader, input);
    let is_within = reader.is_within_request();

    let mut reader = RequestReader::new();
    let pieces: Vec<Outcome> = input.chunks(size.max(1)).flat_map(|piece| read_all(&mut reader, piece)).collect();
    assert_eq!(pieces, whole, "pieces of {size} bytes");
    assert_eq!(reader.is_within_request(), is_within, "what is left of pieces of {size} bytes");

    for outcome in whole {
        match outcome {
            Ok(Request::Set(update)) => {
                let text = write_set(&update);
                assert!(text.lines().all(|line| line.len() <= MAX_LINE), "a line that the other end refuses");
                let mut rest = text.as_bytes();
                assert_eq!(RequestReader::new().read(&mut rest), Some(Ok(Request::Set(update))), "written and read");
                assert!(rest.is_empty(), "nothing follows the end");
            }
            Ok(Request::Get | Request::GetFacts) => {}
            Err(refusal) => {
                assert!(refusal.errno > 0 && refusal.line > 0, "{refusal}");
                assert!(!refusal.to_string().contains('\n'), "one mistake, one line: {refusal}");
            }
        }
    }
}

fn read_all(reader: &mut RequestReader, mut input: &[u8]) -> Vec<Outcome> {
    let outcomes = std::iter::from_fn(|| reader.read(&mut input)).collect();
    assert!(input.is_empty(), "everything is taken");
    outcomes
}

fn read_reply(mut reply: &[u8]) {
    let Ok(state) = read_state(&mut reply) else { return };
    let text = write_state(&state, true);
    let again = read_state(&mut text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {}", *text));
    assert_eq!(state, again, "written and read");
    let text = write_state(&state, false);
    let plain = read_state(&mut text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {}", *text));
    assert_eq!(plain.peers, state.peers);
    assert_eq!(plain.facts, Default::default(), "only who asks is told");
}
