//! The configuration file: any bytes, and what was understood written and read again.

use adit_device::conf::Config;
use adit_device::uapi::request::{Request, RequestReader, write_set};

/// A file with these bytes.
pub fn run(input: &[u8]) {
    match Config::parse(input) {
        Ok(config) => check(config),
        Err(wrong) => {
            let lines = 1 + input.iter().filter(|&&byte| byte == b'\n').count();
            assert!((1..=lines).contains(&wrong.line), "{wrong} in {lines} lines");
            assert!(wrong.column >= 1, "{wrong}");
            let message = wrong.to_string();
            assert!(!message.contains('\n'), "one mistake, one line: {message}");
            let is_of_a_key = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
            // Escaping may put a character before a row that is too short for a key.
            let longest = message.split(|c| !is_of_a_key(c)).map(str::len).max();
            assert!(longest < Some(43), "what may be a key is repeated: {message}");
        }
    }
}

fn check(config: Config) {
    let text = config.to_text();
    let again = Config::parse(text.as_bytes()).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(config, again, "written and read");
    assert_eq!(*text, *again.to_text(), "written twice");

    let endpoints: Vec<_> =
        config.peers.iter().map(|peer| peer.endpoint.as_ref().and_then(|endpoint| endpoint.address())).collect();
    let update = config.to_update(&endpoints);
    let request = write_set(&update);
    let read = RequestReader::new().read(&mut request.as_bytes());
    assert_eq!(read, Some(Ok(Request::Set(update))), "what is asked of the daemon");
}
