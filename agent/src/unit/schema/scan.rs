//! What reads whole tables once all rows are there: constraints are validated, materialized views filled.
//!
//! Side by side in several sessions, as many as indexes may be built at once; those of one table one after the other, for they
//! would wait for each other's locks. What a materialized view reads is filled in an earlier wave. Locks do not cross: a
//! validation takes one on its table that readers do not mind, and reads the other table; a view that is filled is its own.

use std::sync::{Mutex, PoisonError};

use futures::future::try_join_all;

use super::run;
use super::store::{self, Pick};
use crate::pg::Session;
use crate::unit::{UnitContext, UnitEnd, fence};

/// SQLSTATE: too many connections.
const NO_ROOM: &str = "53300";

/// Runs what is left of [`Section::Scan`](super::entry::Section::Scan), side by side; says how many it ran.
pub(in crate::unit) async fn scan(
    ctx: &UnitContext,
    session: &mut Session,
) -> Result<u32, UnitEnd> {
    let waves = store::waves(ctx, session).await?;
    let widest = waves.iter().map(Vec::len).max().unwrap_or_default();
    let wanted = widest.min(ctx.spec.copy.index_jobs.max(1) as usize);
    let mut beside = Vec::new();
    while beside.len() + 1 < wanted {
        match fence::session_beside(ctx).await {
            Ok(session) => beside.push(session),
            // It goes on with those that there is room for.
            Err(UnitEnd::Failed(failure)) if failure.sqlstate.as_deref() == Some(NO_ROOM) => break,
            Err(end) => return Err(end),
        }
    }
    let mut sessions: Vec<&mut Session> =
        std::iter::once(session).chain(beside.iter_mut()).collect();
    for session in &sessions {
        run::prepare(ctx, session);
    }
    let mut count = 0;
    for wave in waves {
        let tables = Mutex::new(wave.into_iter());
        let workers = sessions.iter_mut().map(|session| scan_tables(ctx, session, &tables));
        count += try_join_all(workers).await?.into_iter().sum::<u32>();
    }
    for session in beside {
        ctx.means.pool.give(session);
    }
    Ok(count)
}

/// Takes one table after the other, as long as there are any.
async fn scan_tables(
    ctx: &UnitContext,
    session: &mut Session,
    tables: &Mutex<std::vec::IntoIter<Vec<u32>>>,
) -> Result<u32, UnitEnd> {
    let mut count = 0;
    loop {
        let next = tables.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(entries) = next else { return Ok(count) };
        for entry in entries {
            count += run::run_picked(ctx, session, &Pick::Entries(vec![entry])).await?;
        }
    }
}
