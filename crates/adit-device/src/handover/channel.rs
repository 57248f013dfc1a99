//! What the two processes say to each other: a kind, a text, bytes, and open files.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::Pid;
use zeroize::Zeroizing;

const MAGIC: [u8; 3] = *b"adi";
const HEADER_LEN: usize = 16;
/// Open files sent along with one byte; the kernel takes up to 253.
const FDS_AT_ONCE: usize = 64;
/// Written at once: a socket takes this much in one piece, and so waits for room once, not for each piece of its own.
const PIECE: usize = 16 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The device's state; to be checked the first time, to be taken over the second time.
    State = 1,
    /// It could be taken over.
    Prepared = 2,
    /// It cannot, and the text says why.
    Refused = 3,
    /// It is taken over.
    Taken = 4,
}

pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) fds: Vec<OwnedFd>,
    /// The process that sent it, if the socket was asked to tell.
    pub(super) from: Option<Pid>,
}

/// How much of everything a message may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    fds: u32,
    text: u32,
    bytes: u32,
}

/// More than any device has.
pub(super) const STATE: Limits = Limits { fds: 1 << 14, text: 1 << 16, bytes: u32::MAX };
/// Answers are words alone.
pub(super) const ANSWER: Limits = Limits { fds: 0, bytes: 0, ..STATE };

/// One end of the connection.
pub(super) struct Channel<'a> {
    stream: &'a UnixStream,
    /// When everything must have been said, however slowly it comes.
    until: Option<Instant>,
}

impl<'a> Channel<'a> {
    /// To be waited on for as long as there is another end.
    pub(super) fn patient(stream: &'a UnixStream) -> Self {
        Self { stream, until: None }
    }

    /// To be waited on for this long in all.
    pub(super) fn within(stream: &'a UnixStream, time: Duration) -> Self {
        Self { stream, until: Instant::now().checked_add(time) }
    }

    /// Limits the next call to the time that is left.
    fn limit(&self, set: fn(&UnixStream, Option<Duration>) -> io::Result<()>) -> io::Result<()> {
        let Some(until) = self.until else { return Ok(()) };
        let left = until.saturating_duration_since(Instant::now());
        // The kernel takes zero for no limit.
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { set(self.stream, Some(left)) }
    }

    pub(super) fn send(&mut self, kind: Kind, text: &str, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let len = |len: usize| u32::try_from(len).map_err(|_| io::Error::from(ErrorKind::FileTooLarge));
        let mut header = [0; HEADER_LEN];
        header[..3].copy_from_slice(&MAGIC);
        header[3] = kind as u8;
        for (place, number) in header[4..].as_chunks_mut::<4>().0.iter_mut().zip([fds.len(), text.len(), bytes.len()]) {
            *place = len(number)?.to_le_bytes();
        }
        self.write_all(&header)?;
        for fds in fds.chunks(FDS_AT_ONCE) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(fds));
            self.limit(UnixStream::set_write_timeout)?;
            let count = [fds.len() as u8];
            retry_on_intr(|| sendmsg(self.stream, &[IoSlice::new(&count)], &mut control, SendFlags::NOSIGNAL))?;
        }
        self.write_all(text.as_bytes())?;
        self.write_all(bytes)
    }

    /// The next message.
    ///
    /// # Errors
    /// There is none in time, it is none of ours, or it is larger than `limits`.
    pub(super) fn receive(&mut self, limits: Limits) -> io::Result<Message> {
        let (header, from) = self.receive_header()?;
        let [a, b, c, kind, rest @ ..] = header;
        let kinds = [Kind::State, Kind::Prepared, Kind::Refused, Kind::Taken];
        let kind = kinds.into_iter().find(|&known| known as u8 == kind);
        let kind = kind.filter(|_| [a, b, c] == MAGIC).ok_or(ErrorKind::InvalidData)?;
        let [fd_count, text_len, len]: [u32; 3] =
            std::array::from_fn(|index| rest.as_chunks::<4>().0.get(index).copied().map_or(0, u32::from_le_bytes));
        if fd_count > limits.fds || text_len > limits.text || len > limits.bytes {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut fds = Vec::new();
        while fds.len() < fd_count as usize {
            self.receive_fds(&mut fds)?;
        }
        if fds.len() > fd_count as usize {
            return Err(io::Error::new(ErrorKind::InvalidData, "more open files came than were announced"));
        }
        let mut text = vec![0; text_len as usize];
        self.read_exact(&mut text)?;
        let text = String::from_utf8(text).map_err(|_| ErrorKind::InvalidData)?;
        // Allocated in one piece: a vector that grows leaves its old memory as it is.
        let mut bytes = Zeroizing::new(vec![0; len as usize]);
        self.read_exact(&mut bytes)?;
        Ok(Message { kind, text, bytes, fds, from })
    }

    fn receive_header(&self) -> io::Result<([u8; HEADER_LEN], Option<Pid>)> {
        let mut header = [0; HEADER_LEN];
        let mut filled = 0;
        let mut from = None;
        while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            self.limit(UnixStream::set_read_timeout)?;
            let mut parts = [IoSliceMut::new(rest)];
            let received = retry_on_intr(|| recvmsg(self.stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC))?;
            if received.bytes == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmCredentials(sender) = message {
                    // What two have written is nobody's.
                    if from.replace(sender.pid).is_some_and(|earlier| earlier != sender.pid) {
                        return Err(ErrorKind::InvalidData.into());
                    }
                }
            }
            filled += received.bytes;
        }
        Ok((header, from))
    }

    fn receive_fds(&self, fds: &mut Vec<OwnedFd>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut count = [0];
        self.limit(UnixStream::set_read_timeout)?;
        let mut parts = [IoSliceMut::new(&mut count)];
        let received = retry_on_intr(|| recvmsg(self.stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC))?;
        let before = fds.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                fds.extend(files);
            }
        }
        let arrived = fds.len() - before;
        // If the process may open no more files, the kernel cuts the rest off.
        if received.bytes == 0
            || received.flags.contains(ReturnFlags::CTRUNC)
            || arrived != usize::from(count[0])
            || arrived == 0
        {
            return Err(io::Error::new(ErrorKind::InvalidData, "open files were lost on the way"));
        }
        Ok(())
    }
}

impl Read for Channel<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.limit(UnixStream::set_read_timeout)?;
        self.stream.read(buffer)
    }
}

impl Write for Channel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit(UnixStream::set_write_timeout)?;
        self.stream.write(bytes.get(..PIECE).unwrap_or(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use super::*;

    /// Of a message with a state.
    fn header(fds: u32, text: u32, bytes: u32) -> Vec<u8> {
        [b"adi\x01".to_owned(), fds.to_le_bytes(), text.to_le_bytes(), bytes.to_le_bytes()].concat()
    }

    /// Why there is no message.
    fn refusal(there: &UnixStream, limits: Limits) -> io::Error {
        Channel::within(there, Duration::from_secs(2)).receive(limits).err().expect("no message")
    }

    #[test]
    fn a_header_that_announces_too_much_is_refused_while_the_other_end_is_open() {
        for (limits, fds, text, bytes) in [
            (STATE, STATE.fds + 1, 0, 0),
            (STATE, 0, STATE.text + 1, 0),
            (STATE, u32::MAX, u32::MAX, 0),
            (ANSWER, 1, 0, 0),
            (ANSWER, 0, 0, 1),
            (ANSWER, 0, STATE.text + 1, 0),
        ] {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(&header(fds, text, bytes)).unwrap();
            let error = refusal(&there, limits);
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{limits:?}: {fds}, {text}, {bytes}: {error}");
        }
    }

    #[test]
    fn as_much_as_is_allowed_is_taken() {
        let (here, there) = UnixStream::pair().unwrap();
        let text = "t".repeat(STATE.text as usize);
        let message = std::thread::scope(|scope| {
            scope.spawn(|| Channel::patient(&here).send(Kind::Refused, &text, &[], &[]).unwrap());
            Channel::patient(&there).receive(ANSWER).unwrap()
        });
        assert!(message.text == text);
        // So many files cannot be sent here, but they are waited for.
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&header(STATE.fds, 0, 0)).unwrap();
        drop(here);
        assert_eq!(refusal(&there, STATE).to_string(), "open files were lost on the way");
    }

    /// Hands bytes on, one after the other and again and again, until the other end is gone.
    fn drip(mut stream: &UnixStream) {
        while stream.write_all(b"x").is_ok() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_comes_slowly_has_no_more_time_than_what_does_not_come() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&header(0, 0, 1 << 26)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| drip(&here));
            let error = Channel::within(&there, Duration::from_millis(50)).receive(STATE).err().expect("no message");
            assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{error}");
            there.shutdown(std::net::Shutdown::Both).unwrap();
        });
    }

    #[test]
    fn whoever_reads_slowly_has_no_more_time_than_who_does_not_read() {
        let (here, there) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while matches!((&there).read(&mut [0; 256]), Ok(1..)) {
                    std::thread::yield_now();
                }
            });
            let sent = Channel::within(&here, Duration::from_millis(50)).send(Kind::State, "", &vec![0; 1 << 28], &[]);
            let error = sent.expect_err("not all can be read so soon");
            assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{error}");
            here.shutdown(std::net::Shutdown::Both).unwrap();
        });
    }

    #[test]
    fn a_message_tells_who_has_sent_it_if_that_is_asked_for() {
        let (here, there) = UnixStream::pair().unwrap();
        let receive = || {
            Channel::patient(&here).send(Kind::Prepared, "", &[], &[]).unwrap();
            Channel::patient(&there).receive(ANSWER).unwrap().from
        };
        assert_eq!(receive(), None);
        rustix::net::sockopt::set_socket_passcred(&there, true).unwrap();
        assert_eq!(receive(), Some(rustix::process::getpid()));
    }

    #[test]
    fn fewer_or_more_open_files_than_the_byte_beside_them_tells_are_an_error() {
        for (announced, sent) in [(2, 1), (1, 2), (0, 2), (0, 0), (1, 0)] {
            let (here, there) = UnixStream::pair().unwrap();
            let fds = vec![here.as_fd(); sent];
            (&here).write_all(&header(2, 0, 0)).unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if sent > 0 {
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            sendmsg(&here, &[IoSlice::new(&[announced])], &mut control, SendFlags::NOSIGNAL).unwrap();
            let error = refusal(&there, STATE).to_string();
            assert_eq!(error, "open files were lost on the way", "{announced} announced, {sent} sent");
        }
    }

    #[test]
    fn more_open_files_than_the_header_tells_are_an_error() {
        let (here, there) = UnixStream::pair().unwrap();
        let fds = [here.as_fd(); 3];
        (&here).write_all(&header(2, 0, 0)).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&here, &[IoSlice::new(&[3])], &mut control, SendFlags::NOSIGNAL).unwrap();
        assert!(refusal(&there, STATE).to_string().contains("more open files"));
    }
}
