//! How fast changes are applied, beside PostgreSQL's own logical replication: `cargo x bench stream`.
//!
//! One source is followed by several at once, each into a database of its own on one destination server; both servers write
//! durably. What the source did meanwhile they catch up with one after the other, in turn: each is timed from its start until
//! a mark, the last thing that the source did, is at the destination (ours: until the command has ended). Told are medians, as
//! tables in Markdown.
#![expect(clippy::print_stdout, reason = "figures for people are what it makes")]

mod arena;
mod steady;

use anyhow::ensure;
use clap::Parser;
use pgconvoy_integration_tests::bench::median;

use arena::{Arena, Caught, Follower};

/// Times pgconvoy beside PostgreSQL's own logical replication.
#[derive(Debug, Parser)]
#[command(name = "bench_stream")]
struct Arguments {
    /// pgbench's scale.
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// How often each of them catches up.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Transactions of pgbench to catch up with.
    #[arg(long, default_value_t = 200_000)]
    transactions: u32,
    /// Changes of rows in one large transaction.
    #[arg(long, default_value_t = 2_000_000)]
    changes: u32,
    /// For how many seconds the steady load lasts.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// The subscription takes large transactions whole, as it does where nothing is said, not while they are in progress.
    #[arg(long)]
    native_whole: bool,
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Many small transactions.
    CatchUp,
    /// One large transaction.
    Large,
    /// Following while the source works.
    Steady,
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(Arguments::parse()))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { scale, rounds, transactions, changes, seconds, native_whole, only } = arguments;
    ensure!(rounds > 0, "no rounds, no figures");
    let wanted = |part| only.is_none_or(|only| only == part);
    let large = if wanted(Part::Large) { changes } else { 0 };
    let mut arena = Arena::start(scale, large, !native_whole).await?;
    if wanted(Part::CatchUp) {
        let title = format!("{transactions} transactions of pgbench, scale {scale}");
        let followers = [Follower::Native, Follower::Near, Follower::Far];
        let caught = turns(&mut arena, &followers, rounds, async |arena| {
            arena.pgbench(&["--transactions", &(transactions / 4).to_string()]).await
        });
        table(&title, transactions, caught.await?);
    }
    if wanted(Part::Large) {
        let title = format!("one transaction of {changes} changes of rows");
        let followers = [Follower::Native, Follower::Near];
        let caught = turns(&mut arena, &followers, rounds, async |arena| arena.large().await);
        table(&title, changes, caught.await?);
    }
    if wanted(Part::Steady) {
        steady::run(&mut arena, seconds).await?;
    }
    arena.same().await
}

/// Lets all of them catch up with the same work, each round another one first.
async fn turns(
    arena: &mut Arena,
    followers: &[Follower],
    rounds: u32,
    work: impl AsyncFn(&Arena) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<(Follower, Vec<Caught>)>> {
    let mut turns: Vec<_> = followers.iter().map(|follower| (*follower, Vec::new())).collect();
    for round in 0..rounds {
        work(arena).await?;
        let mark = arena.mark().await?;
        for (follower, caught) in &mut turns {
            let took = arena.catch_up(*follower, mark).await?;
            eprintln!("round {round}: {follower:40} {:6.2} s", took.seconds);
            caught.push(took);
        }
        // Whoever is in turn finds the files of both servers as the one before left them.
        turns.rotate_left(1);
    }
    turns.sort_by_key(|(follower, _)| *follower);
    Ok(turns)
}

fn table(title: &str, count: u32, turns: Vec<(Follower, Vec<Caught>)>) {
    println!(
        "\n| {title} | seconds | a second | of native | own processor time | the servers' | own memory |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut native = None;
    for (follower, caught) in turns {
        let of = |figure: fn(&Caught) -> f64| median(caught.iter().map(figure));
        let (seconds, servers) = (of(|caught| caught.seconds), of(|caught| caught.servers));
        let ratio = *native.get_or_insert(seconds) / seconds;
        let own = match of(|caught| caught.own) {
            0.0 => "– | ".to_owned(),
            _ => format!("{:.1} s | ", of(|caught| caught.own)),
        };
        let peak = match of(|caught| caught.peak as f64) {
            0.0 => "–".to_owned(),
            peak => format!("{:.0} MiB", peak / f64::from(1 << 20)),
        };
        let rate = f64::from(count) / seconds;
        println!(
            "| {follower} | {seconds:.1} | {rate:.0} | {ratio:.2} | {own}{servers:.1} s | {peak} |"
        );
    }
}
