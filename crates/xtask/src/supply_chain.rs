//! `cargo xtask supply-chain`: whether the dependencies keep the rules of `deny.toml`, and whether each is accounted
//! for in `docs/dependencies.md`.

mod graph;
mod licence;
mod lists;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::run::{cargo, root, run, succeeds};
use graph::{Graph, Kind, Package};
use lists::{Accounted, Rules};

/// The only source of code that is not in this repository.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// The crates of the daemon; what they depend on is what an operator runs.
const SHIPPED: [&str; 4] = ["adit", "adit-aead", "adit-device", "adit-cli"];

/// Says what breaks a rule; fails if anything does.
pub(crate) fn check() -> Result<()> {
    // The fuzz targets and the proof of `no_std` are workspaces of their own.
    let graphs = [Graph::read("Cargo.toml")?, Graph::read("fuzz/Cargo.toml")?, Graph::read("tests/no_std/Cargo.toml")?];
    let [project, ..] = &graphs;
    let rules = Rules::read(&text("deny.toml")?);
    let accounted = Accounted::read(&text("docs/dependencies.md")?);
    // A package may be in several graphs, and is to be told of once.
    let mut wrongs = BTreeSet::new();
    let mut outside = BTreeSet::new();
    for graph in &graphs {
        for package in graph.packages() {
            wrongs.extend(wrong_source(package));
            wrongs.extend(wrong_licence(package, &rules));
        }
        outside.extend(graph.packages().filter(|package| package.source.is_some()).map(Package::to_string));
        wrongs.extend(duplicates(graph, &rules));
        wrongs.extend(unused(graph)?);
        wrongs.extend(wildcards(graph));
    }
    let direct: BTreeSet<String> = graphs.iter().flat_map(|graph| graph.direct(|_, _| true)).collect();
    wrongs.extend(unaccounted(project, &direct, &accounted));
    if !wrongs.is_empty() {
        bail!("the dependencies break their rules:\n  {}", Vec::from_iter(wrongs).join("\n  "));
    }
    let shipped = project.reachable(&SHIPPED, &[Kind::Normal, Kind::Build], &[]).len() - SHIPPED.len();
    eprintln!("{} crates from outside, {shipped} of them for the daemon: all keep the rules", outside.len());
    check_again()
}

/// The rules of `deny.toml` for the project's workspace as others read them, where `cargo-deny` is installed.
fn check_again() -> Result<()> {
    if !succeeds(cargo().args(["deny", "--version"])) {
        eprintln!("cargo-deny is not installed, and was not asked");
        return Ok(());
    }
    run(cargo().args(["deny", "--locked", "check", "licenses", "bans", "sources"]))
}

fn text(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| format!("cannot read {path}"))
}

fn wrong_source(package: &Package) -> Option<String> {
    match &package.source {
        Some(source) if source != REGISTRY => Some(format!("{package} comes from {source}")),
        None if !Path::new(&package.manifest).starts_with(root()) => {
            Some(format!("{package} is a path outside the repository"))
        }
        _ => None,
    }
}

fn wrong_licence(package: &Package, rules: &Rules) -> Option<String> {
    let licence = package.licence.as_deref().unwrap_or_default();
    let is_excepted = |one: &str| rules.exceptions.iter().any(|(name, other)| *name == package.name && other == one);
    let is_allowed =
        licence::is_satisfied(licence, |one| rules.licences.iter().any(|other| other == one) || is_excepted(one));
    (!is_allowed).then(|| format!("{package} has the licence {licence:?}, which is not allowed"))
}

/// Crates of which there are two versions, without a reason in the rules.
fn duplicates(graph: &Graph, rules: &Rules) -> Vec<String> {
    let members: Vec<&str> = graph.members().map(|package| package.name.as_str()).collect();
    let mut versions = BTreeMap::<&str, BTreeSet<&str>>::new();
    for package in graph.reachable(&members, &[Kind::Normal, Kind::Build, Kind::Dev], &rules.skipped_trees) {
        let is_skipped = |skip: &String| match skip.split_once('@') {
            Some((name, version)) => name == package.name && package.version.starts_with(&format!("{version}.")),
            None => *skip == package.name,
        };
        if !rules.skipped.iter().any(is_skipped) {
            versions.entry(&package.name).or_default().insert(&package.version);
        }
    }
    let several = versions.into_iter().filter(|(_, versions)| versions.len() > 1);
    several.map(|(name, versions)| format!("{name} is there in several versions: {versions:?}")).collect()
}

/// Differences between what is written down and what is there: `direct` is what any of our manifests names.
fn unaccounted(project: &Graph, direct: &BTreeSet<String>, accounted: &Accounted) -> Vec<String> {
    let shipped = project.direct(|member, kind| SHIPPED.contains(&member) && kind != Kind::Dev);
    let others = direct - &shipped;
    let builders = project.reachable(&SHIPPED, &[Kind::Normal, Kind::Build], &[]);
    let builders = builders.into_iter().filter(|package| package.runs_while_building && !package.is_member);
    let builders = builders.map(|package| package.name.clone()).collect();
    let mut wrongs = Vec::new();
    for (what, found, written) in [
        ("of the daemon", shipped, &accounted.shipped),
        ("of tests and chores", others, &accounted.development),
        ("that runs code while the daemon is built", builders, &accounted.builders),
    ] {
        wrongs.extend((&found - written).iter().map(|name| {
            format!("{name} is a dependency {what}, and docs/dependencies.md has no reason for it in that section")
        }));
        wrongs.extend(
            (written - &found)
                .iter()
                .map(|name| format!("docs/dependencies.md lists {name} as a dependency {what}, which it is not")),
        );
    }
    wrongs
}

/// Direct dependencies that no source of their package names.
fn unused(graph: &Graph) -> Result<Vec<String>> {
    let mut wrongs = Vec::new();
    for member in graph.members() {
        let folder = Path::new(&member.manifest).parent().context("a manifest lies in a folder")?;
        let mut sources = String::new();
        read_sources(folder, &mut sources)?;
        for dependency in &member.dependencies {
            let name = dependency.name.replace('-', "_");
            let is_named = ["::", " as ", ";"].iter().any(|after| sources.contains(&format!("{name}{after}")));
            if !is_named {
                wrongs.push(format!("{} depends on {}, and no source of it names it", member.name, dependency.name));
            }
        }
    }
    Ok(wrongs)
}

fn read_sources(folder: &Path, sources: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            // A package inside is another package, and what is built is no source.
            if !path.join("Cargo.toml").exists() && !path.ends_with("target") {
                read_sources(&path, sources)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

fn wildcards(graph: &Graph) -> Vec<String> {
    let any = graph.members().flat_map(|member| {
        let wild = member.dependencies.iter().filter(|dependency| dependency.requirement == "*" && !dependency.is_path);
        wild.map(move |dependency| format!("{} takes any version of {}", member.name, dependency.name))
    });
    any.collect()
}
