//! What is kept of a failed test: its logs, below the build folder, named after the test.

use std::path::{Path, PathBuf};

/// Copies a log if the test of this thread is failing, or if `PGCONVOY_KEEP` is set.
///
/// Called from destructors: a test that fails by a panic drops what it holds while it unwinds.
pub(crate) fn keep_if_failed(log: &Path, name: &str) {
    if !std::thread::panicking() && std::env::var_os("PGCONVOY_KEEP").is_none() {
        return;
    }
    let folder = folder();
    let kept =
        std::fs::create_dir_all(&folder).and_then(|()| std::fs::copy(log, folder.join(name)));
    match kept {
        Ok(_) => eprintln!("kept {}", folder.join(name).display()),
        // The test fails for its own reason; this must not hide it.
        Err(error) => eprintln!("could not keep {}: {error}", log.display()),
    }
}

/// The folder for this test's artifacts.
fn folder() -> PathBuf {
    let test = std::env::var("NEXTEST_TEST_NAME")
        .ok()
        .or_else(|| std::thread::current().name().map(str::to_owned))
        .unwrap_or_else(|| "unnamed".to_owned());
    profile_folder().join("test-artifacts").join(test.replace("::", "-"))
}

/// The folder of the build that this program belongs to: `target/debug`, where the binary is, too.
pub(crate) fn profile_folder() -> PathBuf {
    let program = std::env::current_exe().expect("Linux tells the path of a running program");
    let folder = program.parent().expect("a program is in a folder");
    // Test programs are one folder down, in `deps`.
    match folder.file_name() {
        Some(name) if name == "deps" => folder.parent().unwrap_or(folder).to_owned(),
        _ => folder.to_owned(),
    }
}
