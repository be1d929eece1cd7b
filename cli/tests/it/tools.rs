//! Commands that need neither cluster nor database.

use std::process::Command;

use crate::run::{pgconvoy, run};

#[test]
fn an_error_code_has_a_page() {
    let ran = pgconvoy(&["errors", "[unknown_key]"]);
    assert_eq!(ran.exit, 0);
    assert!(ran.stdout.starts_with("# A key in the file is not known"), "{}", ran.stdout);
    let all = pgconvoy(&["errors"]);
    assert!(all.stdout.contains("unknown_key") && all.stdout.contains("bad_url"), "{}", all.stdout);
    assert_eq!(pgconvoy(&["errors", "no_such_code"]).exit, 2);
}

#[test]
fn completions_are_a_script() {
    let ran = pgconvoy(&["completions", "bash"]);
    assert_eq!(ran.exit, 0);
    assert!(ran.stdout.contains("_pgconvoy()"), "{}", ran.stdout);
}

#[test]
fn certificates_are_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let here = |arguments: &[&str]| {
        run(Command::new(env!("CARGO_BIN_EXE_pgconvoy")).args(arguments).current_dir(folder.path()))
    };
    assert_eq!(here(&["certs", "init", "ca"]).exit, 0);
    let issue =
        ["certs", "issue", "ca", "--role", "agent", "--name", "a1", "--host", "h1", "-o", "json"];
    let ran = here(&issue);
    assert_eq!(ran.exit, 0, "{}", ran.stderr);
    let written: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(written["cert"], "ca/a1.crt");
    assert!(folder.path().join("ca/a1.key").exists());
    let again = here(&issue);
    assert_eq!(again.exit, 2);
    assert!(again.stderr.contains("nothing is overwritten"), "{}", again.stderr);
    assert_eq!(here(&["certs", "init", "ca"]).exit, 2);
}

#[test]
fn the_version_is_data() {
    let ran = pgconvoy(&["--version"]);
    assert_eq!((ran.exit, ran.stderr.as_str()), (0, ""));
    assert_eq!(ran.stdout.trim(), format!("pgconvoy {}", env!("CARGO_PKG_VERSION")));
}
