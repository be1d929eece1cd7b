//! Bad input gets a clear answer with a stable code and its exit code, and changes nothing.

use std::fs;
use std::net::TcpListener;

use crate::run::pgconvoy;

const URLS: [&str; 4] =
    ["--source", "postgres://a:geheim@127.0.0.1:1/x", "--destination", "postgres://b@h/y"];

#[test]
fn everything_wrong_in_a_task_file_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    let text = "name: shop\nsource: { url: postgres://a:geheim@h/x?sslmod=no }\n\
                destination: { url: postgres://b@h/y }\ncopy: { job: 3, shard_size: 5MB }\nalerts: [{}]\n";
    fs::write(&file, text).unwrap();
    let data = folder.path().join("data");
    let (file, data_dir) = (file.to_str().unwrap(), data.to_str().unwrap());
    for command in [
        &["migrate", "-f", file, "--data-dir", data_dir][..],
        &["precheck", "-f", file, "--data-dir", data_dir],
        &["task", "create", "-f", file],
    ] {
        let ran = pgconvoy(command);
        assert_eq!(ran.exit, 2, "{command:?}: {}", ran.stderr);
        for told in [
            "line 2: source.url: `sslmod`",
            "line 4: copy.job: this key is not known [unknown_key]; did you mean `jobs`?",
            "line 4: copy.shard_size:",
            "line 5: alerts:",
            "[not_supported_yet]",
        ] {
            assert!(ran.stderr.contains(told), "{told} is missing in\n{}", ran.stderr);
        }
        assert!(!ran.stderr.contains("geheim"), "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
        assert!(!data.exists(), "nothing was begun");
    }
}

#[test]
fn errors_are_json_for_programs() {
    let ran = pgconvoy(&["migrate", "-o", "json", "--source", "postgres://a@h/x"]);
    assert_eq!((ran.exit, ran.stdout.as_str()), (2, ""));
    let told: serde_json::Value = serde_json::from_str(ran.stderr.trim()).expect("JSON alone");
    assert_eq!(told["errors"][0]["code"], "missing_key");
    assert_eq!(told["errors"][0]["subject"], "destination.url");
}

#[test]
fn a_cutover_ignores_only_what_may_be() {
    let ran = pgconvoy(&["task", "cutover", "shop", "--fence", "--ignore", "cutover_writers"]);
    assert_eq!((ran.exit, ran.stdout.as_str()), (2, ""));
    for told in ["cutover_writers", "cutover_unlogged_tables", "cutover_subscriptions"] {
        assert!(ran.stderr.contains(told), "{told} is missing in\n{}", ran.stderr);
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let incremental = [&["migrate"], &URLS[..], &["--types", "full,incremental"]].concat();
    for command in [&incremental[..], &["task", "update", "x", "--set", "copy.jobs=1"]] {
        let ran = pgconvoy(command);
        assert_eq!(ran.exit, 2, "{command:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("[not_supported_yet]"), "{command:?}: {}", ran.stderr);
    }
}

#[test]
fn a_cutover_says_who_keeps_writers_away() {
    let followed = ["--types", "schema,full,incremental"];
    for extra in
        [&["--until", "cutover"][..], &["--fence"], &["--until", "in-sync", "--timeout", "9"]]
    {
        let arguments = ["migrate"].iter().chain(&URLS).chain(&followed).chain(extra);
        let ran = pgconvoy(&arguments.copied().collect::<Vec<_>>());
        assert_eq!(ran.exit, 2, "{extra:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("[bad_usage]"), "{extra:?}: {}", ran.stderr);
    }
}

#[test]
fn sites_are_for_agents_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.yaml");
    let end = |site: &str| format!("{{ url: 'postgres://ann@127.0.0.1:1/shop', site: {site} }}");
    let text = format!("source: {}\ndestination: {}\n", end("dc1"), end("cloud"));
    std::fs::write(&path, text).unwrap();
    for command in ["migrate", "precheck", "verify"] {
        let ran = pgconvoy(&[command, "-f", path.to_str().unwrap()]);
        assert_eq!(ran.exit, 2, "{command}: {}", ran.stderr);
        assert!(ran.stderr.contains("[sites_need_agents]"), "{command}: {}", ran.stderr);
    }
}

#[test]
fn bad_usage_is_2() {
    for command in [
        &["no-such-command"][..],
        &["task", "show"],
        &["migrate", "--jobs", "many"],
        &["cluster", "init", "--node", "x"],
        &["coordinator"],
        &["coordinator", "--node-id", "1"],
        &["agent", "--id", "a1"],
        &["agent", "--id", "A 1", "--coordinators", "h:1"],
        &["task", "list", "--coordinators", "no-port"],
        &["task", "list", "--tls-ca", "x"],
        &["task", "list", "--data-dir", "/no/such/folder"],
        &["task", "create", "-f", "/no/such/file"],
        &["coordinator", "-c", "/no/such/file"],
    ] {
        let ran = pgconvoy(command);
        assert_eq!(ran.exit, 2, "{command:?}: {}", ran.stderr);
        assert!(!ran.stderr.is_empty() && ran.stdout.is_empty(), "{command:?}: {ran:?}");
    }
}

#[test]
fn a_password_that_cannot_be_had_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    let text = "name: shop\nsource: { url: postgres://a@h/x, password: { file: secrets/none } }\n\
                destination: { url: postgres://b@h/y }\n";
    fs::write(&file, text).unwrap();
    let ran = pgconvoy(&["task", "create", "-f", file.to_str().unwrap()]);
    assert_eq!(ran.exit, 2, "{}", ran.stderr);
    // Relative paths are seen from the task file.
    let path = folder.path().join("secrets/none");
    assert!(ran.stderr.contains(path.to_str().unwrap()), "{}", ran.stderr);
    assert!(ran.stderr.contains("[password_unreadable]"), "{}", ran.stderr);
}

#[test]
fn nobody_to_ask_is_5() {
    // Taken and given back: nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ran = pgconvoy(&["task", "list", "--coordinators", &free]);
    assert_eq!(ran.exit, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("[no_coordinator]"), "{}", ran.stderr);
    assert!(ran.stderr.contains(&free), "the address is named: {}", ran.stderr);
}

#[test]
fn a_settings_file_is_read_as_strictly_as_a_task_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("coordinator.yaml");
    for (text, told) in [
        ("node-id: 1\nlisten_on: 127.0.0.1:0\n", "line 2"),
        ("node-id: one\ndata-dir: d\n", "line 1"),
        ("node-id: 1\n", "--data-dir is missing"),
        ("node-id: 1\ndata-dir: d\nlisten: 192.0.2.1:7411\n", "plain text"),
    ] {
        fs::write(&file, text).unwrap();
        let ran = pgconvoy(&["coordinator", "-c", file.to_str().unwrap()]);
        assert_eq!(ran.exit, 2, "{text}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{text}: {}", ran.stderr);
    }
}

#[test]
fn a_certificate_with_the_key_of_another_is_told_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let ca = at("ca");
    assert_eq!(pgconvoy(&["certs", "init", &ca]).exit, 0);
    for name in ["ann", "bob"] {
        let issued = pgconvoy(&["certs", "issue", &ca, "--role", "client", "--name", name]);
        assert_eq!(issued.exit, 0, "{}", issued.stderr);
    }
    let (ca_crt, cert, key) = (at("ca/ca.crt"), at("ca/ann.crt"), at("ca/bob.key"));
    let tls = ["--tls-ca", &ca_crt, "--tls-cert", &cert, "--tls-key", &key];
    let ran = pgconvoy(&[&["task", "list", "--coordinators", "127.0.0.1:1"][..], &tls].concat());
    assert_eq!(ran.exit, 2, "{}", ran.stderr);
    for told in ["[bad_certificates]", "ann.crt", "bob.key", "remedy: "] {
        assert!(ran.stderr.contains(told), "{told} is missing in\n{}", ran.stderr);
    }
}

#[test]
fn a_process_does_not_start_with_the_certificate_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let ca = at("ca");
    let (ca_crt, cert, key) = (at("ca/ca.crt"), at("ca/a1.crt"), at("ca/a1.key"));
    assert_eq!(pgconvoy(&["certs", "init", &ca]).exit, 0);
    let issued = pgconvoy(&["certs", "issue", &ca, "--role", "agent", "--name", "a1"]);
    assert_eq!(issued.exit, 0, "{}", issued.stderr);
    let tls = ["--tls-ca", &ca_crt, "--tls-cert", &cert, "--tls-key", &key];
    let data = at("data");
    let coordinator =
        ["coordinator", "--node-id", "1", "--listen", "127.0.0.1:0", "--data-dir", &data];
    let agent = ["agent", "--id", "a2", "--coordinators", "127.0.0.1:1"];
    for (process, wanted) in
        [(&coordinator[..], "role coordinator"), (&agent, "role agent and name a2")]
    {
        let ran = pgconvoy(&[process, &tls].concat());
        assert_eq!(ran.exit, 2, "{}", ran.stderr);
        for told in ["[wrong_certificate]", "pgconvoy://agent/a1", wanted, "remedy: "] {
            assert!(ran.stderr.contains(told), "{told} is missing in\n{}", ran.stderr);
        }
    }
    assert!(!folder.path().join("data").exists(), "nothing was begun");
}
