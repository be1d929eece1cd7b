//! Migrations of a source on which somebody works all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgconvoy_integration_tests::oracle::{self, End};
use pgconvoy_integration_tests::postgres::{Options, Postgres};
use pgconvoy_integration_tests::process::Program;

use crate::world::{DATABASE, LIMIT, Pair, SOON, major, told};

/// Tables of several kinds: with a key, with a further unique value that moves, with long values, without a key.
pub(super) const SCHEMA: &str = "
    create table account (id int primary key, balance bigint not null, note text);
    create table seat (id int primary key, place int not null unique);
    create table paper (id int primary key, title text, body text);
    alter table paper alter body set storage external;
    create table log (at timestamptz default now(), words text);
    alter table log replica identity full;
    create table part (id int, region text, n int, primary key (id, region)) partition by list (region);
    create table part_a partition of part for values in ('a');
    create table part_b partition of part for values in ('b');
    insert into account select i, 1000, 'note ' || i from generate_series(1, 2000) i;
    insert into seat select i, i from generate_series(1, 50) i;
    insert into paper select i, 'title ' || i, repeat(md5(i::text), 200) from generate_series(1, 50) i;
    insert into log select now(), 'line ' || i % 7 from generate_series(1, 500) i;
    insert into part select i, case i % 2 when 0 then 'a' else 'b' end, i from generate_series(1, 200) i;";

/// One turn of work: all kinds of changes, a few transactions.
const TURN: &str = "
    begin;
    update account set balance = balance - 7 where id = 1 + $n % 2000;
    update account set balance = balance + 7 where id = 1 + ($n * 31) % 2000;
    insert into log values (now(), 'turn $n');
    commit;
    begin;
    update seat set place = -place where id in (1 + $n % 50, 1 + ($n + 1) % 50);
    update seat set place = case id when 1 + $n % 50 then (select -place from seat where id = 1 + ($n + 1) % 50)
        else (select -place from seat where id = 1 + $n % 50) end where id in (1 + $n % 50, 1 + ($n + 1) % 50);
    commit;
    update paper set title = 'title $n' where id = 1 + $n % 50;
    update paper set id = -id where id = (select max(id) from paper where $n % 10 = 0);
    delete from log where ctid = (select min(ctid) from log where words = 'line 3');
    insert into account values (10000 + $n, 1, null);
    delete from account where id = 10000 + $n - 20;
    update part set region = case region when 'a' then 'b' else 'a' end where id = 1 + $n % 200;
    begin;
    insert into account values (1000000 + $n, 1, 'never');
    savepoint s; insert into account values (2000000 + $n, 1, 'never either'); rollback to s;
    rollback;";

/// Works on the source until it is told to rest.
pub(super) struct Load {
    rest: Arc<AtomicBool>,
    work: tokio::task::JoinHandle<u64>,
}

impl Load {
    pub(super) async fn begin(server: &Postgres) -> Self {
        let client = server.client(DATABASE).await.unwrap();
        let rest = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&rest);
        let work = tokio::spawn(async move {
            let mut turns = 0;
            while !told.load(Ordering::Relaxed) {
                turns += 1;
                client.batch_execute(&TURN.replace("$n", &turns.to_string())).await.unwrap();
            }
            turns
        });
        Self { rest, work }
    }

    pub(super) async fn end(self) -> u64 {
        self.rest.store(true, Ordering::Relaxed);
        self.work.await.unwrap()
    }
}

/// Until all is at the destination that was committed before.
pub(super) fn in_sync(pair: &Pair) -> Program {
    pair.migrate().args(["--types", "schema,full,incremental", "--until", "in-sync"])
}

pub(super) async fn cancel(pair: &Pair) {
    let data = pair.path("data");
    let cancel = Program::pgconvoy().unwrap().args(["task", "cancel", DATABASE, "--data-dir"]);
    let finished = cancel.arg(data).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
}

#[tokio::test]
async fn the_oldest_and_the_youngest_majors_are_followed() {
    for (source, destination) in [(13, 15), (15, 18)] {
        let (Some(source), Some(destination)) = (major(source), major(destination)) else { return };
        let (source, destination) =
            (Options::default().major(source), Options::default().major(destination));
        let pair = Pair::of(source, destination, SCHEMA).await;
        let load = Load::begin(&pair.source).await;
        for _ in 0..2 {
            let finished = in_sync(&pair).run(LIMIT).await.unwrap();
            assert_eq!(finished.code(), Some(0), "{}", told(&finished));
        }
        load.end().await;
        let finished = in_sync(&pair).run(LIMIT).await.unwrap();
        assert_eq!(finished.code(), Some(0), "{}", told(&finished));
        cancel(&pair).await;
        let [left, right] = [&pair.source, &pair.destination].map(|of| End::new(of, DATABASE));
        oracle::compare_contents(left, right).await.unwrap().refuse().unwrap();
        pair.left_nothing().await;
    }
}

#[tokio::test]
async fn a_database_in_use_is_moved_and_both_ends_are_the_same() {
    let pair = Pair::new(SCHEMA).await;
    let load = Load::begin(&pair.source).await;
    let finished = in_sync(&pair).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert!(finished.log.contains("task cancel"), "{}", told(&finished));

    // Somebody worked on meanwhile, and works while it goes on from where it was.
    let finished = in_sync(&pair).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    let turns = load.end().await;
    assert!(turns > 10, "{turns}");
    let finished = in_sync(&pair).run(SOON).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));

    cancel(&pair).await;
    pair.same().await;
}
