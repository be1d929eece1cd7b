//! How fast pgconvoy is beside other ways to do the same: `cargo x bench peers`.
//!
//! All run on the same data between the same two throw-away servers, which write durably, in turn, several rounds; each is
//! one command, timed from its start to its end. Told are medians, as a table in Markdown.
#![expect(clippy::print_stdout, reason = "figures for people are what it makes")]

use anyhow::ensure;
use clap::Parser;
use pgconvoy_integration_tests::bench::{Ends, Timed, median, remove};
use pgconvoy_integration_tests::postgres::Regression;
use pgconvoy_integration_tests::process::Program;

/// All tables of pgbench, with their keys.
const WHOLE: &str = "pgbench";
/// The largest of them alone, without its key.
const TABLE: &str = "table";
/// What PostgreSQL's own tests leave behind.
const ODD: &str = Regression::DATABASE;

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
    /// Only those who move this.
    #[arg(long, value_parser = [WHOLE, TABLE, ODD])]
    only: Option<String>,
}

/// Somebody who moves a database.
struct Contender<'a> {
    name: &'static str,
    ends: &'a Ends,
    database: &'static str,
    program: Program,
    runs: Vec<Timed>,
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(Arguments::parse()))
}

async fn run(Arguments { scale, rounds, only }: Arguments) -> anyhow::Result<()> {
    ensure!(rounds > 0, "no rounds, no figures");
    let wanted = |database: &str| only.as_deref().is_none_or(|only| only == database);
    let ends = Ends::start(WHOLE).await?;
    let odd = match Regression::found() {
        Ok(regression) => Some(Ends::with_regression(regression).await?),
        Err(why) => {
            eprintln!("left out: {why}");
            None
        }
    };
    let definition = ends.path("definition.sql");
    let (mut contenders, mut titles) = (Vec::new(), Vec::new());
    if wanted(WHOLE) {
        let size = ends.fill(WHOLE, scale, "dtgvp").await?;
        titles.push((WHOLE, format!("pgbench, {size}: schema, rows, keys, analyze; two jobs")));
        contenders.extend(whole_databases(&ends, WHOLE)?);
    }
    if wanted(TABLE) {
        ends.source.create_database(TABLE).await?;
        let size = ends.fill_table(TABLE, scale, &definition).await?;
        titles.push((TABLE, format!("its largest table, {size} without the key: rows; one job")));
        contenders.extend(of_one_table(&ends)?);
    }
    if let Some(odd) = odd.as_ref().filter(|_| wanted(ODD)) {
        titles.push((ODD, "PostgreSQL's regression database: all; two jobs".to_owned()));
        contenders.extend(whole_databases(odd, ODD)?.into_iter().take(2));
    }
    // The first one pays for what a server keeps then, such as files for its log: one that does not count.
    for round in 0..=rounds {
        for contender in contenders.iter_mut().take(if round == 0 { 1 } else { usize::MAX }) {
            let ends = contender.ends;
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
    for (database, title) in titles {
        table(&title, contenders.iter().filter(|contender| contender.database == database));
    }
    Ok(())
}

/// Those who move one table.
fn of_one_table(ends: &Ends) -> anyhow::Result<[Contender<'_>; 3]> {
    let [one, another] = urls(ends, TABLE);
    let pipe = |options: &str| {
        let script = format!(
            "psql -Xqd '{one}' -c 'copy pgbench_accounts to stdout {options}' \
             | psql -Xqd '{another}' -c 'copy pgbench_accounts from stdin {options}'"
        );
        shell(ends, &script)
    };
    let ours = ends.pgconvoy("migrate", TABLE)?.args(["--jobs", "1", "--types", "full"]);
    Ok([
        contender("pgconvoy migrate --types full", ends, TABLE, ours),
        contender("psql | psql, binary", ends, TABLE, pipe("(format binary)")),
        contender("psql | psql, text", ends, TABLE, pipe("")),
    ])
}

/// Those who move a whole database.
fn whole_databases<'a>(
    ends: &'a Ends,
    database: &'static str,
) -> anyhow::Result<[Contender<'a>; 3]> {
    let [source, destination] = urls(ends, database);
    let (dump, pgcopydb) = (ends.path("dump"), ends.path("pgcopydb"));
    let (dump, pgcopydb) = (dump.display(), pgcopydb.display());
    let pgcopydb = format!(
        "pgcopydb clone --source '{source}' --target '{destination}' --dir {pgcopydb} \
         --table-jobs 2 --index-jobs 2"
    );
    let dump = format!(
        "pg_dump -Fd -j 2 --compress 0 -f {dump} -d '{source}'
         pg_restore -j 2 -d '{destination}' {dump}
         vacuumdb --analyze-only -j 2 -d '{destination}'"
    );
    let ours = ends.pgconvoy("migrate", database)?.args(["--jobs", "2"]);
    Ok([
        contender("pgconvoy migrate", ends, database, ours),
        contender("pgcopydb clone", ends, database, shell(ends, &pgcopydb)),
        contender("pg_dump, pg_restore, vacuumdb", ends, database, shell(ends, &dump)),
    ])
}

fn contender<'a>(
    name: &'static str,
    ends: &'a Ends,
    database: &'static str,
    program: Program,
) -> Contender<'a> {
    Contender { name, ends, database, program, runs: Vec::new() }
}

fn urls(ends: &Ends, database: &str) -> [String; 2] {
    [&ends.source, &ends.destination].map(|server| ends.url(server, database))
}

fn shell(ends: &Ends, script: &str) -> Program {
    ends.program(Program::at("bash")).args(["-o", "pipefail", "-e", "-c", script])
}

fn table<'a>(title: &str, contenders: impl Iterator<Item = &'a Contender<'a>>) {
    let mut contenders = contenders.peekable();
    if contenders.peek().is_none() {
        return;
    }
    println!("\n| {title} | seconds | of ours | own processor time | the servers' |");
    println!("| --- | --- | --- | --- | --- |");
    let mut ours = None;
    for Contender { name, runs, .. } in contenders {
        let of = |figure: fn(&Timed) -> f64| median(runs.iter().map(figure));
        let [seconds, own, servers] =
            [of(|run| run.seconds), of(|run| run.own), of(|run| run.servers)];
        let ratio = seconds / *ours.get_or_insert(seconds);
        let share = own / (own + servers) * 100.0;
        println!(
            "| {name} | {seconds:.1} | {ratio:.2} | {own:.1} s, {share:.0} % | {servers:.1} s |"
        );
    }
}
