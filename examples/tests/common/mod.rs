//! Where the examples are.

use std::path::PathBuf;

/// The built example of this name. `cargo test` and `cargo nextest run` build examples before they
/// run a package's tests, and put them beside the tests' own folder.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path of this test");
    let folder = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let path = folder.join("examples").join(name);
    assert!(path.exists(), "{} is missing: run cargo build -p adit-examples --examples", path.display());
    path
}
