//! An agent's memory does not grow with the size of what it copies or follows. Many megabytes are moved, so only a soak runs
//! these.

use pgconvoy_integration_tests::convoy::Convoy;
use pgconvoy_integration_tests::postgres::Options;
use pgconvoy_proto::v1::{Phase, Task};

use crate::world::{DATABASE, Fleet, Gate, Job, LIMIT, Pair};

const MIB: u64 = 1 << 20;

/// Below this an agent stays, whatever it copies.
const MEMORY_MAX: u64 = 256 * MIB;

/// One agent with sixteen slots.
async fn one_agent() -> Fleet {
    let builder = Convoy::builder().coordinators(1).tls().agent_with_slots("mover", 16);
    Fleet { convoy: builder.start().await.unwrap() }
}

/// What the agent took at most.
fn peak(fleet: &Fleet, task: &Task) -> u64 {
    let peak = fleet.convoy.agent("mover").peak_memory_bytes().unwrap();
    eprintln!("{} MiB passed with at most {} MiB of memory", task.bytes_done / MIB, peak / MIB);
    peak
}

/// The same; it must be little.
fn checked_peak(fleet: &Fleet, task: &Task) {
    let peak = peak(fleet, task);
    assert!(peak < MEMORY_MAX, "{peak} bytes");
}

#[tokio::test]
async fn soak_sixteen_shards_of_wide_rows_at_once_fit_into_256_mib() {
    let pair = Pair::new(Gate::SCHEMA).await;
    // Every second row stops at the gate, as long as it is shut.
    let wide = "create table public.wide (no int primary key check (public.pass(no * 2500)), words text);
        alter table public.wide alter words set storage external;
        insert into public.wide select no, repeat(md5(no::text), 32 * 1024) from generate_series(1, 384) no";
    pair.source.sql(DATABASE, wide).await.unwrap();
    let fleet = one_agent().await;
    let gate = Gate::shut(&pair.destination).await;
    let rest = "objects: { include: [public.wide] }\ncopy: { jobs: 16, shard_size: 26MiB, snapshot: shard }";
    let job = fleet.begin(&pair.task_file("wide", rest)).await;
    gate.waiting(16, LIMIT).await;
    gate.open().await;
    let task = job.ended().await;
    assert_eq!((task.rows_done, task.tables[0].shards), (384, 16));
    checked_peak(&fleet, &task);
}

#[tokio::test]
async fn soak_a_value_of_500_mb_passes() {
    let pair = Pair::of(
        Options::default(),
        Options::default(),
        "create table public.long (no int primary key, words text, bytes bytea);
         alter table public.long alter words set storage external, alter bytes set storage external;
         insert into public.long values (1, repeat('0123456789', 50000000));
         insert into public.long select 2, null, pg_catalog.convert_to(words, 'UTF8') from public.long",
    )
    .await;
    let fleet = one_agent().await;
    let job = fleet.begin(&pair.task_file("long", "copy: { jobs: 2 }")).await;
    let task = job.ended().await;
    let query = "select string_agg(no || ' ' || md5(coalesce(words, '')) || ' ' || md5(coalesce(bytes, ''::bytea)), '; ' order by no)
                 from public.long";
    let source = pair.source.value(DATABASE, query).await.unwrap().unwrap();
    assert_eq!(pair.destination.value(DATABASE, query).await.unwrap(), Some(source));
    assert!(task.bytes_done >= 1_000_000_000, "{}", task.bytes_done);
    checked_peak(&fleet, &task);
}

/// Moves a source, does this to it, and waits until that has arrived; the most memory that the agent took meanwhile.
async fn followed(schema: &str, change: &str, content: &str) -> u64 {
    let pair = Pair::new(schema).await;
    let fleet = one_agent().await;
    let task = pair.task_file("followed", "types: [schema, full, incremental]");
    let job: Job<'_> = fleet.begin(&task).await;
    job.until("the source to be followed", |task| task.phase() == Phase::Stream).await;
    pair.source.sql(DATABASE, change).await.unwrap();
    let flushed = "select pg_current_wal_flush_lsn() - '0/0'::pg_lsn";
    let flushed = pair.source.value(DATABASE, flushed).await.unwrap().unwrap();
    let flushed: u64 = flushed.parse().unwrap();
    let task = job
        .until("the change to have arrived", |task| {
            let progress = task.stream.as_ref().and_then(|stream| stream.progress.as_ref());
            progress.is_some_and(|progress| progress.applied >= flushed)
        })
        .await;
    let source = pair.source.value(DATABASE, content).await.unwrap();
    assert_eq!(pair.destination.value(DATABASE, content).await.unwrap(), source);
    peak(&fleet, &task)
}

#[tokio::test]
async fn soak_a_transaction_of_two_million_changes_is_followed() {
    let peak = followed(
        "create table public.large (id int primary key, number int, words text);
         insert into public.large select no, 0, md5(no::text) from generate_series(1, 1000000) no",
        "begin; update public.large set number = number + 1;
         insert into public.large select no, 0, md5(no::text) from generate_series(1000001, 1500000) no;
         delete from public.large where id <= 500000; commit",
        "select count(*) || ' ' || sum(hashtextextended(l::text, 0)) from public.large l",
    )
    .await;
    assert!(peak < MEMORY_MAX, "{peak} bytes");
}

/// More than any buffer of a server may hold: it goes through files.
#[tokio::test]
async fn soak_a_transaction_of_1300_mb_is_followed() {
    let peak = followed(
        "create table public.wide (no int primary key, words text);
         alter table public.wide alter words set storage external",
        "insert into public.wide select no, repeat(md5(no::text), 3125) from generate_series(1, 13000) no",
        "select count(*) || ' ' || sum(hashtextextended(words, no)) from public.wide",
    )
    .await;
    assert!(peak < MEMORY_MAX, "{peak} bytes");
}

/// A value that comes in the stream is held whole three times: as it came, as it is sent, and in the driver's buffer; and not
/// more often for the rows beside it.
#[tokio::test]
async fn soak_an_update_to_a_value_of_300_mb_is_followed() {
    let value = 300_000_000;
    let peak = followed(
        "create table public.long (no int primary key, words text);
         alter table public.long alter words set storage external;
         insert into public.long values (1, 'short'), (2, 'short')",
        "update public.long set words = repeat('0123456789', 30000000) where no = 1",
        "select string_agg(no || ' ' || md5(words), '; ' order by no) from public.long",
    )
    .await;
    assert!(peak < 7 * value / 2, "{peak} bytes");
}
