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
    build_folder().join("test-artifacts").join(test.replace("::", "-"))
}

/// The build folder: two levels above the test program, which stands in `<profile>/deps`.
pub(crate) fn build_folder() -> PathBuf {
    std::env::current_exe()
        .ok()
        .as_deref()
        .and_then(|program| {
            program.ancestors().find(|path| path.file_name().is_some_and(|name| name == "target"))
        })
        .map_or_else(std::env::temp_dir, Path::to_path_buf)
}
