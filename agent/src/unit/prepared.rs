//! Transactions that are prepared, and stay so.
//!
//! Where applications commit in two phases, some transaction is prepared at nearly every moment, and committed a moment later:
//! it is in nobody's way. One that nobody ends holds up the making of a slot, and what it wrote is in the stream only once
//! it is committed. The two look alike; they are told apart by looking again.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Error;

use crate::pg::Session;

/// What is prepared for longer than that stays.
const PATIENCE: Duration = Duration::from_secs(3);

/// It is looked at this often meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

/// A prepared transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prepared {
    /// Its name: another one may have it once this one has ended.
    pub(super) gid: String,
    /// Who prepared it.
    pub(super) owner: String,
    /// Where.
    pub(super) database: String,
    /// When, for people.
    pub(super) since: String,
    /// Its transaction id.
    xid: String,
}

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    /// The session's database.
    Database,
    /// All databases of the server.
    Server,
}

/// Those that are prepared now, the oldest first.
pub(super) async fn now(session: &Session, within: Within) -> Result<Vec<Prepared>, Error> {
    let everywhere = within == Within::Server;
    let ask =
        "select gid, owner::text, database::text, prepared::timestamptz(0)::text, transaction::text
               from pg_catalog.pg_prepared_xacts
               where $1 or database = pg_catalog.current_database() order by prepared";
    let rows = session.query(ask, &[&everywhere]).await?;
    let prepared = rows.iter().map(|row| Prepared {
        gid: row.get(0),
        owner: row.get(1),
        database: row.get(2),
        since: row.get(3),
        xid: row.get(4),
    });
    Ok(prepared.collect())
}

/// Those that are still there after a while. Where none is there at first, it is no while.
pub(super) async fn that_stay(session: &Session, within: Within) -> Result<Vec<Prepared>, Error> {
    let until = Instant::now() + PATIENCE;
    let mut stay = now(session, within).await?;
    while !stay.is_empty() && Instant::now() < until {
        sleep(PAUSE).await;
        let still = now(session, within).await?;
        stay.retain(|one| still.contains(one));
    }
    Ok(stay)
}
