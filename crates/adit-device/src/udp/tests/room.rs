//! The room in the buffers, and what finds none.

use socket2::SockRef;

use super::*;

#[test]
fn what_finds_no_room_in_the_buffer_is_counted() {
    const SENT: usize = 500;
    let sockets = bind(0, 1, 0, true).expect("bound").remove(0);
    let socket = sockets.v4.as_ref().expect("IPv4");
    SockRef::from(socket).set_recv_buffer_size(4096).expect("a small buffer");
    for _ in 0..SENT {
        assert_all_sent(&sockets.send(&to("127.0.0.1", &sockets), 0, &[0; 1000], 0), 1);
    }
    let mut buffer = vec![0; MAX_RECEIVED];
    let received: usize = std::iter::from_fn(|| socket.recv(&mut buffer).ok()).map(|r| r.datagrams().count()).sum();
    assert!(received < SENT, "the buffer had room for all");
    assert_eq!(sockets.overflows(), (SENT - received) as u64);
}

#[test]
fn a_buffer_is_filling_when_more_than_half_of_it_is_used() {
    let sockets = bind(0, 1, 0, true).expect("bound").remove(0);
    let socket = sockets.v4.as_ref().expect("IPv4");
    SockRef::from(socket).set_recv_buffer_size(64 << 10).expect("a small buffer");
    let mut sent = 0_u32;
    let mut were_filling = None;
    while sockets.overflows() == 0 {
        if were_filling.is_none() && sockets.are_filling() {
            were_filling = Some(sent);
        }
        assert_all_sent(&sockets.send(&to("127.0.0.1", &sockets), 0, &[0; 100], 0), 1);
        sent += 1;
    }
    let half = were_filling.expect("filling before it was full");
    assert!((sent / 2).abs_diff(half) <= 1 + sent / 16, "{half} of {sent}");
    let mut buffer = vec![0; MAX_RECEIVED];
    while socket.recv(&mut buffer).is_ok() {}
    assert!(!sockets.are_filling(), "all is read");
}

#[test]
fn what_is_coalesced_and_finds_no_room_where_it_is_read_to_is_counted() {
    const SIZE: usize = 16 * 148;
    let sockets = bind(0, 1, 0, true).expect("bound").remove(0);
    let socket = sockets.v4.as_ref().expect("IPv4");
    let mut buffer = [0; 4 * SIZE];
    let mut read = 0;
    for (contents, segment_size) in
        [(&[0; 60 * 148][..], 148), (&[0; 16 * 148], 148), (&[0; 50 * 100], 100), (&[0; 9_000], 0)]
    {
        let count = contents.len().div_ceil(if segment_size == 0 { contents.len() } else { segment_size });
        assert_all_sent(&sockets.send(&to("127.0.0.1", &sockets), 0, contents, segment_size), count);
        socket.recv_many(&mut buffer, SIZE, |_, received| read += received.datagrams().count()).expect("received");
    }
    // Of 100 bytes 23 are read, and part of another.
    assert_eq!((read, sockets.overflows()), (16 + 16 + 24 + 1, 44 + 26));
}
