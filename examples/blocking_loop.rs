//! One end of a tunnel to one peer: the engine over a `UdpSocket` and a TUN device, in one loop.
//!
//! It takes root, or `CAP_NET_ADMIN`. Keys are in base64, as `wg genkey` and `wg pubkey` print them:
//!
//!     PRIVATE_KEY=… cargo run -p adit-examples --example blocking_loop -- \
//!         tun7 10.7.0.1/24 51820 PEER_KEY 10.7.0.2/32 192.0.2.2:51820
//!
//! Without the last argument, the endpoint, it waits for the peer to come.

use std::convert::Infallible;
use std::error::Error;
use std::io::{ErrorKind, IoSlice};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit::{Ecn, Instant, Interface, Path, PrivateKey, PublicKey, Transmit};
use adit_device::{netlink::Netlink, tun::Tun};
use getrandom::SysRng;
use rand_core::UnwrapErr;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, clock_gettime};

fn main() -> ExitCode {
    let Err(error) = run();
    eprintln!("blocking_loop: {error}");
    ExitCode::FAILURE
}

fn run() -> Result<Infallible, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, address, port, peer_key, allowed_ip, endpoint @ ..] = arguments.as_slice() else {
        let wanted = "PRIVATE_KEY=KEY blocking_loop INTERFACE ADDRESS/LEN PORT PEER_KEY ALLOWED_IP [ENDPOINT]";
        return Err(format!("wanted: {wanted}").into());
    };
    // It is not repeated, whatever it is.
    let private_key = std::env::var("PRIVATE_KEY").ok().and_then(|key| PrivateKey::from_base64(&key).ok());
    let private_key = private_key.ok_or("PRIVATE_KEY: expected a key of 44 characters in the environment")?;
    let peer_key = PublicKey::from_base64(peer_key).map_err(|_| "PEER_KEY: expected a key of 44 characters")?;
    let endpoint = endpoint.first().map(|endpoint| read("ENDPOINT", endpoint, "ADDRESS:PORT")).transpose()?;
    let unix_time = || SystemTime::now().duration_since(UNIX_EPOCH);
    let mut interface = Interface::new(now(), unix_time()?, Box::new(UnwrapErr(SysRng)));
    interface.set_private_key(Some(private_key));
    interface.set_mtu(1420);
    let peer = interface.add_peer(peer_key)?;
    interface.add_allowed_ip(peer, read("ALLOWED_IP", allowed_ip, "ADDRESS/LEN")?)?;
    interface.set_endpoint(peer, endpoint)?;

    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, read("PORT", port, "0 to 65535")?))?;
    socket.set_nonblocking(true)?;
    let tun = Tun::create(name, 1, false)?;
    let queue = &tun.queues[0];
    let mut netlink = Netlink::open()?;
    netlink.set_mtu(tun.ifindex, 1420)?;
    netlink.add_address(tun.ifindex, read("ADDRESS/LEN", address, "10.7.0.1/24, for example")?, true)?;
    netlink.set_up(tun.ifindex, true)?;
    println!("{} is up", tun.name);

    let (mut datagram, mut packet) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        // The wall clock may have been set.
        interface.set_unix_time(now(), unix_time()?);
        // First what the engine has to say, then sleep until there is something new for it.
        while let Some(transmit) = interface.poll_transmit(now(), &mut datagram)? {
            send(&socket, &transmit, &datagram);
        }
        let pause = interface.poll_timeout().map(|deadline| deadline.saturating_since(now()));
        let pause = pause.map(|pause| pause.try_into()).transpose()?;
        let mut sides = [PollFd::new(&socket, PollFlags::IN), PollFd::new(queue, PollFlags::IN)];
        poll(&mut sides, pause.as_ref())?;
        interface.handle_timeout(now());
        match socket.recv_from(&mut datagram) {
            Ok((len, source)) => {
                let path = Path::to(source);
                if let Some((_, packet)) = interface.handle_datagram(now(), &path, Ecn::NotEct, &mut datagram[..len]) {
                    // The interface may be down; then packets are lost, as on any link.
                    let _ = queue.write_vectored(&[IoSlice::new(packet)]);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => eprintln!("the network cannot be read: {error}"),
        }
        match queue.read(&mut packet) {
            Ok(len) => {
                if let Some(transmit) = interface.handle_packet(now(), &packet[..len], &mut datagram)? {
                    send(&socket, &transmit, &datagram);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn read<T: FromStr>(argument: &str, found: &str, expected: &str) -> Result<T, String> {
    found.parse().map_err(|_| format!("{argument}: found {found:?}, expected {expected}"))
}

/// One transmit may hold several datagrams. What the network does not take is lost, as in any network.
fn send(socket: &UdpSocket, transmit: &Transmit, buffer: &[u8]) {
    for datagram in transmit.datagrams(buffer) {
        let _ = socket.send_to(datagram, transmit.path.remote);
    }
}

/// Keys must age while the machine sleeps: `CLOCK_BOOTTIME` goes on then.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant::default() + Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
