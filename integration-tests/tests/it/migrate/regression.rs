//! The yardstick: what PostgreSQL's own regression tests leave behind, which is every odd thing that its developers could
//! think of.

use pgconvoy_integration_tests::postgres::{Options, Regression};

use crate::world::{DATABASE, LIMIT, Pair, regression, told};

/// Fewer would not be that database.
const TABLES: usize = 500;

#[tokio::test]
async fn what_postgresqls_own_tests_leave_behind_arrives() {
    let Some(regression) = regression() else { return };
    let pair = Pair::bare(Options::default().regression(regression), Options::default()).await;
    let rename = format!("alter database {} rename to {DATABASE}", Regression::DATABASE);
    pair.source.sql("postgres", &rename).await.unwrap();
    // At the destination they are filled with what is there now; some of these are older. One reads only older ones.
    let refresh = "do $$
        declare view regclass;
        begin
            for view in select oid from pg_class where relkind = 'm' and relispopulated order by oid loop
                execute 'refresh materialized view ' || view;
            end loop;
        end $$";
    pair.source.sql(DATABASE, refresh).await.unwrap();
    let finished = pair.migrate().arg("--verify").run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    let compared = pair.same().await;
    assert!(compared.tables > TABLES, "{compared:?}");
}
