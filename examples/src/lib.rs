//! The programs are in `examples/`.
