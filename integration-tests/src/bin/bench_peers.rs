//! How fast pgconvoy is beside other ways to do the same: `cargo x bench peers`.
//!
//! All run on the same data between the same two throw-away servers, which write durably, in turn, several rounds; each is
//! one command, timed from its start to its end. Told are medians, as a table in Markdown.
#![expect(clippy::print_stdout, reason = "figures for people are what it makes")]

use anyhow::ensure;
use clap::Parser;
use pgconvoy_integration_tests::bench::{Ends, Timed, median};
use pgconvoy_integration_tests::process::Program;

/// All tables of pgbench, with their keys.
const WHOLE: &str = "bench";
/// The largest of them alone, without its key.
const TABLE: &str = "one_table";

/// Times pgconvoy beside pgcopydb, pg_dump with pg_restore, and pipes of psql.
#[derive(Debug, Parser)]
#[command(name = "bench_peers")]
struct Arguments {
    /// pgbench's scale; 100 is 1.5 GB.
    #[arg(long, default_value_t = 100)]
    scale: u32,
    /// How often each of them runs.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only those whose name begins so.
    #[arg(long, default_value = "")]
    only: String,
}

/// Somebody who moves a database.
struct Contender {
    name: &'static str,
    database: &'static str,
    program: Program,
    runs: Vec<Timed>,
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(Arguments::parse()))
}

async fn run(Arguments { scale, rounds, only }: Arguments) -> anyhow::Result<()> {
    ensure!(rounds > 0, "no rounds, no figures");
    let ends = Ends::start(WHOLE).await?;
    let size = ends.fill(WHOLE, scale, "dtgvp").await?;
    ends.source.create_database(TABLE).await?;
    let of_one = ends.fill(TABLE, scale, "dtgv").await?;
    let others = "drop table pgbench_tellers, pgbench_branches, pgbench_history";
    ends.source.sql(TABLE, others).await?;
    let definition = ends.path("definition.sql");
    std::fs::write(&definition, ends.source.pg_dump_schema(TABLE).await?)?;

    let mut contenders = contenders(&ends)?;
    contenders.retain(|contender| contender.name.starts_with(&only));
    // The first one pays for what a server keeps then, such as files for its log: one that does not count.
    for round in 0..=rounds {
        for contender in contenders.iter_mut().take(if round == 0 { 1 } else { usize::MAX }) {
            ends.anew(contender.database).await?;
            if contender.database == TABLE {
                ends.destination.psql_file(TABLE, &definition).await?;
            }
            for used in ["data", "dump", "pgcopydb"] {
                remove(&ends.path(used))?;
            }
            let timed = ends.timed(contender.program.clone()).await?;
            eprintln!("round {round}: {:40} {:6.1} s", contender.name, timed.seconds);
            if round > 0 {
                contender.runs.push(timed);
            }
        }
    }
    println!("pgbench, scale {scale}; medians of {rounds} rounds in turn");
    for (database, title) in [
        (WHOLE, format!("{size}: schema, rows, keys, analyze; two jobs")),
        (TABLE, format!("one table of {of_one} without keys: rows; one job")),
    ] {
        table(&title, contenders.iter().filter(|contender| contender.database == database));
    }
    Ok(())
}

fn contenders(ends: &Ends) -> anyhow::Result<Vec<Contender>> {
    let urls = |database| [ends.url(&ends.source, database), ends.url(&ends.destination, database)];
    let shell = |script: String| {
        ends.program(Program::at("bash")).args(["-o", "pipefail", "-e", "-c", &script])
    };
    let ([source, destination], [one, another]) = (urls(WHOLE), urls(TABLE));
    let (dump, pgcopydb) = (ends.path("dump"), ends.path("pgcopydb"));
    let (dump, pgcopydb) = (dump.display(), pgcopydb.display());
    let pipe = |options: &str| {
        shell(format!(
            "psql -Xqd '{one}' -c 'copy pgbench_accounts to stdout {options}' \
             | psql -Xqd '{another}' -c 'copy pgbench_accounts from stdin {options}'"
        ))
    };
    let entries = [
        ("pgconvoy migrate", WHOLE, ends.pgconvoy("migrate", WHOLE)?.args(["--jobs", "2"])),
        (
            "pgcopydb clone",
            WHOLE,
            shell(format!(
                "pgcopydb clone --source '{source}' --target '{destination}' --dir {pgcopydb} \
                 --table-jobs 2 --index-jobs 2"
            )),
        ),
        (
            "pg_dump, pg_restore, vacuumdb",
            WHOLE,
            shell(format!(
                "pg_dump -Fd -j 2 --compress 0 -f {dump} -d '{source}'
                 pg_restore -j 2 -d '{destination}' {dump}
                 vacuumdb --analyze-only -j 2 -d '{destination}'"
            )),
        ),
        (
            "pgconvoy migrate, one table",
            TABLE,
            ends.pgconvoy("migrate", TABLE)?.args(["--jobs", "1", "--types", "full"]),
        ),
        ("psql | psql, binary", TABLE, pipe("(format binary)")),
        ("psql | psql, text", TABLE, pipe("")),
    ];
    let entries = entries.map(|(name, database, program)| Contender {
        name,
        database,
        program,
        runs: Vec::new(),
    });
    Ok(entries.into())
}

fn table<'a>(title: &str, contenders: impl Iterator<Item = &'a Contender>) {
    println!("\n| {title} | seconds | of ours | own processor time | the servers' |");
    println!("| --- | --- | --- | --- | --- |");
    let mut ours = None;
    for Contender { name, runs, .. } in contenders {
        let [seconds, own, servers] = [
            median(runs.iter().map(|run| run.seconds)),
            median(runs.iter().map(|run| run.own)),
            median(runs.iter().map(|run| run.servers)),
        ];
        let ratio = seconds / *ours.get_or_insert(seconds);
        let share = own / (own + servers) * 100.0;
        println!(
            "| {name} | {seconds:.1} | {ratio:.2} | {own:.1} s, {share:.0} % | {servers:.1} s |"
        );
    }
}

fn remove(path: &std::path::Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
