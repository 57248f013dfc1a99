//! `cargo xtask setup`: everything the tests need that a toolchain does not bring.

use anyhow::Result;

use crate::run::{cargo, run, succeeds};
use crate::{debian, kernel, peers};

/// The version of the test runner that is installed where there is none, or an older one than `.config/nextest.toml`
/// asks for.
const NEXTEST: &str = "0.9.143";

/// Debian's packages the tests need, and what for.
const PACKAGES: &[debian::Package] = &[
    debian::Package { name: "iproute2", why: "ip: namespaces' links, addresses and routes" },
    debian::Package { name: "iputils-ping", why: "ping through the tunnels" },
    debian::Package { name: "iperf3", why: "bulk TCP and UDP through the tunnels" },
    debian::Package { name: "wireguard-tools", why: "wg and wg-quick drive the daemons" },
    debian::Package { name: "nftables", why: "nft: address translation between namespaces; wg-quick's firewall" },
    debian::Package { name: "procps", why: "sysctl, which wg-quick runs" },
    debian::Package { name: "qemu-system-x86", why: "a machine for the real Linux kernel as a partner" },
    debian::Package { name: "busybox-static", why: "the user land of that machine" },
    debian::Package { name: "systemd", why: "the service manager for which there are units, booted in namespaces" },
    debian::Package { name: "util-linux-extra", why: "pivot_root, which newer releases of Debian keep there" },
    debian::Package { name: "g++", why: "builds the fuzzer that the targets are linked with" },
    debian::Package {
        name: "llvm",
        why: "llvm-symbolizer, with which the sanitizers name the functions of what they find",
    },
    debian::Package { name: "xz-utils", why: "unpacks that kernel's modules" },
];

/// Installs what is missing and says why. `chore` is what it is for.
pub(crate) fn all(chore: &str) -> Result<()> {
    debian::install(PACKAGES, chore)?;
    // It fails for an older one as well.
    if !succeeds(cargo().args(["nextest", "show-config", "version"])) {
        eprintln!("# cargo-nextest {NEXTEST}: runs the tests, in parallel and each in its own process");
        run(cargo().args(["install", "--locked", "--version", NEXTEST, "cargo-nextest"]))?;
    }
    peers::install()?;
    kernel::install()
}
