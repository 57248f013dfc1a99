//! Traffic through a tunnel: ping, TCP and UDP with every byte checked, iperf3.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use crate::command::{Background, Outcome};
use crate::host::Host;
use crate::scratch::{nameless_file, text};
use crate::wait::{eventually, for_a_while};

/// How long traffic may stall before the test fails.
const STALL: Duration = Duration::from_secs(15);

/// How long a transfer may take in all.
const TRANSFER: Duration = Duration::from_secs(40);

/// A ping to be sent.
#[derive(Debug, Clone)]
pub struct Ping {
    to: IpAddr,
    from: Option<IpAddr>,
    count: u32,
    interval: Option<f64>,
    size: Option<u16>,
    patience: u32,
    flood: bool,
    fragment: bool,
}

/// What became of a ping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingReport {
    /// Echo requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
    /// How long the answer took that took longest.
    pub slowest: Option<Duration>,
    text: String,
}

impl PingReport {
    fn read(outcome: &Outcome) -> Self {
        let text = outcome.stdout() + &outcome.stderr();
        let figure = |name: &str| -> u32 {
            let before = text.split(name).next().unwrap_or_default();
            if before.len() == text.len() {
                return 0;
            }
            before.rsplit([' ', '\n']).find_map(|word| word.parse().ok()).unwrap_or(0)
        };
        // Minimum, mean, maximum and deviation.
        let times = text.split("rtt min/avg/max/mdev = ").nth(1).and_then(|times| times.split('/').nth(2));
        let slowest = times.and_then(|time| time.parse().ok()).map(|time: f64| Duration::from_secs_f64(time / 1e3));
        Self { sent: figure(" packets transmitted"), received: figure(" received"), slowest, text }
    }

    /// Fails the test unless all was answered, and in less than this time.
    #[track_caller]
    pub fn assert_all_answered_within(&self, time: Duration) {
        self.assert_all_answered();
        assert!(self.slowest.is_some_and(|slowest| slowest < time), "not within {time:?}\n{}", self.text);
    }

    /// Whether something was sent and all of it answered.
    pub fn all_answered(&self) -> bool {
        self.sent > 0 && self.received == self.sent
    }

    /// Fails the test unless all was answered.
    #[track_caller]
    pub fn assert_all_answered(&self) {
        assert!(self.all_answered(), "{} of {} answered\n{}", self.received, self.sent, self.text);
    }
}

impl Ping {
    /// One echo request of the usual size, with much patience.
    pub fn to(to: IpAddr) -> Self {
        Self { to, from: None, count: 1, interval: None, size: None, patience: 4, flood: false, fragment: true }
    }

    /// From this address.
    #[must_use]
    pub fn source(mut self, from: IpAddr) -> Self {
        self.from = Some(from);
        self
    }

    /// So many, with an interval in seconds between them.
    #[must_use]
    pub fn count(mut self, count: u32, interval: f64) -> Self {
        self.count = count;
        self.interval = Some(interval);
        self
    }

    /// So many, each as soon as the last is answered.
    #[must_use]
    pub fn flood(mut self, count: u32) -> Self {
        self.count = count;
        self.flood = true;
        self
    }

    /// An IP packet of this length in all, which must not be fragmented inside the tunnel.
    #[must_use]
    pub fn packet_length(mut self, length: u16) -> Self {
        let headers = if self.to.is_ipv4() { 28 } else { 48 };
        self.size = Some(length - headers);
        self.fragment = false;
        self
    }

    /// So many bytes of payload, which may be fragmented inside the tunnel.
    #[must_use]
    pub fn payload(mut self, bytes: u16) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Waits this many seconds for an answer.
    #[must_use]
    pub fn patience(mut self, seconds: u32) -> Self {
        self.patience = seconds;
        self
    }

    /// With this interval in seconds, for as long as it goes on; see [`Ping::start`].
    #[must_use]
    pub fn every(mut self, interval: f64) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Sends it from this host and waits for the answers.
    pub fn from(&self, host: &Host) -> PingReport {
        let mut command = self.command();
        command.args(["-q", "-c", &self.count.to_string()]).arg(self.to.to_string());
        PingReport::read(&host.complete(command, ""))
    }

    /// Goes on sending from this host until it is stopped.
    #[track_caller]
    pub fn start(&self, host: &Host) -> Pinging {
        let said = nameless_file();
        let copy = || said.try_clone().expect("ping's words");
        let mut command = self.command();
        // With an answer on its way ping sleeps for 10 ms at a time; so it may make up for that.
        command.args(["-l", "20", &self.to.to_string()]).stdin(Stdio::null()).stdout(copy()).stderr(copy());
        Pinging { process: host.start(command), said, patience: Duration::from_secs(self.patience.into()) }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("ping");
        command.args(["-n", "-W", &self.patience.to_string()]);
        if self.flood {
            command.arg("-f");
        }
        if let Some(interval) = self.interval {
            command.args(["-i", &interval.to_string()]);
        }
        if let Some(size) = self.size {
            command.args(["-s", &size.to_string()]);
        }
        if !self.fragment {
            command.args(["-M", "do"]);
        }
        if let Some(from) = self.from {
            command.args(["-I", &from.to_string()]);
        }
        command
    }
}

/// A ping that goes on. Ended when dropped.
#[derive(Debug)]
pub struct Pinging {
    process: Background,
    said: File,
    patience: Duration,
}

impl Pinging {
    /// Ends it, and fails the test unless all that was sent by now is answered.
    #[track_caller]
    pub fn stop(mut self) {
        // Asked so, it tells how many it has sent; what it sends after that is of no interest.
        self.process.signal(Signal::SIGQUIT);
        let sent = eventually("ping tells how many it has sent", || {
            assert_eq!(self.process.ended(), None, "{}", text(&self.said));
            let text = text(&self.said);
            let told = text.split([' ', '\r', '\n']).filter_map(|word| word.split_once('/'));
            told.filter_map(|(received, sent)| received.parse::<u32>().ok().and(sent.parse::<u32>().ok())).next()
        });
        assert!(sent > 0, "no ping has been sent");
        let missing = || -> Vec<u32> {
            let text = text(&self.said);
            let numbers = text.split("icmp_seq=").skip(1).filter_map(|rest| rest.split(' ').next()?.parse().ok());
            let answered: HashSet<u32> = numbers.collect();
            (1..=sent).filter(|number| !answered.contains(number)).collect()
        };
        if for_a_while(self.patience, || missing().is_empty().then_some(())).is_none() {
            panic!("of {sent} pings these were not answered: {:?}", missing());
        }
        self.process.signal(Signal::SIGINT);
        self.process.wait();
    }
}

/// Moves so many bytes by TCP from one host to an address of the other and compares what arrives.
#[track_caller]
pub fn tcp_transfer(from: &Host, to: &Host, address: IpAddr, bytes: usize) {
    tcp_stream(from, to, address, |sent| bytes - sent);
}

/// Moves bytes by TCP from one host to an address of the other for as long as there are more, which `more` is asked with
/// how many were sent; compares what arrives, and returns how many bytes that were.
#[track_caller]
pub fn tcp_stream(from: &Host, to: &Host, address: IpAddr, more: impl Fn(usize) -> usize + Send) -> usize {
    let listener = to.enter(|| TcpListener::bind((address, 0))).expect("listen for TCP");
    let server = listener.local_addr().expect("the listener's address");
    let mut sender = from
        .enter(|| TcpStream::connect_timeout(&server, STALL))
        .unwrap_or_else(|error| panic!("no TCP connection to {server}: {error}"));
    let (mut receiver, _) = listener.accept().expect("accept the connection");
    let end = Instant::now() + TRANSFER;
    receiver.set_read_timeout(Some(STALL)).expect("a time-out");
    sender.set_write_timeout(Some(STALL)).expect("a time-out");
    let hang_up = sender.try_clone().expect("the sender's socket");
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let mut sent = 0;
            loop {
                let left = more(sent);
                if left == 0 {
                    break;
                }
                let chunk = pattern(sent, left.min(1 << 16));
                sender.write_all(&chunk)?;
                sent += chunk.len();
            }
            sender.shutdown(Shutdown::Write)?;
            Ok::<_, std::io::Error>(sent)
        });
        let received = receive_all(&mut receiver, end);
        // The sender may wait for a tunnel that carries nothing any more.
        let _gone_already = hang_up.shutdown(Shutdown::Both);
        let sent = sending.join().expect("the sending thread");
        match (sent, received) {
            (Ok(sent), Ok(received)) => {
                assert_eq!(received, sent, "bytes of {sent} arrived by TCP at {server}");
                received
            }
            (sent, received) => panic!("TCP to {server}; receiving: {received:?}; sending: {sent:?}"),
        }
    })
}

/// Reads to the end and says how many bytes that were.
fn receive_all(stream: &mut TcpStream, end: Instant) -> Result<usize, String> {
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(received),
            Ok(length) => {
                if buffer[..length] != pattern(received, length) {
                    return Err(format!("other bytes than sent after {received}"));
                }
                received += length;
            }
            Err(error) => return Err(format!("stalls after {received} bytes: {error}")),
        }
        if Instant::now() > end {
            return Err(format!("only {received} bytes in {TRANSFER:?}"));
        }
    }
}

/// Two UDP sockets, one on each host, that talk through whatever is between the two addresses.
#[derive(Debug)]
pub struct Udp {
    here: UdpSocket,
    there: UdpSocket,
}

impl Udp {
    /// Opens the sockets on these addresses of the two hosts.
    #[track_caller]
    pub fn between(here: &Host, here_address: IpAddr, there: &Host, there_address: IpAddr) -> Self {
        let open = |host: &Host, address: IpAddr, port: u16| {
            let socket = host
                .enter(|| UdpSocket::bind((address, port)).or_else(|_| UdpSocket::bind((address, 0))))
                .unwrap_or_else(|error| panic!("no UDP socket on {address}: {error}"));
            socket.set_read_timeout(Some(STALL)).expect("a time-out");
            socket
        };
        // The same ports each time, so that each datagram has the same checksum each time: wireguard-go leaves one that
        // comes out as zero like that, which IPv6 throws away, and of 65,536 datagrams one would be lost.
        Self { here: open(here, here_address, 7001), there: open(there, there_address, 7002) }
    }

    /// Sends datagrams of these payload lengths there and back, and compares what arrives.
    #[track_caller]
    pub fn echo(&self, lengths: impl IntoIterator<Item = usize>) {
        for (number, length) in lengths.into_iter().enumerate() {
            let sent = pattern(number, length);
            for (from, to) in [(&self.here, &self.there), (&self.there, &self.here)] {
                from.send_to(&sent, address(to)).unwrap_or_else(|error| panic!("send {length} bytes: {error}"));
                let arrived = receive(to).unwrap_or_else(|| panic!("a datagram of {length} bytes does not arrive"));
                assert!(arrived == sent, "a datagram of {length} bytes arrives as other {} bytes", arrived.len());
            }
        }
    }

    /// Hands the kernel so many datagrams of this length as one, as programs do that send much (`UDP_SEGMENT`), first
    /// there and then back, and compares what arrives.
    #[track_caller]
    pub fn segments(&self, count: usize, length: u16) {
        for (from, to) in [(&self.here, &self.there), (&self.there, &self.here)] {
            setsockopt(from, sockopt::UdpGsoSegment, &length.into()).expect("a kernel that segments UDP");
            let sent = pattern(count, count * usize::from(length));
            from.send_to(&sent, address(to)).unwrap_or_else(|error| panic!("send {count} datagrams: {error}"));
            for (number, segment) in sent.chunks(length.into()).enumerate() {
                let arrived = receive(to).unwrap_or_else(|| panic!("segment {number} of {count} does not arrive"));
                assert!(arrived == segment, "segment {number} of {count} arrives as other {} bytes", arrived.len());
            }
            setsockopt(from, sockopt::UdpGsoSegment, &0).expect("no more segments");
        }
    }

    /// Sends a datagram there.
    pub fn send(&self, payload: &[u8]) -> std::io::Result<usize> {
        self.here.send_to(payload, address(&self.there))
    }

    /// What arrives there next, within this time.
    pub fn receive_within(&self, time: Duration) -> Option<Vec<u8>> {
        self.there.set_read_timeout(Some(time)).expect("a time-out");
        receive(&self.there)
    }

    /// Sends so many numbered datagrams of this length there as fast as it goes and says which arrived, in their order.
    #[track_caller]
    pub fn burst(&self, count: u32, length: usize) -> Vec<u32> {
        self.send_many(count, length, None, Duration::from_secs(1))
    }

    /// As [`Udp::burst`]; once so many have arrived one datagram goes back, in the midst of the others.
    #[track_caller]
    pub fn answered_burst(&self, count: u32, length: usize, answer_after: usize) -> Vec<u32> {
        self.send_many(count, length, Some(answer_after), Duration::from_millis(100))
    }

    fn send_many(&self, count: u32, length: usize, answer_after: Option<usize>, patience: Duration) -> Vec<u32> {
        self.there.set_read_timeout(Some(patience)).expect("a time-out");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..count {
                    let mut datagram = vec![0; length.max(4)];
                    datagram[..4].copy_from_slice(&number.to_be_bytes());
                    // A full queue on the way is a lost datagram, which UDP may lose.
                    let _lost = self.here.send_to(&datagram, address(&self.there));
                }
            });
            let mut arrived = Vec::new();
            while let Some(datagram) = receive(&self.there) {
                if answer_after == Some(arrived.len()) {
                    self.there.send_to(b"answer", address(&self.here)).expect("an answer");
                }
                let number = datagram.first_chunk().expect("a numbered datagram");
                arrived.push(u32::from_be_bytes(*number));
            }
            arrived
        })
    }
}

/// Runs an iperf3 client on one host against a server on another and hands back the client's report in JSON.
#[track_caller]
pub fn iperf3(from: &Host, to: &Host, address: IpAddr, arguments: &[&str]) -> String {
    let mut server = Command::new("iperf3");
    server.args(["-s", "-1", "-B", &address.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = to.start(server);
    eventually("iperf3 listens", || {
        assert!(server.ended().is_none(), "the iperf3 server ended");
        let listening = to.run("ss", &["-Hltn", "sport = :5201"]).success();
        (!listening.trim().is_empty()).then_some(())
    });
    let address = address.to_string();
    let mut words = vec!["-J", "-c", &address];
    words.extend(arguments);
    let outcome = from.run("iperf3", &words);
    assert!(outcome.is_success(), "iperf3 {arguments:?} fails\n{}{}", outcome.stdout(), outcome.stderr());
    outcome.stdout()
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("a bound socket")
}

fn receive(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

/// Bytes that depend on where they stand, so that none can be swapped, doubled or lost unseen.
fn pattern(start: usize, length: usize) -> Vec<u8> {
    (start..start + length)
        .map(|position| {
            let mixed = (position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed.to_be_bytes()[1]
        })
        .collect()
}
