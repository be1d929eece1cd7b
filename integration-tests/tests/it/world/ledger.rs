//! A source that is written to all the time, and whose rows agree with each other at every one moment and at no two.
//!
//! Each transaction moves an amount from one account to another, notes it in the ledger, and counts. So, at one moment:
//! the balances' sum never changes, every balance is what it began with and what the ledger says, and the ledger has as
//! many rows as the counter says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgconvoy_integration_tests::postgres::Postgres;
use pgconvoy_integration_tests::wait;
use tokio::task::JoinHandle;

use super::{DATABASE, Pair, SOON};

/// Writers that go on until they are told to stop.
pub(crate) struct Ledger {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Ledger {
    pub(crate) const SCHEMA: &str = "
        create table public.accounts (id int primary key, balance int not null, note text not null);
        insert into public.accounts select id, 1000, repeat(md5(id::text), 8) from generate_series(1, 12000) id;
        create table public.ledger (id bigint generated always as identity primary key, payer int, payee int, amount int);
        create table public.counter (ledger_rows bigint not null);
        insert into public.counter values (0);
        create procedure public.pay(payer int, payee int, amount int) language sql as $$
            update public.accounts set balance = balance - amount where id = payer;
            update public.accounts set balance = balance + amount where id = payee;
            insert into public.ledger (payer, payee, amount) values (payer, payee, amount);
            update public.counter set ledger_rows = ledger_rows + 1;
        $$;";

    /// Begins to write at the source.
    pub(crate) async fn begin(source: &Postgres) -> Ledger {
        let stop = Arc::new(AtomicBool::new(false));
        let client = source.client(DATABASE).await.unwrap();
        let seen = Arc::clone(&stop);
        let writer = tokio::spawn(async move {
            let pay = "call public.pay(1 + (random() * 11999)::int, 1 + (random() * 11999)::int, (random() * 100)::int)";
            while !seen.load(Ordering::Relaxed) {
                client.batch_execute(pay).await.unwrap();
            }
        });
        Ledger { stop, writers: vec![writer] }
    }

    /// Waits until this many more payments were made.
    pub(crate) async fn more(source: &Postgres, payments: i64) -> i64 {
        let before = Self::payments(source).await;
        wait::until(SOON, "payments to be made", async || match Self::payments(source).await {
            now if now >= before + payments => Ok(now),
            now => Err(now - before),
        })
        .await
        .unwrap()
    }

    /// How many payments were made at the source so far.
    pub(crate) async fn payments(source: &Postgres) -> i64 {
        let count = source.value(DATABASE, "select ledger_rows from public.counter").await.unwrap();
        count.unwrap().parse().unwrap()
    }

    /// Stops all writing.
    pub(crate) async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
    }

    /// Fails unless the destination shows one moment of the source; tells how many payments had been made then.
    pub(crate) async fn one_moment(pair: &Pair) -> i64 {
        let total = pair.count("select sum(balance) from public.accounts").await;
        assert_eq!(total, 12_000 * 1000, "money was made or lost");
        let wrong = "select count(*) from public.accounts a
            where balance <> 1000 - coalesce((select sum(amount) from public.ledger where payer = a.id), 0)
                                  + coalesce((select sum(amount) from public.ledger where payee = a.id), 0)";
        pair.destination
            .sql(DATABASE, "create index payers on public.ledger (payer); create index payees on public.ledger (payee)")
            .await
            .unwrap();
        assert_eq!(pair.count(wrong).await, 0, "accounts and ledger are of different moments");
        let rows = pair.count("select count(*) from public.ledger").await;
        assert_eq!(rows, pair.count("select ledger_rows from public.counter").await);
        rows
    }
}
