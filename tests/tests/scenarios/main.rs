//! What a WireGuard implementation meets in the field, each tried with real daemons in hosts of their own.
//!
//! A scenario is a function over the implementation under test, A, and its partner, B. Each runs with Adit and, where
//! the partner can do its own part, with every other implementation; where it cannot, the pair is ignored with the
//! partner's defect as the reason.

mod configuration;
mod lifecycle;
mod mtu;
mod peers;
mod roaming;
mod routing;
mod sources;
mod traffic;

adit_tests::alone! {
    lifecycle::starts_and_is_listed;
    lifecycle::sigterm_cleans_up;
    lifecycle::sigint_cleans_up;
    lifecycle::link_delete_ends_daemon;
    lifecycle::socket_delete_ends_daemon;
    lifecycle::restart_over_stale_socket;
    lifecycle::second_daemon_same_name_refused;

    configuration::show_dump;
    configuration::showconf_setconf_roundtrip;
    configuration::allowed_ips_are_masked;
    configuration::big_config_one_peer;
    configuration::big_config_many_peers;
}

adit_tests::with_each_partner! {
    lifecycle::link_down_up;
    lifecycle::wg_quick_up_down;

    traffic::first_packet_v4;
    traffic::first_packet_v6;
    traffic::as_responder;
    traffic::flood_ping_no_loss;
    traffic::counters;
    traffic::tcp4_over_v4;
    traffic::tcp6_over_v4;
    traffic::tcp4_over_v6;
    traffic::tcp6_over_v6;
    traffic::tcp_many_streams;
    traffic::udp4_over_v4;
    traffic::udp6_over_v6;
    traffic::udp_unlimited_survives;
    traffic::udp_small_packets_in_order;

    mtu::mtu_1280;
    mtu::mtu_1420;
    mtu::mtu_1500_outer_fragments;
    mtu::mtu_9000_outer_fragments,
        boringtun: "carries no packet longer than its buffers of about 4 KiB",
        gotatun: "carries no packet longer than its buffers of about 4 KiB";
    mtu::tcp_when_outer_must_fragment;
    mtu::mtu_every_length_mod_16;
    mtu::mtu_change_mid_session;

    roaming::roam_address_v4;
    roaming::roam_port;
    roaming::roam_v4_to_v6_and_back,
        wireguard_go: "sends to a mangled address when an endpoint becomes IPv6 after IPv4";
    roaming::endpoint_change_mid_session;
    roaming::listen_port_change;
    roaming::listen_port_zero_is_random;
    roaming::works_without_listen_port;
    roaming::nat_persistent_keepalive;
    roaming::persistent_keepalive_without_traffic;
    roaming::handshake_retry_when_partner_late;

    sources::sticky_source_v4;
    sources::sticky_source_v6;
    sources::sticky_source_handshake;
    sources::source_falls_over_v4;
    sources::source_falls_over_v6;

    routing::inner_source_filter;
    routing::more_specific_other_peer_steals;
    routing::filtered_packet_still_roams;
    routing::allowed_ip_moves_between_peers;
    routing::longest_prefix_chooses_peer;
    routing::three_namespaces_hub;
    routing::fwmark_on_outer_packets;
    routing::fwmark_default_route;
    routing::routing_loop_survives;
    routing::tunnel_in_tunnel;
    routing::tun_moved_to_other_netns;

    peers::peer_remove_and_readd;
    peers::no_endpoint_no_crash;
    peers::preshared_key;
    peers::preshared_key_mismatch;
    peers::private_key_change;
    peers::own_key_as_peer;

    configuration::latest_handshake_is_epoch_time;
    configuration::syncconf_and_addconf;
}
