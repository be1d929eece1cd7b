//! From an older major to a newer one.

use pgconvoy_integration_tests::oracle::{self, End};
use pgconvoy_integration_tests::postgres::{Major, Options};
use pgconvoy_integration_tests::shop;

use crate::world::{DATABASE, Pair, major};

/// A newer server shows some definitions in other words. So the judge is what pg_dump and psql make of the same source
/// beside it: the destination has to be equal to that in everything, and to the source in its rows. Of several pg_dumps,
/// which do not agree about schema `public`, it is the one that pgconvoy finds, Debian's.
async fn upgrade(from: u32, to: u32) {
    let (Some(from), Some(to)) = (major(from), major(to)) else { return };
    let (source, destination) = (Options::default().major(from), Options::default().major(to));
    let pair = Pair::bare(source, destination).await;
    shop::build(&pair.source, DATABASE, 0.001).await.unwrap();
    pair.migrated().await;
    pair.left_nothing().await;

    let [source, ours] = [&pair.source, &pair.destination].map(|server| End::new(server, DATABASE));
    oracle::compare_contents(source, ours).await.unwrap().refuse().unwrap();
    let dumper = Major::usual().unwrap().number();
    let dump = pair.source.pg_dump_by(Some(dumper), DATABASE, &[]).await.unwrap();
    let file = pair.write("reference.sql", &dump);
    pair.destination.create_database("reference").await.unwrap();
    pair.destination.psql_file("reference", &file).await.unwrap();
    let reference = End::new(&pair.destination, "reference");
    oracle::compare(reference, ours).await.unwrap().refuse().unwrap();
}

#[tokio::test]
async fn a_shop_moves_from_13_to_15() {
    upgrade(13, 15).await;
}

#[tokio::test]
async fn a_shop_moves_from_15_to_18() {
    upgrade(15, 18).await;
}
