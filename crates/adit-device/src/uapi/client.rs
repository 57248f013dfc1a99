//! Asking a running interface, ours or another implementation's.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::listener::{directory, socket_path};
use super::reply::{ReplyError, read_errno, read_state};
use super::request::write_set;
use crate::config::{DeviceState, DeviceUpdate};

/// How long a reply may take; changing 100,000 peers takes some seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const BUFFER_LEN: usize = 8_192;

/// A connection to an interface, which waits for each reply.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: Replies,
}

/// The replies of an interface, read in pieces. They contain keys, so the buffer is wiped.
struct Replies {
    stream: UnixStream,
    buffer: Zeroizing<Vec<u8>>,
    /// The part of the buffer that has been filled, and not been taken.
    unread: Range<usize>,
}

/// Why an interface could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody answers, or this process may not ask.
    #[error("no interface can be asked at {}: {source}{}", path.display(), advice_at(path, source))]
    Connect {
        /// Of the socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface answers something else than what was asked.
    #[error("the interface at {}: {source}", path.display())]
    Reply {
        /// Of the socket.
        path: PathBuf,
        /// What was wrong.
        source: ReplyError,
    },
}

impl ClientError {
    /// Whether nobody serves the interface, as opposed to one that this process may not ask.
    pub fn is_deserted(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if means_nobody(source))
    }
}

impl Client {
    /// A connection to the interface `name`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when nobody answers.
    pub fn connect(name: &str) -> Result<Self, ClientError> {
        Self::connect_at(&socket_path(name))
    }

    /// A connection to the socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when nobody answers.
    pub fn connect_at(path: &Path) -> Result<Self, ClientError> {
        let connect = || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Replies { stream, buffer: Zeroizing::new(vec![0; BUFFER_LEN]), unread: 0..0 })
        };
        let stream = connect().map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), stream })
    }

    /// What the interface is and has done, without [facts](crate::config::Facts).
    ///
    /// # Errors
    /// [`ClientError::Reply`].
    pub fn get(&mut self) -> Result<DeviceState, ClientError> {
        let reply = self.ask("get=1\n\n").and_then(|()| read_state(&mut self.stream));
        reply.map_err(|source| self.failed(source))
    }

    /// The same, with facts if the interface is one of Adit's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get_facts(&mut self) -> Result<DeviceState, ClientError> {
        let reply = self.ask("get=adit\n\n").and_then(|()| read_state(&mut self.stream));
        if reply.is_ok() {
            return reply.map_err(|source| self.failed(source));
        }
        // Other implementations refuse what they do not know, and some close the connection.
        *self = Self::connect_at(&self.path)?;
        self.get()
    }

    /// Changes the interface.
    ///
    /// # Errors
    /// [`ClientError::Reply`] when it refuses.
    pub fn set(&mut self, update: &DeviceUpdate) -> Result<(), ClientError> {
        let reply = self.ask(&write_set(update)).and_then(|()| read_errno(&mut self.stream));
        reply.map_err(|source| self.failed(source))
    }

    fn ask(&mut self, text: &str) -> Result<(), ReplyError> {
        Ok(self.stream.stream.write_all(text.as_bytes())?)
    }

    fn failed(&self, source: ReplyError) -> ClientError {
        ClientError::Reply { path: self.path.clone(), source }
    }
}

impl Read for Replies {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(into)?;
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Replies {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unread.is_empty() {
            self.unread = 0..self.stream.read(&mut self.buffer)?;
        }
        Ok(self.buffer.get(self.unread.clone()).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.unread.start = self.unread.end.min(self.unread.start + count);
    }
}

/// What has been read is not shown.
impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// The names of the interfaces that are served, sorted, including those that this process may not ask.
///
/// # Errors
/// When the directory of the sockets cannot be read; that there is none means no interface.
pub fn interfaces() -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".sock").map(str::to_owned))
        .filter(|name| !is_deserted(&socket_path(name)))
        .collect();
    names.sort();
    Ok(names)
}

/// Whether nobody listens on the socket: its process has ended and left it behind.
pub(crate) fn is_deserted(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| means_nobody(&error))
}

/// Whether the error of connecting means that nobody listens, as opposed to a listener that may not be asked.
pub(crate) fn means_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// What to do when the daemon of the interface `name` cannot be asked; empty if there is nothing to say.
pub(crate) fn advice(name: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run this as root or as the daemon's user".to_owned(),
        _ if means_nobody(error) => format!("; no daemon of {name} runs here: see adit show interfaces"),
        _ => String::new(),
    }
}

fn advice_at(path: &Path, error: &io::Error) -> String {
    advice(&path.file_stem().unwrap_or_default().to_string_lossy(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_cannot_be_asked_comes_with_what_to_do() {
        let said = |kind: io::ErrorKind| {
            ClientError::Connect { path: socket_path("wg7"), source: io::Error::new(kind, "so it is") }.to_string()
        };
        let place = "no interface can be asked at /var/run/wireguard/wg7.sock: so it is";
        let denied = said(io::ErrorKind::PermissionDenied);
        assert_eq!(denied, format!("{place}; run this as root or as the daemon's user"));
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused] {
            assert_eq!(said(kind), format!("{place}; no daemon of wg7 runs here: see adit show interfaces"));
        }
        assert_eq!(said(io::ErrorKind::TimedOut), place);
    }
}
