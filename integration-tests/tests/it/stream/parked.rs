//! Tables whose changes cannot be applied: they are parked with the cause, the others go on, and when the cause is mended
//! they go on as well.

use pgconvoy_integration_tests::process::{Finished, Program};
use pgconvoy_proto::v1::{Phase, Task, TaskTable};
use serde_json::Value;

use super::live::{Load, SCHEMA, cancel, in_sync};
use super::{caught_up, follower};
use crate::world::{DATABASE, Fleet, LIMIT, Pair, SOON, told};

/// A command on the embedded task.
pub(super) async fn task(pair: &Pair, arguments: &[&str]) -> Finished {
    let (command, rest) = arguments.split_first().unwrap();
    let program = Program::pgconvoy().unwrap().args(["task", command, DATABASE]);
    let program = program.args(rest.iter().copied()).arg("--data-dir").arg(pair.path("data"));
    program.env("PGPASSFILE", pair.path("pgpass")).run(SOON).await.unwrap()
}

pub(super) async fn resume(pair: &Pair, table: &str) {
    let finished = task(pair, &["resume", "--table", table]).await;
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert!(finished.stdout.contains("goes on"), "{}", told(&finished));
}

/// Until all is at the destination that was committed before; with this exit code.
pub(super) async fn sync(pair: &Pair, exit: i32) -> Finished {
    let finished = in_sync(pair).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(exit), "{}", told(&finished));
    finished
}

/// Why a table is parked, as JSON shows it.
pub(super) async fn cause(pair: &Pair, table: &str) -> Value {
    let shown = task(pair, &["show", "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let tables = shown["tables"].as_array().unwrap();
    let table = tables.iter().find(|of| of["name"] == table).unwrap();
    assert_eq!(table["status"], "parked", "{table}");
    table["parked"].clone()
}

#[tokio::test]
async fn a_parked_table_tells_its_cause_and_goes_on_when_that_is_mended() {
    let pair = Pair::new(SCHEMA).await;
    sync(&pair, 0).await;

    // Somebody has been at the destination: a row is gone, and an index is there that takes no long value.
    let meddled = "delete from account where id = 5; create index too_narrow on paper (title)";
    pair.destination.sql(DATABASE, meddled).await.unwrap();
    let changes =
        "update account set balance = 1 where id = 4; update account set balance = 1 where id = 5;
        update account set balance = 1 where id = 6; insert into log values (now(), 'after');
        insert into paper select 1000, string_agg(md5(i::text), ''), 'short' from generate_series(1, 500) i";
    pair.source.sql(DATABASE, changes).await.unwrap();
    let finished = sync(&pair, 1).await;
    assert!(finished.log.contains("2 tables are parked"), "{}", told(&finished));

    // What came before it is applied, itself and what comes after is kept; the other tables know nothing of it.
    assert_eq!(pair.count("select count(*) from account where balance = 1").await, 1);
    assert_eq!(pair.count("select count(*) from log where words = 'after'").await, 1);
    let kept = "select count(*) from pgconvoy.parked_change where get_byte(message, 0) <> 82";
    assert_eq!(pair.count(kept).await, 3);
    let of_account = cause(&pair, "public.account").await;
    assert_eq!(of_account["failure"]["code"], "row_missing", "{of_account}");
    assert_eq!(
        (&of_account["operation"], &of_account["key"]),
        (&"update".into(), &"(id)=(5)".into())
    );
    assert!(of_account["statement"].as_str().unwrap().contains(r#""public"."account""#));
    let of_paper = cause(&pair, "public.paper").await;
    assert_eq!(of_paper["failure"]["sqlstate"], "54000", "{of_paper}");

    // Nothing is mended: it is parked again. Then it is.
    resume(&pair, "public.account").await;
    sync(&pair, 1).await;
    assert_eq!(cause(&pair, "public.account").await, of_account);
    let mended = "insert into account values (5, 1000, 'note 5'); drop index too_narrow";
    pair.destination.sql(DATABASE, mended).await.unwrap();
    pair.source.sql(DATABASE, "update account set balance = 2 where id = 6").await.unwrap();
    resume(&pair, "public.account").await;
    resume(&pair, "public.paper").await;
    sync(&pair, 0).await;
    assert_eq!(pair.count("select count(*) from pgconvoy.parked_change").await, 0);
    let events = task(&pair, &["events"]).await.stdout;
    assert_eq!(events.matches("are kept again").count(), 1, "before it was mended: {events}");

    let unknown = task(&pair, &["resume", "--table", "public.nothing"]).await;
    assert_eq!(unknown.code(), Some(2), "{}", told(&unknown));
    assert!(unknown.log.contains("unknown_table"), "{}", told(&unknown));
    let parked = task(&pair, &["resume", "--table", "public.account"]).await;
    assert!(parked.stdout.contains("is not parked"), "{}", told(&parked));
    cancel(&pair).await;
    pair.same().await;
}

/// One transaction, in which two tables take turns: it is applied in pieces, and each of them has rows of both.
const IN_TURNS: &str = "do $$ begin
    for turn in 1..16 loop
        insert into good select turn * 10000 + i, 'words' from generate_series(1, 5000) i;
        insert into bad select turn * 10000 + i, 'words' from generate_series(1, 5000) i;
    end loop; end $$";

#[tokio::test]
async fn a_row_that_is_refused_within_a_large_transaction_parks_its_table_alone() {
    let tables = "create table good (id int primary key, words text);
                  create table bad (id int primary key, words text)";
    let pair = Pair::new(tables).await;
    sync(&pair, 0).await;
    let refusal = "alter table bad add constraint refused check (id <> 20007)";
    pair.destination.sql(DATABASE, refusal).await.unwrap();
    pair.source.sql(DATABASE, IN_TURNS).await.unwrap();
    sync(&pair, 1).await;

    // What came before the row stays applied, though it was folded with what came after; later pieces were folded before it
    // was known, and nothing of them is written.
    assert_eq!(pair.count("select count(*) from good").await, 80_000);
    assert_eq!(pair.count("select count(*) from bad").await, 5_006);
    let kept = "select count(*) from pgconvoy.parked_change where get_byte(message, 0) <> 82";
    assert_eq!(pair.count(kept).await, 80_000 - 5_006);
    assert_eq!(cause(&pair, "public.bad").await["key"], "(id)=(20007)");

    pair.destination.sql(DATABASE, "alter table bad drop constraint refused").await.unwrap();
    resume(&pair, "public.bad").await;
    sync(&pair, 0).await;
    cancel(&pair).await;
    pair.same().await;
}

#[tokio::test]
async fn a_reshaped_table_goes_on_in_its_new_shape() {
    let pair = Pair::new(SCHEMA).await;
    sync(&pair, 0).await;
    // Two shapes of what is kept: one column comes, and another one goes.
    let changes = "alter table account add column extra int default 3, add column more text;
        update account set extra = 4, note = 'kept and gone' where id = 7;
        alter table account drop column note;
        insert into account values (3000, 5, 6, 'more'); delete from account where id = 8";
    pair.source.sql(DATABASE, changes).await.unwrap();
    sync(&pair, 1).await;
    assert_eq!(cause(&pair, "public.account").await["failure"]["code"], "table_reshaped");

    resume(&pair, "public.account").await;
    sync(&pair, 1).await;
    let still = cause(&pair, "public.account").await;
    assert_eq!(still["failure"]["code"], "undefined_column", "{still}");
    let mended = "alter table account add column more text, add column extra int default 3, drop column note";
    pair.destination.sql(DATABASE, mended).await.unwrap();
    // Not resumed yet: in whatever shape it is, the others go on.
    pair.source.sql(DATABASE, "insert into log values (now(), 'meanwhile')").await.unwrap();
    sync(&pair, 1).await;
    assert_eq!(pair.count("select count(*) from log where words = 'meanwhile'").await, 1);
    resume(&pair, "public.account").await;
    sync(&pair, 0).await;
    pair.source.sql(DATABASE, "update account set extra = 9 where id = 9").await.unwrap();
    sync(&pair, 0).await;
    // Copied anew, it still has its columns in another order than the source's table has them.
    let anew = task(&pair, &["resync", "public.account"]).await;
    assert_eq!(anew.code(), Some(0), "{}", told(&anew));
    for turn in 10..12 {
        let change = format!("update account set extra = 9, more = 'x' where id = {turn}");
        pair.source.sql(DATABASE, &change).await.unwrap();
        sync(&pair, 0).await;
    }
    let query =
        "select string_agg(concat_ws(',', id, balance, extra, more), ';' order by id) from account";
    let rows = pair.source.value(DATABASE, query).await.unwrap();
    assert_eq!(pair.destination.value(DATABASE, query).await.unwrap(), rows);
    cancel(&pair).await;
    pair.left_nothing().await;
}

fn account(task: &Task) -> &TaskTable {
    task.tables.iter().find(|table| table.name == "public.account").unwrap()
}

#[tokio::test]
async fn cluster_what_was_kept_is_applied_once_though_agents_die_while_it_is() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let job = fleet.begin(&pair.task_file("shop", "types: [schema, full, incremental]")).await;
    job.until("the source to be followed", |task| task.phase() == Phase::Stream).await;
    pair.destination.sql(DATABASE, "delete from account where id = 5").await.unwrap();
    pair.source.sql(DATABASE, "update account set balance = 0 where id = 5").await.unwrap();
    job.until("the table to be parked", |task| account(task).status == "parked").await;
    for _ in 0..30 {
        let all = "update account set balance = balance + 1";
        pair.source.sql(DATABASE, all).await.unwrap();
    }
    let load = Load::begin(&pair.source).await;
    caught_up(&job, &pair).await;
    pair.destination.sql(DATABASE, "insert into account values (5, 1000, 'note 5')").await.unwrap();

    // Whoever begins to apply it dies, three times; each time another one goes on.
    fleet.ok(&["task", "resume", "shop", "--table", "public.account"]).await;
    let mut epoch = 0;
    for _ in 0..3 {
        let task = job
            .until("somebody to follow", |task| {
                follower(task).is_some_and(|unit| unit.epoch > epoch)
            })
            .await;
        let unit = follower(&task).unwrap().clone();
        epoch = unit.epoch;
        fleet.convoy.agent(&unit.agent).kill().unwrap();
        fleet.convoy.agent(&unit.agent).start_again().unwrap();
    }
    job.until("the table to go on", |task| account(task).status == "streaming").await;
    assert!(!job.events("table_goes_on").await.is_empty());
    let turns = load.end().await;
    assert!(turns > 10, "{turns}");
    caught_up(&job, &pair).await;
    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.same().await;
}

/// Besides a table of each kind, leaves that are written through their root: hashes of an enum differ from server to server.
const UNFIT: &str = "
    create table good (id int primary key, n int);
    create table narrow (id int primary key, n int);
    create table unkeyed (id int primary key, n int);
    create table away (id int primary key, n int);
    create table heap (id int, n int);
    alter table heap replica identity full;
    create type mood as enum ('sad', 'ok', 'happy');
    create table root (feel mood, id int, n int, primary key (feel, id)) partition by hash (feel);
    create table root_0 partition of root for values with (modulus 2, remainder 0);
    create table root_1 partition of root for values with (modulus 2, remainder 1);
    do $$ declare name text; begin
        foreach name in array '{good,narrow,unkeyed,away,heap}'::text[] loop
            execute format('insert into %I select i, 0 from generate_series(1, 20) i', name);
        end loop;
    end $$;
    insert into root select mood, i, 0 from generate_series(1, 20) i, unnest(enum_range(null::mood)) mood";

async fn change_all(pair: &Pair, n: u32) {
    for table in ["good", "narrow", "unkeyed", "away", "heap", "root"] {
        let (column, value) = if table == "root" { (", feel", ", 'ok'") } else { ("", "") };
        let change = format!(
            "update {table} set n = {n} where id = {n}; insert into {table} (id, n{column}) values (100 + {n}, {n}{value})"
        );
        pair.source.sql(DATABASE, &change).await.unwrap();
    }
}

/// Somebody has been at the destination while nobody followed.
#[tokio::test]
async fn tables_that_are_not_as_planned_when_a_stream_begins_are_parked_and_the_others_go_on() {
    let pair = Pair::new(UNFIT).await;
    // The root's own index comes once its leaves are consistent.
    let finished = sync(&pair, 1).await;
    assert!(finished.log.contains("2 tables are parked"), "{}", told(&finished));
    for leaf in ["public.root_0", "public.root_1"] {
        assert_eq!(cause(&pair, leaf).await["failure"]["code"], "apply_key_missing");
        resume(&pair, leaf).await;
    }
    sync(&pair, 0).await;
    let broken = "alter table narrow rename column n to m; alter table unkeyed drop constraint unkeyed_pkey;
        alter table away rename to far; alter table heap rename to heaped; alter table root rename to trunk";
    pair.destination.sql(DATABASE, broken).await.unwrap();
    change_all(&pair, 1).await;
    let finished = sync(&pair, 1).await;
    assert!(finished.log.contains("6 tables are parked"), "{}", told(&finished));
    let of_good =
        |n: u32| format!("select count(*) from good where id in ({n}, 100 + {n}) and n = {n}");
    assert_eq!(pair.count(&of_good(1)).await, 2);
    for (table, code, says) in [
        ("public.narrow", "undefined_column", "planned: n"),
        ("public.unkeyed", "apply_key_missing", "no unique index on (id)"),
        ("public.away", "undefined_table", "no table public.away"),
        ("public.heap", "undefined_table", "no table public.heap"),
        ("public.root_0", "undefined_table", "no table public.root"),
        ("public.root_1", "undefined_table", "no table public.root"),
    ] {
        let cause = cause(&pair, table).await;
        assert_eq!(cause["failure"]["code"], code, "{cause}");
        assert!(cause["failure"]["message"].as_str().unwrap().contains(says), "{cause}");
        assert!(cause["failure"]["remedy"].as_str().unwrap().contains(table), "{cause}");
    }

    // Mended, each goes on for itself, and nothing of the others is in its way; nor is what has broken since.
    pair.destination
        .sql(DATABASE, "alter table far rename to away; alter table good rename to better")
        .await
        .unwrap();
    resume(&pair, "public.away").await;
    change_all(&pair, 2).await;
    let finished = sync(&pair, 1).await;
    assert!(finished.log.contains("6 tables are parked"), "{}", told(&finished));
    assert_eq!(pair.count("select count(*) from away where n > 0").await, 4);
    assert_eq!(cause(&pair, "public.good").await["failure"]["code"], "undefined_table");

    // What is written through their root is mended by halves: none of it is written as if it had no key.
    let halves = "alter table trunk rename to root; alter table root drop constraint root_pkey";
    pair.destination.sql(DATABASE, halves).await.unwrap();
    resume(&pair, "public.root_1").await;
    sync(&pair, 1).await;
    assert_eq!(cause(&pair, "public.root_1").await["failure"]["code"], "apply_key_missing");
    let mended = "alter table root add primary key (feel, id); alter table better rename to good;
        alter table narrow rename column m to n; alter table unkeyed add primary key (id); alter table heaped rename to heap";
    pair.destination.sql(DATABASE, mended).await.unwrap();
    for table in ["good", "narrow", "unkeyed", "heap", "root_0", "root_1"] {
        resume(&pair, &format!("public.{table}")).await;
    }
    sync(&pair, 0).await;
    change_all(&pair, 3).await;
    sync(&pair, 0).await;
    assert_eq!(pair.count("select count(*) from pgconvoy.parked_change").await, 0);
    // Leaves by their root: a server of its own has another hash.
    for table in ["good", "narrow", "unkeyed", "away", "heap", "root"] {
        let rows = format!("select string_agg(of::text, ' ' order by of::text) from {table} of");
        let rows_of_source = pair.source.value(DATABASE, &rows).await.unwrap();
        assert!(rows_of_source.is_some());
        assert_eq!(pair.destination.value(DATABASE, &rows).await.unwrap(), rows_of_source);
    }
    cancel(&pair).await;
    pair.left_nothing().await;
}

async fn resync(pair: &Pair, table: &str) {
    let anew = task(pair, &["resync", table]).await;
    assert_eq!(anew.code(), Some(0), "{}", told(&anew));
}

#[tokio::test]
async fn a_table_that_was_made_again_is_copied_anew_once_its_cause_tells_how_to_publish_it() {
    let tables = "create table again (id int primary key, n int); insert into again values (1, 1);
                  create table other (id int primary key)";
    let pair = Pair::new(tables).await;
    sync(&pair, 0).await;
    let made_again = "drop table again; create table again (id int primary key, n int);
        insert into again select i, 5 from generate_series(1, 9) i; insert into other values (7)";
    pair.source.sql(DATABASE, made_again).await.unwrap();
    let rows = "select count(*) from again";
    // Twice, and a resumption helps no more: what was not sent is not kept.
    for attempt in 0..3 {
        if attempt < 2 {
            resync(&pair, "public.again").await;
        } else {
            resume(&pair, "public.again").await;
        }
        let finished = sync(&pair, 1).await;
        assert!(finished.log.contains("1 tables are parked"), "{}", told(&finished));
        assert_eq!(pair.count(rows).await, 1, "it stays as it was");
        assert_eq!(pair.count("select count(*) from other").await, 1);
        assert_eq!(cause(&pair, "public.again").await["failure"]["code"], "table_not_published");
    }

    let cause = cause(&pair, "public.again").await;
    let remedy = cause["failure"]["remedy"].as_str().unwrap();
    let (statements, then) = remedy.split_once("; then ").unwrap();
    let statements = &statements[statements.find("begin; ").unwrap()..];
    assert!(then.contains("task resync") && then.contains("public.again"), "{remedy}");
    pair.source.sql(DATABASE, statements).await.unwrap();
    resync(&pair, "public.again").await;
    sync(&pair, 0).await;
    assert_eq!(pair.count(rows).await, 9);
    pair.source
        .sql(DATABASE, "update again set n = 6; delete from again where id = 3")
        .await
        .unwrap();
    sync(&pair, 0).await;
    cancel(&pair).await;
    pair.same().await;
}

/// What is published and has no replica identity takes no updates and deletes; and what was sent without a key is of no use.
#[tokio::test]
async fn a_table_whose_rows_nothing_identifies_is_copied_anew_once_something_does() {
    let tables = "create table hist (n int, words text); alter table hist replica identity full;
        insert into hist select i, 'old' from generate_series(1, 9) i;
        create table coded (id int primary key, code int not null unique);
        insert into coded select i, i from generate_series(1, 9) i";
    let pair = Pair::new(tables).await;
    sync(&pair, 0).await;
    pair.destination.sql(DATABASE, "delete from hist where n = 2").await.unwrap();
    let changes = "update hist set words = 'new' where n = 2;
        alter table coded replica identity using index coded_code_key; update coded set code = 100 where id = 5";
    pair.source.sql(DATABASE, changes).await.unwrap();
    sync(&pair, 1).await;
    assert_eq!(cause(&pair, "public.hist").await["operation"], "update");
    let of_coded = &cause(&pair, "public.coded").await["failure"];
    assert_eq!(of_coded["code"], "replica_identity_missing", "{of_coded}");
    let remedy = of_coded["remedy"].as_str().unwrap();
    assert!(remedy.contains("cannot be applied") && remedy.contains("task resync "), "{remedy}");

    let again = "drop table hist; create table hist (n int, words text);
        insert into hist select i, 'again' from generate_series(1, 9) i;
        alter table coded replica identity default";
    pair.source.sql(DATABASE, again).await.unwrap();
    resync(&pair, "public.hist").await;
    resync(&pair, "public.coded").await;
    let finished = sync(&pair, 1).await;
    assert!(finished.log.contains("1 tables are parked"), "{}", told(&finished));
    let of_hist = cause(&pair, "public.hist").await;
    assert_eq!(of_hist["failure"]["code"], "table_not_published", "{of_hist}");
    assert_eq!((&of_hist["operation"], &of_hist["key"]), (&"".into(), &"".into()), "{of_hist}");

    let remedy = of_hist["failure"]["remedy"].as_str().unwrap();
    let (statements, _) =
        remedy.strip_prefix("at the source: ").unwrap().split_once("; then ").unwrap();
    assert!(statements.contains("replica identity full"), "{remedy}");
    pair.source.sql(DATABASE, statements).await.unwrap();
    let taken = "update hist set words = 'taken' where n < 4; delete from hist where n = 9";
    pair.source.sql(DATABASE, taken).await.unwrap();
    resync(&pair, "public.hist").await;
    sync(&pair, 0).await;
    pair.source.sql(DATABASE, "update hist set words = 'followed' where n > 6").await.unwrap();
    sync(&pair, 0).await;
    cancel(&pair).await;
    pair.same().await;
}
