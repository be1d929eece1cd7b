//! A migration that is ended in the middle goes on with the same command, and no row is lost or doubled.

use nix::sys::signal::Signal;
use pgconvoy_integration_tests::process::Process;

use crate::world::{Gate, LIMIT, Ledger, Mover, Pair, told};

/// A migration whose large table stands half-way.
async fn half_way(pair: &Pair) -> (Process, Gate) {
    let gate = Gate::shut(&pair.destination).await;
    let process = Process::start("migrate", migrate(pair), &pair.path("")).unwrap();
    gate.waiting(4, LIMIT).await;
    (process, gate)
}

fn migrate(pair: &Pair) -> pgconvoy_integration_tests::process::Program {
    let file = pair.task_file("half", Gate::COPY);
    pair.command("migrate").args(["--yes", "-f"]).arg(file)
}

async fn goes_on(pair: &Pair, gate: Gate) {
    gate.open().await;
    let finished = migrate(pair).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    let compared = pair.same().await;
    assert_eq!(compared.rows, 21_000);
}

#[tokio::test]
async fn after_an_interrupt_the_same_command_goes_on() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let (process, gate) = half_way(&pair).await;
    let status = process.terminate(Signal::SIGINT, LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(130), "{}", process.log());
    assert!(process.log().contains("run the same command again"), "{}", process.log());
    goes_on(&pair, gate).await;
}

#[tokio::test]
async fn after_a_kill_it_goes_on_with_the_password_that_holds_now() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let mover = Mover::of(&pair).await;
    let migrate = || {
        let file = mover.task_file("half", Gate::COPY);
        pair.command("migrate").args(["--yes", "-f"]).arg(file)
    };
    let gate = Gate::shut(&pair.destination).await;
    let process = Process::start("migrate", migrate(), &pair.path("")).unwrap();
    gate.waiting(4, LIMIT).await;
    process.kill().unwrap();
    mover.change_password("second-otter").await;
    gate.open().await;
    let finished = migrate().run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    pair.same().await;
}

#[tokio::test]
async fn after_a_kill_the_same_command_goes_on() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let (process, gate) = half_way(&pair).await;
    process.kill().unwrap();
    goes_on(&pair, gate).await;
}

#[tokio::test]
async fn a_crash_of_the_source_or_of_the_destination_is_waited_out() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let (process, gate) = half_way(&pair).await;
    pair.destination.stop_immediate().unwrap();
    drop(gate);
    pair.destination.start_again().await.unwrap();
    let gate = Gate::shut(&pair.destination).await;
    gate.waiting(1, LIMIT).await;
    pair.source.stop_immediate().unwrap();
    pair.source.start_again().await.unwrap();
    gate.open().await;
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", process.log());
    pair.same().await;
}

#[tokio::test]
async fn killed_again_and_again_it_arrives_in_the_end() {
    let pair = Pair::bare(Default::default(), Default::default()).await;
    pgconvoy_integration_tests::shop::build(&pair.source, crate::world::DATABASE, 0.002)
        .await
        .unwrap();
    let process = Process::start("migrate", pair.migrate(), &pair.path("")).unwrap();
    // Each life a little longer than the one before, so that each phase has its turn to be cut short.
    for life in 1..=12_u64 {
        let limit = std::time::Duration::from_millis(life * 250);
        if let Ok(status) = process.wait(limit).await {
            assert_eq!(status.code(), Some(0), "{}", process.log());
            break;
        }
        process.kill().unwrap();
        process.start_again().unwrap();
    }
    if process.pid().is_ok() {
        let status = process.wait(LIMIT).await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", process.log());
    }
    pair.same().await;
}

#[tokio::test]
async fn rows_show_one_moment_of_a_source_that_is_written_to() {
    let pair = Pair::new(Ledger::SCHEMA).await;
    let ledger = Ledger::begin(&pair.source).await;
    Ledger::more(&pair.source, 200).await;
    let file = pair.task_file("busy", "copy: { jobs: 4, shard_size: 1MiB }");
    let command = pair.command("migrate").args(["--agents", "2", "--yes", "-f"]).arg(file);
    let finished = command.run(LIMIT).await.unwrap();
    let later = Ledger::payments(&pair.source).await;
    ledger.end().await;
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    pair.left_nothing().await;
    let moment = Ledger::one_moment(&pair).await;
    assert!((200..later).contains(&moment), "{moment} payments of {later}");
}
