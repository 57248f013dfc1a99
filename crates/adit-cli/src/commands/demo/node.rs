//! An Adit on one of the hosts: a process of this same program, and what is told to it and asked of it.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use adit::{PresharedKey, PrivateKey};
use adit_device::config::{AllowedIpChange, DeviceState, DeviceUpdate, PeerUpdate};
use adit_device::uapi::reply::{self, ReplyError};
use adit_device::uapi::request;
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, getpid, kill_process};

use super::event::Event;
use super::host::{Host, Side};

/// In namespaces of our own every port is free.
const PORT: u16 = 51_820;
/// The file descriptor of a listening socket, as every implementation takes it.
const UAPI_FD: &str = "WG_UAPI_FD";
/// How long the daemon may take to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much of the log is kept for an error.
const LOG_LINES: usize = 40;

/// A running daemon. It is ended when this is dropped, and ends by itself should this process vanish.
#[derive(Debug)]
pub(super) struct Node {
    side: Side,
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
    log_reader: Option<JoinHandle<()>>,
    uapi: BufReader<UnixStream>,
}

impl Node {
    /// Starts an Adit on `host`. That it has ended, for whatever reason, is told as an event.
    pub(super) fn start(host: &Host, events: Sender<Event>) -> Result<Node> {
        let side = host.side;
        // An abstract address is a name in the network namespace: no file that others could open, or that stays.
        let address = UnixAddr::from_abstract_name("adit-demo").context("the UAPI socket has no address")?;
        let listener = host.run(|| UnixListener::bind_addr(&address))?.context("the UAPI socket cannot be made")?;
        // Unlike the original, the copy is inherited; it is closed before another process is started.
        let inherited = rustix::io::dup(&listener).context("the UAPI socket cannot be handed over")?;
        let uapi = host.run(|| UnixStream::connect_addr(&address))?.context("the UAPI socket cannot be reached")?;
        uapi.set_read_timeout(Some(PATIENCE)).context("the UAPI socket")?;
        uapi.set_write_timeout(Some(PATIENCE)).context("the UAPI socket")?;

        let mut command = Command::new("/proc/self/exe");
        command.arg0("adit").args(["demo", "--node", side.tunnel()]);
        command.env(UAPI_FD, inherited.as_raw_fd().to_string());
        // In a process group of its own, it does not get the Ctrl-C at the terminal.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = host.run(|| command.spawn())?.context("this program cannot start itself again")?;
        drop((inherited, listener));

        let log: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let log_reader = child.stderr.take().map(|stderr| {
            let log = log.clone();
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    if log.len() == LOG_LINES {
                        log.pop_front();
                    }
                    log.push_back(line);
                }
                // Nobody listens any more when the demo itself ends.
                let _ = events.send(Event::NodeEnded(side));
            })
        });
        Ok(Node { side, child, log, log_reader, uapi: BufReader::new(uapi) })
    }

    /// Tells the daemon who it is and who its peer is.
    pub(super) fn configure(&mut self, key: PrivateKey, peer: PeerUpdate) -> Result<()> {
        let update = DeviceUpdate {
            private_key: Some(Some(Box::new(key))),
            listen_port: Some(PORT),
            replace_peers: true,
            peers: vec![peer],
            ..DeviceUpdate::default()
        };
        self.ask(&request::write_set(&update))
            .map(drop)
            .with_context(|| format!("{} cannot be configured", self.name()))
    }

    /// What the daemon is and has done.
    pub(super) fn state(&mut self) -> Result<DeviceState> {
        self.ask("get=adit\n\n").with_context(|| format!("{} does not tell its state", self.name()))
    }

    /// Why the daemon, which was not told to, has ended, with its log; `None` if it still runs after `patience`.
    pub(super) fn obituary(&mut self, patience: Duration) -> Option<anyhow::Error> {
        let status = match self.wait_until(Instant::now() + patience) {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => return None,
            Err(error) => error.to_string(),
        };
        // The end of the process may be seen before all that it wrote has been read.
        if let Some(reader) = self.log_reader.take() {
            let _ = reader.join();
        }
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: String = log.iter().map(|line| format!("\n  {line}")).collect();
        let log = if lines.is_empty() { " nothing".to_owned() } else { lines };
        Some(anyhow!("{} has ended ({status}); it has logged:{log}", self.name()))
    }

    /// Ends the daemon.
    ///
    /// # Errors
    /// It had ended before, did not end well, or had to be killed.
    pub(super) fn end(&mut self) -> Result<()> {
        // The end of its input is an order to end, should the signal not arrive.
        drop(self.child.stdin.take());
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if self.wait_until(Instant::now())?.is_none() {
            // It has not been waited for, so the number is still its own.
            pid.map(|pid| kill_process(pid, Signal::TERM));
        }
        match self.wait_until(Instant::now() + PATIENCE)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.obituary(Duration::ZERO).unwrap_or_else(|| anyhow!("{status}"))),
            None => {
                let killed = self.child.kill().and_then(|()| self.child.wait());
                killed.with_context(|| format!("{} cannot be ended", self.name()))?;
                bail!("{} did not end when it was told to, and was killed", self.name());
            }
        }
    }

    fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            let status = self.child.try_wait().with_context(|| format!("{} cannot be waited for", self.name()))?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn ask(&mut self, text: &str) -> Result<DeviceState> {
        self.uapi.get_mut().write_all(text.as_bytes())?;
        match reply::read_state(&mut self.uapi) {
            Err(ReplyError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                bail!("no answer within {} s", PATIENCE.as_secs())
            }
            state => Ok(state?),
        }
    }

    fn name(&self) -> String {
        format!("the {} Adit (process {})", self.side.name(), self.child.id())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A caller who is interested in how it went has ended it before.
        let _ = self.end();
    }
}

/// Makes keys that nobody else will ever know, and introduces two daemons to each other.
pub(super) fn introduce([left, right]: [&mut Node; 2]) -> Result<()> {
    let (left_key, right_key) = (PrivateKey::from_bytes(random()?), PrivateKey::from_bytes(random()?));
    let shared = PresharedKey::from_bytes(random()?);
    let peer = |side: Side, key: &PrivateKey| PeerUpdate {
        preshared_key: Some(Some(Box::new(shared.clone()))),
        endpoint: Some(SocketAddr::from((side.outside(), PORT))),
        allowed_ips: vec![AllowedIpChange::add(std::net::IpAddr::from(side.inside()).into())],
        ..PeerUpdate::new(key.public_key())
    };
    let (left_peer, right_peer) = (peer(Side::Left, &left_key), peer(Side::Right, &right_key));
    left.configure(left_key, right_peer)?;
    right.configure(right_key, left_peer)
}

/// The daemon itself, in the process that [`Node::start`] has started.
pub(super) fn serve(name: &str) -> Result<()> {
    let number = std::env::var(UAPI_FD).ok().and_then(|number| number.parse().ok());
    let number = number.with_context(|| format!("--node is for the demo's own use: {UAPI_FD} names no file"))?;
    let mut options = adit_device::Options::new(name);
    options.uapi_fd = Some(adit_device::take_fd(number)?);
    // As any daemon. The thread below is not started by the device, so it is not confined.
    options.confinement = adit_device::Confinement::FULL;
    thread::Builder::new().name("parent".to_owned()).spawn(|| {
        // Standard input never carries anything, but its end is the end of the demo.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = kill_process(getpid(), Signal::TERM);
    })?;
    Ok(adit_device::run(options)?)
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the kernel gives no random bytes")?;
    Ok(bytes)
}
