//! Every seed through its target's checks, without a fuzzer and with the stable compiler: what has gone wrong once, and
//! has become a seed, does not go wrong again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One test for each target.
macro_rules! targets {
    ($($target:ident),*) => {
        const TARGETS: &[&str] = &[$(stringify!($target)),*];

        mod no_seed_breaks {
            $(#[test]
            fn $target() {
                super::run_seeds(stringify!($target), adit_fuzz::$target::run);
            })*
        }
    };
}

targets!(cipher, conf, cookies, engine, join, messages, rate_limiter, split, uapi);

fn run_seeds(target: &str, run: fn(&[u8])) {
    let seeds = files(&Path::new("seeds").join(target));
    assert!(!seeds.is_empty(), "a target has seeds");
    for seed in seeds {
        // Shown if it is the one that fails.
        println!("{}", seed.display());
        run(&fs::read(seed).unwrap());
    }
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect()
}

#[test]
fn every_target_has_its_seeds_run() {
    let files = files(Path::new("fuzz_targets"));
    let targets: Vec<_> = files.iter().map(|file| file.file_stem().unwrap()).collect();
    assert_eq!(targets, TARGETS);
}
