//! The real Linux kernel as a partner, in a virtual machine of its own on a wire to a host.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::command::{Background, Outcome};
use crate::host::Host;
use crate::implementation::target;
use crate::scratch::Scratch;

/// How long the machine may take to boot or to run a command; it is emulated, on a busy processor.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the machine needs beside the kernel itself: WireGuard and a network card.
const MODULES: &[&str] = &["virtio_pci", "virtio_net", "wireguard"];

/// A booted kernel with WireGuard, told what to do by a shell on its serial line.
#[derive(Debug)]
pub struct KernelPeer {
    console: Receiver<String>,
    keyboard: ChildStdin,
    machine: Background,
    /// With its file system, gone after the machine.
    _folder: Scratch,
    commands: u32,
}

impl KernelPeer {
    /// Boots the machine on the wire `tap0` of the host, which gets the `host_addresses`; the machine's own card
    /// `eth0` gets the `addresses`. Each is given with its prefix length.
    #[track_caller]
    pub fn boot(host: &Host, host_addresses: &[&str], addresses: &[&str]) -> Self {
        host.ip("tuntap add tap0 mode tap");
        for address in host_addresses {
            host.add_address(address, "tap0");
        }
        host.ip("link set tap0 up");

        let (kernel, modules) = kernel_and_modules();
        let folder = Scratch::new();
        let archive = folder.join("initramfs");
        fs::write(&archive, initramfs(&modules)).expect("write the machine's file system");

        // Emulated everywhere: where this runs in a virtual machine itself, hardware support may be there and not work.
        let mut machine = Command::new("qemu-system-x86_64");
        machine
            .args("-accel tcg -cpu max -m 256 -smp 1 -nodefaults -no-user-config -no-reboot".split(' '))
            .args("-display none -monitor none -serial stdio".split(' '))
            .args("-netdev tap,id=net,ifname=tap0,script=no,downscript=no".split(' '))
            .args("-device virtio-net-pci,netdev=net,romfile=".split(' '))
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(archive)
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut machine = host.start(machine);
        let keyboard = machine.take_stdin().expect("the machine's keyboard");
        let screen = BufReader::new(machine.take_stdout().expect("the machine's screen"));
        let (lines, console) = channel();
        std::thread::spawn(move || {
            for line in screen.split(b'\n').map_while(Result::ok) {
                if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        let mut peer = Self { console, keyboard, machine, _folder: folder, commands: 0 };
        peer.read_until("READY");
        for address in addresses {
            peer.run(&format!("ip address add {address} dev eth0"));
        }
        peer
    }

    /// Makes the interface `wg0` with these addresses and prefix lengths and sets it up.
    #[track_caller]
    pub fn make_interface(&mut self, addresses: &[&str]) {
        self.run("ip link add wg0 type wireguard");
        for address in addresses {
            self.run(&format!("ip address add {address} dev wg0"));
        }
        self.run("ip link set wg0 mtu 1420 up");
    }

    /// Replaces the configuration of `wg0`, with its sessions.
    #[track_caller]
    pub fn set_configuration(&mut self, configuration: &str) {
        self.run("rm -f /wg.conf");
        for line in configuration.lines() {
            self.run(&format!("echo '{line}' >> /wg.conf"));
        }
        self.run("wg setconf wg0 /wg.conf");
    }

    /// Runs a line of shell, which must succeed, and hands back what it printed.
    #[track_caller]
    pub fn run(&mut self, line: &str) -> String {
        let (succeeded, text) = self.try_run(line);
        assert!(succeeded, "the kernel's `{line}` fails\n{text}");
        text
    }

    /// Runs a line of shell and hands back whether it succeeded and what it printed.
    #[track_caller]
    pub fn try_run(&mut self, line: &str) -> (bool, String) {
        self.start(line);
        self.finish()
    }

    /// Starts a line of shell without waiting for its end.
    #[track_caller]
    pub fn start(&mut self, line: &str) {
        self.commands += 1;
        writeln!(self.keyboard, "{line}").expect("type a command");
    }

    /// Waits for the end of what was started.
    #[track_caller]
    pub fn finish(&mut self) -> (bool, String) {
        let (status, text) = self.read_until(&format!("ENDED {} ", self.commands));
        (status == "0", text)
    }

    /// Reads until a line that begins with the mark; hands back the rest of that line and what came before it.
    #[track_caller]
    fn read_until(&self, mark: &str) -> (String, String) {
        let mut text = String::new();
        loop {
            match self.console.recv_timeout(PATIENCE) {
                Ok(line) => match line.strip_prefix(mark) {
                    Some(rest) => return (rest.trim().to_owned(), text),
                    None => text = text + &line + "\n",
                },
                Err(problem) => panic!("the kernel's machine does not say {mark:?}: {problem}\n{text}"),
            }
        }
    }
}

impl Drop for KernelPeer {
    fn drop(&mut self) {
        self.machine.signal(nix::sys::signal::Signal::SIGKILL);
    }
}

/// What runs first in the machine: it makes the network ready and then does what it is told.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order
until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
stty -F /dev/ttyS0 -echo
for interface in all default eth0; do echo 0 > /proc/sys/net/ipv6/conf/$interface/accept_dad; done
ip link set lo up
ip link set eth0 up
echo
echo READY
count=0
while read -r line; do
    count=$((count + 1))
    eval "$line" 2>&1
    echo "ENDED $count $?"
done < /dev/ttyS0
poweroff -f
"#;

/// The kernel's image and the modules to be loaded, in their order.
#[track_caller]
fn kernel_and_modules() -> (PathBuf, Vec<(String, Vec<u8>)>) {
    let folder = match std::env::var_os("ADIT_KERNEL") {
        Some(folder) => PathBuf::from(folder),
        None => target().join("peers").join("kernel"),
    };
    let missing = || -> ! { panic!("no kernel in {}: run `cargo xtask setup`", folder.display()) };
    let Ok(boot) = fs::read_dir(folder.join("boot")) else { missing() };
    let image = boot
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")));
    let Some(image) = image else { missing() };

    let mut all = BTreeMap::new();
    for modules in ["lib/modules", "usr/lib/modules"] {
        find_modules(&folder.join(modules), &mut all);
    }
    let mut ordered = Vec::new();
    for name in MODULES {
        load(name, &all, &mut ordered);
    }
    (image, ordered)
}

/// Every module below the folder, by its name.
fn find_modules(folder: &Path, found: &mut BTreeMap<String, PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            find_modules(&path, found);
        } else if let Some((name, _)) = path.file_name().and_then(|name| name.to_str()?.split_once(".ko")) {
            found.insert(name.replace('-', "_"), path);
        }
    }
}

/// Adds a module after those that it depends on. One that is not to be found is a part of the kernel itself.
#[track_caller]
fn load(name: &str, all: &BTreeMap<String, PathBuf>, ordered: &mut Vec<(String, Vec<u8>)>) {
    let Some(path) = all.get(name) else { return };
    let file = format!("{name}.ko");
    if ordered.iter().any(|(other, _)| *other == file) {
        return;
    }
    let bytes = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => decompressed(path),
        _ => fs::read(path).expect("read a module"),
    };
    for dependency in dependencies(&bytes) {
        load(&dependency, all, ordered);
    }
    ordered.push((file, bytes));
}

/// The modules that a module names in its information: strings that end with a zero.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[track_caller]
fn decompressed(path: &Path) -> Vec<u8> {
    let output = Command::new("xz").arg("-dc").arg(path).output().expect("run xz");
    assert!(output.status.success(), "xz cannot unpack {}", path.display());
    output.stdout
}

/// The machine's file system, in the format that the kernel unpacks: "new ASCII" cpio.
#[track_caller]
fn initramfs(modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.add("init", INIT.as_bytes());
    archive.add("bin/busybox", &read_program("busybox"));
    archive.add("bin/wg", &read_program("wg"));
    for library in libraries("wg") {
        let bytes = fs::read(&library).expect("read a library");
        archive.add(library.trim_start_matches('/'), &bytes);
    }
    let order: String = modules.iter().map(|(name, _)| format!("{name}\n")).collect();
    archive.add("modules/order", order.as_bytes());
    for (name, bytes) in modules {
        archive.add(&format!("modules/{name}"), bytes);
    }
    archive.finish()
}

#[track_caller]
fn read_program(name: &str) -> Vec<u8> {
    let path = find_program(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn find_program(name: &str) -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: run `cargo xtask setup`"))
}

/// The libraries that a program is linked with, and its loader.
#[track_caller]
fn libraries(program: &str) -> Vec<String> {
    let mut command = Command::new("ldd");
    command.arg(find_program(program));
    let text = Outcome::of(command, "").success();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

/// A cpio archive in the making.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: Vec<String>,
}

impl Archive {
    /// Adds a program or file, and the folders on the way to it.
    fn add(&mut self, path: &str, content: &[u8]) {
        for (end, _) in path.match_indices('/') {
            let folder = path[..end].to_owned();
            if !self.folders.contains(&folder) {
                self.entry(&folder, 0o40755, &[]);
                self.folders.push(folder);
            }
        }
        self.entry(path, 0o100_755, content);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("a small file");
        let name_size = u32::try_from(path.len() + 1).expect("a short name");
        // Inode, mode, owner, group, links, time, size, four device numbers, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
