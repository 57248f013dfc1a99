//! Pings: one ICMP echo at a time, whose delay is reported.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::event::Event;
use super::host::Host;

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// Bytes of the ICMP header, and of what ping(8) sends with it.
const HEADER: usize = 8;
const PAYLOAD: usize = 56;
/// In a namespace of our own nobody else pings.
const IDENTIFIER: u16 = 0xad17;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time from one ping to the next while nothing else happens, and while bulk moves, which the pings should not disturb.
const INTERVAL_IDLE: Duration = Duration::from_millis(10);
const INTERVAL_LOADED: Duration = Duration::from_millis(50);

/// Pings until it is dropped.
#[derive(Debug)]
pub(super) struct Pinger {
    ends: Arc<AtomicBool>,
    is_loaded: Arc<AtomicBool>,
}

impl Pinger {
    /// Pings `target` from `host`. Each ping becomes an event.
    pub(super) fn start(host: &Host, target: Ipv4Addr, events: Sender<Event>) -> Result<Pinger> {
        let socket = host.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))?;
        let mut socket = socket.context("a socket for pings cannot be made")?;
        let pinger = Pinger { ends: Arc::default(), is_loaded: Arc::default() };
        let (ends, is_loaded) = (pinger.ends.clone(), pinger.is_loaded.clone());
        thread::Builder::new().name("ping".to_owned()).spawn(move || {
            for sequence in (0..=u16::MAX).cycle() {
                let start = Instant::now();
                let loaded = is_loaded.load(Ordering::Relaxed);
                let event = match ping(&mut socket, target, sequence) {
                    // The load has begun or ended meanwhile: this counts as neither.
                    Ok(_) if is_loaded.load(Ordering::Relaxed) != loaded => None,
                    Ok(rtt) => Some(Event::Ping { rtt, loaded }),
                    Err(error) => Some(Event::Failed(anyhow::Error::new(error).context("pings cannot be sent"))),
                };
                let failed = matches!(event, Some(Event::Failed(_)));
                if ends.load(Ordering::Relaxed) || event.is_some_and(|event| events.send(event).is_err()) || failed {
                    return;
                }
                let interval = if loaded { INTERVAL_LOADED } else { INTERVAL_IDLE };
                thread::sleep(interval.saturating_sub(start.elapsed()));
            }
        })?;
        Ok(pinger)
    }

    /// Whether something else moves through the tunnel from now on.
    pub(super) fn set_loaded(&self, loaded: bool) {
        self.is_loaded.store(loaded, Ordering::Relaxed);
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// Sends an echo request and waits for its answer; `None` if there is none.
fn ping(socket: &mut Socket, target: Ipv4Addr, sequence: u16) -> io::Result<Option<Duration>> {
    let sent = Instant::now();
    socket.send_to(&echo_request(sequence), &SocketAddrV4::new(target, 0).into())?;
    loop {
        let left = PATIENCE.saturating_sub(sent.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        let mut buffer = [0; 256];
        match socket.read(&mut buffer) {
            Ok(length) if is_reply(buffer.get(..length).unwrap_or_default(), sequence) => {
                return Ok(Some(sent.elapsed()));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

fn echo_request(sequence: u16) -> [u8; HEADER + PAYLOAD] {
    let mut message = [0; HEADER + PAYLOAD];
    message[0] = ECHO_REQUEST;
    message[4..6].copy_from_slice(&IDENTIFIER.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let checksum = checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// Whether an IPv4 packet is the answer to this request.
fn is_reply(packet: &[u8], sequence: u16) -> bool {
    let header = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    let message = packet.get(header..).unwrap_or_default();
    message.first() == Some(&ECHO_REPLY)
        && message.get(4..6) == Some(&IDENTIFIER.to_be_bytes()[..])
        && message.get(6..8) == Some(&sequence.to_be_bytes()[..])
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_checksum_that_makes_its_sum_vanish() {
        for sequence in [0, 1, 255, 256, u16::MAX] {
            assert_eq!(checksum(&echo_request(sequence)), 0);
        }
        // RFC 1071, §3: the sum is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn only_the_answer_to_the_request_is_taken() {
        let packet = |kind: u8, sequence: u16| {
            let mut packet = vec![0x45; 20];
            packet.extend(echo_request(sequence));
            packet[20] = kind;
            packet
        };
        assert!(is_reply(&packet(ECHO_REPLY, 7), 7));
        assert!(!is_reply(&packet(ECHO_REPLY, 6), 7));
        assert!(!is_reply(&packet(ECHO_REQUEST, 7), 7));
        assert!(!is_reply(&packet(3, 7), 7), "unreachable");
        let mut stranger = packet(ECHO_REPLY, 7);
        stranger[24] ^= 1;
        assert!(!is_reply(&stranger, 7));
        let whole = packet(ECHO_REPLY, 7);
        for length in 0..28 {
            assert!(!is_reply(&whole[..length], 7), "{length}");
        }
    }
}
