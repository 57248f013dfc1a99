//! No wake-up of the control thread is lost, in whatever order it and the workers reach the engine's lock and the
//! moment until which it sleeps: explored by the model checker `loom`, which knows what `Relaxed` permits.
//!
//! The code for that moment is the device's own. The threads are models: that the device's threads take their steps in
//! this order is known by reading them.

use std::time::Duration;

use adit::{Bounds, Ecn, Instant, Interface, Packets, Path, PrivateKey, Snapshot};
use getrandom::SysRng;
use loom::sync::atomic::{AtomicBool, AtomicU64};
use loom::sync::{Arc, Mutex, Notify};
use loom::thread;
use rand_core::UnwrapErr;
use zeroize::Zeroizing;

use wake::ControlSleep;

/// The device's own code, with loom's atomic in it.
#[path = "../src/shared/wake.rs"]
mod wake;

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
const NEVER: Instant = Instant::from_nanos(u64::MAX);
/// A peer that does not answer a packet is asked for a new session after 15 s: this is too early for a packet of now,
/// but not for one of a second ago.
const EARLIER_DEADLINE: Duration = Duration::from_millis(14_500);

/// What the threads share, and what wakes the control thread. `mio::Waker` keeps a wake-up for the next wait, and a
/// wait may end without one; loom's `Notify` does the same.
#[derive(Clone)]
struct Device {
    interface: Arc<Mutex<Interface>>,
    sleep: Arc<ControlSleep>,
    waker: Arc<Notify>,
}

/// Two peers without a session.
fn peers() -> Interface {
    let mut interface = Interface::new(NOW, Duration::ZERO, Box::new(UnwrapErr(SysRng)));
    interface.set_private_key(Some(PrivateKey::from_bytes([9; 32])));
    for number in [0, 1] {
        let peer = interface.add_peer(PrivateKey::from_bytes([number + 1; 32]).public_key()).unwrap();
        interface.add_allowed_ip(peer, format!("10.0.0.{number}/32").parse().unwrap()).unwrap();
        interface.set_endpoint(peer, Some(path(number).remote)).unwrap();
    }
    interface
}

impl Device {
    fn new(interface: Interface) -> Self {
        Self {
            interface: Arc::new(Mutex::new(interface)),
            sleep: Arc::new(ControlSleep::new()),
            waker: Arc::new(Notify::new()),
        }
    }

    /// A worker has a packet for the peer, for one peer a second earlier than for the other; as `Worker::serve_tun`.
    /// Returns whether it has woken the control thread.
    fn serve_tun(&self, peer: u8) -> bool {
        let wakes = {
            let mut interface = self.interface.lock().unwrap();
            seal(&mut interface, before(u64::from(peer)), peer);
            self.sleep.is_too_long(&interface)
        };
        let wakes = wakes && self.sleep.interrupt();
        if wakes {
            self.waker.notify();
        }
        wakes
    }

    /// The control thread, as `Control::run` and `Control::work`, until it has begun this many handshakes and will not
    /// sleep beyond `until`. Returns how often it meant to sleep.
    fn control(&self, handshakes: usize, until: Instant) -> usize {
        let mut begun = 0;
        for sleeps in 1.. {
            self.interface.lock().unwrap().expire(NOW);
            while begin_handshake(&mut self.interface.lock().unwrap(), NOW) {
                begun += 1;
            }
            let mut interface = self.interface.lock().unwrap();
            if interface.has_handshakes() {
                continue;
            }
            let deadline = interface.poll_timeout();
            self.sleep.set(&interface, deadline);
            drop(interface);
            if begun == handshakes && deadline.unwrap_or(NEVER) <= until {
                return sleeps;
            }
            self.waker.wait();
            self.sleep.is_awake();
        }
        unreachable!("it would have slept for ever")
    }

    /// A worker is given the peer's datagram, which comes by another way than any before; as `Worker::serve_udp`.
    /// Returns whether it has woken the control thread.
    fn serve_udp(&self, peer: u8, datagram: &[u8]) -> bool {
        let path = Path { local: Some([198, 51, 100, 1].into()), ifindex: 1, ..path(peer) };
        let wakes = {
            let mut interface = self.interface.lock().unwrap();
            assert_eq!(interface.handle_datagram(NOW, &path, Ecn::NotEct, &mut datagram.to_vec()), None);
            self.sleep.is_too_long(&interface)
        };
        let wakes = wakes && self.sleep.interrupt();
        if wakes {
            self.waker.notify();
        }
        wakes
    }

    /// The control thread, as `Control::run`, `Control::look_at_routes` and `Control::work`, until it has judged this
    /// many sources, between which it rests. Returns how often it meant to sleep.
    fn judge(&self, sources: usize) -> usize {
        let (mut judged, mut rests) = (0, false);
        for sleeps in 1.. {
            let mut sources_wait = self.interface.lock().unwrap().has_sources();
            if sources_wait && !rests {
                while self.interface.lock().unwrap().poll_source().is_some() {
                    judged += 1;
                }
                (sources_wait, rests) = (false, true);
            }
            let interface = self.interface.lock().unwrap();
            if interface.has_sources() && !sources_wait {
                continue;
            }
            // Nothing is due so early: a worker wakes it for a source or not at all.
            self.sleep.set(&interface, Some(NOW));
            drop(interface);
            if judged == sources {
                return sleeps;
            }
            if sources_wait {
                // Its own alarm ends the rest, and the sleep.
                rests = false;
            } else {
                self.waker.wait();
            }
            self.sleep.is_awake();
        }
        unreachable!("it would have slept for ever")
    }

    /// Two workers, each with a packet for its peer, and the control thread. A wake-up that is lost leaves it waiting
    /// while nobody runs, which loom reports.
    fn run(self, handshakes: usize, until: Instant) {
        // The control thread is about to look.
        self.sleep.is_awake();
        let workers = [0, 1].map(|peer| {
            let device = self.clone();
            thread::Builder::new().stack_size(1 << 16).spawn(move || device.serve_tun(peer)).unwrap()
        });
        let device = self.clone();
        let control =
            thread::Builder::new().stack_size(1 << 16).spawn(move || device.control(handshakes, until)).unwrap();
        let wakes = workers.map(|worker| worker.join().unwrap()).into_iter().filter(|&wakes| wakes).count();
        let sleeps = control.join().unwrap();
        assert!(wakes <= sleeps, "woken at most once before it looks");
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut loom = loom::model::Builder::new();
    // How often a thread is interrupted where it could have gone on; waiting for the lock or a wake-up is not bounded.
    loom.preemption_bound = Some(2);
    loom.check(model);
}

fn seal(interface: &mut Interface, now: Instant, peer: u8) {
    let mut buffer = [0; 64];
    buffer[16..36].copy_from_slice(&[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 9, 10, 0, 0, peer]);
    let mut burst = Packets::new(1420);
    burst.push(0, 20).unwrap();
    // Without a session the packet waits.
    let _ = interface.begin_seal(now, burst, &buffer);
}

/// An interface with a session with two peers, and the next datagram from each.
fn connected() -> (Vec<u8>, [Vec<u8>; 2]) {
    let mut interface = peers();
    let datagrams = [0, 1].map(|peer| {
        let mut other = connect(&mut interface, peer);
        let id = other.peers(NOW).next().unwrap().id;
        other.set_endpoint(id, Some(([192, 0, 2, 9], 51820).into())).unwrap();
        other.send_keepalive(id).unwrap();
        other.handle_timeout(NOW);
        let mut buffer = vec![0; 148];
        let transmit = other.poll_transmit(NOW, &mut buffer).unwrap().expect("an empty packet");
        buffer[transmit.range].to_vec()
    });
    (interface.snapshot(NOW).as_bytes().to_vec(), datagrams)
}

fn path(peer: u8) -> Path {
    Path::to(([192, 0, 2, peer], 51820).into())
}

/// So many seconds ago.
fn before(seconds: u64) -> Instant {
    Instant::from_nanos(NOW.as_nanos() - seconds * 1_000_000_000)
}

/// Makes a session with the peer, of which nothing is due for minutes. Returns the peer.
fn connect(interface: &mut Interface, peer: u8) -> Interface {
    let then = before(10);
    let mut other = Interface::new(then, Duration::ZERO, Box::new(UnwrapErr(SysRng)));
    let key = PrivateKey::from_bytes([peer + 1; 32]);
    other.set_private_key(Some(key.clone()));
    other.add_peer(*interface.public_key().unwrap()).unwrap();
    interface.initiate_handshake(interface.peer_id(&key.public_key()).unwrap()).unwrap();
    interface.handle_timeout(then);
    let mut buffer = [0; 148];
    for is_back in [false, true] {
        let (from, to) = if is_back { (&mut other, &mut *interface) } else { (&mut *interface, &mut other) };
        let transmit = from.poll_transmit(then, &mut buffer).unwrap().expect("a message of the handshake");
        let path = path(peer);
        assert_eq!(to.handle_datagram(then, &path, Ecn::NotEct, &mut buffer[transmit.range]), None);
    }
    while interface.poll_transmit(then, &mut buffer).unwrap().is_some() {}
    other
}

/// Begins one handshake if one is wanted. It is not computed, so it comes to nothing.
fn begin_handshake(interface: &mut Interface, now: Instant) -> bool {
    interface.poll_handshake(now).is_some()
}

#[test]
fn a_handshake_that_a_worker_leaves_behind_is_found_before_the_control_thread_sleeps_on() {
    explore(|| Device::new(peers()).run(2, NEVER));
}

#[test]
fn a_deadline_that_a_worker_leaves_behind_ends_the_sleep_of_the_control_thread_in_time() {
    explore(|| {
        let device = Device::new(peers());
        let unconnected = device.clone();
        // A handshake takes more of the stack than a model has.
        let connect = move || {
            let mut interface = unconnected.interface.lock().unwrap();
            for peer in [0, 1] {
                connect(&mut interface, peer);
            }
            assert!(interface.poll_timeout() > Some(NOW + Duration::from_secs(500)));
        };
        thread::Builder::new().stack_size(1 << 17).spawn(connect).unwrap().join().unwrap();
        device.run(0, NOW + EARLIER_DEADLINE);
    });
}

#[test]
fn a_source_that_a_worker_leaves_behind_is_judged_before_the_control_thread_sleeps_on() {
    // A handshake takes more of the stack than a model has, so that the models begin with the sessions.
    let (snapshot, datagrams) = connected();
    explore(move || {
        let snapshot = Snapshot::from_bytes(Zeroizing::new(snapshot.clone())).unwrap();
        let rng = Box::new(UnwrapErr(SysRng));
        let interface = Interface::restore(snapshot, NOW, Duration::ZERO, rng, Bounds::default()).unwrap();
        let device = Device::new(interface);
        device.sleep.is_awake();
        let workers = [0, 1].map(|peer: u8| {
            let (device, datagram) = (device.clone(), datagrams[usize::from(peer)].clone());
            let serve = move || device.serve_udp(peer, &datagram);
            thread::Builder::new().stack_size(1 << 17).spawn(serve).unwrap()
        });
        let judge = device.clone();
        let control = thread::Builder::new().stack_size(1 << 16).spawn(move || judge.judge(2)).unwrap();
        let wakes = workers.map(|worker| worker.join().unwrap()).into_iter().filter(|&wakes| wakes).count();
        let sleeps = control.join().unwrap();
        assert!(wakes <= sleeps, "woken at most once before it looks");
    });
}
