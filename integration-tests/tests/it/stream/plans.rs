//! How rows are found at the destination, however its tables grow.

use pgconvoy_integration_tests::postgres::Options;

use super::overlap::until_count;
use super::{FOLLOWED, caught_up, followed};
use crate::world::{DATABASE, Fleet, Pair};

/// Each kind of change is made first when there is hardly a row: then all are read. Later there are many, and nobody gathers
/// statistics.
#[tokio::test]
async fn rows_of_a_table_that_grew_are_found_by_its_key() {
    let schema = "create table grown (id int primary key, n int)";
    let destination = Options::default().setting("autovacuum", "off");
    let pair = Pair::of(Options::default(), destination, schema).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = fleet.begin(&pair.task_file("shop", FOLLOWED)).await;
    followed(&job).await;

    let of_grown =
        |figure: &str| format!("select {figure} from pg_stat_user_tables where relname = 'grown'");
    let change = async |change: &str| {
        pair.source.sql(DATABASE, change).await.unwrap();
        caught_up(&job, &pair).await;
    };
    let mut changed = 0;
    let mut each_kind = async |row: u32| {
        for kind in ["update grown set n = 1", "update grown set id = -id", "delete from grown"] {
            let sign = if kind.starts_with("delete") { "-" } else { "" };
            change(&format!("{kind} where id = {sign}{row}")).await;
        }
        // An update, and two deletes: a new key is a new row.
        changed += 3;
        let counted = of_grown("n_tup_upd + n_tup_del");
        until_count(&pair.destination, "the changes to be counted", changed, &counted).await;
        pair.count(&of_grown("seq_scan")).await
    };
    let mut before = 0;
    for _ in 0..2 {
        change("truncate grown; insert into grown select i, 0 from generate_series(1, 3) i").await;
        let few = each_kind(1).await;
        assert!(few > before, "few rows are all read");
        before = few;
        change("insert into grown select i, 0 from generate_series(1000, 30000) i").await;
        assert_eq!(each_kind(2000).await, before, "a row of many is looked for among all");
    }
    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.same().await;
}
