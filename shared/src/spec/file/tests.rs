use std::collections::BTreeSet;

use super::*;
use crate::spec::{
    CopySettings, MigrationType, ObjectRules, RetryWindows, SchemaSettings, Submission, TaskSpec,
};

const CORES: u32 = 6;

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "([a-z]{1,6}: ?|[\\[\\]{},\"'*&!|>-]|\n|  |postgres://|\\PC){0,40}") {
        let _either = read(&text).finish(CORES);
    }
}

/// Line, key and code of a problem.
type Told = (Option<usize>, String, &'static str);

fn finish(text: &str) -> Result<Submission, Vec<Told>> {
    read(text).finish(CORES).map_err(|problems| {
        problems.iter().map(|p| (p.line, p.key.clone(), p.code)).collect::<Vec<_>>()
    })
}

const SMALL: &str = "name: shop
source: { url: postgres://a@src/shop }
destination: { url: postgres://b@dst/shop }
";

#[test]
fn a_small_file_gets_the_defaults() {
    let spec = finish(SMALL).unwrap().spec;
    assert_eq!(spec.name, "shop");
    assert_eq!((spec.source.host.as_str(), spec.destination.host.as_str()), ("src", "dst"));
    assert_eq!(spec.types, MigrationType::usual());
    assert_eq!(spec.objects, ObjectRules::default());
    let copy = CopySettings {
        jobs: CORES,
        shard_size_bytes: 256 << 20,
        index_jobs: CORES,
        snapshot: SnapshotMode::Task,
    };
    assert_eq!(spec.copy, copy);
    assert_eq!(spec.retry, RetryWindows { connection_ms: 43_200_000, other_ms: 600_000 });
}

#[test]
fn one_job_alone_has_larger_shards_unless_told_otherwise() {
    let size = |copy: &str| {
        finish(&format!("{SMALL}copy: {{ {copy} }}\n")).unwrap().spec.copy.shard_size_bytes
    };
    assert_eq!(size("jobs: 1"), 2 << 30);
    assert_eq!(size("jobs: 1, shard_size: 64MiB"), 64 << 20);
    assert_eq!(size("jobs: 2"), 2 << 30);
    assert_eq!(size("jobs: 3"), 256 << 20);
}

#[test]
fn each_key_has_its_meaning() {
    let text = r#"
name: shop-2
source:
  url: postgres://migrator@10.0.0.5:5433/shop?application_name=x
  password: { file: secrets/src }
  site: dc1
destination:
  url: postgres://migrator@db.example/shop
  password: { env: DST }
  site: cloud
types: [full]
objects:
  include: ["public.*", sales.orders]
  exclude: ["public.audit_*"]
  rename: {}
  where:
name_case: preserve
on_conflict: fail
schema: { roles: false }
copy: { jobs: 8, shard_size: 1GiB, index_jobs: 4, snapshot: shard }
throttle:
  full: { queries_per_second: 0, rows_per_second: 0, bytes_per_second: 0 }
retry: { connection: 1h, other: 30s }
alerts: []
"#;
    let read = finish(text).unwrap();
    assert_eq!(read.source_password, Some(PasswordRef::File("secrets/src".into())));
    assert_eq!(read.destination_password, Some(PasswordRef::Env("DST".into())));
    assert_eq!(read.notices.len(), 1);
    let spec = read.spec;
    assert_eq!((spec.source.port, spec.source.site.as_deref()), (5433, Some("dc1")));
    assert_eq!(spec.types, BTreeSet::from([MigrationType::Full]));
    assert_eq!(spec.objects.include, ["public.*", "sales.orders"]);
    assert_eq!(spec.objects.exclude, ["public.audit_*"]);
    assert_eq!((spec.copy.jobs, spec.copy.index_jobs), (8, 4));
    assert_eq!(spec.copy.shard_size_bytes, 1 << 30);
    assert_eq!(spec.copy.snapshot, SnapshotMode::Shard);
    assert_eq!(spec.retry, RetryWindows { connection_ms: 3_600_000, other_ms: 30_000 });
}

#[test]
fn what_belongs_to_the_server_comes_where_it_is_asked_for_with_the_schema() {
    let with = |rest: &str| {
        let ends = "source: {url: postgres://a@s/x}\ndestination: {url: postgres://b@d/x}";
        finish(&format!("name: x\n{ends}\n{rest}\n"))
    };
    assert_eq!(with("").unwrap().spec.schema, SchemaSettings::default());
    let spec = with("schema: { roles: true, tablespaces: true }").unwrap().spec;
    let expected = SchemaSettings { roles: true, tablespaces: true, database_settings: false };
    assert_eq!(spec.schema, expected);
    let keys = |rest| -> Vec<(String, Option<usize>)> {
        with(rest).unwrap_err().into_iter().map(|(line, key, _)| (key, line)).collect()
    };
    let rest = "schema: { role: true, tablespaces: yes }";
    assert_eq!(
        keys(rest),
        [("schema.role".to_owned(), Some(4)), ("schema.tablespaces".to_owned(), Some(4))]
    );
    let rest = "types: [full]\nschema: { roles: true }";
    assert_eq!(keys(rest), [("schema.roles".to_owned(), Some(5))]);
}

#[test]
fn passwords_are_found_in_either_place_but_not_in_both() {
    let with = |source: &str| {
        finish(&format!("name: x\nsource: {source}\ndestination: {{url: postgres://b@d/x}}\n"))
    };
    let value = Some(PasswordRef::Value(Secret::new("0123")));
    let read = with("{url: postgres://a@s/x, password: {value: 0123}}").unwrap();
    assert_eq!(read.source_password, value);
    assert_eq!(with("{url: 'postgres://a:0123@s/x'}").unwrap().source_password, value);
    for twice in [
        "{url: 'postgres://a:0123@s/x', password: {value: y}}",
        "{url: postgres://a@s/x, password: {value: y, env: z}}",
        "{url: postgres://a@s/x, password: y}",
        "{url: postgres://a@s/x, password: {}}",
    ] {
        let problems = with(twice).unwrap_err();
        let expected = (Some(2), "source.password".to_owned(), "bad_value");
        assert_eq!(problems, [expected], "{twice}");
    }
}

#[test]
fn everything_wrong_is_told_at_once_with_its_line() {
    let text = "nam: shop
source: { url: postgres://a@src }
destination: { url: postgres://b@dst/shop, pasword: x }
types: [schema, incremental, everything]
copy:
  jobs: many
  shard_size: 256MB
  snapshots: task
retry: { other: 10 }
objects: { include: [orders], columns: { a.b: { include: [x] } } }
name_case: lower
on_conflict: maybe
throttle: { full: { rows_per_second: 5 } }
";
    let mut expected = vec![
        (Some(1), "nam", "unknown_key"),
        (Some(2), "source.url", "bad_url"),
        (Some(3), "destination.pasword", "unknown_key"),
        (Some(4), "types", "bad_value"),
        (Some(6), "copy.jobs", "bad_value"),
        (Some(7), "copy.shard_size", "bad_value"),
        (Some(8), "copy.snapshots", "unknown_key"),
        (Some(9), "retry.other", "bad_value"),
        (Some(10), "objects.columns", "not_supported_yet"),
        (Some(11), "name_case", "not_supported_yet"),
        (Some(12), "on_conflict", "bad_value"),
        (Some(13), "throttle.full.rows_per_second", "not_supported_yet"),
        (None, "name", "missing_key"),
    ];
    let mut problems = finish(text).unwrap_err();
    let mut problems: Vec<_> = problems.iter_mut().map(|p| (p.0, p.1.as_str(), p.2)).collect();
    problems.sort();
    expected.sort();
    assert_eq!(problems, expected);
}

#[test]
fn what_the_checks_find_has_its_line_too() {
    let text = format!("{SMALL}copy: {{ jobs: 0 }}\nobjects:\n  include: [orders]\n");
    let problems = finish(&text).unwrap_err();
    let jobs = |key: &str, line| (Some(line), key.to_owned(), "bad_value");
    let expected = [jobs("copy.jobs", 4), jobs("copy.index_jobs", 4), jobs("objects.include", 6)];
    // index_jobs was left out, so it follows jobs and has no line of its own.
    assert_eq!(problems[..2], [expected[0].clone(), expected[2].clone()]);
    assert_eq!(problems[2].1, expected[1].1);
}

#[test]
fn a_database_is_not_moved_onto_itself() {
    let text =
        "name: x\nsource: {url: postgres://a@h/x}\ndestination: {url: postgres://b@H:5432/x}\n";
    let expected = (Some(3), "destination.url".to_owned(), "same_database");
    assert_eq!(finish(text).unwrap_err(), [expected]);
    // Two networks may have one name for two servers.
    let text = "name: x\nsource: {url: postgres://a@h/x, site: dc1}\ndestination: {url: postgres://b@h/x, site: cloud}\n";
    assert!(finish(text).is_ok());
}

#[test]
fn broken_yaml_is_one_problem() {
    let problems = finish("name: x\nsource: {url: *nowhere\n").unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].2, "bad_yaml");
}

#[test]
fn flags_replace_what_the_file_says() {
    let with_password = "{ url: postgres://a@src/shop, password: { env: OLD } }";
    let mut draft = read(&SMALL.replace("{ url: postgres://a@src/shop }", with_password));
    draft.url(Side::Source, "--source", "postgres://c:pw@other/db");
    draft.types("--types", ["schema"]);
    draft.jobs = Some(3);
    let Submission { spec, source_password, .. } = draft.finish(CORES).unwrap();
    let TaskSpec { source, types, copy, .. } = spec;
    assert_eq!((source.host.as_str(), source.database.as_str()), ("other", "db"));
    assert_eq!(source_password, Some(PasswordRef::Value(Secret::new("pw"))));
    assert_eq!(types, BTreeSet::from([MigrationType::Schema]));
    assert_eq!((copy.jobs, copy.index_jobs), (3, 3));
}
