//! Shards that stop half-way, for as long as a test wants.
//!
//! A table's check constraint asks for an advisory lock at every 5000th row. While the test holds it at the
//! destination, each shard of the table stops there: its rows are on their way, and no transaction has committed them.

use std::time::Duration;

use pgconvoy_integration_tests::postgres::Postgres;
use pgconvoy_integration_tests::wait;
use tokio_postgres::Client;

use super::DATABASE;

/// The table whose rows ask, with its first column as given; so many rows, of 32 bytes so many times.
macro_rules! gated {
    ($no:literal, $rows:literal, $times:literal) => {
        concat!(
            "create function public.pass(no int) returns boolean language plpgsql as $$
            begin
                if no % 5000 = 2500 then
                    perform pg_catalog.pg_advisory_xact_lock_shared(471147114711);
                end if;
                return true;
            end $$;
            create table public.gated (",
            $no,
            " check (public.pass(no)), words text not null);
            insert into public.gated select no, repeat(md5(no::text), ",
            $times,
            ") from generate_series(1, ",
            $rows,
            ") no;"
        )
    };
}

/// The lock. Any number that nobody else uses in these databases.
const KEY: i64 = 471_147_114_711;

/// Held shut while it lives and [`open`](Gate::open) was not called.
pub(crate) struct Gate {
    keeper: Client,
}

impl Gate {
    /// Four shards of 1 MiB or so, each with a row that asks, and a small table that nobody stops.
    pub(crate) const SCHEMA: &str = concat!(
        gated!("no int primary key", 20000, 6),
        "create index on public.gated (words);
        create table public.free (no int primary key, words text);
        insert into public.free select no, 'free' from generate_series(1, 1000) no;
        create sequence public.numbers start 17;"
    );

    /// The four shards alone, of a table without a key: a row that came twice is there twice, and no index refuses it.
    pub(crate) const KEYLESS: &str =
        concat!(gated!("no int not null", 20000, 6), "create index on public.gated (words);");

    /// In a task file: as small as shards get, and enough at once for all of them.
    pub(crate) const COPY: &str = "copy: { jobs: 6, shard_size: 1MiB }";

    /// Keyless, and each of the four shards of [`COPY_LARGE`](Self::COPY_LARGE) has more bytes than can be under way.
    pub(crate) const LARGE: &str = gated!("no int not null", 100000, 20);

    /// For `LARGE`.
    pub(crate) const COPY_LARGE: &str = "copy: { jobs: 6, shard_size: 16MiB }";

    /// Shuts the destination's gate.
    pub(crate) async fn shut(destination: &Postgres) -> Gate {
        let keeper = destination.client(DATABASE).await.unwrap();
        keeper.execute("select pg_advisory_lock($1)", &[&KEY]).await.unwrap();
        Gate { keeper }
    }

    /// Lets everybody pass.
    pub(crate) async fn open(self) {
        self.keeper.execute("select pg_advisory_unlock($1)", &[&KEY]).await.unwrap();
    }

    /// Waits until this many shards stand at the gate, and tells their units' names.
    pub(crate) async fn waiting(&self, count: usize, limit: Duration) -> Vec<String> {
        self.waiting_besides(&[], count, limit).await
    }

    /// Waits until this many shards stand at the gate that are none of those.
    pub(crate) async fn waiting_besides(
        &self,
        those: &[String],
        count: usize,
        limit: Duration,
    ) -> Vec<String> {
        let what = format!("{count} shards to stand at the gate besides {those:?}");
        wait::until(limit, &what, async || {
            let mut names = self.standing().await;
            names.retain(|name| !those.contains(name));
            if names.len() >= count { Ok(names) } else { Err(format!("{names:?}")) }
        })
        .await
        .unwrap()
    }

    /// The units' names of the shards that stand at the gate now.
    pub(crate) async fn standing(&self) -> Vec<String> {
        let query = "select array_agg(a.application_name) from pg_locks l join pg_stat_activity a using (pid)
              where l.locktype = 'advisory' and not l.granted and a.application_name like 'pgconvoy/%/copy/%'";
        let row = self.keeper.query_one(query, &[]).await.unwrap();
        row.get::<_, Option<_>>(0).unwrap_or_default()
    }
}
