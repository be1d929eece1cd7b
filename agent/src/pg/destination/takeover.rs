//! Ending what an older owner of a unit left (law O5).
//!
//! An agent that was stopped, cut off or killed leaves sessions behind. One that stands still in the middle of a COPY is
//! *active* for the server, and no timeout ends it. So before a new owner works, it looks on both servers for sessions
//! that carry the unit's name with an older epoch, ends them, and waits until they are gone: after that nothing of the
//! old owner's can still be committed or hold a lock. The first owner of a unit has nobody to look for.

use std::time::Duration;

use tokio::time::Instant;

use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::quote_literal;

use crate::laws::Law;
use crate::pg::wire::{TextRow, Wire};
use crate::pg::{About, Access, PgError, Session};

/// A server process ends within milliseconds, unless it rolls back much or its machine stands still.
const GONE_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Of the first owner, before whom there was none.
const FIRST_EPOCH: Epoch = Epoch(1);

/// Answers of a server as text, by either client.
pub(crate) trait TextSql {
    /// With whom.
    fn access(&self) -> &Access;
    /// Runs a statement.
    fn rows(&mut self, sql: &str) -> impl Future<Output = Result<Vec<TextRow>, PgError>> + Send;
}

impl TextSql for Wire {
    fn access(&self) -> &Access {
        Wire::access(self)
    }

    async fn rows(&mut self, sql: &str) -> Result<Vec<TextRow>, PgError> {
        self.query(sql).await
    }
}

impl TextSql for Session {
    fn access(&self) -> &Access {
        Session::access(self)
    }

    async fn rows(&mut self, sql: &str) -> Result<Vec<TextRow>, PgError> {
        self.text_rows(sql).await
    }
}

/// Ends all sessions of older owners on this server. Not within a transaction: there the list of sessions stands still.
pub(crate) async fn end_old_sessions(sql: &mut impl TextSql) -> Result<(), Failure> {
    if Law::Lease.is_left_out() {
        return Ok(());
    }
    let Some(mine) = Owner::parse(sql.access().application_name()) else {
        // A name that was cut or is none of ours tells no unit; nothing can be found by it either.
        return Ok(());
    };
    if mine.epoch == FIRST_EPOCH {
        return Ok(());
    }
    let end = Instant::now() + GONE_LIMIT;
    loop {
        let left = older_sessions(sql, &mine).await?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            let pids: Vec<&str> = left.iter().map(|left| left.pid.as_str()).collect();
            return Err(Failure::transient(
                "old_session_stays",
                format!("server processes {} of an earlier owner do not end", pids.join(", ")),
            )
            .about(sql.access().to_string())
            .remedy("look at these processes on the server; one that is stopped (SIGSTOP, a full disk) has to be resumed or killed"));
        }
        end_sessions(sql, &left).await?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A session as `pg_stat_activity` shows it.
struct Seen {
    pid: String,
    name: String,
}

/// The sessions of older owners.
async fn older_sessions(sql: &mut impl TextSql, mine: &Owner) -> Result<Vec<Seen>, Failure> {
    let subject = sql.access().to_string();
    let found = sql
        .rows(&format!(
            "select pid, application_name from pg_catalog.pg_stat_activity \
             where pg_catalog.starts_with(application_name, {}) and pid <> pg_catalog.pg_backend_pid()",
            quote_literal(&format!("{}.", mine.unit))
        ))
        .await
        .about(&subject)?;
    let mut older = Vec::new();
    for row in found {
        let [Some(pid), Some(name)] = <[_; 2]>::try_from(row).unwrap_or_default() else { continue };
        match Owner::parse(&name) {
            Some(owner) if owner.epoch < mine.epoch => older.push(Seen { pid, name }),
            Some(owner) if owner.epoch > mine.epoch => {
                return Err(Failure::other(
                    "superseded",
                    format!("{} is at work under epoch {}", owner.unit, owner.epoch),
                )
                .about(subject));
            }
            // Another session of this very lease.
            _ => {}
        }
    }
    Ok(older)
}

/// The name is looked at again in the same statement: by now a process number may be another session's, and a session
/// another unit's.
async fn end_sessions(sql: &mut impl TextSql, seen: &[Seen]) -> Result<(), Failure> {
    let subject = sql.access().to_string();
    let seen: Vec<String> =
        seen.iter().map(|seen| format!("({}, {})", seen.pid, quote_literal(&seen.name))).collect();
    let statement = format!(
        "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity \
         where (pid, application_name) in ({})",
        seen.join(", ")
    );
    sql.rows(&statement).await.about(subject).map(drop)
}

/// Ends whoever holds the advisory lock with this key and is of an older epoch of the same unit; for a holder that is
/// not, nothing is done: the caller tries again.
pub(crate) async fn end_lock_holder(sql: &mut impl TextSql, key: &str) -> Result<(), Failure> {
    let subject = sql.access().to_string();
    let statement = format!(
        "select a.pid, a.application_name from pg_catalog.pg_locks l \
         join pg_catalog.pg_stat_activity a on a.pid = l.pid, (select {key} as key) k \
         where l.locktype = 'advisory' and l.granted and l.objsubid = 1 \
         and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()) \
         and (l.classid::bigint << 32) | l.objid::bigint = k.key and a.pid <> pg_catalog.pg_backend_pid()"
    );
    let holders = sql.rows(&statement).await.about(&subject)?;
    let mine = Owner::parse(sql.access().application_name());
    let older: Vec<Seen> = holders
        .into_iter()
        .filter_map(|row| match <[_; 2]>::try_from(row) {
            Ok([Some(pid), Some(name)]) => Some(Seen { pid, name }),
            _ => None,
        })
        .filter(|seen| {
            let holder = Owner::parse(&seen.name);
            mine.as_ref()
                .zip(holder)
                .is_some_and(|(mine, holder)| holder.unit == mine.unit && holder.epoch < mine.epoch)
        })
        .collect();
    if older.is_empty() { Ok(()) } else { end_sessions(sql, &older).await }
}

/// Who a session belongs to, out of its `application_name`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    /// `pgconvoy/<task>/<kind>/<unit>`.
    unit: String,
    epoch: Epoch,
}

impl Owner {
    fn parse(application_name: &str) -> Option<Self> {
        if !application_name.starts_with("pgconvoy/") {
            return None;
        }
        let (unit, epoch) = application_name.rsplit_once('.')?;
        Some(Self { unit: unit.to_owned(), epoch: Epoch(epoch.parse().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_name_tells_unit_and_epoch() {
        let owner = Owner::parse("pgconvoy/abcdefghijkl/copy/12.3").expect("a name of ours");
        assert_eq!(owner.unit, "pgconvoy/abcdefghijkl/copy/12");
        assert_eq!(owner.epoch, Epoch(3));
        assert_eq!(Owner::parse("psql"), None);
        assert_eq!(Owner::parse("pgconvoy/abcdefghijkl/copy/12"), None);
    }
}
