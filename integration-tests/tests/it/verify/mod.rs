//! Verification finds what differs, all of it and nothing else, and changes nothing.

mod majors;
mod objects;
mod sequences;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use pgconvoy_integration_tests::convoy::Convoy;
use pgconvoy_integration_tests::postgres::Options;
use pgconvoy_integration_tests::process::{Finished, Process, Program};
use pgconvoy_integration_tests::wait;
use pgconvoy_proto::v1::{Task, TaskStatus, VerifyTaskRequest};
use serde_json::{Value, json};

use crate::world::{DATABASE, Fleet, Gate, Job, LIMIT, Pair, shown, told};

/// Some of everything that can differ. Of shards of 1 MiB `people` is so many that it is cut, and `words` is read as one by
/// several sessions.
const SCHEMA: &str = "
    create table public.people (
        id int primary key, name text not null, note text, score float8, tag varchar(9),
        doubled int generated always as (id * 2) stored);
    insert into public.people (id, name, note, score, tag)
        select no, repeat(md5(no::text), 27), nullif(no % 3, 0)::text, 0.1 * no, 'tag' from generate_series(1, 20000) no;
    create index people_name on public.people (name);
    alter table public.people add constraint positive check (id > 0);
    create table public.words (no int primary key, word text not null);
    insert into public.words select no, repeat('word', 50) || no from generate_series(1, 12000) no;
    create table public.keyless (word text, no int);
    insert into public.keyless select 'word', no % 10 from generate_series(1, 100) no;
    create table public.pairs (a int, b text, value numeric, primary key (a, b));
    insert into public.pairs select no, 'b' || no, no from generate_series(1, 50) no;
    create table public.\"Odd\nname\" (\"the key\" uuid primary key, \"tab\there\" text);
    insert into public.\"Odd\nname\" select md5(no::text)::uuid, E'a\\tb\\n\\\\c' from generate_series(1, 10) no;
    create table public.nothing ();
    insert into public.nothing default values;
    create sequence public.numbers start 17;
    select setval('public.numbers', 42);
    create view public.names as select name from public.people;";

const SHARDS: &str = "copy: { jobs: 3, shard_size: 1MiB }";

fn verify(pair: &Pair, file: &Path) -> Program {
    pair.command("verify").arg("-f").arg(file).args(["-o", "json"])
}

async fn found(program: Program, exit: i32) -> Value {
    let finished = program.run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(exit), "{}", told(&finished));
    shown(finished)
}

/// (status, missing, extra, different) of a table.
fn figures(task: &Value, table: &str) -> (String, u64, u64, u64) {
    let found = &of_table(task, table)["verification"];
    let figure = |name: &str| found[name].as_u64().unwrap_or_else(|| panic!("{name} in {task:#}"));
    let status = found["status"].as_str().unwrap_or_default().to_owned();
    (status, figure("missing"), figure("extra"), figure("different"))
}

fn of_table<'t>(task: &'t Value, table: &str) -> &'t Value {
    let mut tables = task["tables"].as_array().unwrap().iter();
    tables.find(|t| t["name"] == table).unwrap_or_else(|| panic!("{table} in {task:#}"))
}

/// `missing 7` for each row listed of a table.
fn keys(task: &Value, table: &str) -> Vec<String> {
    let listed = of_table(task, table)["verification"]["listed"].as_array().unwrap().clone();
    let told = |row: &Value| {
        let (how, key) = (row["difference"].as_str().unwrap(), row["key"].as_str().unwrap());
        match row["count"].as_u64().unwrap() {
            1 => format!("{how} {key}"),
            count => format!("{how} {key} x{count}"),
        }
    };
    let mut keys: Vec<String> = listed.iter().map(told).collect();
    keys.sort();
    keys
}

fn objects(task: &Value, what: &str) -> Vec<String> {
    let listed = task["verification"][what]["listed"].as_array().unwrap();
    listed
        .iter()
        .map(|o| format!("{} {}", o["difference"].as_str().unwrap(), o["object"].as_str().unwrap()))
        .collect()
}

fn same(figures: (u64, u64, u64)) -> (String, u64, u64, u64) {
    ("same".to_owned(), figures.0, figures.1, figures.2)
}

#[tokio::test]
async fn verification_of_equal_databases_finds_nothing_and_of_planted_differences_each() {
    let pair = Pair::new(SCHEMA).await;
    let file = pair.task_file("shop", SHARDS);
    let migrated = pair.command("migrate").args(["--yes", "--verify", "-f"]).arg(&file);
    let migrated = migrated.run(LIMIT).await.unwrap();
    assert_eq!(migrated.code(), Some(0), "{}", told(&migrated));
    assert!(migrated.stdout.contains("verification: no differences"), "{}", told(&migrated));

    let task = found(verify(&pair, &file), 0).await;
    assert_eq!(task["verification"]["differences"], 0);
    assert_eq!(task["verification"]["tables_same"], 6);
    assert_eq!(task["verification"]["rows"]["compared"], 32_161);
    assert_eq!(task["cause"], Value::Null);
    assert!(of_table(&task, "public.people")["shards"].as_u64() > Some(1), "{task:#}");
    assert_eq!(of_table(&task, "public.words")["shards"], 1);
    assert_eq!(figures(&task, "public.nothing"), same((0, 0, 0)));

    pair.destination
        .sql(
            DATABASE,
            "update public.people set name = 'changed' where id = 1;
             delete from public.people where id = 20000;
             insert into public.people (id, name) values (20001, 'extra');
             update public.people set score = score + 1e-12 where id = 3;
             update public.people set tag = 'tag ' where id = 4;
             update public.people set note = '' where id = 6;
             update public.words set word = 'changed' where no in (1, 6000);
             delete from public.words where no in (2, 12000);
             insert into public.words values (12001, 'extra');
             delete from public.keyless where ctid in (select ctid from public.keyless where no = 5 limit 2);
             insert into public.keyless values ('word', 77), ('word', 77), ('word', 77);
             update public.pairs set b = 'other' where a = 7;
             select setval('public.numbers', 43);
             drop index public.people_name;
             alter table public.people drop constraint positive;
             create table public.more (id int);
             create or replace view public.names as select upper(name) as name from public.people;",
        )
        .await
        .unwrap();
    let report = pair.path("report.jsonl");
    let task = found(verify(&pair, &file).arg("--report").arg(&report), 4).await;
    assert_eq!(task["status"], "done");
    assert_eq!(task["cause"]["code"], "verification_differs");
    assert_eq!(figures(&task, "public.people"), ("different".to_owned(), 1, 1, 4));
    let expected = [
        "different 1",
        "different 3",
        "different 4",
        "different 6",
        "extra 20001",
        "missing 20000",
    ];
    assert_eq!(keys(&task, "public.people"), expected);
    let expected = ["different 1", "different 6000", "extra 12001", "missing 12000", "missing 2"];
    assert_eq!(keys(&task, "public.words"), expected);
    // Without a key the whole row is shown, columns in the order of their names.
    let expected = ["extra 77\tword x3", "missing 5\tword x2"];
    assert_eq!(keys(&task, "public.keyless"), expected);
    assert_eq!(keys(&task, "public.pairs"), ["extra 7\tother", "missing 7\tb7"]);
    assert_eq!(figures(&task, "public.Odd\nname"), same((0, 0, 0)));
    let expected = [
        "missing CHECK public.people positive",
        "missing INDEX public.people_name",
        "different VIEW public.names",
        "extra TABLE public.more",
    ];
    let told: Vec<String> = objects(&task, "schema")
        .into_iter()
        // A check is a part of its table's statement, or a statement of its own, as pg_dump sees fit.
        .map(|told| match told.as_str() {
            "different TABLE public.people" => "missing CHECK public.people positive".to_owned(),
            _ => told.replace("CHECK CONSTRAINT", "CHECK").replace("CONSTRAINT", "CHECK"),
        })
        .collect();
    let set = |list: Vec<String>| list.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(set(told), set(expected.map(str::to_owned).to_vec()), "{task:#}");
    assert_eq!(objects(&task, "sequences"), ["different SEQUENCE VALUE public.numbers"]);

    let lines = std::fs::read_to_string(&report).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows: Vec<&Value> = lines.iter().filter(|line| line["table"] == "public.people").collect();
    assert_eq!(rows.len(), 6, "{lines:#?}");
    let extra =
        json!({ "table": "public.people", "difference": "extra", "key": "20001", "count": 1 });
    assert!(rows.contains(&&extra), "{rows:#?}");
    assert!(lines.iter().any(|line| line["object"] == "INDEX public.people_name"), "{lines:#?}");
    assert!(!pair.path("data/verify").exists(), "nothing stays but the report");

    let task = found(verify(&pair, &file).args(["--sample", "10"]), 4).await;
    assert_eq!(task["verification"]["sample_percent"], "10");
    let (_, missing, extra, _) = figures(&task, "public.people");
    assert_eq!((missing, extra), (1, 1), "all rows are counted, whatever the sample");
    let compared = of_table(&task, "public.people")["verification"]["compared"].as_u64().unwrap();
    assert!((1_000..3_500).contains(&compared), "{compared}");
}

/// A table of several units, which two agents compare, each of which lists what it finds.
#[tokio::test]
async fn cluster_a_report_tells_every_row_that_differs_or_where_it_is_listed() {
    let pair = Pair::new(SCHEMA).await;
    let lists = [pair.path("of-anna"), pair.path("of-bert")];
    let [of_anna, of_bert] = lists.each_ref().map(|path| path.to_str().unwrap());
    let builder = Convoy::builder().coordinators(1).tls();
    let builder = builder.agent_with_flags("anna", ["--differences", of_anna]);
    let builder = builder.agent_with_flags("bert", ["--differences", of_bert]);
    let fleet = Fleet { convoy: builder.start().await.unwrap() };
    fleet.begin(&pair.task_file("shop", SHARDS)).await.done(&pair).await;
    let planted = "delete from public.people where id % 40 = 0;
        update public.keyless set word = 'other' where no = 7;";
    pair.destination.sql(DATABASE, planted).await.unwrap();

    let report = pair.path("report.jsonl");
    let finished =
        fleet.run(&["task", "verify", "shop", "--report", report.to_str().unwrap()]).await;
    assert_eq!(finished.code(), Some(4), "{}", told(&finished));
    let lines = |path: &Path| -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let reported = lines(&report);
    let of_people = |lines: &[Value]| -> BTreeSet<String> {
        let missing = lines
            .iter()
            .filter(|line| line["table"] == "public.people" && line["difference"] == "missing");
        missing.map(|line| line["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of_people(&reported).len(), 100, "what a task keeps");
    let rest: Vec<_> = reported.iter().filter(|line| !line["not_listed"].is_null()).collect();
    let [rest] = rest[..] else { panic!("only this table has more: {reported:#?}") };
    assert_eq!((&rest["table"], &rest["not_listed"]), (&json!("public.people"), &json!(400)));
    let mut listed = BTreeSet::new();
    let mut agents = BTreeSet::new();
    for list in rest["lists"].as_array().unwrap() {
        let (agent, path) = list.as_str().unwrap().split_once(':').unwrap();
        agents.insert(agent.to_owned());
        listed.extend(of_people(&lines(Path::new(path))));
    }
    let planted: BTreeSet<String> = (1..=500).map(|no| (no * 40).to_string()).collect();
    assert_eq!(listed, planted);
    assert_eq!(agents.len(), 2, "both had a part in it");
    let keyless = reported.iter().filter(|line| line["table"] == "public.keyless");
    let counts: u64 = keyless.map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(counts, 20, "ten rows are missing and ten extra");
}

#[tokio::test]
async fn verification_leaves_no_trace_and_needs_no_right_to_write() {
    let quiet = || Options::default().setting("autovacuum", "off");
    let pair = Pair::of(quiet(), quiet(), SCHEMA).await;
    pair.migrated().await;
    for server in [&pair.source, &pair.destination] {
        let role = format!(
            "create role auditor login password '{}'; grant pg_read_all_data to auditor;",
            pgconvoy_integration_tests::postgres::PASSWORD
        );
        server.sql(DATABASE, &role).await.unwrap();
    }
    let before = pair.dumps().await;
    let last_transaction = "select pg_snapshot_xmax(pg_current_snapshot())";
    let used = pair.count(last_transaction).await;
    let url = |server: &pgconvoy_integration_tests::postgres::Postgres| {
        format!("postgres://auditor@127.0.0.1:{}/{DATABASE}", server.port())
    };
    let (source, destination) = (url(&pair.source), url(&pair.destination));
    let program = pair.command("verify").args(["--source", &source, "--destination", &destination]);
    let task = found(program.args(["-o", "json"]), 0).await;
    assert_eq!(task["verification"]["tables_same"], 6);
    assert_eq!(pair.count(last_transaction).await, used, "no transaction wrote anything");
    assert!(pair.dumps().await == before);
    pair.left_nothing().await;
}

/// The hash of an enum's value goes by a number that each server gives it.
const MOODS: &str = "
    create type public.mood as enum ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p');
    create table public.moods (mood public.mood, no int) partition by hash (mood);
    create table public.moods_0 partition of public.moods for values with (modulus 3, remainder 0);
    create table public.moods_1 partition of public.moods for values with (modulus 3, remainder 1);
    create table public.moods_2 partition of public.moods for values with (modulus 3, remainder 2);
    insert into public.moods select mood, no from unnest(enum_range(null::public.mood)) mood, generate_series(1, 50) no;
    create table public.plain (id int primary key);
    insert into public.plain values (1);";

#[tokio::test]
async fn partitions_that_hold_other_rows_at_each_end_are_compared_through_their_root() {
    let pair = Pair::new(MOODS).await;
    let file = pair.task_file("moods", "");
    let migrated = pair.command("migrate").args(["--yes", "--verify", "-f"]).arg(&file);
    let migrated = migrated.run(LIMIT).await.unwrap();
    assert_eq!(migrated.code(), Some(0), "{}", told(&migrated));
    for line in ["verification: no differences\n", "801 compared in 2 tables\n", "2 more tables"] {
        assert!(migrated.stdout.contains(line), "{line}: {}", told(&migrated));
    }
    let held =
        "select string_agg(distinct tableoid::regclass::text || mood, ' ') from public.moods";
    let [here, there] = [&pair.source, &pair.destination].map(|end| end.value(DATABASE, held));
    assert_ne!(here.await.unwrap(), there.await.unwrap(), "else this tests nothing");

    let planted = "delete from public.moods where mood = 'c' and no = 7;
        insert into public.moods values ('d', 51), ('d', 51);";
    pair.destination.sql(DATABASE, planted).await.unwrap();
    let task = found(verify(&pair, &file), 4).await;
    let of = |leaf: &str| of_table(&task, leaf)["verification"]["status"].clone();
    let mut statuses = ["public.moods_0", "public.moods_1", "public.moods_2"].map(of);
    statuses.sort_by_key(Value::to_string);
    assert_eq!(statuses, [json!("different"), json!("with_root"), json!("with_root")]);
    assert_eq!(task["verification"]["differences"], 3);
    let finished = pair.command("verify").arg("-f").arg(&file).run(LIMIT).await.unwrap();
    for line in ["missing: public.moods c\t7", "extra: public.moods d\t51 × 2"] {
        assert!(finished.stdout.contains(line), "{line}: {}", told(&finished));
    }

    let some = pair.task_file("some", "objects: { exclude: [public.moods_1] }\ntypes: [full]");
    let task = found(verify(&pair, &some), 0).await;
    let why = &of_table(&task, "public.moods_0")["verification"]["not_compared"]["reason"];
    assert!(why.as_str().unwrap().contains("public.moods_1 takes no part"), "{task:#}");
    let first = pair.command("verify").arg("-f").arg(&some).run(LIMIT).await.unwrap();
    let line = "verification: no differences; not compared: 2 tables";
    assert!(first.stdout.contains(line), "{}", told(&first));
}

/// A standby has no transactions of its own; its snapshots serve a comparison as well as a primary's.
#[tokio::test]
async fn standbys_are_compared_under_one_snapshot() {
    let pair = Pair::new(SCHEMA).await;
    pair.migrated().await;
    let signal = "do $$ begin execute format('copy (select) to %L', current_setting('data_directory') || '/standby.signal'); end $$";
    for server in [&pair.source, &pair.destination] {
        server.sql(DATABASE, signal).await.unwrap();
        server.stop_fast().unwrap();
        server.start_again().await.unwrap();
        let standby = server.value(DATABASE, "select pg_is_in_recovery()::text").await.unwrap();
        assert_eq!(standby.as_deref(), Some("true"));
    }
    let file = pair.task_file("shop", &format!("{SHARDS}\n"));
    let task = found(verify(&pair, &file), 0).await;
    assert_eq!(task["verification"]["tables_same"], 6);
    assert_eq!(task["verification"]["rows"]["compared"], 32_161);
}

#[tokio::test]
async fn texts_that_the_two_servers_sort_differently_do_not_differ() {
    let table = |collation: &str| {
        format!(
            "create table public.words (word text collate \"{collation}\" primary key, no int not null);
             insert into public.words
                 select case no % 3 when 0 then 'Ä' when 1 then 'b' else 'C' end || no || repeat('x', 200), no
                 from generate_series(1, 12000) no;
             analyze public.words;"
        )
    };
    let pair = Pair::new(&table("und-x-icu")).await;
    pair.destination.sql(DATABASE, &table("C")).await.unwrap();
    let file = pair.task_file("words", &format!("types: [full]\n{SHARDS}"));
    let task = found(verify(&pair, &file), 0).await;
    assert_eq!(figures(&task, "public.words"), same((0, 0, 0)));
    assert_eq!(task["verification"]["schema"], Value::Null, "only what was asked for");

    let missing = "delete from public.words where no = 5; alter table public.words add more int;";
    pair.destination.sql(DATABASE, missing).await.unwrap();
    let task = found(verify(&pair, &file), 4).await;
    let reason = &of_table(&task, "public.words")["verification"]["not_compared"]["reason"];
    assert_eq!(reason, "the source lacks columns `more`");
    let back = "alter table public.words drop more";
    pair.destination.sql(DATABASE, back).await.unwrap();
    let task = found(verify(&pair, &file), 4).await;
    assert_eq!(keys(&task, "public.words"), [format!("missing C5{}", "x".repeat(200))]);
}

#[tokio::test]
async fn what_only_the_destination_has_is_told_where_the_schema_is_not_compared_too() {
    let pair = Pair::new(SCHEMA).await;
    pair.migrated().await;
    let file = pair.task_file("shop", "types: [full]");
    assert_eq!(found(verify(&pair, &file), 0).await["verification"]["differences"], 0);
    let more = "create table public.more (id int); create sequence public.counter start 5; \
                select lo_from_bytea(7, 'seven');";
    pair.destination.sql(DATABASE, more).await.unwrap();
    let task = found(verify(&pair, &file), 4).await;
    let why = &of_table(&task, "public.more")["verification"]["not_compared"];
    let expected = json!({ "reason": "there is no such table at the source", "differs": true });
    assert_eq!(*why, expected, "{task:#}");
    assert_eq!(keys(&task, "pg_catalog.pg_largeobject_metadata"), ["extra 7\t0"]);
    assert_eq!(objects(&task, "sequences"), ["extra SEQUENCE VALUE public.counter"]);
    assert_eq!(task["verification"]["tables_same"], 6);
}

#[tokio::test]
async fn a_migration_that_verifies_compares_with_the_moment_it_copied() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let gate = Gate::shut(&pair.destination).await;
    let file = pair.task_file("moving", Gate::COPY);
    let program = pair.command("migrate").args(["--yes", "--verify", "-f"]).arg(&file);
    let process = Process::start("migrate", program, &pair.path("")).unwrap();
    gate.waiting(4, LIMIT).await;
    let later = "update public.free set words = 'later'; delete from public.gated where no < 100;";
    pair.source.sql(DATABASE, later).await.unwrap();
    gate.open().await;
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", process.log());
    pair.left_nothing().await;

    let finished: Finished = pair.between("verify").run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(4), "the source went on: {}", told(&finished));
    assert!(finished.stdout.contains("different: public.free 1\n"), "{}", told(&finished));
    assert!(finished.stdout.contains("extra: public.gated 1\n"), "{}", told(&finished));
}

#[tokio::test]
async fn cluster_a_verification_outlives_its_agent() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::start(1, &["anna", "bert"]).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    job.done(&pair).await;

    // Whoever compares this table stands until the lock goes.
    let keeper = pair.destination.client(DATABASE).await.unwrap();
    keeper.batch_execute("begin; lock table public.gated in access exclusive mode").await.unwrap();
    let request = VerifyTaskRequest { task: "shop".to_owned(), ..Default::default() };
    let answer = fleet.convoy.tasks().await.unwrap().verify_task(request).await.unwrap();
    let verification = Job { fleet: &fleet, id: answer.into_inner().task_id };
    let holder = |task: &Task| {
        let mut units = task.running.iter().filter(|unit| unit.kind == "verify_rows");
        units.next().map(|unit| unit.agent.clone())
    };
    let task = verification.until("a shard to be compared", |task| holder(task).is_some()).await;
    assert_eq!(task.name, "shop-verify-1");
    let first = holder(&task).unwrap();
    fleet.convoy.agent(&first).kill().unwrap();
    verification
        .until("the other agent to compare it", |task| holder(task).is_some_and(|now| now != first))
        .await;
    keeper.batch_execute("rollback").await.unwrap();
    let task = verification.until("it to be done", |task| task.status() == TaskStatus::Done).await;
    let found = task.verification.unwrap();
    assert_eq!((found.differences, found.tables_same), (0, 2), "{found:#?}");
    assert!(!verification.events("unit_moved").await.is_empty());

    pair.destination.sql(DATABASE, "delete from public.free where no = 7").await.unwrap();
    let finished = fleet.run(&["task", "verify", "shop"]).await;
    assert_eq!(finished.code(), Some(4), "{}", told(&finished));
    assert!(finished.stdout.contains("missing: public.free 7"), "{}", told(&finished));
    wait::until(Duration::from_secs(30), "nothing of it to be left", async || {
        let sessions =
            "select count(*) from pg_stat_activity where application_name like 'pgconvoy/%'";
        match pair.count(sessions).await {
            0 => Ok(()),
            count => Err(count),
        }
    })
    .await
    .unwrap();
}
