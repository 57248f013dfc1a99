//! One end of a tunnel to one peer: the engine over a `UdpSocket` and a TUN device, in one loop.
//!
//! It takes root, or `CAP_NET_ADMIN`. Keys are in base64, as `wg genkey` and `wg pubkey` print them:
//!
//!     PRIVATE_KEY=… blocking_loop tun7 10.7.0.1/24 51820 PEER_KEY 10.7.0.2/32 192.0.2.2:51820
//!
//! Without the last argument, the endpoint, it waits for the peer to come.

use std::error::Error;
use std::io::{ErrorKind, IoSlice};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit::{Ecn, Instant, Interface, Path, PrivateKey, PublicKey, Transmit};
use adit_device::{netlink::Netlink, tun::Tun};
use getrandom::SysRng;
use rand_core::UnwrapErr;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, clock_gettime};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, address, port, peer_key, allowed_ip, endpoint @ ..] = arguments.as_slice() else {
        return Err("wanted: INTERFACE ADDRESS/LEN PORT PEER_KEY ALLOWED_IP [ENDPOINT]".into());
    };
    let unix_time = || SystemTime::now().duration_since(UNIX_EPOCH);
    let mut interface = Interface::new(now(), unix_time()?, Box::new(UnwrapErr(SysRng)));
    interface.set_private_key(Some(PrivateKey::from_base64(&std::env::var("PRIVATE_KEY")?)?));
    interface.set_mtu(1420);
    let peer = interface.add_peer(PublicKey::from_base64(peer_key)?)?;
    interface.add_allowed_ip(peer, allowed_ip.parse()?)?;
    interface.set_endpoint(peer, endpoint.first().map(|endpoint| endpoint.parse()).transpose()?)?;

    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port.parse()?))?;
    socket.set_nonblocking(true)?;
    let tun = Tun::create(name, 1, false)?;
    let queue = &tun.queues[0];
    let mut netlink = Netlink::open()?;
    netlink.set_mtu(tun.ifindex, 1420)?;
    netlink.add_address(tun.ifindex, address.parse()?, true)?;
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

/// One transmit may hold several datagrams. What the network does not take is lost, as in any network.
fn send(socket: &UdpSocket, transmit: &Transmit, buffer: &[u8]) {
    for datagram in buffer[transmit.range.clone()].chunks(transmit.segment_size) {
        let _ = socket.send_to(datagram, transmit.path.remote);
    }
}

/// Keys must age while the machine sleeps: `CLOCK_BOOTTIME` goes on then.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant::default() + Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
