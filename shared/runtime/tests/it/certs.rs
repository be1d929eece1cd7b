use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pgconvoy_runtime::certs::{self, CertsError};
use pgconvoy_runtime::tls::Role;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_are_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ca = certs::init(&dir.path().join("made/on/the/way")).unwrap();
    let ca_dir = ca.cert.parent().unwrap();
    let leaf = certs::issue(ca_dir, Role::Agent, "a-1", &[], dir.path()).unwrap();
    for written in [&ca, &leaf] {
        assert_eq!(mode(&written.key), 0o600);
    }
    assert_eq!(leaf.cert, dir.path().join("a-1.crt"));
    assert_eq!(leaf.key, dir.path().join("a-1.key"));
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let ca = certs::init(dir).unwrap();
    let before = fs::read(&ca.key).unwrap();
    assert!(matches!(certs::init(dir), Err(CertsError::Exists { .. })));
    assert_eq!(fs::read(&ca.key).unwrap(), before);

    let leaf = certs::issue(dir, Role::Agent, "a-1", &[], dir).unwrap();
    let again = || certs::issue(dir, Role::Agent, "a-1", &[], dir);
    assert!(matches!(again(), Err(CertsError::Exists { .. })));
    // Half of a pair is one too, and nothing is written beside it.
    fs::remove_file(&leaf.key).unwrap();
    assert!(matches!(again(), Err(CertsError::Exists { .. })));
    assert!(!leaf.key.exists());
}

#[test]
fn what_cannot_be_issued_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let issue = |name: &str, hosts: &[&str]| {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        certs::issue(dir, Role::Coordinator, name, &hosts, dir)
    };
    assert!(matches!(issue("node-1", &[]), Err(CertsError::Read { .. })));
    certs::init(dir).unwrap();
    assert!(matches!(issue("../x", &[]), Err(CertsError::Identity(_))));
    assert!(matches!(issue("ca", &[]), Err(CertsError::NameTaken)));
    for host in ["", "a b", "db1:7411", "http://db1"] {
        assert!(matches!(issue("node-1", &[host]), Err(CertsError::Host { .. })), "{host}");
    }
    issue("node-1", &["db1", "db1.example", "10.0.0.5", "::1"]).unwrap();
}
