//! Which run a packet belongs to, and which are given up.

use super::*;

fn counts_of_runs(runs: &[(VnetHeader, Vec<u8>, usize)]) -> Vec<usize> {
    runs.iter().map(|(.., count)| *count).collect()
}

/// Datagrams of these lengths, which nothing but their order tells apart: IPv6 has no identification.
fn datagrams(lengths: &[usize]) -> Vec<Vec<u8>> {
    lengths.iter().map(|length| Spec::udp6(*length).build()).collect()
}

#[test]
fn a_run_that_was_broken_off_is_not_continued_past_what_broke_it() {
    let packets = datagrams(&[100, 200, 50, 100]);
    let runs = join(&packets);
    assert_eq!(counts_of_runs(&runs), [1, 2, 1]);
    assert_eq!(seen(runs), packets);
}

#[test]
fn packets_of_different_ports_stay_apart_whichever_of_the_two_differs() {
    for flow in [Spec::tcp4(200), Spec::tcp6(200), Spec::udp4(200), Spec::udp6(200)] {
        for place in 0..4 {
            let segments = flow.segments(100);
            let other = segments[1].build_changed(|packet| packet[flow.l4() + place] ^= 1);
            assert_eq!(counts(&[segments[0].build(), other]), [1, 1], "byte {place}: {flow:?}");
        }
    }
}

#[test]
fn an_extension_header_is_not_overtaken_by_a_later_packet_of_the_same_hosts() {
    let packets = datagrams(&[100, 100, 100]);
    let mut extended = packets[1].clone();
    extended[6] = 0;
    assert_eq!(counts(&[packets[0].clone(), extended, packets[1].clone(), packets[2].clone()]), [1, 1, 2]);
    let mut of_others = Spec { host: 8, ..Spec::udp6(100) }.build();
    of_others[6] = 0;
    assert_eq!(counts(&[packets[0].clone(), of_others, packets[1].clone(), packets[2].clone()]), [3, 1]);
}

#[test]
fn a_push_on_the_first_packet_leaves_it_alone() {
    let mut segments = Spec::tcp4(300).segments(100);
    segments[0].flags |= PSH;
    let packets = built(&segments);
    let runs = join(&packets);
    assert_eq!(counts_of_runs(&runs), [1, 2]);
    assert_eq!(seen(runs), packets);
}

#[test]
fn sequence_numbers_and_identifications_wrap_within_a_run() {
    // Between the packets, and within one.
    for sequence in [u32::MAX - 99, u32::MAX - 149, u32::MAX - 199] {
        let packets = built(&Spec { sequence, id: 0xfffe, ..Spec::tcp4(300) }.segments(100));
        let runs = join(&packets);
        assert_eq!(counts_of_runs(&runs), [3], "{sequence:#x}");
        assert_eq!(seen(runs), packets);
    }
}

#[test]
fn identifications_that_were_the_same_do_not_begin_to_count() {
    for last in [0x1001, 0x7777] {
        let mut segments = Spec::udp4(300).segments(100);
        for (segment, id) in segments.iter_mut().zip([0x1000, 0x1000, last]) {
            segment.id = id;
        }
        assert_eq!(counts(&built(&segments)), [2, 1], "{last:#x}");
    }
}

#[test]
fn new_flows_take_the_places_of_those_that_have_gone_quiet() {
    let flow = |port| built(&Spec { port, ..Spec::tcp4(300) }.segments(100));
    let quiet: Vec<_> = (0..MAX_OPEN as u16).map(|port| flow(port)[0].clone()).collect();
    let [one, other] = [flow(100), flow(101)];
    let talk = (0..3).flat_map(|i| [one[i].clone(), other[i].clone()]);
    let runs = counts(&quiet.iter().cloned().chain(talk).collect::<Vec<_>>());
    assert_eq!(runs, [vec![1; MAX_OPEN], vec![3, 3]].concat());
    // There is one flow too many for the first to go on.
    let many = (0..=MAX_OPEN as u16).map(|port| flow(port)[0].clone()).chain([flow(0)[1].clone()]);
    assert_eq!(counts(&many.collect::<Vec<_>>()), vec![1; MAX_OPEN + 2]);
    // One of the first goes on, and another flow comes.
    let first = flow(0);
    let packets = [quiet, vec![first[1].clone(), one[0].clone(), first[2].clone()]].concat();
    assert_eq!(counts(&packets), [vec![3], vec![1; MAX_OPEN]].concat());
}

#[test]
fn a_batch_leaves_nothing_behind_for_the_next() {
    let mut joiner = Joiner::new();
    for _ in 0..2 {
        for packet in pair().map(|spec| spec.build()) {
            let (mut arena, places) = arena(&[packet]);
            assert_eq!(joiner.join(&mut arena, places, Offloads::ALL).map(|run| run.count()).collect::<Vec<_>>(), [1]);
            assert_eq!((joiner.packets.len(), joiner.runs.len(), joiner.open.len()), (1, 1, 1));
        }
        let (mut arena, places) = arena(&datagrams(&[100, 50, 100]));
        assert_eq!(joiner.join(&mut arena, places, Offloads::ALL).map(|run| run.count()).collect::<Vec<_>>(), [2, 1]);
    }
}
