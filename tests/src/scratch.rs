//! Files of tests, of which nothing is left however a test ends, unless it is killed.

use std::fs::{self, File};
use std::ops::Deref;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of a test's own that everybody may read, removed with all that is in it when this is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it.
    #[expect(clippy::new_without_default, reason = "a folder is nobody's default")]
    #[track_caller]
    pub fn new() -> Self {
        let path = unused();
        // Of a process with the same number that was killed.
        let _none = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a folder for the test's files");
        let folder = Self(path);
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).expect("its mode");
        folder
    }
}

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone_already = fs::remove_dir_all(&self.0);
    }
}

/// A file without a name, gone with the last who has it open.
#[track_caller]
pub(crate) fn nameless_file() -> File {
    let path = unused();
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    let file = file.expect("a file for what a program says");
    fs::remove_file(&path).expect("take away its name");
    file
}

/// What is in a file so far, to which somebody else may be writing.
pub(crate) fn text(file: &File) -> String {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = vec![0; usize::try_from(length).expect("a file that fits")];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

fn unused() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("adit-test-{}-{number}", std::process::id()))
}
