//! What the two processes say to each other: a kind, a text, bytes, and open files.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use zeroize::Zeroizing;

const MAGIC: [u8; 3] = *b"adi";
const HEADER_LEN: usize = 16;
/// Open files sent along with one byte; the kernel takes up to 253.
const FDS_AT_ONCE: usize = 64;
/// More than any device has.
const MAX_FDS: u32 = 1 << 14;
const MAX_TEXT: u32 = 1 << 16;

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
}

pub(super) fn send(
    mut stream: &UnixStream,
    kind: Kind,
    text: &str,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let len = |len: usize| u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge));
    let mut header = [0; HEADER_LEN];
    header[..3].copy_from_slice(&MAGIC);
    header[3] = kind as u8;
    for (place, number) in header[4..].as_chunks_mut::<4>().0.iter_mut().zip([fds.len(), text.len(), bytes.len()]) {
        *place = len(number)?.to_le_bytes();
    }
    stream.write_all(&header)?;
    for fds in fds.chunks(FDS_AT_ONCE) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(fds));
        sendmsg(stream, &[IoSlice::new(&[fds.len() as u8])], &mut control, SendFlags::NOSIGNAL)?;
    }
    stream.write_all(text.as_bytes())?;
    stream.write_all(bytes)
}

pub(super) fn receive(mut stream: &UnixStream) -> io::Result<Message> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header)?;
    let [a, b, c, kind, rest @ ..] = header;
    let kind = [Kind::State, Kind::Prepared, Kind::Refused, Kind::Taken].into_iter().find(|&known| known as u8 == kind);
    let kind = kind.filter(|_| [a, b, c] == MAGIC).ok_or(io::ErrorKind::InvalidData)?;
    let [fd_count, text_len, len]: [u32; 3] =
        std::array::from_fn(|index| rest.as_chunks::<4>().0.get(index).copied().map_or(0, u32::from_le_bytes));
    if fd_count > MAX_FDS || text_len > MAX_TEXT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut fds = Vec::new();
    while fds.len() < fd_count as usize {
        receive_fds(stream, &mut fds)?;
    }
    let mut text = vec![0; text_len as usize];
    stream.read_exact(&mut text)?;
    let text = String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData)?;
    // Allocated in one piece: a vector that grows leaves its old memory as it is.
    let mut bytes = Zeroizing::new(vec![0; len as usize]);
    stream.read_exact(&mut bytes)?;
    Ok(Message { kind, text, bytes, fds })
}

fn receive_fds(stream: &UnixStream, fds: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut count = [0];
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut count)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
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
        return Err(io::Error::new(io::ErrorKind::InvalidData, "open files were lost on the way"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use super::*;

    /// A pair of which the second does not wait for long.
    fn pair() -> (UnixStream, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        there.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        (here, there)
    }

    /// Of a message with a state.
    fn header(fds: u32, text: u32, bytes: u32) -> Vec<u8> {
        [b"adi\x01".to_owned(), fds.to_le_bytes(), text.to_le_bytes(), bytes.to_le_bytes()].concat()
    }

    /// Why there is no message.
    fn refusal(there: &UnixStream) -> io::Error {
        receive(there).err().expect("no message")
    }

    #[test]
    fn a_header_that_announces_too_much_is_refused_while_the_other_end_is_open() {
        for (fds, text) in [(MAX_FDS + 1, 0), (0, MAX_TEXT + 1), (u32::MAX, u32::MAX)] {
            let (mut here, there) = pair();
            here.write_all(&header(fds, text, 0)).unwrap();
            let error = refusal(&there);
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{fds} files, {text} bytes of text: {error}");
        }
    }

    #[test]
    fn as_much_as_is_allowed_is_taken() {
        let (here, there) = pair();
        let text = "t".repeat(MAX_TEXT as usize);
        let message = std::thread::scope(|scope| {
            scope.spawn(|| send(&here, Kind::State, &text, &[], &[]).unwrap());
            receive(&there).unwrap()
        });
        assert!(message.text == text);
        // So many files cannot be sent here, but they are waited for.
        let (mut here, there) = pair();
        here.write_all(&header(MAX_FDS, 0, 0)).unwrap();
        drop(here);
        assert_eq!(refusal(&there).to_string(), "open files were lost on the way");
    }

    #[test]
    fn fewer_or_more_open_files_than_the_byte_beside_them_tells_are_an_error() {
        for (announced, sent) in [(2, 1), (1, 2), (0, 2), (0, 0), (1, 0)] {
            let (here, there) = pair();
            let fds = vec![here.as_fd(); sent];
            (&here).write_all(&header(2, 0, 0)).unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if sent > 0 {
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            sendmsg(&here, &[IoSlice::new(&[announced])], &mut control, SendFlags::NOSIGNAL).unwrap();
            let error = refusal(&there).to_string();
            assert_eq!(error, "open files were lost on the way", "{announced} announced, {sent} sent");
        }
    }
}
