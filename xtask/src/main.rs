//! `cargo x`: the checks and tasks of the workspace. One command each for what a person or CI does.
//!
//! Everything here only starts cargo and reads files; `check` and `tidy` write nothing.

mod run;
mod teeth;
mod tidy;

use std::process::ExitCode;

use anyhow::bail;

use run::{Step, cargo};

const USAGE: &str = "\
cargo x COMMAND

  check                 what must pass before a commit: format, tidy, clippy, documentation, unit tests
  fix                   formats, and applies what clippy can mend by itself
  tidy                  the rules that no lint holds: edges between crates, banned crates, files, words
  lint                  clippy and documentation, warnings are errors
  test [unit|it|doc]    unit and property tests; integration tests with real servers; doc tests; or all of them
  sim [--seeds N] [--secs S] [--replay SEED]
                        the control plane's simulation: N fixed seeds, then new ones for S seconds; or one again
  fuzz [--rounds N] [--replay SEED]
                        N recorded streams and COPY data, damaged by chance: what reads them answers; or one again
  chaos [--runs N] [--seed SEED]
                        N migrations, one after the other, each under a random schedule of faults; or one again
  chaos --live [--runs N] [--seed SEED] [--secs S]
                        the same over a source that is written to until its cutover: S seconds of faults at least, and
                        no less than 60 s, 8 faults of 4 kinds and 20,000 acknowledged writes
  teeth                 the fault tests, each with a law left out: they must go red
  soak                  the long tests, one at a time
  bench                 the scale bench of state machine and scheduler
  bench peers [OPTIONS]   pgconvoy beside pgcopydb, pg_dump with pg_restore, and pipes of psql (--scale 100, --rounds 3)
  bench far [OPTIONS]     what distance costs: 20 ms to both servers, directly and between two sites, and a narrow way (--scale 100, --rounds 3)
  bench stream [OPTIONS]  following a source beside PostgreSQL's own logical replication (--rounds 3, --only PART)
  bench cutover [OPTIONS] for how long a cutover stops writers (--tables 10,100,1000, --writers 2)
  bench verify [OPTIONS]  what a verification costs beside the copy it checks (--scale 100, --rounds 3)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo x: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["check"] => {
            cargo(&["fmt", "--all", "--check"]).run()?;
            tidy::run()?;
            lint()?;
            unit_tests()
        }
        ["fix"] => {
            cargo(&["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty"]).run()?;
            cargo(&["fmt", "--all"]).run()
        }
        ["tidy"] => tidy::run(),
        ["lint"] => lint(),
        ["test", "unit"] => unit_tests(),
        ["test", "it"] => integration_tests(),
        ["test", "doc"] => doc_tests(),
        ["test"] => {
            unit_tests()?;
            integration_tests()?;
            doc_tests()
        }
        ["sim", options @ ..] => simulate(options),
        ["teeth"] => teeth::run(),
        ["fuzz", options @ ..] => fuzz(options),
        ["chaos", "--live", options @ ..] => chaos("chaos_live_", options),
        ["chaos", options @ ..] => chaos("chaos_all_", options),
        ["soak"] => {
            build_binary()?;
            cargo(&["nextest", "run", "--workspace", "--profile", "soak"]).run()
        }
        ["bench", "cutover", options @ ..] => bench("bench_cutover", options),
        ["bench", "verify", options @ ..] => bench("bench_verify", options),
        ["bench", "stream", options @ ..] => bench("bench_stream", options),
        ["bench", "peers", options @ ..] => bench("bench_peers", options),
        ["bench", "far", options @ ..] => bench("bench_far", options),
        ["bench"] => cargo(&["bench", "--package", "pgconvoy-control"]).run(),
        ["help" | "--help" | "-h"] => {
            eprint!("{USAGE}");
            Ok(())
        }
        _ => bail!("no such command\n\n{USAGE}"),
    }
}

fn bench(program: &str, options: &[&str]) -> anyhow::Result<()> {
    cargo(&["build", "--release", "--package", "pgconvoy", "--bin", "pgconvoy"]).run()?;
    let run =
        ["run", "--release", "--package", "pgconvoy-integration-tests", "--bin", program, "--"];
    cargo(&[&run, options].concat()).run()
}

fn lint() -> anyhow::Result<()> {
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()?;
    cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()
}

fn unit_tests() -> anyhow::Result<()> {
    cargo(&["nextest", "run", "--workspace", "--lib", "--bins"]).run()
}

fn integration_tests() -> anyhow::Result<()> {
    build_binary()?;
    cargo(&["nextest", "run", "--workspace", "--test", "*"]).run()
}

/// nextest does not run them.
fn doc_tests() -> anyhow::Result<()> {
    cargo(&["test", "--workspace", "--doc", "--quiet"]).run()
}

/// The harness starts the binary, which cargo does not know of: it would be an old one.
fn build_binary() -> anyhow::Result<()> {
    cargo(&["build", "--package", "pgconvoy"]).run()
}

/// The simulation is a test that reads its orders from the environment.
fn simulate(options: &[&str]) -> anyhow::Result<()> {
    let step = cargo(&[
        "nextest",
        "run",
        "--package",
        "pgconvoy-control",
        "--profile",
        "sim",
        "--no-capture",
        "-E",
        "test(/(^|::)sim/)",
    ]);
    let variables = [
        ("--seeds", "PGCONVOY_SIM_SEEDS"),
        ("--secs", "PGCONVOY_SIM_SECS"),
        ("--replay", "PGCONVOY_SIM_SEED"),
    ];
    ordered(step, options, &variables)?.run()
}

/// For as long as it takes: a test, too, which every run of the tests has a short one of.
fn fuzz(options: &[&str]) -> anyhow::Result<()> {
    let step = cargo(&[
        "nextest",
        "run",
        "--package",
        "pgconvoy-flow",
        "--profile",
        "sim",
        "--no-capture",
        "-E",
        "test(/^damage::/)",
    ]);
    let variables = [("--rounds", "PGCONVOY_FUZZ_ROUNDS"), ("--replay", "PGCONVOY_FUZZ_SEED")];
    ordered(step, options, &variables)?.run()
}

/// Faults by chance: a test, too.
fn chaos(test: &str, options: &[&str]) -> anyhow::Result<()> {
    let step = cargo(&[
        "nextest",
        "run",
        "--package",
        "pgconvoy-integration-tests",
        "--profile",
        "soak",
        "--no-capture",
        "-E",
        &format!("test(/(^|::){test}/)"),
    ]);
    let variables = [
        ("--runs", "PGCONVOY_CHAOS_RUNS"),
        ("--seed", "PGCONVOY_CHAOS_SEED"),
        ("--secs", "PGCONVOY_CHAOS_SECS"),
    ];
    let step = ordered(step, options, &variables)?;
    build_binary()?;
    step.run()
}

/// A step with options, each a number, as environment variables.
fn ordered(mut step: Step, options: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Step> {
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let Some((_, variable)) = variables.iter().find(|(name, _)| name == option) else {
            bail!("no option {option}\n\n{USAGE}")
        };
        let Some(value) = options.next() else { bail!("{option} wants a number") };
        value.parse::<u64>().map_err(|error| anyhow::anyhow!("{option} {value}: {error}"))?;
        step = step.env(variable, value);
    }
    Ok(step)
}
