//! What distance costs: `cargo x bench far`.
//!
//! One large table moves between two throw-away servers that write durably, in turn, several rounds: by one command that
//! reaches both over links, and by a cluster with a pair of agents of two sites, which have a link between them. A link is
//! a process of ours that holds bytes up, and costs processor time itself, so what is compared with a long link is a
//! link of no length.
#![expect(clippy::print_stdout, reason = "figures for people are what it makes")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use pgconvoy_integration_tests::bench::{Ends, median, remove};
use pgconvoy_integration_tests::convoy::Convoy;
use pgconvoy_integration_tests::net::Link;
use pgconvoy_integration_tests::postgres::{PASSWORD, Postgres, SUPERUSER};
use pgconvoy_proto::v1::TaskStatus;

const DATABASE: &str = "far";
/// Half of the 20 ms there and back.
const LATENCY: Duration = Duration::from_millis(10);
/// More than the servers can fill.
const WIDE: u64 = 1_250_000_000;
/// 50 Mbit/s.
const NARROW: u64 = 6_250_000;
/// For one run.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Times pgconvoy over ways of no length, of 20 ms there and back, and of 50 Mbit/s.
#[derive(Debug, Parser)]
#[command(name = "bench_far")]
struct Arguments {
    /// pgbench's scale; 100 is a table of 1.3 GB.
    #[arg(long, default_value_t = 100)]
    scale: u32,
    /// How often each way is gone.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// From one end to the other.
struct Way {
    name: &'static str,
    sites: Option<[&'static str; 2]>,
    latency: Duration,
    bytes_per_second: u64,
    /// Whether it is what those after it are compared with.
    is_short: bool,
    seconds: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(Arguments::parse()))
}

async fn run(Arguments { scale, rounds }: Arguments) -> anyhow::Result<()> {
    ensure!(rounds > 0, "no rounds, no figures");
    let ends = Ends::start(DATABASE).await?;
    let definition = ends.path("definition.sql");
    let size = ends.fill_table(DATABASE, scale, &definition).await?;
    let mut ways = ways();
    let mut builder = Convoy::builder().coordinators(1).tls();
    for way in &ways {
        if let Some([near_source, near_destination]) = way.sites {
            for site in [near_source, near_destination] {
                builder = builder.agent_far(site, site, way.latency, way.bytes_per_second);
            }
        }
    }
    let convoy = builder.start().await?;
    let mut rows = 0;
    // The first one pays for what a server keeps then, such as files for its log: one that does not count.
    for round in 0..=rounds {
        for way in ways.iter_mut().take(if round == 0 { 1 } else { usize::MAX }) {
            ends.anew(DATABASE).await?;
            ends.destination.psql_file(DATABASE, &definition).await?;
            remove(&ends.path("data"))?;
            let (seconds, bytes) = match way.sites {
                None => (directly(&ends, way).await?, None),
                Some(sites) => {
                    let name = format!("far-{round}-{}", sites[0]);
                    let (seconds, bytes) = relayed(&ends, &convoy, &name, sites).await?;
                    (seconds, Some(bytes))
                }
            };
            rows = bytes.unwrap_or(rows);
            eprintln!("round {round}: {:40} {seconds:6.1} s", way.name);
            if round > 0 {
                way.seconds.push(seconds);
            }
        }
    }
    println!("pgbench, scale {scale}; medians of {rounds} rounds in turn");
    println!("\n| a table of {size}, two jobs | seconds | of the short way | rows a second |");
    println!("| --- | --- | --- | --- |");
    let mut short = 0.0;
    for Way { name, seconds, is_short, .. } in ways {
        let seconds = median(seconds);
        if is_short {
            short = seconds;
        }
        let (ratio, rate) = (seconds / short, rows as f64 / seconds / 1e6);
        println!("| {name} | {seconds:.1} | {ratio:.2} | {rate:.1} MB |");
    }
    Ok(())
}

fn ways() -> [Way; 5] {
    let way = |name, sites, latency, bytes_per_second| Way {
        name,
        sites,
        latency,
        bytes_per_second,
        is_short: latency == Duration::ZERO,
        seconds: Vec::new(),
    };
    let near = Duration::ZERO;
    [
        way("directly", None, near, WIDE),
        way("directly, 20 ms", None, LATENCY, WIDE),
        way("between two sites", Some(["s-near", "d-near"]), near, WIDE),
        way("between two sites, 20 ms", Some(["s-far", "d-far"]), LATENCY, WIDE),
        way("between two sites, 20 ms, 50 Mbit/s", Some(["s-thin", "d-thin"]), LATENCY, NARROW),
    ]
}

/// By one command that reaches both servers over links.
async fn directly(ends: &Ends, way: &Way) -> anyhow::Result<f64> {
    let link = async |server: &Postgres| {
        let address = SocketAddr::from(([127, 0, 0, 1], server.port()));
        Link::to(address, way.latency, way.bytes_per_second).await
    };
    let links = [link(&ends.source).await?, link(&ends.destination).await?];
    let [source, destination] = links
        .each_ref()
        .map(|link| format!("postgres://{SUPERUSER}@{}/{DATABASE}", link.address()));
    let program = ends.pgconvoy_between("migrate", "data", &source, &destination)?;
    let timed = ends.timed(program.args(["--jobs", "2", "--types", "full"])).await?;
    Ok(timed.seconds)
}

/// By two agents, each near one server; seconds, and bytes of the rows.
async fn relayed(
    ends: &Ends,
    convoy: &Convoy,
    name: &str,
    [near_source, near_destination]: [&str; 2],
) -> anyhow::Result<(f64, u64)> {
    let end = |server, site| {
        let url = ends.url(server, DATABASE);
        format!("{{ url: \"{url}\", password: {{ env: BENCH_PASSWORD }}, site: {site} }}")
    };
    let (source, destination) =
        (end(&ends.source, near_source), end(&ends.destination, near_destination));
    let file = ends.path(&format!("{name}.yaml"));
    let copy = "types: [full]\ncopy: { jobs: 2 }";
    let text = format!("name: {name}\nsource: {source}\ndestination: {destination}\n{copy}\n");
    std::fs::write(&file, text)?;
    let began = Instant::now();
    let create = convoy.cli(["task", "create", "--start", "--yes"])?.arg("-f").arg(&file);
    let created = create.env("BENCH_PASSWORD", PASSWORD).run(LIMIT).await?.success()?;
    let done = |task: &pgconvoy_proto::v1::Task| task.status() == TaskStatus::Done;
    let task = convoy.task_until(created.trim(), LIMIT, "its end", done).await?;
    let seconds = began.elapsed().as_secs_f64();
    let tables = task.tables.iter();
    let bytes = tables.map(|table| table.bytes_done).reduce(|a, b| a + b);
    Ok((seconds, bytes.context("a task without a table")?))
}
