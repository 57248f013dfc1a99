//! Flows that come to a worker from another one.

use std::os::fd::OwnedFd;

use super::*;
use crate::flows::Flows;

#[test]
fn a_worker_does_not_rest_before_what_it_waits_for_has_left() {
    let [End { worker, .. }, _] = connected();
    let mut shared = Arc::into_inner(worker.shared).expect("nobody else has it");
    let [(own, _device), (other, others_device)] = [(); 2].map(|()| UnixDatagram::pair().unwrap());
    let reader = other.try_clone().unwrap();
    shared.flows = Flows::new([own, other].map(OwnedFd::from).into());
    let moved = shared.flows.moved(1);
    others_device.send(b"a packet that came before the flow was moved").unwrap();
    let mut worker = Worker { shared: Arc::new(shared), moved, ..worker };
    std::thread::scope(|scope| {
        scope.spawn(|| reader.recv(&mut [0; 100]).unwrap());
        worker.serve(&mut Events::with_capacity(8)).expect("a poll that works");
    });
    assert!(worker.moved.is_none());
}

#[test]
fn a_worker_that_the_network_keeps_at_work_is_not_waited_for() {
    let [mut a, b] = connected();
    let mut shared = Arc::into_inner(b.worker.shared).expect("nobody else has it");
    let [(own, _device), (other, _others_device)] = [(); 2].map(|()| UnixDatagram::pair().unwrap());
    shared.flows = Flows::new([own, other].map(OwnedFd::from).into());
    let mut worker = Worker { shared: Arc::new(shared), ..b.worker };
    // More than fits into a few bursts.
    a.put(&Spec::tcp4(20_000).build_unfinished(Some(8)));
    a.serve_tun();
    let flows = &worker.shared.clone().flows;
    flows.at_work(0, true);
    let moved = flows.moved(0).expect("a worker");
    assert!(!flows.has_arrived(&moved), "something might be on its way");
    worker.ready.v4 = true;
    worker.serve(&mut Events::with_capacity(8)).expect("a poll that works");
    assert!(flows.has_arrived(&moved), "it is still at work, but had nothing in its queue");
}
