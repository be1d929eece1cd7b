//! A crash of the destination empties unlogged tables, also long after their rows were found complete: they are there again at the end.

use std::time::Duration;

use pgconvoy_integration_tests::wait;

use crate::world::{DATABASE, Held};

/// Unlogged tables of which one points at the other, with a trigger whose rows must not come twice, and what is made of them.
const UNLOGGED: &str = "
    create unlogged table public.base (id int generated always as identity primary key, word text);
    create unlogged table public.leaf (base int references public.base, note text);
    create table public.noted (what text);
    create function public.note() returns trigger language plpgsql as
        $$ begin insert into public.noted values (new.note); return new; end $$;
    create trigger note after insert on public.leaf for each row execute function public.note();
    insert into public.base (word) select 'word' || no from generate_series(1, 5000) no;
    insert into public.leaf select no, 'note' || no from generate_series(1, 5000) no;
    create materialized view public.seen as select count(*) as leaves from public.leaf;
    create unlogged sequence public.loose;
    select setval('public.loose', 4711);";

#[tokio::test]
async fn rows_that_a_crash_takes_after_everything_was_built_come_again_and_set_nothing_off() {
    let held = Held::migration(UNLOGGED).await;
    let pair = &held.pair;
    wait::until(Duration::from_secs(60), "everything to be built", async || {
        let waits = "select count(*) from pg_stat_activity
             where application_name like 'pgconvoy/%/analyze/%' and wait_event_type = 'Lock'";
        let set = pair.count("select count(*) from pgconvoy.sequence_set").await;
        match (pair.count(waits).await, set) {
            (1, 3) => Ok(()),
            counts => Err(format!("{counts:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(pair.count("select leaves from public.seen").await, 5000);

    pair.destination.stop_immediate().unwrap();
    pair.destination.start_again().await.unwrap();
    assert_eq!(
        pair.count("select count(*) from public.leaf").await,
        0,
        "this is what a crash does"
    );

    let (pair, told) = held.ended(0).await;
    assert!(told.contains("verification: no differences\n"), "{told}");
    assert_eq!(pair.count("select leaves from public.seen").await, 5000);
    assert_eq!(pair.count("select nextval('public.loose')").await, 4712);
    pair.source.sql(DATABASE, "select nextval('public.loose')").await.unwrap();
    pair.same().await;
}
