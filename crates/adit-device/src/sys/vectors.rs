//! Loops in vectors that not every CPU has: the compiler must be told where it may use them.

/// Runs `f`, whose loops are compiled for AVX2 where the CPU has it.
#[inline]
pub(crate) fn with_vectors<T>(f: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { with_avx2(f) };
    }
    f()
}

/// What is called here is compiled again for AVX2 if it is inlined, as functions that are generic or marked for it
/// mostly are.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<T>(f: impl FnOnce() -> T) -> T {
    f()
}
