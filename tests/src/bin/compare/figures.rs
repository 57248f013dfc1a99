//! The figures that are measured: what they are called and which way is better.

/// A figure of the report.
#[derive(Debug)]
pub(crate) struct Figure {
    /// Its name in the raw results.
    pub(crate) key: &'static str,
    /// Its name in the report.
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
    /// Neither by itself: it explains another figure.
    Neither,
}

/// Figures that stand in one table.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) figures: &'static [Figure],
}

/// The tables of the report.
pub(crate) const SECTIONS: &[Section] = &[
    Section {
        title: "TCP with the host's congestion control",
        figures: &[
            higher("tcp_gbps", "One flow", "Gbit/s"),
            higher("tcp_reversed_gbps", "One flow, reversed", "Gbit/s"),
            higher("tcp_four_gbps", "Four flows", "Gbit/s"),
            lower("tcp_cpu_s_gb", "One flow, CPU of both daemons", "s/GB"),
            lower("tcp_reversed_cpu_s_gb", "One flow, reversed, CPU", "s/GB"),
            lower("tcp_four_cpu_s_gb", "Four flows, CPU", "s/GB"),
        ],
    },
    Section {
        title: "TCP with CUBIC, the kernel's default",
        figures: &[
            higher("cubic_gbps", "CUBIC, one flow", "Gbit/s"),
            higher("cubic_reversed_gbps", "CUBIC, one flow, reversed", "Gbit/s"),
            higher("cubic_four_gbps", "CUBIC, four flows", "Gbit/s"),
            lower("cubic_cpu_s_gb", "CUBIC, one flow, CPU of both daemons", "s/GB"),
            lower("cubic_reversed_cpu_s_gb", "CUBIC, one flow, reversed, CPU", "s/GB"),
            lower("cubic_four_cpu_s_gb", "CUBIC, four flows, CPU", "s/GB"),
        ],
    },
    Section {
        title: "A wire of 100 Mbit/s, with CUBIC",
        figures: &[
            higher("slow_link_mbps", "One flow", "Mbit/s"),
            lower("slow_link_ping_ms", "Ping beside the flow, mean round trip", "ms"),
        ],
    },
    Section {
        title: "UDP, as fast as it goes",
        figures: &[
            higher("udp_64_kpps", "64 bytes, delivered", "1,000/s"),
            neither("udp_64_lost_percent", "64 bytes, lost", "%"),
            lower("udp_64_cpu_us", "64 bytes, CPU a delivered packet", "µs"),
            higher("udp_1372_kpps", "1,372 bytes, delivered", "1,000/s"),
            neither("udp_1372_lost_percent", "1,372 bytes, lost", "%"),
            lower("udp_1372_cpu_us", "1,372 bytes, CPU a delivered packet", "µs"),
        ],
    },
    Section {
        title: "Ping, mean round trip",
        figures: &[
            lower("ping_us", "5 ms apart", "µs"),
            lower("ping_flood_us", "Back to back", "µs"),
            neither("ping_busy_us", "5 ms apart, with `--busy-poll 500`", "µs"),
            neither("ping_flood_busy_us", "Back to back, with `--busy-poll 500`", "µs"),
        ],
    },
    Section {
        title: "Memory of a daemon, resident",
        figures: &[
            lower("memory_idle_mib", "One peer, idle", "MiB"),
            lower("memory_peak_mib", "Peak of all the traffic above", "MiB"),
        ],
    },
    Section {
        title: "10,000 peers",
        figures: &[
            lower("peers_memory_mib", "Memory", "MiB"),
            lower("peers_set_s", "`wg setconf`", "s"),
            lower("peers_set_again_s", "`wg setconf` again, all replaced by the same", "s"),
            lower("peers_add_again_s", "`wg addconf`, all named again", "s"),
            lower("peers_show_s", "`wg show dump`", "s"),
        ],
    },
];

/// The figure of this name.
pub(crate) fn figure(key: &str) -> Option<&'static Figure> {
    SECTIONS.iter().flat_map(|section| section.figures).find(|figure| figure.key == key)
}

const fn higher(key: &'static str, title: &'static str, unit: &'static str) -> Figure {
    Figure { key, title, unit, better: Better::Higher }
}

const fn lower(key: &'static str, title: &'static str, unit: &'static str) -> Figure {
    Figure { key, title, unit, better: Better::Lower }
}

const fn neither(key: &'static str, title: &'static str, unit: &'static str) -> Figure {
    Figure { key, title, unit, better: Better::Neither }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_figures_share_a_key() {
        let keys: Vec<_> = SECTIONS.iter().flat_map(|section| section.figures).map(|figure| figure.key).collect();
        let different: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
    }
}
