//! Tables that nothing identifies the rows of: with consent they get a replica identity, for as long as the task lasts.

use pgconvoy_integration_tests::process::Finished;

use super::live::cancel;
use crate::world::{DATABASE, LIMIT, Pair, told};

const SCHEMA: &str = "
    create table bare (n int, words text);
    insert into bare select i % 3, 'alike' from generate_series(1, 20) i;
    create table silent (n int not null);
    create unique index silent_n on silent (n);
    alter table silent replica identity nothing;
    insert into silent values (1), (2);
    create table keyed (id int primary key);";

/// `d`efault, `n`othing, `f`ull, by table.
async fn identities(pair: &Pair) -> String {
    let query = "select string_agg(relreplident::text, '' order by relname) from pg_class
                 where relkind = 'r' and relnamespace = 'public'::regnamespace";
    pair.source.value(DATABASE, query).await.unwrap().unwrap()
}

#[tokio::test]
async fn tables_that_lack_an_identity_get_one_for_as_long_as_the_task_lasts() {
    let pair = Pair::new(SCHEMA).await;
    let rest = "types: [schema, full, incremental]\nincremental: { replica_identity: set_full }";
    let file = pair.task_file(DATABASE, rest);
    let sync = async || -> Finished {
        let migrate = pair.command("migrate").args(["--yes", "--until", "in-sync", "-f"]);
        let finished = migrate.arg(&file).run(LIMIT).await.unwrap();
        assert_eq!(finished.code(), Some(0), "{}", told(&finished));
        finished
    };
    assert_eq!(identities(&pair).await, "ddn");
    sync().await;
    assert_eq!(identities(&pair).await, "fdf");
    let changes =
        "update bare set words = 'another' where n = 1; update silent set n = 3 where n = 2;
        delete from bare where ctid = (select min(ctid) from bare where n = 2)";
    pair.source.sql(DATABASE, changes).await.unwrap();
    sync().await;
    assert_eq!(pair.count("select count(*) from bare where n = 2").await, 6);
    cancel(&pair).await;
    assert_eq!(identities(&pair).await, "ddn");
    pair.same().await;
}

#[tokio::test]
async fn after_a_cutover_the_source_has_the_identities_that_it_had() {
    let pair = Pair::new(SCHEMA).await;
    let rest = "types: [schema, full, incremental]\nincremental: { replica_identity: set_full }";
    let file = pair.task_file(DATABASE, rest);
    let until = ["--yes", "--until", "cutover", "--fence", "-f"];
    let finished = pair.command("migrate").args(until).arg(&file).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert_eq!(identities(&pair).await, "ddn");
    pair.same().await;
    pair.left_nothing().await;
}

#[tokio::test]
async fn the_precheck_tells_the_statement_that_mends_each_table() {
    let pair = Pair::new(SCHEMA).await;
    let silent_key = "create table \"Silent key\" (id int primary key); alter table \"Silent key\" replica identity nothing";
    pair.source.sql(DATABASE, silent_key).await.unwrap();
    let file = pair.task_file(DATABASE, "types: [schema, full, incremental]");
    let precheck = async || {
        let command = pair.command("precheck").args(["--yes", "-o", "json", "-f"]).arg(&file);
        command.run(LIMIT).await.unwrap()
    };
    let finished = precheck().await;
    assert_eq!(finished.code(), Some(3), "{}", told(&finished));
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let items = report["items"].as_array().unwrap().iter();
    let missing = items.filter(|item| item["code"] == "replica_identity_missing");
    let remedies = missing.map(|item| item["remedy"].as_str().unwrap().split(" (").next().unwrap());
    let statements: Vec<&str> = remedies.collect();
    let expected = [
        "ALTER TABLE public.\"Silent key\" REPLICA IDENTITY DEFAULT",
        "ALTER TABLE public.bare REPLICA IDENTITY FULL",
        "ALTER TABLE public.silent REPLICA IDENTITY USING INDEX silent_n",
    ];
    assert_eq!(statements, expected);
    pair.source.sql(DATABASE, &statements.join("; ")).await.unwrap();
    let finished = precheck().await;
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
}
