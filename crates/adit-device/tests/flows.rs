//! A flow that moves to another worker loses nothing of its order, in whatever order the workers and the kernel reach
//! the queues: explored by the model checker `loom`.
//!
//! What a worker tells of its progress is the device's own code. The workers and the kernel are models: that the
//! device's threads take their steps in this order is known by reading them.

use loom::sync::atomic::{AtomicBool, AtomicU32};
use loom::sync::{Arc, Mutex};
use loom::thread;

use progress::Progress;

/// The device's own code, with loom's atomics in it.
#[path = "../src/flows/progress.rs"]
mod progress;

/// The queue that a flow's packets wait in, for each worker, and to which of them the next one comes.
#[derive(Default)]
struct Kernel {
    queues: [Vec<u32>; 2],
    next: usize,
}

#[derive(Clone)]
struct Device {
    kernel: Arc<Mutex<Kernel>>,
    sent: Arc<Mutex<Vec<u32>>>,
    /// That of the worker with the first queue.
    progress: Arc<Progress>,
}

impl Device {
    fn new() -> Self {
        Self {
            kernel: Arc::new(Mutex::new(Kernel::default())),
            sent: Arc::new(Mutex::new(Vec::new())),
            progress: Arc::new(Progress::new()),
        }
    }

    fn put(&self, packet: u32) {
        let mut kernel = self.kernel.lock().unwrap();
        let next = kernel.next;
        kernel.queues[next].push(packet);
    }

    fn read(&self, worker: usize) -> Vec<u32> {
        std::mem::take(&mut self.kernel.lock().unwrap().queues[worker])
    }

    fn send(&self, packets: Vec<u32>) {
        self.sent.lock().unwrap().extend(packets);
    }

    /// The first worker wakes up, and serves its queue so many times before it rests.
    fn serve(&self, turns: usize) {
        self.progress.set_at_work(true);
        for _ in 0..turns {
            let packets = self.read(0);
            self.progress.has_read();
            self.send(packets);
            self.progress.has_sent_all();
        }
        self.progress.set_at_work(false);
    }

    /// The second worker gets an answer, and sends what comes to its own queue if that may be.
    fn take_over(&self) {
        if self.progress.is_at_work() {
            return;
        }
        self.kernel.lock().unwrap().next = 1;
        let mark = self.progress.mark();
        let is_empty = || self.kernel.lock().unwrap().queues[0].is_empty();
        if self.progress.is_past(mark, is_empty) {
            let packets = self.read(1);
            self.send(packets);
        }
    }
}

fn explore(bound: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut loom = loom::model::Builder::new();
    // How often a thread is interrupted where it could have gone on.
    loom.preemption_bound = Some(bound);
    loom.check(model);
}

/// The kernel gives out two packets while the first worker serves its queue and the second one takes the flow over.
fn no_packet_is_overtaken(turns: &'static [usize]) {
    explore(4, move || {
        let device = Device::new();
        let [first, second] = [(); 2].map(|()| device.clone());
        let first = thread::spawn(move || turns.iter().for_each(|&turns| first.serve(turns)));
        let second = thread::spawn(move || second.take_over());
        (0..2).for_each(|packet| device.put(packet));
        first.join().unwrap();
        second.join().unwrap();
        // What is left would be sent later, by each in its turn.
        for worker in 0..2 {
            device.send(device.read(worker));
        }
        assert_eq!(*device.sent.lock().unwrap(), [0, 1]);
    });
}

#[test]
fn no_packet_is_overtaken_when_its_flow_moves_away_from_a_worker_that_rests_now_and_then() {
    no_packet_is_overtaken(&[1, 1]);
}

#[test]
fn no_packet_is_overtaken_when_its_flow_moves_away_from_a_worker_that_does_not_rest() {
    no_packet_is_overtaken(&[3]);
}
