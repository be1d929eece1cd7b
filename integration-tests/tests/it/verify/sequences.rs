//! Sequences of a live source go on while a migration compares.

use std::time::Duration;

use pgconvoy_integration_tests::wait;

use crate::world::{DATABASE, Held};

/// One of each kind, and one that nobody uses.
const SEQUENCES: &str = "
    create sequence public.up start 17;
    create sequence public.down increment -1;
    create sequence public.round maxvalue 3 cycle;
    create sequence public.idle;
    select setval('public.up', 42), setval('public.down', -5), setval('public.round', 3), setval('public.idle', 9);";

/// A migration that has set the sequences and has not compared them yet.
async fn held() -> Held {
    let held = Held::migration(SEQUENCES).await;
    wait::until(Duration::from_secs(60), "the sequences to be set", async || {
        match held.pair.count("select count(*) from pgconvoy.sequence_set").await {
            // With the one of the gate's schema.
            5 => Ok(()),
            count => Err(count),
        }
    })
    .await
    .unwrap();
    held
}

/// Lets it compare; what it tells at its end.
async fn compared(held: Held, exit: i32) -> String {
    let (pair, told) = held.let_go(exit).await;
    pair.left_nothing().await;
    told
}

#[tokio::test]
async fn sequences_that_went_on_since_they_were_set_are_told_and_do_not_differ() {
    let held = held().await;
    let live = "select nextval('public.up'), nextval('public.down'), nextval('public.round')";
    held.pair.source.sql(DATABASE, live).await.unwrap();
    let told = compared(held, 0).await;
    let line = "5 objects compared, 0 differ, 3 went on at the source since then";
    assert!(told.contains("verification: no differences") && told.contains(line), "{told}");
}

#[tokio::test]
async fn a_sequence_that_is_not_where_it_was_set_or_went_back_differs() {
    let held = held().await;
    held.pair.source.sql(DATABASE, "select nextval('public.up')").await.unwrap();
    held.pair.source.sql(DATABASE, "select setval('public.idle', 8)").await.unwrap();
    held.pair.source.sql(DATABASE, "drop sequence public.round").await.unwrap();
    // Where the source is now, which is not what was set.
    let wrong = "select setval('public.up', 43)";
    held.pair.destination.sql(DATABASE, wrong).await.unwrap();
    let told = compared(held, 4).await;
    for line in [
        "different: SEQUENCE VALUE public.up\n  source: 43; 42 when it was set\n  destination: 43",
        "different: SEQUENCE VALUE public.idle\n  source: 8; 9 when it was set\n  destination: 9",
        "not compared: SEQUENCE VALUE public.round: the source dropped it since it was set",
    ] {
        assert!(told.contains(line), "{told}");
    }
}
