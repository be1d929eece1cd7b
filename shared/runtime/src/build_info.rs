//! What this binary was built from.

/// The version of the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, when whoever built the binary named it in `PGCONVOY_COMMIT`.
pub const COMMIT: Option<&str> = option_env!("PGCONVOY_COMMIT");

/// Version and commit for people and logs.
pub fn describe() -> String {
    match COMMIT {
        Some(commit) => format!("{VERSION} ({commit})"),
        None => VERSION.to_owned(),
    }
}
