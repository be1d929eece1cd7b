//! Writers who keep account of what they wrote, from before a copy until a cutover.
//!
//! Each write is one transaction, and bears a number in the scribe's journal, a table of the same database. It counts once the
//! source acknowledged it. One whose answer was lost may have been written or not: the scribe comes again, waits until its session
//! before is gone for certain, and looks into the journal. So what must be there is known row by row, and nobody was asked who
//! takes part in the move. That a write is refused, by a crash, a restart or a fence, ends nothing: they try on until they are
//! told to rest.

mod book;
mod deed;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgconvoy_integration_tests::net::Proxy;
use pgconvoy_integration_tests::postgres::{PASSWORD, Postgres, SUPERUSER};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_postgres::{Client, Config, NoTls};

use super::{DATABASE, LIMIT};
use book::Book;
use deed::{Deed, Draft, Ending, prepared};
use tables::SCRIBES;

/// How often each of them writes, unless the source is slower.
const EVERY: Duration = Duration::from_millis(12);

/// Which sessions are whose, by advisory locks. Any number that nobody else uses in these databases.
const LOCKS: i32 = 471_147;

/// Scribes at work.
pub(crate) struct Scribes {
    rest: Arc<AtomicBool>,
    counts: Arc<Counts>,
    work: Vec<JoinHandle<Book>>,
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    rows: AtomicU64,
    unheard: AtomicU64,
}

/// All that was written.
pub(crate) struct Written {
    books: Vec<Book>,
    /// Writes that the source acknowledged.
    pub(crate) writes: u64,
    /// Rows that these wrote.
    pub(crate) rows: u64,
    /// Writes whose answer was lost, and which were found in the journal.
    pub(crate) unheard: u64,
}

impl Scribes {
    /// Makes their tables, in an empty database.
    pub(crate) fn schema() -> String {
        tables::schema()
    }

    /// Writes the first rows of each kind, and begins to write on, all by this way to the source.
    pub(crate) async fn begin(way: &Proxy, seed: u64) -> Scribes {
        let mut to = Config::new();
        to.host("127.0.0.1").port(way.address().port()).dbname(DATABASE);
        to.user(SUPERUSER).password(PASSWORD).application_name("harness");
        let (rest, counts) = (Arc::default(), Arc::default());
        let mut work = Vec::new();
        for no in 0..SCRIBES {
            let random =
                StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(no.cast_unsigned()));
            let (rest, counts) = (Arc::clone(&rest), Arc::clone(&counts));
            let mut scribe =
                Scribe { no, to: to.clone(), book: Book::default(), random, rest, counts };
            let client = scribe.come().await.unwrap();
            let first = scribe.draft(1).first();
            perform(&client, no, &first).await.unwrap();
            work.push(tokio::spawn(scribe.work(client)));
        }
        Scribes { rest, counts, work }
    }

    /// Writes that were acknowledged so far.
    pub(crate) fn writes(&self) -> u64 {
        self.counts.written.load(Ordering::SeqCst)
    }

    /// Tells them to rest, once each knows what became of its last write.
    pub(crate) async fn end(self) -> Written {
        self.rest.store(true, Ordering::SeqCst);
        let mut books = Vec::new();
        for work in self.work {
            books.push(work.await.unwrap());
        }
        let count = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let Counts { written, rows, unheard } = &*self.counts;
        Written { books, writes: count(written), rows: count(rows), unheard: count(unheard) }
    }
}

/// How a scribe's message ends, but for transactions that are prepared.
pub(crate) const WRITTEN: &[u8] = b"; commit\0";

impl Written {
    /// Each write is there, once and whole, and nothing else; how many rows that are.
    pub(crate) async fn prove(&self, server: &Postgres) -> anyhow::Result<u64> {
        book::prove(&self.books, server).await
    }
}

struct Scribe {
    no: i64,
    to: Config,
    book: Book,
    random: StdRng,
    rest: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Scribe {
    fn draft(&mut self, number: i64) -> Draft<'_> {
        Draft::new(self.no, number, &mut self.book, &mut self.random)
    }

    async fn work(mut self, mut client: Client) -> Book {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 2.. {
            ticks.tick().await;
            if self.rest.load(Ordering::SeqCst) {
                break;
            }
            let deed = self.draft(number).next();
            match perform(&client, self.no, &deed).await {
                Ok(()) => self.count(deed, true),
                Err(_) => {
                    drop(client);
                    let written;
                    (client, written) = self.find_out(&deed, &mut ticks).await;
                    self.counts.unheard.fetch_add(u64::from(written), Ordering::SeqCst);
                    self.count(deed, written);
                }
            }
        }
        self.book
    }

    fn count(&mut self, deed: Deed, written: bool) {
        if written && deed.ending != Ending::RollbackPrepared {
            self.counts.written.fetch_add(1, Ordering::SeqCst);
            self.counts.rows.fetch_add(deed.rows, Ordering::SeqCst);
        } else {
            deed.take_back(&mut self.book);
        }
    }

    /// A new session, and whether the last write was written: asked until the source answers.
    async fn find_out(&self, deed: &Deed, ticks: &mut Interval) -> (Client, bool) {
        let asked = async {
            loop {
                ticks.tick().await;
                if let Ok(answer) = self.look_up(deed).await {
                    return answer;
                }
            }
        };
        timeout(LIMIT, asked).await.expect("the source takes a scribe's session")
    }

    async fn look_up(&self, deed: &Deed) -> Result<(Client, bool), tokio_postgres::Error> {
        let client = self.come().await?;
        let gid = prepared(self.no, deed.number);
        let is_prepared = "select from pg_prepared_xacts where gid = $1";
        if client.query_opt(is_prepared, &[&gid]).await?.is_some() {
            client.batch_execute(&second_phase(self.no, deed)).await?;
        }
        let last = "select number from journal where scribe = $1::bigint";
        let last: i64 = client.query_one(last, &[&self.no]).await?.get(0);
        Ok((client, last == deed.number))
    }

    /// A session; none that this scribe had before does anything any more.
    async fn come(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.to.connect(NoTls).await?;
        // A broken connection fails the next call on the client.
        tokio::spawn(connection);
        let begin =
            format!("select pg_advisory_lock({LOCKS}, {}); set lock_timeout = '10s'", self.no);
        client.batch_execute(&begin).await?;
        Ok(client)
    }
}

async fn perform(client: &Client, scribe: i64, deed: &Deed) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(&deed.statements).await?;
    if deed.ending != Ending::Commit {
        client.batch_execute(&second_phase(scribe, deed)).await?;
    }
    Ok(())
}

/// What becomes of a transaction that is prepared.
fn second_phase(scribe: i64, deed: &Deed) -> String {
    let what = if deed.ending == Ending::CommitPrepared { "commit" } else { "rollback" };
    format!("{what} prepared '{}'", prepared(scribe, deed.number))
}
