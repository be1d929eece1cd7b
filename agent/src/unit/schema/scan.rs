//! What reads whole tables once all rows are there: constraints are validated, materialized views filled.
//!
//! Side by side in several sessions, as many as indexes may be built at once; those of one table one after the other, for they
//! would wait for each other's locks. What a materialized view reads is filled in an earlier wave. Locks do not cross: a
//! validation takes one on its table that readers do not mind, and reads the other table; a view that is filled is its own.
//!
//! What a function reads, no catalogue knows. So what is refused because a view is not filled yet comes again with the next wave,
//! and at the end for as long as something else was done.

use std::sync::{Mutex, PoisonError};

use futures::future::try_join_all;
use pgconvoy_shared::failure::Failure;

use super::run;
use super::store::{self, Pick};
use crate::pg::Session;
use crate::unit::{UnitContext, UnitEnd, fence};

/// SQLSTATE: too many connections.
const NO_ROOM: &str = "53300";

/// SQLSTATE: object not in prerequisite state, as a view that is not filled.
const NOT_READY: &str = "55000";

/// Entries of a table that have to wait for others, and why.
type Late = (Vec<u32>, Failure);

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
    let mut waves = waves.into_iter();
    let mut late: Vec<Late> = Vec::new();
    loop {
        let wave = waves.next();
        let is_last = wave.is_none();
        let mut tables: Vec<Vec<u32>> = late.into_iter().map(|(entries, _)| entries).collect();
        tables.extend(wave.unwrap_or_default());
        let waiting: usize = tables.iter().map(Vec::len).sum();
        let tables = Mutex::new(tables.into_iter());
        let workers = sessions.iter_mut().map(|session| scan_tables(ctx, session, &tables));
        late = Vec::new();
        for (ran, refused) in try_join_all(workers).await? {
            count += ran;
            late.extend(refused);
        }
        if !is_last {
            continue;
        }
        let left: usize = late.iter().map(|(entries, _)| entries.len()).sum();
        match late.first() {
            None => break,
            Some((_, why)) if left == waiting => return Err(why.clone().into()),
            Some(_) => {}
        }
    }
    for session in beside {
        ctx.means.pool.give(session);
    }
    Ok(count)
}

/// Takes one table after the other, as long as there are any; says how many entries it ran, and which have to wait.
async fn scan_tables(
    ctx: &UnitContext,
    session: &mut Session,
    tables: &Mutex<std::vec::IntoIter<Vec<u32>>>,
) -> Result<(u32, Vec<Late>), UnitEnd> {
    let mut count = 0;
    let mut late = Vec::new();
    loop {
        let next = tables.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(entries) = next else { return Ok((count, late)) };
        for (nth, &entry) in entries.iter().enumerate() {
            match run::run_picked(ctx, session, &Pick::Entries(vec![entry])).await {
                Ok(ran) => count += ran,
                Err(UnitEnd::Failed(why)) if why.sqlstate.as_deref() == Some(NOT_READY) => {
                    late.push((entries[nth..].to_vec(), why));
                    break;
                }
                Err(end) => return Err(end),
            }
        }
    }
}
