//! What the programs have in common that measure: running others, reading what they print, ending early.

pub mod figure;
pub mod interrupt;
pub mod machine;
pub mod parse;
pub mod process;
pub mod programs;
mod turn;

pub use turn::turn;
