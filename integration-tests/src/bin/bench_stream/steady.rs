//! A steady load: how far behind is who follows it?
//!
//! The machine is one for all: what native replication bears at best is found by letting pgbench do what it can while a
//! subscription follows. Seven tenths of that are the load then.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use pgconvoy_integration_tests::bench::median;
use tokio_postgres::Client;

use super::arena::{Arena, Follower};

/// How often the source does what is looked for at the destination.
const BEAT: Duration = Duration::from_millis(20);

/// For one of ours to end when it is asked to.
const END: Duration = Duration::from_secs(60);

/// Of native's best rate.
const LOAD: f64 = 0.7;

pub(crate) async fn run(arena: &mut Arena, seconds: u32) -> anyhow::Result<()> {
    let best = best_of_native(arena, seconds).await?;
    let rate = (best * LOAD).round();
    println!(
        "\nSteady load: native bears {best:.0} transactions a second, so {rate:.0} are the load for {seconds} s\n"
    );
    println!("| steady load | transactions a second | median lag | at most |");
    println!("| --- | --- | --- | --- |");
    for follower in [Follower::Native, Follower::Near] {
        let following = match follower {
            Follower::Native => None,
            Follower::Near | Follower::Far => Some(arena.follow()?),
        };
        if following.is_none() {
            arena.switch_native(true).await?;
        }
        let mark = arena.mark().await?;
        arena.marked(follower, mark).await?;

        let before = arena.transactions().await?;
        let (source, destination) = (arena.source().await?, arena.destination(follower).await?);
        // A little longer than it is looked at.
        let [longer, load] = [f64::from(seconds) + 5.0, rate].map(|figure| figure.to_string());
        let load = ["--time", &longer, "--rate", &load];
        let began = Instant::now();
        let lags = tokio::select! {
            done = arena.pgbench(&load) => { done?; Vec::new() }
            lags = lags(&source, &destination, Duration::from_secs(seconds.into())) => lags?,
        };
        ensure!(!lags.is_empty(), "pgbench ended early");
        let reached = (arena.transactions().await? - before) as f64 / began.elapsed().as_secs_f64();
        match following {
            Some(process) => drop(process.terminate(Signal::SIGINT, END).await?),
            None => arena.switch_native(false).await?,
        }
        let most = lags.iter().copied().fold(0.0, f64::max);
        println!("| {follower} | {reached:.0} | {:.3} s | {most:.3} s |", median(lags));
    }
    Ok(())
}

/// Transactions a second, from the first until the subscription has the last.
async fn best_of_native(arena: &mut Arena, seconds: u32) -> anyhow::Result<f64> {
    arena.switch_native(true).await?;
    let mark = arena.mark().await?;
    arena.marked(Follower::Native, mark).await?;
    let (before, began) = (arena.transactions().await?, Instant::now());
    arena.pgbench(&["--time", &seconds.to_string()]).await?;
    let mark = arena.mark().await?;
    arena.marked(Follower::Native, mark).await?;
    let elapsed = began.elapsed().as_secs_f64();
    arena.switch_native(false).await?;
    Ok((arena.transactions().await? - before) as f64 / elapsed)
}

/// Ages of the oldest beat that is not at the destination yet, in seconds; zero where all are.
async fn lags(source: &Client, destination: &Client, time: Duration) -> anyhow::Result<Vec<f64>> {
    let beat = source.prepare("update beat set no = $1").await?;
    let seen = destination.prepare("select no from public.beat").await?;
    let first: i64 = source.query_one("select no from beat", &[]).await?.get(0);
    let began = Instant::now();
    let mut beats = Vec::new();
    let mut lags = Vec::new();
    let mut times = tokio::time::interval(BEAT);
    times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while began.elapsed() < time {
        times.tick().await;
        let no = first + 1 + i64::try_from(beats.len())?;
        source.execute(&beat, &[&no]).await?;
        beats.push(Instant::now());
        let at: i64 = destination.query_one(&seen, &[]).await?.get(0);
        let oldest =
            usize::try_from(at - first).context("the destination lags behind an older load")?;
        lags.push(beats.get(oldest).map_or(0.0, |beat| beat.elapsed().as_secs_f64()));
    }
    Ok(lags)
}
