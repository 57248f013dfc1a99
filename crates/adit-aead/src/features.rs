//! Which instructions a vector backend is compiled for, and is used with.

/// Makes `has_features`, which tells whether all of these features are there, and their list for the test that compares
/// it with what the functions of the backend are compiled for.
macro_rules! features {
    ($($feature:tt),+) => {
        #[cfg(test)]
        pub(crate) const FEATURES: &[&str] = &[$($feature),+];

        #[cfg(feature = "std")]
        fn has_features() -> bool {
            $(std::is_x86_feature_detected!($feature))&&+
        }

        #[cfg(not(feature = "std"))]
        fn has_features() -> bool {
            cfg!(all($(target_feature = $feature),+))
        }
    };
}

pub(crate) use features;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;
    use std::string::String;
    use std::vec::Vec;

    use crate::{avx2, avx512};

    #[test]
    fn a_backend_is_used_only_where_the_cpu_has_all_that_its_functions_are_compiled_for() {
        for (module, detected) in [("avx2", avx2::FEATURES), ("avx512", avx512::FEATURES)] {
            let sources = sources(module);
            let compiled_for: BTreeSet<&str> = sources
                .iter()
                .flat_map(|source| source.split("target_feature(enable = \"").skip(1))
                .flat_map(|rest| rest.split('"').next().unwrap_or_default().split(','))
                .collect();
            assert_eq!(compiled_for, detected.iter().copied().collect(), "{module}");
        }
    }

    /// The module's own file, and those in its folder.
    fn sources(module: &str) -> Vec<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module);
        let files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
        files.chain([folder.with_extension("rs")]).map(|file| fs::read_to_string(file).unwrap()).collect()
    }
}
