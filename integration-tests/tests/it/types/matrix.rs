//! Every type, by its text and by its binary form.

use std::path::Path;

use pgconvoy_integration_tests::oracle::{self, End};
use pgconvoy_integration_tests::postgres::{Major, Options};
use pgconvoy_integration_tests::types;

use crate::world::{DATABASE, LIMIT, Pair, major, told};

/// Everything of a source of one major arrives at a server of another.
async fn every_type(from: u32, to: u32, flags: &[&str]) {
    let (Some(from), Some(to)) = (major(from), major(to)) else { return };
    // The tools that are found without a word are those of the usual major.
    let newer = from.number() > Major::usual().unwrap().number();
    let tools = newer.then(|| to.client("pg_dump").unwrap());
    let (source, destination) = (Options::default().major(from), Options::default().major(to));
    let pair = Pair::of(source, destination, "").await;
    types::build(&pair.source, DATABASE).await.unwrap();

    let mut command = pair.migrate().args(flags);
    if let Some(folder) = tools.as_deref().and_then(Path::parent) {
        command = command.env("PGCONVOY_PG_BIN", folder);
    }
    let finished = command.run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    pair.left_nothing().await;

    let ends = [&pair.source, &pair.destination].map(|server| End::new(server, DATABASE));
    let compared = oracle::compare_contents(ends[0], ends[1]).await.unwrap().refuse().unwrap();
    assert!(compared.tables > 100 && compared.rows > 600, "{compared:?}");
    let sent = types::sent::compare(ends[0], ends[1]).await.unwrap();
    assert!(sent > 300, "{sent} columns");
}

/// Verification, too, has to find all values the same.
#[tokio::test]
async fn every_type_arrives_from_15_to_15() {
    every_type(15, 15, &["--verify"]).await;
}

#[tokio::test]
async fn every_type_arrives_from_13_to_15() {
    every_type(13, 15, &[]).await;
}

#[tokio::test]
async fn every_type_arrives_from_15_to_17() {
    every_type(15, 17, &[]).await;
}

#[tokio::test]
async fn every_type_arrives_from_17_to_18() {
    every_type(17, 18, &[]).await;
}
