//! Reading from the TUN device, into the burst.

use std::io;
use std::sync::atomic::Ordering;

use adit::limits::{PADDING, TRANSPORT_HEADER_LEN, TRANSPORT_OVERHEAD};
use adit::{Ecn, Packets};

use super::{MAX_READ, OUT_LEN, TAG_LEN, UNCUT, Uncut, Worker};
use crate::offload::{Split, SplitError, VnetHeader};
use crate::shared::is_idle;

impl Worker {
    /// Reads once from the TUN device, and adds what comes to the burst, at `start`. Returns where the next datagram
    /// may begin.
    ///
    /// A whole packet is read into its place in the burst, a segmented one to where it is cut up. Which of the two
    /// comes is not known before; usually it is the same kind as the last one. A wrong guess costs a copy.
    pub(super) fn read_packet(&mut self, start: usize, packets: &mut Packets) -> io::Result<usize> {
        let begin = if self.is_bulk { UNCUT } else { start + TRANSPORT_HEADER_LEN };
        let header_len = if self.shared.vnet_header { VnetHeader::LEN } else { 0 };
        // The device's header lands where the tunnel's will be.
        let place = self.outbound.get_mut(begin - header_len..begin + MAX_READ).ok_or(io::ErrorKind::OutOfMemory)?;
        let len = self.tun.as_ref().ok_or(io::ErrorKind::NotFound)?.read(place)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let vnet = match place.first_chunk().filter(|_| header_len > 0) {
            Some(header) => VnetHeader::from_bytes(header),
            None => VnetHeader::default(),
        };
        // Shorter than its own header is no packet.
        let Some(len) = len.checked_sub(header_len) else { return Ok(start) };
        let was_bulk = std::mem::replace(&mut self.is_bulk, vnet.is_segmented());
        let packet = self.outbound.get_mut(begin..begin + len).unwrap_or_default();
        self.shared.flows.sent_by(self.index, packet);
        let peer = || self.shared.interface().route_packet(packet);
        let is_dropped = self.codel.drops(self.is_bulk, was_bulk, peer) && !Ecn::mark(packet);
        if is_dropped {
            self.shared.standing_queue.fetch_add(1, Ordering::Relaxed);
            if !self.is_bulk {
                return Ok(start);
            }
        }
        if begin != UNCUT {
            if !self.is_bulk && start + TRANSPORT_OVERHEAD + len + PADDING <= OUT_LEN {
                return Ok(self.finish_in_place(&vnet, start, len, packets));
            }
            self.outbound.copy_within(begin..begin + len, UNCUT);
        }
        Ok(self.cut(Uncut { vnet, len, segment: is_dropped.into() }, start, packets))
    }

    /// Adds the one packet that was read to its place in the burst.
    fn finish_in_place(&mut self, vnet: &VnetHeader, start: usize, len: usize, packets: &mut Packets) -> usize {
        let begin = start + TRANSPORT_HEADER_LEN;
        let packet = self.outbound.get_mut(begin..begin + len).unwrap_or_default();
        match Split::new(vnet, packet) {
            Ok(mut split) => {
                split.finish_in_place();
                packets.push(start, len).unwrap_or(start)
            }
            Err(error) => self.unusable(&error, start),
        }
    }

    /// Cuts what was read into packets and adds them to the burst, from `start` on; segments that find no room are kept
    /// in `self.rest`. Returns where the next datagram may begin.
    pub(super) fn cut(&mut self, uncut: Uncut, start: usize, packets: &mut Packets) -> usize {
        let (burst, read) = self.outbound.split_at_mut(OUT_LEN);
        let read = read.get_mut(UNCUT - OUT_LEN..).and_then(|read| read.get_mut(..uncut.len)).unwrap_or_default();
        let split = match Split::new(&uncut.vnet, read) {
            Ok(split) => split,
            Err(error) => return self.unusable(&error, start),
        };
        let mut end = start;
        for segment in uncut.segment..split.count() {
            let len = split.len(segment);
            let begin = end + TRANSPORT_HEADER_LEN;
            // Room for the padding and the tag as well.
            let room = burst.get_mut(begin..begin + len + PADDING + TAG_LEN);
            let Some(place) = room.and_then(|room| room.get_mut(..len)) else {
                // An empty burst has room for any packet.
                if !packets.is_empty() {
                    self.rest = Some(Uncut { segment, ..uncut });
                }
                break;
            };
            if split.write(segment, place).is_some() {
                end = packets.push(end, len).unwrap_or(end);
            }
        }
        end
    }

    fn unusable(&self, error: &SplitError, start: usize) -> usize {
        tracing::debug!(%error, "a packet from inside cannot be used");
        self.shared.tun_errors.fetch_add(1, Ordering::Relaxed);
        start
    }

    pub(super) fn tun_failed(&self, error: &io::Error) {
        if is_idle(error) {
            return;
        }
        // EIO and the like pass when the link's state changes; without the device nothing is left to do.
        if matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV)) {
            self.shared.tun_is_gone.store(true, Ordering::Relaxed);
            self.shared.wake_control();
        } else {
            tracing::debug!(%error, "the TUN device cannot be read");
        }
    }
}
