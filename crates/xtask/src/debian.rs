//! Debian's packages: installed where they are missing, or unpacked into a folder where they must not be installed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{Scratch, output, run, succeeds};

/// A package and the reason to have it.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
}

/// Installs those that are missing. An ordinary user is told the command instead, and whoever has no such packages how
/// to do without in `chore`.
pub(crate) fn install(packages: &'static [Package], chore: &str) -> Result<()> {
    let missing = missing(packages, chore)?;
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        eprintln!("# {}: {}", package.name, package.why);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if !is_root() {
        bail!("not root: run `sudo apt-get update && sudo apt-get install {}` first", names.join(" "));
    }
    update()?;
    run(apt_get().args(["install", "-qq", "--yes", "--no-install-recommends"]).args(&names))
}

/// Brings the list of packages up to date, without which a new machine finds nothing or asks for versions long gone. An
/// ordinary user has to do with the list as it is.
pub(crate) fn update() -> Result<()> {
    if !is_root() {
        eprintln!("# not root: if a package is not found, run `sudo apt-get update` first");
        return Ok(());
    }
    run(apt_get().args(["update", "-qq"]))
}

/// A release of Debian other than the machine's own, asked without touching the machine's own configuration, for which
/// nobody has to be root. Its list of packages, which is large and soon out of date, goes with it.
#[derive(Debug)]
pub(crate) struct Release {
    folder: Scratch,
}

/// The file that names the archive, in the release's folder.
const SOURCES: &str = "sources.list";

impl Release {
    /// Fetches the list of packages of the release `codename` from the mirror that the machine itself uses.
    pub(crate) fn open(folder: PathBuf, codename: &str) -> Result<Self> {
        let release = Self { folder: Scratch::new(folder)? };
        let folder = release.folder.path();
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("cache/archives/partial"))?;
        let line =
            format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} {codename} main\n", mirror()?);
        fs::write(folder.join(SOURCES), line)?;
        run(release.apt_get().args(["update", "-qq"]))?;
        Ok(release)
    }

    /// Downloads the package and unpacks it into the folder `to`.
    pub(crate) fn unpack(&self, package: &str, to: &Path) -> Result<()> {
        unpack(self.apt_get(), package, self.folder.path().join("packages"), to)
    }

    fn apt_get(&self) -> Command {
        let folder = |name: &str| self.folder.path().join(name).display().to_string();
        let mut command = apt_get();
        for option in [
            format!("Dir::Etc::sourcelist={}", folder(SOURCES)),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={}", folder("lists")),
            format!("Dir::Cache={}", folder("cache")),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// Downloads a package of the machine's own release and unpacks it into the folder `to`.
pub(crate) fn unpack_own(package: &str, downloads: PathBuf, to: &Path) -> Result<()> {
    let mut command = apt_get();
    command.args(["-o", "APT::Sandbox::User=root"]);
    unpack(command, package, downloads, to)
}

/// The packages that this one depends on.
pub(crate) fn dependencies(package: &str) -> Result<Vec<String>> {
    let text = output(Command::new("apt-cache").args(["depends", package]))?;
    Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
}

fn unpack(mut apt_get: Command, package: &str, downloads: PathBuf, to: &Path) -> Result<()> {
    let downloads = Scratch::new(downloads)?;
    fs::create_dir_all(to)?;
    run(apt_get.current_dir(downloads.path()).args(["download", "-qq", package]))?;
    let deb = fs::read_dir(downloads.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get downloaded no package {package}"))?;
    run(Command::new("dpkg").arg("-x").arg(deb).arg(to))
}

fn missing(packages: &'static [Package], chore: &str) -> Result<Vec<&'static Package>> {
    if !succeeds(Command::new("dpkg-query").arg("--version")) {
        for package in packages {
            eprintln!("# {}: {}", package.name, package.why);
        }
        bail!("this system has no dpkg: install the programs listed above and use `cargo xtask {chore} --no-setup`");
    }
    let text = output(Command::new("dpkg-query").args(["-W", "-f", "${Package} ${db:Status-Status}\n"]))?;
    let installed: HashSet<&str> = text.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(packages.iter().filter(|package| !installed.contains(package.name)).collect())
}

/// The address of Debian's archive that this machine is set up with.
fn mirror() -> Result<String> {
    let format = "$(ORIGIN) $(LABEL) $(REPO_URI)";
    let text = output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Debian Debian "))
        .map(str::to_owned)
        .context("apt knows no source of Debian's own archive; `apt-get update` and see `apt-get indextargets`")
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
