//! The embedded coordinator, without databases: what can be said before one is reached.

use std::path::Path;

use crate::run::{Ran, pgconvoy};

fn precheck(folder: &Path, format: &str) -> Ran {
    let data_dir = folder.join("data");
    pgconvoy(&[
        "precheck",
        "--source",
        // Nobody listens on port 1.
        "postgres://ann:geheim@127.0.0.1:1/shop",
        "--destination",
        "postgres://ann:geheim@127.0.0.1:1/copy",
        "--data-dir",
        data_dir.to_str().unwrap(),
        "-o",
        format,
    ])
}

#[test]
fn a_database_that_cannot_be_reached_is_3_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ran = precheck(folder.path(), "json");
    assert_eq!(ran.exit, 3, "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let errors = report["items"].as_array().unwrap().iter().filter(|i| i["severity"] == "error");
    let sides: Vec<&str> = errors.filter_map(|item| item["side"].as_str()).collect();
    assert!(sides.contains(&"source") && sides.contains(&"destination"), "{report}");
    assert!(!ran.stdout.contains("geheim") && !ran.stderr.contains("geheim"), "{ran:?}");
    assert!(!folder.path().join("data").exists(), "a precheck leaves nothing behind");
}

#[test]
fn a_migration_that_cannot_begin_can_be_looked_at_and_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let data_dir = data_dir.to_str().unwrap();
    let migrate = |database: &str| {
        let source = format!("postgres://ann:geheim@127.0.0.1:1/{database}");
        let destination = "postgres://ann@127.0.0.1:1/copy";
        let urls = ["--source", &source, "--destination", destination];
        pgconvoy(&[&["migrate", "--data-dir", data_dir][..], &urls].concat())
    };
    let ran = migrate("shop");
    assert_eq!(ran.exit, 3, "{ran:?}");
    assert!(!ran.stderr.contains("geheim"), "{}", ran.stderr);

    let shown = pgconvoy(&["task", "show", "shop", "--data-dir", data_dir, "-o", "json"]);
    assert_eq!(shown.exit, 0, "{shown:?}");
    let task: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(
        (&task["name"], &task["status"], &task["phase"]),
        (&"shop".into(), &"failed".into(), &"precheck".into())
    );
    let unknown = pgconvoy(&["task", "show", "nobody", "--data-dir", data_dir]);
    assert_eq!(unknown.exit, 2, "{unknown:?}");

    // Nothing was changed at the databases, so the same directory may hold what was meant.
    let ran = migrate("shop2");
    assert_eq!(ran.exit, 3, "{ran:?}");
    let listed = pgconvoy(&["task", "list", "--data-dir", data_dir, "-o", "json"]);
    let tasks: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let names: Vec<&str> =
        tasks.as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(names, ["shop2"]);
}
