//! File descriptors handed over by the program that started this one.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// The numbers that have been taken: a second owner would close the file under the first.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes over the inherited file descriptor of this number, as named in `WG_TUN_FD` or `WG_UAPI_FD`. To be called
/// before the program opens files of its own, which could have been given the number.
///
/// Most files of this program's own are refused in any case: they are marked close-on-exec, and an inherited file
/// cannot be.
///
/// # Errors
/// When the number is that of standard input, output or error, was taken before, is not open, or is closed on exec.
pub fn take_fd(number: RawFd) -> io::Result<OwnedFd> {
    let refuse = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("file descriptor {number} {why}"));
    if number <= 2 {
        return Err(refuse("cannot be handed over: it must be above 2"));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if taken.contains(&number) {
        return Err(refuse("was taken before"));
    }
    // SAFETY: F_GETFD takes no third argument, touches no memory of ours, and fails on a number that is not open.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(refuse("is not open"));
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(refuse("was not inherited: it is closed on exec"));
    }
    taken.push(number);
    // SAFETY: the number is open, as checked above, and `TAKEN` gives each number out once. That no file of this
    // program's own has the number is the caller's part, which the types cannot enforce: see above. Rust's library and
    // the crates used here open files close-on-exec, and such a file has been refused.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    // A program started from here must not inherit it in turn.
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Closes what else the program that started this one has left open: a file that is locked, say, would stay so for as
/// long as this one runs. To be called after what is wanted has been taken by [`take_fd`], and under the same
/// condition.
pub fn close_the_rest() {
    // Without a /proc it all stays open.
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    // First all of them: the folder itself is among them, and gone then.
    let numbers: Vec<RawFd> = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers {
        // Whatever is refused is a standard stream, or is this program's own.
        drop(take_fd(number));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    /// A file as an exec leaves it.
    fn inherited() -> OwnedFd {
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        file
    }

    #[test]
    fn a_descriptor_is_taken_once() {
        let number = inherited().into_raw_fd();
        let taken = take_fd(number).unwrap();
        assert!(take_fd(number).unwrap_err().to_string().contains("taken before"));
        // Left open, so that no file of another test in this process gets a number that was taken.
        let _ = taken.into_raw_fd();
    }

    #[test]
    fn a_file_of_this_program_is_not_taken_from_whoever_has_it() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(take_fd(file.as_raw_fd()).unwrap_err().to_string().contains("was not inherited"));
    }

    #[test]
    fn what_is_not_open_or_is_a_standard_stream_is_refused() {
        assert!(take_fd(1_000_000).unwrap_err().to_string().contains("not open"));
        for number in [-1, 0, 1, 2] {
            assert!(take_fd(number).unwrap_err().to_string().contains("above 2"));
        }
    }
}
