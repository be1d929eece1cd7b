//! The yardstick: what PostgreSQL's own regression tests leave behind, which is every odd thing that its developers could
//! think of.

use pgconvoy_integration_tests::postgres::{Options, Regression};

use crate::world::{DATABASE, LIMIT, Pair, major, regression, told};

/// Fewer would not be that database.
const TABLES: usize = 500;

/// At the destination they are filled with what is there now; some of these are older. One reads only older ones.
const REFRESH: &str = "do $$
    declare view regclass;
    begin
        for view in select oid from pg_class where relkind = 'm' and relispopulated order by oid loop
            execute 'refresh materialized view ' || view;
        end loop;
    end $$";

/// What PostgreSQL 18 does not take: functions in a library of 15's own tests and what hangs on them, generated columns
/// of children whose parents have none. And a collation of ICU, which not every build knows.
const NOT_IN_18: &str = "do $$
    declare function regprocedure;
    begin
        for function in select oid from pg_proc where probin like '%regress%' loop
            if exists (select from pg_proc where oid = function) then
                execute 'drop function ' || function || ' cascade';
            end if;
        end loop;
    end $$;
    drop table public.gtest_normal_child, public.gtest_normal_child2 cascade;
    drop collation if exists public.coll_icu_upgrade;";

/// The source's server with the database under the usual name, and another one.
async fn pair(destination: Options) -> Option<Pair> {
    let source = Options::default().regression(regression()?);
    let pair = Pair::bare(source, destination).await;
    let rename = format!("alter database {} rename to {DATABASE}", Regression::DATABASE);
    pair.source.sql("postgres", &rename).await.unwrap();
    Some(pair)
}

#[tokio::test]
async fn what_postgresqls_own_tests_leave_behind_arrives() {
    let Some(pair) = pair(Options::default()).await else { return };
    pair.source.sql(DATABASE, REFRESH).await.unwrap();
    let finished = pair.migrate().arg("--verify").run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    let compared = pair.same().await;
    assert!(compared.tables > TABLES, "{compared:?}");
}

/// Judged by the task's own comparison, which knows what is only another wording of the other major.
#[tokio::test]
async fn what_postgresqls_own_tests_leave_behind_arrives_three_majors_later() {
    let Some(to) = major(18) else { return };
    let newer = to.client("pg_dump").unwrap().parent().unwrap().to_owned();
    let Some(pair) = pair(Options::default().major(to)).await else { return };
    pair.source.sql(DATABASE, NOT_IN_18).await.unwrap();
    pair.source.sql(DATABASE, REFRESH).await.unwrap();
    let command = pair.migrate().arg("--verify").env("PGCONVOY_PG_BIN", newer);
    let finished = command.run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert!(finished.stdout.contains("compared in 53"), "{}", told(&finished));
}
