//! A table is planned anew while an old owner, who has not heard of it, is about to write for the old plan (law O4).

use pgconvoy_integration_tests::net::Weather;
use pgconvoy_integration_tests::wait;

use super::COPY;
use crate::world::{DATABASE, Fleet, Gate, LIMIT, Pair, Roads};

/// Sessions of shards at the destination.
const WRITERS: &str =
    "from pg_stat_activity where application_name like 'pgconvoy/%/copy/%' and state <> 'idle'";

#[tokio::test]
async fn cluster_a_table_planned_anew_takes_no_row_of_an_old_plan() {
    let pair = Pair::new(Gate::KEYLESS).await;
    let mut fleet = Fleet::start(1, &["anna"]).await;
    let roads = Roads::to(&pair).await;
    let about_to_write = roads.destination.hold_at(COPY, 2);
    let file = roads.task_file(&pair, "shop", "copy: { jobs: 2, shard_size: 1MiB }");
    let id = fleet.begin(&file).await.id;
    about_to_write.has_caught(2, LIMIT).await.unwrap();

    // From here on, what is new goes to bert.
    fleet.convoy.add_agent("bert", None).await.unwrap();
    fleet.ok(&["agents", "drain", "anna"]).await;
    let job = fleet.job(&id);
    // The moment that all rows are of is lost, and the source goes on: all tables will be planned anew.
    let survey = roads.source.hold_at(b"/survey/", 1);
    let lost = "insert into public.gated values (20001, 'later');
        select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pgconvoy/%/keeper/%'";
    pair.source.sql(DATABASE, lost).await.unwrap();
    let one_fails = format!("select pg_terminate_backend(min(pid)) {WRITERS}");
    pair.destination.sql(DATABASE, &one_fails).await.unwrap();
    survey.has_caught(1, LIMIT).await.unwrap();
    let old_writer = pair.count(&format!("select min(pid) {WRITERS}")).await;

    // anna does not hear that its unit is of no use any more, and her lease still lasts for some seconds.
    fleet.convoy.agent_link("anna").set(Weather::Stalled);
    survey.open();
    wait::until(LIMIT, "the new plan to be the current one", async || {
        match pair.count("select max(generation) from pgconvoy.table_state").await {
            2 => Ok(()),
            older => Err(older),
        }
    })
    .await
    .unwrap();
    about_to_write.open();
    wait::until(LIMIT, "the old owner to be through", async || {
        let there = format!("select count(*) from pg_stat_activity where pid = {old_writer}");
        match pair.count(&there).await {
            0 => Ok(()),
            there => Err(there),
        }
    })
    .await
    .unwrap();
    fleet.convoy.agent_link("anna").set(Weather::Clear);
    let task = job.done(&pair).await;
    assert!(task.tables.iter().all(|table| table.generation == 2), "{:?}", task.tables);
    assert_eq!(job.events("rows_start_anew").await.len(), 1);
}
