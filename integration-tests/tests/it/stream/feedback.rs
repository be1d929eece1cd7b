//! What the source is told: how far all is safe, in time, whether there is something to apply or not, or no room for it.

use pgconvoy_integration_tests::postgres::Options;
use pgconvoy_integration_tests::process::Process;
use pgconvoy_integration_tests::wait;

use super::faults::says_yes;
use super::live::{self, Load, cancel, in_sync};
use super::meaning::FAR_BEHIND;
use crate::world::{DATABASE, LIMIT, Pair, told};

const SCHEMA: &str = "create table account (id int primary key, words text);
    insert into account select i, 'words' from generate_series(1, 1000) i";

/// The stream's session at the source, and how often it was heard of since.
const WALSENDER: &str =
    "select pid from pg_stat_replication where application_name like 'pgconvoy/%/stream/%'";

/// Moved, and followed by a process from then on.
async fn followed(pair: &Pair) -> Process {
    let finished = in_sync(pair).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    followed_by(pair).await
}

/// The process that follows a source which was moved.
async fn followed_by(pair: &Pair) -> Process {
    let follow = pair.migrate().args(["--types", "schema,full,incremental"]);
    let process = Process::start("follow", follow, &pair.path("")).unwrap();
    says_yes(pair, "the stream to run", &format!("select exists ({WALSENDER})")).await;
    process
}

async fn ends(pair: &Pair, process: Process) {
    process.kill().unwrap();
    cancel(pair).await;
    pair.same().await;
}

#[tokio::test]
async fn a_source_whose_other_databases_are_in_use_keeps_no_log_for_an_idle_one() {
    let pair = Pair::new(SCHEMA).await;
    let process = followed(&pair).await;
    pair.source.create_database("other").await.unwrap();
    let elsewhere =
        "create table busy as select i, repeat('x', 100) from generate_series(1, 50000) i";
    pair.source.sql("other", elsewhere).await.unwrap();
    let written = "select pg_current_wal_insert_lsn()::text";
    let written = pair.source.value(DATABASE, written).await.unwrap().unwrap();
    let confirmed = format!(
        "select confirmed_flush_lsn >= '{written}' from pg_replication_slots where slot_name like 'pgconvoy%'"
    );
    says_yes(&pair, "what is of no interest to be confirmed", &confirmed).await;
    ends(&pair, process).await;
}

#[tokio::test]
async fn a_source_hears_of_a_follower_whose_destination_stands_still() {
    // Who is silent for that long is dropped by the source.
    let options = Options::default().setting("wal_sender_timeout", "2s");
    let pair = Pair::of(options, Options::default(), SCHEMA).await;
    let process = followed(&pair).await;
    let sender = pair.source.value(DATABASE, WALSENDER).await.unwrap().unwrap();

    let holder = pair.destination.client(DATABASE).await.unwrap();
    holder.batch_execute("begin; lock table account in access exclusive mode").await.unwrap();
    // More than all buffers on the way hold.
    let changes =
        "insert into account select i, repeat('x', 1000) from generate_series(2000, 150000) i";
    pair.source.sql(DATABASE, changes).await.unwrap();
    let waits =
        "select count(*) from pg_locks where not granted and relation = 'account'::regclass";
    wait::until(LIMIT, "the applier to wait", async || match pair.count(waits).await {
        0 => Err("it does not"),
        _ => Ok(()),
    })
    .await
    .unwrap();
    let since = pair.source.value(DATABASE, "select now()::text").await.unwrap().unwrap();
    let heard = format!(
        "select reply_time > '{since}'::timestamptz + interval '6 s' from pg_stat_replication where pid = {sender}"
    );
    says_yes(&pair, "the source to hear of it for longer than it waits for anybody", &heard).await;
    holder.batch_execute("rollback").await.unwrap();

    let arrived = "select count(*) from account";
    wait::until(LIMIT, "all to arrive", async || match pair.count(arrived).await {
        149_001 => Ok(()),
        count => Err(count),
    })
    .await
    .unwrap();
    let now = pair.source.value(DATABASE, WALSENDER).await.unwrap();
    assert_eq!(now, Some(sender), "the stream broke");
    ends(&pair, process).await;
}

/// As long as it is behind it takes a large transaction whole, for which the source puts it by; once it has caught up, while it
/// is open.
#[tokio::test]
async fn who_was_far_behind_and_has_caught_up_is_sent_what_is_in_progress() {
    // So little memory that whatever is of any size is too large for it.
    let options = Options::default().setting("logical_decoding_work_mem", "64kB");
    let pair = Pair::of(options, Options::default(), live::SCHEMA).await;
    let finished = in_sync(&pair).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    pair.source.sql(DATABASE, FAR_BEHIND).await.unwrap();
    let load = Load::begin(&pair.source).await;
    let writer = pair.source.client(DATABASE).await.unwrap();
    let large = "insert into account select i, 0, repeat('x', 100) from generate_series($1::int, $1 + 2000) i";
    writer.batch_execute("begin").await.unwrap();
    writer.execute(large, &[&100_000]).await.unwrap();

    let process = followed_by(&pair).await;
    let owner =
        "select application_name from pg_stat_replication where application_name like 'pgconvoy/%'";
    let first = pair.source.value(DATABASE, owner).await.unwrap();
    let count =
        |kind| format!("select coalesce(sum({kind}), 0) > 0 from pg_stat_replication_slots");
    says_yes(&pair, "the source to put it by", &count("spill_txns")).await;
    let (sent, mut next) = (count("stream_txns"), 100_000);
    wait::until(LIMIT, "what comes of it then to be sent", async || {
        next += 10_000;
        writer.execute(large, &[&next]).await.map_err(|error| error.to_string())?;
        match pair.source.value(DATABASE, &sent).await {
            Ok(Some(yes)) if yes == "t" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(pair.source.value(DATABASE, owner).await.unwrap(), first, "under the same lease");
    writer.batch_execute("commit").await.unwrap();
    let turns = load.end().await;
    assert!(turns > 10, "{turns}");
    process.kill().unwrap();
    let finished = in_sync(&pair).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    cancel(&pair).await;
    pair.same().await;
}
