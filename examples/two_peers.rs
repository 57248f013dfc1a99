//! Both ends of a tunnel in one process, over UDP sockets on the loopback interface.
//!
//! It needs no root and no TUN device: the packets inside the tunnel are made up here.
//!
//!     cargo run -p adit-examples --example two_peers

use std::error::Error;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit::{Ecn, Event, Instant, Interface, Path, PrivateKey, PublicKey, Transmit};
use getrandom::SysRng;
use rand_core::UnwrapErr;

const LEFT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const RIGHT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// When to give up.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let clock = Clock(std::time::Instant::now());
    let mut rng = UnwrapErr(SysRng);
    let keys = [PrivateKey::generate(&mut rng), PrivateKey::generate(&mut rng)];
    let mut left = End::new("left", clock, &keys[0])?;
    let mut right = End::new("right", clock, &keys[1])?;
    // Only the left end is told where the other is. The right one learns it from the handshake.
    left.add_peer(keys[1].public_key(), RIGHT, Some(&right))?;
    right.add_peer(keys[0].public_key(), LEFT, None)?;

    left.send_packet(&packet(LEFT, RIGHT, "How deep is the adit?"))?;
    while clock.now() < Instant::default() + PATIENCE {
        left.transmit()?;
        for question in right.receive()? {
            println!("right: got {question:?}");
            right.send_packet(&packet(RIGHT, LEFT, "A thousand fathoms."))?;
        }
        right.transmit()?;
        if let Some(answer) = left.receive()?.pop() {
            println!("left: got {answer:?}");
            return Ok(());
        }
    }
    Err("no answer".into())
}

/// The engine's clock begins with the program. A daemon would take one that goes on while the
/// machine sleeps.
#[derive(Clone, Copy)]
struct Clock(std::time::Instant);

impl Clock {
    fn now(self) -> Instant {
        Instant::default() + self.0.elapsed()
    }
}

/// One end of the tunnel.
struct End {
    name: &'static str,
    clock: Clock,
    interface: Interface,
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl End {
    fn new(name: &'static str, clock: Clock, key: &PrivateKey) -> Result<Self, Box<dyn Error>> {
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut interface = Interface::new(clock.now(), unix_time, Box::new(UnwrapErr(SysRng)));
        interface.set_private_key(Some(key.clone()));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(10)))?;
        Ok(Self { name, clock, interface, socket, buffer: vec![0; 65_536] })
    }

    fn add_peer(&mut self, key: PublicKey, inside: Ipv4Addr, end: Option<&End>) -> Result<(), Box<dyn Error>> {
        let peer = self.interface.add_peer(key)?;
        self.interface.add_allowed_ip(peer, format!("{inside}/32").parse()?)?;
        let endpoint = end.map(|end| end.socket.local_addr()).transpose()?;
        self.interface.set_endpoint(peer, endpoint)?;
        Ok(())
    }

    /// A packet goes into the tunnel. Without a session it waits, and a handshake begins.
    fn send_packet(&mut self, packet: &[u8]) -> Result<(), Box<dyn Error>> {
        if let Some(transmit) = self.interface.handle_packet(self.clock.now(), packet, &mut self.buffer)? {
            self.send(&transmit)?;
        }
        Ok(())
    }

    /// Sends whatever the engine has for the network, and does what is due.
    fn transmit(&mut self) -> Result<(), Box<dyn Error>> {
        if self.interface.poll_timeout().is_some_and(|deadline| deadline <= self.clock.now()) {
            self.interface.handle_timeout(self.clock.now());
        }
        while let Some(transmit) = self.interface.poll_transmit(self.clock.now(), &mut self.buffer)? {
            self.send(&transmit)?;
        }
        Ok(())
    }

    fn send(&self, transmit: &Transmit) -> Result<(), Box<dyn Error>> {
        // One transmit may hold several datagrams, for a socket that takes them in one call.
        for datagram in transmit.datagrams(&self.buffer) {
            println!("{}: sends {} of {} bytes", self.name, kind(datagram), datagram.len());
            self.socket.send_to(datagram, transmit.path.remote)?;
        }
        Ok(())
    }

    /// Waits a moment for a datagram. Returns the texts of the packets that came out of the tunnel.
    fn receive(&mut self) -> Result<Vec<String>, Box<dyn Error>> {
        let (len, source) = match self.socket.recv_from(&mut self.buffer) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let datagram = &mut self.buffer[..len];
        let packet = self.interface.handle_datagram(self.clock.now(), &Path::to(source), Ecn::NotEct, datagram);
        while let Some(event) = self.interface.poll_event() {
            match event {
                Event::HandshakeCompleted { .. } => println!("{}: the handshake is complete", self.name),
                Event::EndpointMoved { endpoint, .. } => println!("{}: the other end is at {endpoint}", self.name),
                _ => {}
            }
        }
        Ok(packet.map(|(_, packet)| text(packet)).into_iter().collect())
    }
}

/// A message's type stands in its first byte.
fn kind(datagram: &[u8]) -> &'static str {
    match datagram.first() {
        Some(1) => "a handshake initiation",
        Some(2) => "a handshake response",
        Some(3) => "a cookie reply",
        _ => "transport data",
    }
}

/// An IPv4 packet that carries `text` under protocol 253, which is kept for experiments. The engine
/// looks at version, length and addresses.
fn packet(source: Ipv4Addr, destination: Ipv4Addr, text: &str) -> Vec<u8> {
    let len = 20 + text.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 253, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(text.as_bytes());
    packet
}

/// What [`packet`] put in.
fn text(packet: &[u8]) -> String {
    String::from_utf8_lossy(packet.get(20..).unwrap_or_default()).into_owned()
}
