//! A real systemd as the first process of a machine in namespaces, on a host's network, with this project's units.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::command::{Background, Outcome};
use crate::host::Host;
use crate::implementation::Implementation;
use crate::scratch::{nameless_file, text};
use crate::wait::{eventually, for_a_while};

/// A booted systemd, ended with all that it started when this is dropped, before the host.
///
/// It has the host's network and folder of UAPI sockets, so that whatever acts on the host reaches its daemons. Its
/// files are the programs of the real machine, with the daemon under test as `/usr/bin/adit`, and little else; they may
/// be changed, and are gone with it.
#[derive(Debug)]
pub struct Systemd<'a> {
    host: &'a Host,
    machine: Background,
    /// The first process, by its number outside.
    init: u32,
    cgroup: PathBuf,
    screen: fs::File,
}

impl<'a> Systemd<'a> {
    /// Boots it, until it has nothing more to start.
    #[track_caller]
    pub fn boot(host: &'a Host) -> Self {
        let own = std::process::id();
        let cgroup = own_cgroup().join(format!("adit-test-{own}"));
        let screen = nameless_file();
        let copy = || screen.try_clone().expect("the screen");
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
        let mut command = Command::new("sh");
        command.args(["-euc", BOOT, "boot"]).args([cgroup.as_path(), &Implementation::Adit.binary(), &units]);
        command.stdin(Stdio::null()).stdout(copy()).stderr(copy());
        let machine = host.start(command);
        let mut systemd = Self { host, machine, init: 0, cgroup, screen };
        eventually("systemd has booted", || {
            if let Some(status) = systemd.machine.ended() {
                panic!("systemd cannot be booted in namespaces here: {status}");
            }
            let unshare = systemd.machine.id();
            let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
            systemd.init = children.trim().parse().ok()?;
            let state = systemd.try_run("systemctl is-system-running").stdout();
            matches!(state.trim(), "running" | "degraded").then_some(())
        });
        systemd
    }

    /// Runs a command on the machine, as root, which must succeed.
    #[track_caller]
    pub fn run(&self, words: &str) -> String {
        self.try_run(words).success()
    }

    /// Runs a command on the machine, as root.
    #[track_caller]
    pub fn try_run(&self, words: &str) -> Outcome {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.init.to_string(), "--"]).args(words.split(' '));
        self.host.complete(command, "")
    }

    /// A property of a unit, as `systemctl show` tells it.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&format!("systemctl show --value --property {name} {unit}")).trim().to_owned()
    }

    /// What the services have said.
    #[track_caller]
    pub fn journal(&self) -> String {
        self.run("journalctl --no-pager --output cat")
    }

    /// A file of the machine's, seen from outside.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Puts a program in the place of another as a package manager does: under the same name, as another file.
    #[track_caller]
    pub fn replace(&self, path: &str, by: &Path) {
        let new = self.file(&format!("{path}.new"));
        fs::copy(by, &new).expect("copy the program");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("make it executable");
        fs::rename(&new, self.file(path)).expect("put it in place");
    }

    /// The processes of a unit, by their numbers outside.
    pub fn processes(&self, unit: &str) -> Vec<u32> {
        let path = self.property(unit, "ControlGroup");
        if path.is_empty() {
            return Vec::new();
        }
        let file = self.cgroup.join(path.trim_start_matches('/')).join("cgroup.procs");
        let text = self.host.enter(|| fs::read_to_string(file)).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = if self.init == 0 { String::new() } else { self.try_run("journalctl --no-pager").stdout() };
            eprintln!("---- journal of systemd\n{said}---- its screen");
            eprintln!("{}", text(&self.screen));
        }
        // With it dies the first process, and with that all others.
        self.machine.signal(nix::sys::signal::Signal::SIGKILL);
        let emptied =
            for_a_while(std::time::Duration::from_secs(10), || self.host.enter(|| remove_cgroup(&self.cgroup)).ok());
        if emptied.is_none() {
            eprintln!("{} is left", self.cgroup.display());
        }
    }
}

/// Where a cgroup below that of this process is made, in the host's own mount of them.
fn own_cgroup() -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").expect("the cgroup of this process");
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    Path::new(CGROUPS).join(own.expect("a kernel with cgroups of version 2, for systemd"))
}

fn remove_cgroup(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

const CGROUPS: &str = "/sys/fs/cgroup";

/// Becomes `unshare`, whose child is systemd. The arguments are a cgroup to make, the daemon, and the folder of units.
///
/// systemd wants: to be number 1, cgroups of version 2 whose root is its own, `/run` and `/dev` to write to, and to be
/// told that it is in a container, so that it leaves devices and clock alone.
const BOOT: &str = r#"
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# One of this name is of a test that was killed.
[ ! -d "$1" ] || rmdir "$1"
mkdir "$1"
echo $$ > "$1/cgroup.procs"
exec unshare --mount --pid --cgroup --ipc --uts --fork --kill-child sh -euc '
    mount -t tmpfs -o mode=755 machine /media
    cd /media
    mkdir -p dev/net dev/pts dev/shm etc/systemd/system mnt proc root run sys tmp usr upper/bin work var
    cp "$1" upper/bin/adit
    mount -t overlay -o lowerdir=/usr,upperdir=upper,workdir=work overlay usr
    for link in /bin /sbin /lib /lib32 /lib64 /libx32; do
        if [ -L $link ]; then cp -P $link .; fi
    done
    ln -s ../run var/run

    cp /etc/ld.so.cache etc
    echo "root:x:0:0::/root:/bin/sh" > etc/passwd
    echo "root:x:0:" > etc/group
    # As if it had booted before: nothing is to be set up.
    echo 0123456789abcdef0123456789abcdef > etc/machine-id
    touch etc/.updated var/.updated
    cp "$2"/adit@* etc/systemd/system
    printf "[Unit]\nDescription=The test\n" > etc/systemd/system/test.target

    mount -t proc proc proc
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 run run
    mount -t tmpfs -o mode=755 dev dev
    mkdir -p dev/net dev/pts dev/shm run/wireguard
    mknod -m 666 dev/null c 1 3
    mknod -m 666 dev/zero c 1 5
    mknod -m 666 dev/full c 1 7
    mknod -m 666 dev/random c 1 8
    mknod -m 666 dev/urandom c 1 9
    mknod -m 666 dev/tty c 5 0
    mknod -m 666 dev/net/tun c 10 200
    mount --bind /run/wireguard run/wireguard
    chmod 755 run/wireguard
    pivot_root . mnt
    umount -l /mnt
    exec env -i container=test PATH=/usr/bin:/usr/sbin /lib/systemd/systemd --unit=test.target --log-target=console
' boot "$2" "$3"
"#;
