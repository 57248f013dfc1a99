//! Trying it out: two hosts made of network namespaces, an Adit on each, a tunnel between them, and what it carries.

mod bulk;
mod event;
mod figures;
mod host;
mod node;
mod ping;
mod screen;
mod units;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use bulk::Flow;
use event::Event;
use figures::{Figures, NodeFigures};
use host::{Host, Side};
use node::Node;
use ping::Pinger;
use screen::{Phase, Row, Screen, Table};
use units::gigabits;

/// How long the first ping, and the handshake before it, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a daemon that has made the tunnel fail may take to end.
const AGONY: Duration = Duration::from_millis(500);

/// What to show.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// How long to measure: pings first, then bulk, half of the time each way
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    /// Print the figures as one JSON object at the end; progress goes to standard error
    #[arg(long)]
    json: bool,

    /// Be the daemon of one of the two hosts
    #[arg(long, hide = true, value_name = "NAME")]
    node: Option<String>,
}

/// Shows a tunnel at work. Everything is undone when it returns, however it does.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    // Keys would be in a core dump.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    if let Some(name) = &args.node {
        return node::serve(name);
    }
    // Comes first: for an ordinary user it works only while the process has one thread.
    let user_namespace = host::acquire_rights()?;
    let (sender, events) = mpsc::channel();
    listen_for_signals(sender.clone())?;
    let figures = Figures { seconds: args.seconds, user_namespace, ..Figures::default() };
    let mut demo = Demo::start(Screen::new(args.json), figures, sender, events)?;
    demo.measure()?;
    let mut screen = demo.end()?;
    screen.finish()
}

/// The hosts, the tunnel, and whatever measures it. The fields are dropped in this order, and none needs a later one to
/// be dropped first.
struct Demo {
    pinger: Pinger,
    nodes: [Node; 2],
    hosts: [Host; 2],
    sender: Sender<Event>,
    events: Receiver<Event>,
    screen: Screen,
    figures: Figures,
    phase: Phase,
    start: Instant,
    flow: Option<Arc<Flow>>,
    /// When the table was last shown.
    shown: Instant,
    /// From when on the rate shown next is counted, and what the flow had moved then.
    counted: (Instant, u64),
    rtt: Option<Duration>,
}

impl Demo {
    fn start(screen: Screen, figures: Figures, sender: Sender<Event>, events: Receiver<Event>) -> Result<Demo> {
        let hosts = Host::pair()?;
        let mut left = Node::start(&hosts[0], sender.clone())?;
        let mut right = Node::start(&hosts[1], sender.clone())?;
        let bring_up = |left: &mut Node, right: &mut Node| {
            // Once a daemon answers, its interface is there.
            left.state()?;
            right.state()?;
            hosts.iter().try_for_each(Host::bring_tunnel_up)?;
            // A daemon takes nothing from the network until the kernel has told it that its link is up. Requests that
            // come after that are answered after that, so that no handshake comes too early.
            node::introduce([left, right])
        };
        // A daemon that has ended tells more of the cause than the error of a request that it did not answer.
        if let Err(error) = bring_up(&mut left, &mut right) {
            return Err(left.obituary(AGONY).or_else(|| right.obituary(AGONY)).unwrap_or(error));
        }
        let start = Instant::now();
        let pinger = Pinger::start(&hosts[0], Side::Right.inside(), sender.clone())?;
        let nodes = [left, right];
        let phase = Phase::Handshake;
        let (shown, counted) = (start, (start, 0));
        Ok(Demo {
            pinger,
            nodes,
            hosts,
            sender,
            events,
            screen,
            figures,
            phase,
            start,
            flow: None,
            shown,
            counted,
            rtt: None,
        })
    }

    /// Goes through all phases, unless it is interrupted.
    fn measure(&mut self) -> Result<()> {
        match self.phases() {
            Ok(ControlFlow::Continue(())) => Ok(()),
            Ok(ControlFlow::Break(())) => {
                self.figures.interrupted = true;
                if let (Phase::Bulk { from, .. }, Some(flow)) = (self.phase, &self.flow) {
                    self.figures.bulk.set(from, flow.moved());
                }
                Ok(())
            }
            Err(error) => {
                let [left, right] = &mut self.nodes;
                Err(left.obituary(AGONY).or_else(|| right.obituary(Duration::ZERO)).unwrap_or(error))
            }
        }
    }

    fn phases(&mut self) -> Result<ControlFlow<()>> {
        let length = Duration::from_secs(self.figures.seconds);
        if self.wait(Instant::now() + PATIENCE)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.phase = Phase::Ping;
        let pings = (length / 10).clamp(Duration::from_millis(200), Duration::from_secs(2));
        if self.wait(Instant::now() + pings)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.pinger.set_loaded(true);
        let time = length.saturating_sub(pings) / 2;
        for (from, to) in [(Side::Left, Side::Right), (Side::Right, Side::Left)] {
            self.phase = Phase::Bulk { from, to };
            let [left, right] = &self.hosts;
            let (source, sink) = if from == Side::Left { (left, right) } else { (right, left) };
            self.flow = Some(Flow::start(source, sink, time, self.sender.clone())?);
            self.counted = (Instant::now(), 0);
            // Just in case: a measurement ends by itself, and so does a flow that stalls.
            if self.wait(Instant::now() + time + 4 * PATIENCE)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Takes and shows what happens until the phase is over; `Break` if the user interrupts it.
    fn wait(&mut self, deadline: Instant) -> Result<ControlFlow<()>> {
        loop {
            let next = deadline.min(self.shown + self.screen.interval());
            match self.events.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Event::Interrupted) => return Ok(ControlFlow::Break(())),
                Ok(Event::NodeEnded(side)) => bail!("the {} Adit has ended", side.name()),
                Ok(Event::Failed(error)) => return Err(error),
                Ok(Event::Ping { rtt, .. }) if self.phase == Phase::Handshake => {
                    if rtt.is_some() {
                        self.figures.handshake.first_answer(self.start.elapsed());
                        return Ok(ControlFlow::Continue(()));
                    }
                }
                Ok(Event::Ping { rtt, loaded }) => {
                    self.rtt = rtt.or(self.rtt);
                    let ping = &mut self.figures.ping;
                    if loaded { &mut ping.loaded } else { &mut ping.idle }.add(rtt);
                }
                Ok(Event::Moved(moved)) => {
                    if let Phase::Bulk { from, .. } = self.phase {
                        self.figures.bulk.set(from, moved);
                    }
                    return Ok(ControlFlow::Continue(()));
                }
                // This end of the channel is among our own fields.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            let now = Instant::now();
            if now >= deadline {
                return match self.phase {
                    Phase::Ping => Ok(ControlFlow::Continue(())),
                    phase => bail!("{phase}: nothing came through the tunnel in time"),
                };
            }
            if now >= self.shown + self.screen.interval() {
                self.show()?;
            }
        }
    }

    /// Asks both ends how they are, and shows it.
    fn show(&mut self) -> Result<()> {
        let now = Instant::now();
        let (then, bytes_then) = self.counted;
        let bytes = self.flow.as_ref().map_or(0, |flow| flow.moved().bytes);
        (self.shown, self.counted) = (now, (now, bytes));
        let rate = gigabits(bytes.saturating_sub(bytes_then), now - then);
        let figures = self.node_figures()?;
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let rows = [Side::Left, Side::Right].map(|side| {
            let NodeFigures { last_handshake, tx_bytes, rx_bytes, packets_sent, .. } = *figures.of(side);
            let handshake = last_handshake.map(|time| unix_time.saturating_sub(time));
            let receives = matches!(self.phase, Phase::Bulk { to, .. } if to == side);
            Row { side, handshake, tx_bytes, rx_bytes, packets_sent, gigabits: receives.then_some(rate) }
        });
        let length = Duration::from_secs(self.figures.seconds);
        self.screen.show(&Table { phase: self.phase, time: now - self.start, length, rows, rtt: self.rtt })
    }

    fn node_figures(&mut self) -> Result<figures::Both<NodeFigures>> {
        let [left, right] = &mut self.nodes;
        let [left_host, right_host] = &self.hosts;
        Ok(figures::Both {
            left: NodeFigures::new(left.state()?, left_host.packets_sent()?),
            right: NodeFigures::new(right.state()?, right_host.packets_sent()?),
        })
    }

    /// Takes everything down, and returns the screen with the summary to show.
    fn end(mut self) -> Result<Screen> {
        self.figures.nodes = self.node_figures()?;
        self.figures.handshake.completed =
            [Side::Left, Side::Right].iter().all(|side| self.figures.nodes.of(*side).last_handshake.is_some());
        self.nodes.iter_mut().try_for_each(Node::end)?;
        let Demo { screen, figures, .. } = self;
        Ok(screen.with_result(figures))
    }
}

/// Turns the signals by which a user or a system ends a program into events. None of them ends it at once from now on.
fn listen_for_signals(events: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be received")?;
    let listen = move || {
        for _ in signals.forever() {
            // A second one finds the demo ending already.
            if events.send(Event::Interrupted).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen).context("a thread cannot be started")?;
    Ok(())
}
