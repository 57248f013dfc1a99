//! What the programs have in common that measure: running others, reading what they print, ending early.

pub mod figure;
pub mod interrupt;
pub mod machine;
pub mod parse;
pub mod process;
pub mod programs;
mod turn;

pub use turn::turn;

/// The folder of the repository's own reports.
pub fn report_folder() -> std::path::PathBuf {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).join("benches").join("report")
}
