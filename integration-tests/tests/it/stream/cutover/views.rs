//! What is made of rows is made anew before the fence, and a rehearsal tells where that cannot be.

use pgconvoy_proto::v1::TaskStatus;

use super::{SCHEMA, following, is_followed};
use crate::world::{DATABASE, Fleet, Pair, told};

#[tokio::test]
async fn cluster_a_view_that_cannot_be_filled_is_named_by_a_rehearsal_already() {
    let views = "create materialized view counted as select count(*) as n from ledger;
        create materialized view bad as select 10 / (1 - count(*)) as n from still;";
    let pair = Pair::new(&format!("{SCHEMA}{views}")).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let since = "insert into still values (1); insert into ledger (amount) values (7)";
    pair.source.sql(DATABASE, since).await.unwrap();
    let cutover = ["task", "cutover", "shop", "--fence"];
    let rehearsal = [&cutover[..], &["--dry-run"]].concat();
    for command in [&rehearsal[..], &cutover] {
        let finished = fleet.run(command).await;
        assert_eq!(finished.code(), Some(1), "{}", told(&finished));
        assert!(finished.log.contains("cutover_view_not_filled"), "{}", told(&finished));
        assert!(finished.log.contains("drop it, the same at both ends"), "{}", told(&finished));
        let named = "public.bad could not be filled: division by zero";
        assert!(finished.stdout.contains(named), "{}", told(&finished));
        assert!(finished.stdout.contains("nobody was stopped"), "{}", told(&finished));
        for shown in [&["task", "show", "shop"], &["task", "events", "shop"]] {
            let shown = fleet.ok(shown).await;
            assert!(shown.contains(named), "{shown}");
        }
        job.until("it to follow", is_followed).await;
    }
    // As it says: dropped at both ends.
    for server in [&pair.source, &pair.destination] {
        server.sql(DATABASE, "drop materialized view bad").await.unwrap();
    }
    assert_eq!(pair.count("select n from counted").await, 0);
    fleet.ok(&rehearsal).await;
    assert_eq!(pair.count("select n from counted").await, 1);
    fleet.ok(&cutover).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
}
