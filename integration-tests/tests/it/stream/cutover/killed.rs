//! Whoever dies while a cutover is at a step, it is done or undone, and never between.

use std::sync::atomic::Ordering;

use pgconvoy_integration_tests::process::Process;
use pgconvoy_proto::v1::TaskStatus;
use serde_json::Value;

use super::{
    SCHEMA, Writer, following, held_at, is_followed, is_over, migration_held_at_its_switch,
    read_only_by_default, server_of, until_blocked,
};
use crate::stream::parked::task;
use crate::world::{Fleet, LIMIT, Pair, told};

/// Who is killed while a cutover is at a step.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    /// Which does the step.
    Agent,
    Leader,
    /// The command that asked for it.
    Client,
}

/// Whatever is killed, at whatever step, the cutover is done or undone.
async fn killed_at_each_step(victim: Victim) {
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    for step in ["compare", "ready", "look", "fence", "prove", "again", "switch"] {
        let pair = Pair::new(SCHEMA).await;
        let name = format!("shop-{step}");
        let job = following(&fleet, &pair, &name).await;
        let writer = Writer::begin(&pair.source).await;
        job.until("somebody to have written", |_| writer.count() > 100).await;
        let id = job.task().await.id;
        // Comparing reads what these hold, too.
        let before = match step {
            "look" => Some("ready"),
            "again" => Some("fence"),
            _ => None,
        };
        let (mut lock, waiting) = held_at(&pair, &id, before.unwrap_or(step)).await;
        let command = ["task", "cutover", &name, "--fence", "--check-budget", "50s"];
        let cutover = fleet.convoy.cli(command).unwrap();
        let client = Process::start("cutover", cutover, &pair.path("")).unwrap();
        until_blocked(server_of(&pair, before.unwrap_or(step)), &waiting, &client).await;
        if before.is_some() {
            let (next, waiting) = held_at(&pair, &id, step).await;
            std::mem::replace(&mut lock, next).batch_execute("rollback").await.unwrap();
            until_blocked(server_of(&pair, step), &waiting, &client).await;
        }
        match victim {
            Victim::Agent => {
                let task = job.task().await;
                let kind = if step == "compare" { "verify_plan" } else { "cutover" };
                let at_work = task.running.iter().find(|unit| unit.kind == kind).unwrap();
                let agent = fleet.convoy.agent(&at_work.agent);
                agent.kill().unwrap();
                lock.batch_execute("rollback").await.unwrap();
                job.until("another one to do it", is_over).await;
                agent.start_again().unwrap();
            }
            Victim::Leader => {
                let leader = fleet.convoy.leader().await.unwrap();
                let leader = fleet.convoy.coordinator(leader).process();
                leader.kill().unwrap();
                lock.batch_execute("rollback").await.unwrap();
                job.until("the next leader to bring it to its end", is_over).await;
                leader.start_again().unwrap();
            }
            Victim::Client => {
                client.kill().unwrap();
                lock.batch_execute("rollback").await.unwrap();
            }
        }
        let outcome = job.until("the cutover to be over", is_over).await.cutover.unwrap().outcome;
        if victim != Victim::Client {
            let exit = client.wait(LIMIT).await.unwrap().code();
            assert_eq!(exit, Some(i32::from(outcome != "done")), "{step}: {}", client.log());
        }
        if outcome == "done" {
            job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
            assert!(read_only_by_default(&pair.source).await);
            writer.work.await.unwrap();
            let arrived = pair.count("select count(*) from ledger").await;
            let acknowledged = writer.acknowledged.load(Ordering::SeqCst);
            assert!((acknowledged..=acknowledged + 1).contains(&arrived), "{arrived}");
            pair.same().await;
        } else {
            assert_eq!((victim == Victim::Client, outcome.as_str()), (false, "undone"), "{step}");
            assert!(!read_only_by_default(&pair.source).await);
            job.until("it to follow", is_followed).await;
            fleet.ok(&["task", "cancel", &name]).await;
        }
    }
}

#[tokio::test]
async fn cluster_an_agent_dies_and_its_cutover_is_done_or_undone() {
    killed_at_each_step(Victim::Agent).await;
}

#[tokio::test]
async fn cluster_a_leader_dies_and_the_cutover_is_done_or_undone() {
    killed_at_each_step(Victim::Leader).await;
}

#[tokio::test]
async fn cluster_the_command_dies_and_its_cutover_is_done() {
    killed_at_each_step(Victim::Client).await;
}

/// No process is left that knows of the fence: what is kept tells of it, and whoever goes on brings the cutover to its end.
#[tokio::test]
async fn a_migration_that_is_killed_behind_its_fence_tells_what_lifts_it() {
    let pair = Pair::new(SCHEMA).await;
    let until = |goal: &'static [&'static str]| {
        pair.migrate().args(["--types", "schema,full,incremental", "--until"]).args(goal)
    };
    let migrate = until(&["cutover", "--fence"]);
    let (lock, process) = migration_held_at_its_switch(&pair, migrate).await;
    process.kill().unwrap();
    assert!(read_only_by_default(&pair.source).await);
    let shown = task(&pair, &["show"]).await;
    assert!(shown.stdout.contains("the source is fenced"), "{}", told(&shown));
    assert!(shown.log.contains("run the same `pgconvoy migrate` again"), "{}", told(&shown));
    let shown = task(&pair, &["show", "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let cutover = &shown["cutover"];
    let lifts = cutover["lifts_fence"].as_str().unwrap();
    assert!(lifts.contains("reset default_transaction_read_only"), "{cutover}");
    assert!(cutover["fenced_at"].is_string(), "{cutover}");

    lock.batch_execute("rollback").await.unwrap();
    let finished = until(&["in-sync"]).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    let shown = task(&pair, &["show"]).await;
    let over = ["cutover: done", "cutover: undone"].map(|over| shown.stdout.contains(over));
    assert_eq!(over, [read_only_by_default(&pair.source).await, !over[0]], "{}", told(&shown));
    assert!(!shown.log.contains("a cutover is under way"), "{}", told(&shown));
}
