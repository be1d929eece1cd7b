//! Do the fault tests show their teeth? Each law of ownership, of the stream and of the cutover is left out in turn, and a test
//! must tell that rows came twice, that somebody wrote who may not, or that changes are gone.
//!
//! Laws of the stream are left out in the histories of `agent/flow`, and a wrong row is to be found.
//!
//! The binary for that is built with the feature `lawless`, which release builds refuse, and kept beside the usual one.

use std::path::PathBuf;

use anyhow::Context;

use super::build_binary;
use super::run::cargo;

/// What is left out, the test that must go red then, and the words it must do so with: red for another reason is no
/// proof.
const CASES: [(&str, &str, &str); 10] = [
    ("generation", "cluster_a_table_planned_anew_takes_no_row_of_an_old_plan", DIFFER),
    ("progress", "cluster_a_commit_whose_answer_is_lost_is_found_done", DIFFER),
    ("lease", LEASE_TEST, "they write beyond their lease"),
    // Beyond its lease alone nobody doubles a row: the progress row still stands in the way. Without both:
    ("lease,progress", LEASE_TEST, DIFFER),
    // Likewise: whoever takes a stream over has ended what the old owner left.
    (
        "lease,step",
        "cluster_a_transaction_that_stands_still_is_not_committed_beside_the_next_owners",
        DIFFER,
    ),
    (
        "recorded",
        "cluster_what_was_read_and_not_applied_is_read_again_by_whoever_comes_next",
        "slot_lost",
    ),
    // And in a run over a source that is written to until its cutover, under faults.
    ("recorded", LIVE_TEST, "slot_lost"),
    ("change", LIVE_TEST, MISSING),
    ("fence", LIVE_TEST, "cutover_writers"),
    // The proof finds who writes behind a fence that was not there. Without both:
    ("fence,proof", LIVE_TEST, MISSING),
];

const LEASE_TEST: &str =
    "cluster_an_agent_that_hears_nobody_has_stopped_before_others_run_its_units";
const LIVE_TEST: &str = "cluster_live_faults_of_one_seed_lose_and_double_nothing";
const MISSING: &str = "what was acknowledged is not at the destination";
const DIFFER: &str = "the databases differ";

pub(crate) fn run() -> anyhow::Result<()> {
    // The laws of the stream are left out within histories, which need no servers: there the test looks for the wrong row.
    let missing = "test(/::a_missing_law_of_the_stream_is_found$/)";
    cargo(&[
        "nextest",
        "run",
        "--package",
        "pgconvoy-flow",
        "--features",
        "lawless",
        "-E",
        missing,
    ])
    .run()?;
    let binary = build_lawless()?;
    for (without, test, words) in CASES {
        let filter = format!("test(/::{test}$/)");
        let package = "pgconvoy-integration-tests";
        cargo(&["nextest", "run", "--package", package, "-E", &filter])
            .env("PGCONVOY_BIN", &binary)
            .env("PGCONVOY_WITHOUT", without)
            .env("RUST_BACKTRACE", "0")
            .fails_with(words)
            .with_context(|| format!("without {without}, {test} must go red"))?;
        eprintln!("   red, as it must be, without {without}");
    }
    Ok(())
}

/// Where that binary is. The usual one is put back in its place.
fn build_lawless() -> anyhow::Result<String> {
    cargo(&["build", "--package", "pgconvoy", "--features", "lawless"]).run()?;
    let folder: PathBuf =
        std::env::current_exe()?.parent().context("a program is in a folder")?.to_owned();
    let lawless = folder.join("pgconvoy-lawless");
    std::fs::copy(folder.join("pgconvoy"), &lawless).context("keep the lawless binary")?;
    build_binary()?;
    Ok(lawless.to_string_lossy().into_owned())
}
