//! What the daemon makes of its interface, and knows of it when it could not be told everything, or lacks something.

use std::fs;

use adit_tests::Implementation::Adit;
use adit_tests::{Host, Pair, Ping, Side, eventually};
use nix::sys::signal::Signal;

#[test]
fn when_news_were_lost_the_link_is_what_it_is_now_and_not_what_the_last_news_said() {
    let mut pair = Pair::new(Adit, Adit);
    pair.assert_a_reaches_b();
    pair.a.daemon().signal(Signal::SIGSTOP);
    pair.a.host.ip("link set wg0 down");
    lose_news(&pair.a.host);
    pair.a.host.ip("link set wg0 mtu 1420 up");
    pair.a.daemon().signal(Signal::SIGCONT);
    eventually("A reaches B again", || pair.a_reaches_b().then_some(()));
}

#[test]
fn an_interface_is_followed_to_another_namespace_though_the_news_of_it_were_lost() {
    let mut pair = Pair::new(Adit, Adit);
    pair.assert_a_reaches_b();
    pair.a.host.ip("link set wg0 down");
    eventually("the link is followed", || pair.a.daemon().log().contains("is_up=false").then_some(()));
    pair.a.daemon().signal(Signal::SIGSTOP);
    lose_news(&pair.a.host);
    let inside = Host::new("inside");
    pair.a.host.ip(&format!("link set wg0 netns {}", inside.network_path()));
    inside.add_address(&format!("{}/24", Side::A.inner_v4()), "wg0");
    inside.ip("link set wg0 mtu 1420 up");
    pair.a.daemon().signal(Signal::SIGCONT);
    let to_b = Ping::to(Side::B.inner_v4());
    eventually("B is reached from inside", || to_b.from(&inside).all_answered().then_some(()));
}

/// Changes the link until the kernel has no more room to tell of it. What happens before that is read is lost.
#[track_caller]
fn lose_news(host: &Host) {
    let changes: String = (0..100).map(|number| format!("link set wg0 mtu {}\n", 1300 + number)).collect();
    eventually("news are lost", || {
        host.run_with_input("ip", &["-batch", "-"], &changes).success();
        let sockets = host.enter(|| fs::read_to_string("/proc/thread-self/net/netlink")).expect("netlink's sockets");
        let drops = |line: &str| line.split_whitespace().nth(8).is_some_and(|drops| drops != "0");
        sockets.lines().skip(1).any(drops).then_some(())
    });
}
