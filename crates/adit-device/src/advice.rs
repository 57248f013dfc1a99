//! What to do where the kernel gives no more of something.

use std::io;

/// What to raise, to be put behind an error of opening files, starting threads or programs, and registering events;
/// nothing for any other error.
pub fn what_to_raise(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; raise the limit of open files (ulimit -n, or LimitNOFILE= of the service)",
        Some(libc::ENFILE) => "; raise the limit of all open files (sysctl fs.file-max)",
        Some(libc::EAGAIN) => "; raise the limit of processes (ulimit -u, or TasksMax= of the service)",
        Some(libc::ENOSPC) => "; raise the limit of files that are watched (sysctl fs.epoll.max_user_watches)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn an_error_of_a_limit_says_which_one_to_raise() {
        let said = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            Error::System { failure: "events cannot be waited for", source }.to_string()
        };
        assert_eq!(
            said(libc::ENOSPC),
            "events cannot be waited for: No space left on device (os error 28); raise the limit of files that are \
             watched (sysctl fs.epoll.max_user_watches)"
        );
        for (errno, limit) in [(libc::EMFILE, "ulimit -n"), (libc::ENFILE, "fs.file-max"), (libc::EAGAIN, "ulimit -u")]
        {
            assert!(said(errno).contains(limit), "{errno}");
        }
        assert_eq!(said(libc::EPERM), "events cannot be waited for: Operation not permitted (os error 1)");
    }
}
