//! No wake-up of the control thread is lost, in whatever order it and the workers reach the engine's lock and the
//! moment until which it sleeps: explored by the model checker `loom`, which knows what `Relaxed` permits.
//!
//! The code for that moment is the device's own. The threads are models: that the device's threads take their steps in
//! this order is known by reading them.

use std::time::Duration;

use adit::{Ecn, Instant, Interface, Packets, Path, PrivateKey};
use getrandom::SysRng;
use loom::sync::atomic::AtomicU64;
use loom::sync::{Arc, Mutex, Notify};
use loom::thread;
use rand_core::UnwrapErr;

use wake::ControlSleep;

/// The device's own code, with loom's atomic in it.
#[path = "../src/shared/wake.rs"]
mod wake;

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
const NEVER: Instant = Instant::from_nanos(u64::MAX);
/// A peer that does not answer a packet is asked for a new session after 15 s: this is too early for a packet of now, but
/// not for one of a second ago.
const EARLIER_DEADLINE: Duration = Duration::from_millis(14_500);

/// What the threads share, and what wakes the control thread. `mio::Waker` keeps a wake-up for the next wait, and a
/// wait may end without one; loom's `Notify` does the same.
#[derive(Clone)]
struct Device {
    interface: Arc<Mutex<Interface>>,
    sleep: Arc<ControlSleep>,
    waker: Arc<Notify>,
}

impl Device {
    /// Two peers without a session.
    fn new() -> Self {
        let mut interface = Interface::new(NOW, Duration::ZERO, Box::new(UnwrapErr(SysRng)));
        interface.set_private_key(Some(PrivateKey::from_bytes([9; 32])));
        for number in [0, 1] {
            let peer = interface.add_peer(PrivateKey::from_bytes([number + 1; 32]).public_key()).unwrap();
            interface.add_allowed_ip(peer, format!("10.0.0.{number}/32").parse().unwrap()).unwrap();
            interface.set_endpoint(peer, Some(([192, 0, 2, number], 51820).into())).unwrap();
        }
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

/// So many seconds ago.
fn before(seconds: u64) -> Instant {
    Instant::from_nanos(NOW.as_nanos() - seconds * 1_000_000_000)
}

/// Makes a session with the peer, of which nothing is due for minutes.
fn connect(interface: &mut Interface, peer: u8) {
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
        let path = Path::to(([192, 0, 2, peer], 51820).into());
        assert_eq!(to.handle_datagram(then, &path, Ecn::NotEct, &mut buffer[transmit.range]), None);
    }
    while interface.poll_transmit(then, &mut buffer).unwrap().is_some() {}
}

/// Begins one handshake if one is wanted. It is not computed, so it comes to nothing.
fn begin_handshake(interface: &mut Interface, now: Instant) -> bool {
    interface.poll_handshake(now).is_some()
}

#[test]
fn a_handshake_that_a_worker_leaves_behind_is_found_before_the_control_thread_sleeps_on() {
    explore(|| Device::new().run(2, NEVER));
}

#[test]
fn a_deadline_that_a_worker_leaves_behind_ends_the_sleep_of_the_control_thread_in_time() {
    explore(|| {
        let device = Device::new();
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
