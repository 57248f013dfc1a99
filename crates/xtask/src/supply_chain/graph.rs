//! Which package depends on which, as cargo tells.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run::{cargo, output};

/// The platform that is built for.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// What a dependency is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Normal,
    Build,
    Dev,
}

impl Kind {
    fn of(value: &Value) -> Self {
        match value["kind"].as_str() {
            Some("build") => Self::Build,
            Some("dev") => Self::Dev,
            _ => Self::Normal,
        }
    }
}

/// A dependency as a manifest declares it.
#[derive(Debug)]
pub(super) struct Dependency {
    pub(super) name: String,
    pub(super) requirement: String,
    pub(super) is_path: bool,
    kind: Kind,
}

/// One package.
#[derive(Debug)]
pub(super) struct Package {
    id: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) licence: Option<String>,
    pub(super) source: Option<String>,
    pub(super) manifest: String,
    pub(super) is_member: bool,
    /// Whether it has a build script or is a procedural macro.
    pub(super) runs_while_building: bool,
    pub(super) dependencies: Vec<Dependency>,
    /// What they were resolved to.
    edges: Vec<(String, Vec<Kind>)>,
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// All packages that a workspace is built from.
#[derive(Debug)]
pub(super) struct Graph {
    packages: HashMap<String, Package>,
}

impl Graph {
    /// Asks cargo about the workspace of this manifest; fails if its `Cargo.lock` does not fit.
    pub(super) fn read(manifest: &str) -> Result<Self> {
        let mut command = cargo();
        command.args(["metadata", "--format-version", "1", "--locked", "--all-features"]);
        command.args(["--filter-platform", PLATFORM, "--manifest-path", manifest]);
        let metadata = output(&mut command)?;
        let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
        Ok(Self::from_metadata(&metadata))
    }

    fn from_metadata(metadata: &Value) -> Self {
        let mut edges = HashMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let to = list(&node["deps"])
                .map(|edge| (string(&edge["pkg"]), list(&edge["dep_kinds"]).map(Kind::of).collect()));
            edges.insert(string(&node["id"]), to.collect());
        }
        let members: BTreeSet<String> = list(&metadata["workspace_members"]).map(string).collect();
        // Packages for other platforms are not resolved.
        let resolved = list(&metadata["packages"]).filter_map(|package| {
            let id = string(&package["id"]);
            let edges = edges.remove(&id)?;
            Some((id.clone(), Package::new(package, members.contains(&id), edges)))
        });
        Self { packages: resolved.collect() }
    }

    pub(super) fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.values()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages().filter(|package| package.is_member)
    }

    /// The packages with these names and all that they depend on by such dependencies, but for what only those named
    /// in `without` need. A member's tests are only its own affair, so further in `Dev` counts for members alone.
    pub(super) fn reachable(&self, from: &[&str], kinds: &[Kind], without: &[String]) -> Vec<&Package> {
        let mut open: Vec<&Package> =
            self.packages().filter(|package| package.is_member && from.contains(&package.name.as_str())).collect();
        let mut found = HashMap::new();
        while let Some(package) = open.pop() {
            if without.contains(&package.name) || found.insert(package.id.as_str(), package).is_some() {
                continue;
            }
            let next = package.edges.iter().filter(|(_, of)| of.iter().any(|kind| kinds.contains(kind)));
            open.extend(next.filter_map(|(id, _)| self.packages.get(id)));
        }
        found.into_values().collect()
    }

    /// The crates from outside that members depend on directly, if `counts` says so of the member and the kind.
    pub(super) fn direct(&self, counts: impl Fn(&str, Kind) -> bool) -> BTreeSet<String> {
        let of_all = self.members().flat_map(|member| {
            let counted = member.dependencies.iter().filter(|dependency| counts(&member.name, dependency.kind));
            counted.filter(|dependency| !dependency.is_path).map(|dependency| dependency.name.clone())
        });
        of_all.collect()
    }
}

impl Package {
    fn new(package: &Value, is_member: bool, edges: Vec<(String, Vec<Kind>)>) -> Self {
        let mut targets = list(&package["targets"]).flat_map(|target| list(&target["kind"]));
        let dependencies = list(&package["dependencies"]).map(|dependency| Dependency {
            name: string(&dependency["name"]),
            requirement: string(&dependency["req"]),
            is_path: dependency["path"].is_string(),
            kind: Kind::of(dependency),
        });
        Self {
            id: string(&package["id"]),
            name: string(&package["name"]),
            version: string(&package["version"]),
            licence: package["license"].as_str().map(str::to_owned),
            source: package["source"].as_str().map(str::to_owned),
            manifest: string(&package["manifest_path"]),
            is_member,
            runs_while_building: targets.any(|kind| kind == "custom-build" || kind == "proc-macro"),
            dependencies: dependencies.collect(),
            edges,
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
