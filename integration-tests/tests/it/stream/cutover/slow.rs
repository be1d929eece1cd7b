//! What takes too long: the cutover ends in its time, and says who held it up.

use pgconvoy_integration_tests::process::Process;
use pgconvoy_proto::v1::TaskStatus;

use super::{
    SCHEMA, cutover_held_at, following, held_at, is_followed, read_only_by_default, until_blocked,
};
use crate::world::{DATABASE, Fleet, LIMIT, Pair, told};

const CUTOVER: [&str; 6] = ["task", "cutover", "shop", "--fence", "--timeout", "3"];

/// Who holds the lock is told by process, name, role and times; what it says there is not.
#[tokio::test]
async fn cluster_who_holds_a_cutover_up_beyond_its_time_is_named() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    for (step, waited_for, on) in [
        ("fence", "the source was fenced", "pg_db_role_setting"),
        ("prove", "all was at the destination", "pgconvoy.sequence_set"),
        ("switch", "the destination took over", "transactionid"),
    ] {
        let (lock, client) = cutover_held_at(&fleet, &pair, step, &CUTOVER).await;
        let pid: i32 = lock.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        lock.batch_execute("select 'a secret'").await.unwrap();
        assert_eq!(client.wait(LIMIT).await.unwrap().code(), Some(1), "{}", client.log());
        let log = client.log();
        assert!(log.contains("cutover_timed_out"), "{log}");
        assert!(log.contains(&format!("before {waited_for}: ")), "{log}");
        let holder = format!("Lock on {on} that process {pid} (pgconvoy//harness from ");
        assert!(log.contains(&holder), "{holder}: {log}");
        assert!(log.contains("its statement at 20") && !log.contains("a secret"), "{log}");
        assert!(!read_only_by_default(&pair.source).await);
        lock.batch_execute("rollback").await.unwrap();
        job.until("it to follow", is_followed).await;
    }
    fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
}

/// A transaction of many rows may be applied for hours, and the fence waits for its end.
#[tokio::test]
async fn cluster_a_transaction_that_is_being_applied_for_long_ends_a_cutover_before_its_fence() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let (lock, waiting) = held_at(&pair, "", "ready").await;
    let client =
        Process::start("cutover", fleet.convoy.cli(CUTOVER).unwrap(), &pair.path("")).unwrap();
    until_blocked(&pair.destination, &waiting, &client).await;
    // As the applier holds it.
    let applier = pair.destination.client(DATABASE).await.unwrap();
    let applies = "set application_name = 'the applier'; begin; select from pgconvoy.apply_progress for update";
    applier.batch_execute(applies).await.unwrap();
    lock.batch_execute("rollback").await.unwrap();
    assert_eq!(client.wait(LIMIT).await.unwrap().code(), Some(1), "{}", client.log());
    let log = client.log();
    assert!(log.contains("cutover_timed_out"), "{log}");
    assert!(log.contains("being applied at the destination had ended: "), "{log}");
    assert!(log.contains("(the applier from "), "{log}");
    assert_eq!(job.task().await.cutover.unwrap().stopped_ms, 0, "{log}");
    applier.batch_execute("rollback").await.unwrap();
    job.until("it to follow", is_followed).await;
    fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
}

/// Filling views takes as long as it takes, but who reads one in a transaction may never end.
#[tokio::test]
async fn cluster_a_reader_whose_view_cannot_be_filled_ends_a_cutover_before_its_fence() {
    let view = "create materialized view counted as select count(*) as n from ledger;";
    let pair = Pair::new(&format!("{SCHEMA}{view}")).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let reader = pair.destination.client(DATABASE).await.unwrap();
    reader.batch_execute("begin; select from counted").await.unwrap();
    let pid: i32 = reader.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    for more in [&["--dry-run"][..], &[]] {
        let finished = fleet.run(&[&CUTOVER[..], more].concat()).await;
        assert_eq!(finished.code(), Some(1), "{}", told(&finished));
        assert!(finished.log.contains("cutover_timed_out"), "{}", told(&finished));
        assert!(finished.log.contains("before views were filled"), "{}", told(&finished));
        let holder = format!("Lock on public.counted that process {pid} (harness from ");
        assert!(finished.log.contains(&holder), "{}", told(&finished));
        assert_eq!(job.task().await.cutover.unwrap().stopped_ms, 0);
        job.until("it to follow", is_followed).await;
    }
    reader.batch_execute("rollback").await.unwrap();
    fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
}
