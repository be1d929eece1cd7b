//! The shop can be made, is the same twice, and goes through pg_dump and back.

use pgconvoy_integration_tests::oracle::{self, End};
use pgconvoy_integration_tests::postgres::{Options, Postgres};
use pgconvoy_integration_tests::shop;

#[tokio::test]
async fn two_shops_are_equal_and_hold_a_bit_of_everything() {
    let server = Postgres::start(Options::default()).await.unwrap();
    for database in ["one", "other"] {
        shop::build(&server, database, 0.01).await.unwrap();
    }
    let differences =
        oracle::compare(End::new(&server, "one"), End::new(&server, "other")).await.unwrap();
    let compared = differences.refuse().unwrap();
    assert!(
        compared.tables > 40 && compared.rows > 10_000 && compared.sequences > 6,
        "{compared:?}"
    );
}

#[tokio::test]
async fn a_shop_restored_from_its_dump_is_equal() {
    let server = Postgres::start(Options::default()).await.unwrap();
    shop::build(&server, "one", 0.002).await.unwrap();
    let dump = server.pg_dump("one", &[]).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dump).unwrap();
    server.create_database("other").await.unwrap();
    server.psql_file("other", file.path()).await.unwrap();
    oracle::compare(End::new(&server, "one"), End::new(&server, "other"))
        .await
        .unwrap()
        .refuse()
        .unwrap();
}

/// `PGCONVOY_SHOP_SCALE` makes it larger, to see how large and how quick it is.
#[tokio::test]
async fn soak_a_shop_of_full_size_is_made_and_compared() {
    let scale = std::env::var("PGCONVOY_SHOP_SCALE").map_or(1.0, |scale| scale.parse().unwrap());
    let server = Postgres::start(Options::default().setting("max_wal_size", "4GB")).await.unwrap();
    let begin = std::time::Instant::now();
    shop::build(&server, "shop", scale).await.unwrap();
    let size = server
        .value("shop", "select pg_database_size('shop') / 1024 / 1024")
        .await
        .unwrap()
        .unwrap();
    eprintln!("shop of scale {scale}: {size} MiB in {:?}", begin.elapsed());
    let begin = std::time::Instant::now();
    let itself = End::new(&server, "shop");
    let compared = oracle::compare(itself, itself).await.unwrap().refuse().unwrap();
    eprintln!("compared with itself in {:?}: {compared:?}", begin.elapsed());
    let megabytes: f64 = size.parse().unwrap();
    assert!((800.0..1300.0).contains(&(megabytes / scale)), "{megabytes} MiB");
}
