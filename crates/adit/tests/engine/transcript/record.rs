//! The program that recorded the transcripts, to be run again when the order in which the engine
//! asks for random numbers has changed. It needs wireguard-go and a network namespace of its own:
//!
//! ```text
//! WIREGUARD_GO=/usr/bin/wireguard-go unshare --net \
//!     cargo test --offline -p adit --test engine transcript::record -- --ignored
//! ```
//!
//! The other end is a real daemon on a real TUN device, and the kernel behind it answers our pings.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use super::{Keys, Line, engine, react};
use crate::sim::packet;

pub(super) const INITIATOR_SEED: u64 = 1;
pub(super) const RESPONDER_SEED: u64 = 2;

/// wireguard-go on a TUN device, ended when dropped.
struct Daemon {
    process: Child,
    socket: PathBuf,
}

fn program() -> String {
    std::env::var("WIREGUARD_GO").expect("WIREGUARD_GO names the program")
}

/// The name and version that the program tells.
fn version() -> String {
    let told = Command::new(program()).arg("--version").output().expect("wireguard-go");
    String::from_utf8_lossy(&told.stdout).lines().next().unwrap_or_default().to_owned()
}

impl Daemon {
    /// Listens on port 51820; our end is at `our_port`.
    fn start(name: &str, our_port: u16) -> Self {
        let process = Command::new(program()).args(["-f", name]).spawn().expect("wireguard-go");
        let daemon = Self { process, socket: format!("/var/run/wireguard/{name}.sock").into() };
        let mut uapi = loop {
            match UnixStream::connect(&daemon.socket) {
                Ok(uapi) => break uapi,
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let keys = Keys::new();
        write!(
            uapi,
            "set=1\nprivate_key={}\nlisten_port=51820\npublic_key={}\npreshared_key={}\n\
             endpoint=127.0.0.1:{our_port}\nallowed_ip=10.0.0.1/32\n\n",
            *keys.theirs.to_hex(),
            keys.own.public_key().to_hex(),
            *keys.preshared.to_hex(),
        )
        .unwrap();
        let mut answer = String::new();
        BufReader::new(uapi).read_line(&mut answer).unwrap();
        assert_eq!(answer, "errno=0\n");
        for args in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", "10.0.0.2/24", "dev", name],
            &["link", "set", name, "up"],
        ] {
            assert!(Command::new("ip").args(args).status().unwrap().success(), "ip {args:?}");
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

/// An ICMP echo request from our end to the kernel behind wireguard-go.
fn ping(number: u8) -> Line {
    let mut message = [&[8, 0, 0, 0, 0, 7, 0, number][..], &[0x61; 56]].concat();
    let checksum = packet::checksum_of(&message).to_be_bytes();
    message[2..4].copy_from_slice(&checksum);
    let mut packet = packet::v4(packet::inside(0), packet::inside(1), &message);
    packet[9] = 1;
    packet[10..12].fill(0);
    let checksum = packet::checksum_of(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&checksum);
    Line::Inside(packet)
}

/// Plays our end over a real socket, and writes down what happens.
struct Recorder {
    interface: adit::Interface,
    socket: UdpSocket,
    lines: Vec<Line>,
}

impl Recorder {
    fn new(seed: u64) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self { interface: engine(seed), socket, lines: Vec::new() }
    }

    fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    fn input(&mut self, input: Line) {
        let output = react(&mut self.interface, &input);
        for line in &output {
            if let Line::Sends(datagram) = line {
                self.socket.send_to(datagram, "127.0.0.1:51820").unwrap();
            }
        }
        self.lines.push(input);
        self.lines.extend(output);
    }

    /// Waits for the next datagram of wireguard-go's.
    fn receive(&mut self) {
        let mut buffer = [0; 2_048];
        let len = self.socket.recv(&mut buffer).expect("an answer");
        self.input(Line::Receives(buffer[..len].to_vec()));
    }

    fn write(&self, file: &str, what: &str) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/engine/transcript").join(file);
        let mut text =
            format!("# {what} Recorded with {} by record.rs,\n# which tells how; the keys are in mod.rs.\n", version());
        text.extend(self.lines.iter().map(Line::to_text));
        fs::write(path, text).unwrap();
    }
}

#[test]
#[ignore = "records the transcripts anew: needs wireguard-go and a network namespace of its own"]
fn record_both_transcripts() {
    let mut recorder = Recorder::new(INITIATOR_SEED);
    let daemon = Daemon::start(&format!("adit{}a", std::process::id()), recorder.port());
    recorder.input(ping(1));
    // The response, and with it our first packet; the answer to that.
    recorder.receive();
    recorder.receive();
    recorder.input(ping(2));
    recorder.receive();
    drop(daemon);
    recorder.write("initiator.txt", "Our end is the initiator.");

    let mut recorder = Recorder::new(RESPONDER_SEED);
    let _daemon = Daemon::start(&format!("adit{}b", std::process::id()), recorder.port());
    let inside = UdpSocket::bind("10.0.0.2:0").unwrap();
    inside.send_to(b"from behind wireguard-go", "10.0.0.1:9").unwrap();
    // The initiation, and our response; the packet that waited; and then a ping.
    recorder.receive();
    recorder.receive();
    recorder.input(ping(1));
    recorder.receive();
    recorder.write("responder.txt", "wireguard-go is the initiator.");
}
