//! Bulk: one TCP connection that carries as much as it can for a while.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Socket, Type};

use super::event::{Event, Moved};
use super::host::Host;

/// How long nothing may move.
const PATIENCE: Duration = Duration::from_secs(10);
const WRITE: usize = 128 * 1024;
const READ: usize = 256 * 1024;

/// A connection, while it carries.
#[derive(Debug)]
pub(super) struct Flow {
    received: AtomicU64,
    start: OnceLock<Instant>,
}

impl Flow {
    /// Sends from one host to the other, through the tunnel, for `time`. How it went becomes an event when the last
    /// byte has arrived.
    pub(super) fn start(from: &Host, to: &Host, time: Duration, events: Sender<Event>) -> Result<Arc<Flow>> {
        let listener = to.run(|| TcpListener::bind((to.side.inside(), 0)))?.context("no TCP port")?;
        let address = listener.local_addr().context("no TCP port")?;
        let socket = from.run(|| Socket::new(Domain::IPV4, Type::STREAM, None))?.context("no TCP socket")?;
        let flow = Arc::new(Flow { received: AtomicU64::new(0), start: OnceLock::new() });
        let theirs = flow.clone();
        thread::Builder::new().name("receiver".to_owned()).spawn(move || {
            let sender = thread::Builder::new().name("sender".to_owned()).spawn(move || send(socket, address, time));
            let received = sender.and_then(|sender| {
                let received = theirs.receive(&listener);
                // An error of the sender explains what the receiver saw.
                sender.join().map_err(|_| io::Error::other("the sender panicked"))?.and(received)
            });
            let _ = events.send(match received {
                Ok(moved) => Event::Moved(moved),
                Err(error) => Event::Failed(anyhow!(error).context("bulk TCP through the tunnel failed")),
            });
        })?;
        Ok(flow)
    }

    /// What has arrived so far.
    pub(super) fn moved(&self) -> Moved {
        let time = self.start.get().map(Instant::elapsed).unwrap_or_default();
        Moved { bytes: self.received.load(Ordering::Relaxed), time }
    }

    fn receive(&self, listener: &TcpListener) -> io::Result<Moved> {
        let mut stream = accept(listener)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let start = *self.start.get_or_init(Instant::now);
        let mut buffer = vec![0; READ];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => {
                    return Ok(Moved { bytes: self.received.load(Ordering::Relaxed), time: start.elapsed() });
                }
                Ok(length) => {
                    self.received.fetch_add(length as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(explain(error)),
            }
        }
    }
}

/// As `TcpListener::accept`, but not for ever.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    // On Linux the time for reading is also that for accepting.
    socket2::SockRef::from(listener).set_read_timeout(Some(PATIENCE))?;
    listener.accept().map(|(stream, _)| stream).map_err(explain)
}

fn send(socket: Socket, address: SocketAddr, time: Duration) -> io::Result<()> {
    socket.connect_timeout(&address.into(), PATIENCE).map_err(explain)?;
    let mut stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(PATIENCE))?;
    let bytes = vec![0x5a; WRITE];
    let start = Instant::now();
    while start.elapsed() < time {
        match stream.write(&bytes) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(explain(error)),
            _ => {}
        }
    }
    stream.shutdown(std::net::Shutdown::Write)
}

/// Says in words what the kernel says by EAGAIN.
fn explain(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let text = format!("nothing has moved for {} s", PATIENCE.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        }
        _ => error,
    }
}
