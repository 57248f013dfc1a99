//! Data packets that come to the handshake worker.

use super::*;

#[test]
fn a_packet_that_the_kernel_has_joined_to_a_handshake_is_delivered() {
    let [mut a, mut b] = connected();
    b.worker.aside = b.worker.tun.take().map(Arc::new);
    let packet = finished(Spec::udp4(100).build());
    a.put(&packet);
    a.serve_tun();
    b.serve_network();
    assert_eq!(b.take_all(), [packet.1]);
}
