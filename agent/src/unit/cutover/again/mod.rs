//! What was changed since both ends were compared is compared again, by its keys.
//!
//! ```text
//!  check: begin ─▶ the applier writes down, with each change, which rows it changes, for look 1
//!  ready: look 1 begins: what is changed from here on is for look 2
//!           the rows of look 1: at the source, and, once all of that is applied, at the destination
//!           what differs belongs to look 2, too; what did so before, and was not changed since, stands still and differs
//!         … until a look is as quick as the budget wants it to be
//!  prove: the rows that are left, at both ends at once: nobody writes any more
//! ```
//!
//! So behind the fence there is only what was changed since the last look, however long comparing took. A look begins between
//! two transactions of the applier, which holds `apply_progress`' row throughout each of its own.
//!
//! Of tables whose changed rows no key tells (they have none, or were emptied) all rows are compared behind the fence, as far as they are small;
//! of the rest the record says that nothing was. Whoever does a step anew finds at the destination what is left of it.

mod lookup;

use std::collections::BTreeMap;
use std::time::Duration;

use pgconvoy_shared::cutover::{ComparedAgain, CutoverOrder};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::verify::RowDifference;
use tokio::time::{Instant, timeout_at};

use super::waits::in_time;
use super::{Until, named, proof};
use crate::pg::{About, PgError, Session};
use crate::unit::{UnitContext, UnitEnd, fence};
use lookup::{Changes, Reader};

/// What needs a moment between two transactions of the applier. One of many rows may be applied for long: while nobody is stopped, that is
/// waited for as long as the cutover may take behind the fence.
async fn between_two<T>(
    ctx: &UnitContext,
    order: &CutoverOrder,
    step: impl Future<Output = Result<T, UnitEnd>>,
) -> Result<Result<T, Failure>, UnitEnd> {
    let until = Until(Instant::now() + Duration::from_millis(order.settings.timeout_ms));
    let waited_for = "the transaction that is being applied at the destination had ended";
    in_time(ctx, until, waited_for, step).await
}

/// So often it is looked before the fence.
const LOOKS_MAX: u32 = 5;

/// How long the destination may need to be where the source was at a look.
const LAG_MAX: Duration = Duration::from_secs(30);

/// From now on the applier keeps in mind what it changes, and nothing that was changed before.
pub(super) async fn begin(
    ctx: &UnitContext,
    order: &CutoverOrder,
) -> Result<Result<(), Failure>, UnitEnd> {
    between_two(ctx, order, Box::pin(keep_in_mind(ctx, order))).await
}

async fn keep_in_mind(ctx: &UnitContext, order: &CutoverOrder) -> Result<(), UnitEnd> {
    let mut session = fence::writing_session(ctx).await?;
    let access = session.access().clone();
    let transaction = session.transaction().await.about(&access)?;
    transaction.batch_execute(&fence::hold(ctx)).await.about(&access)?;
    let (task, attempt) = (ctx.task.as_str(), i64::from(order.attempt));
    let begin = "update pgconvoy.apply_progress set changes_for = $2::bigint, look = look + 1 where task = $1";
    transaction.execute(begin, &[&task, &attempt]).await.about(&access)?;
    for table in ["changed_key", "changed_table"] {
        let forget = format!("delete from pgconvoy.{table} where task = $1");
        transaction.execute(&forget, &[&task]).await.about(&access)?;
    }
    transaction.commit().await.about(&access)?;
    session.close().await;
    Ok(())
}

/// Looks at what was changed so far, while the source is in use, until so little is left that it fits the budget.
pub(super) async fn while_in_use(
    ctx: &UnitContext,
    order: &CutoverOrder,
    source: &Session,
) -> Result<Result<ComparedAgain, Failure>, UnitEnd> {
    let mut session = fence::writing_session(ctx).await?;
    let access = session.access().clone();
    let budget = Duration::from_millis(order.settings.check_budget_ms);
    let mut found = ComparedAgain::default();
    let (mut took, mut pages_read) = (Duration::ZERO, 0);
    for nth in 1..=LOOKS_MAX {
        let mut undecided = false;
        let look =
            match between_two(ctx, order, Box::pin(next_look(ctx, order, &mut session))).await? {
                Ok(look) => look,
                Err(failure) => return Ok(Err(failure)),
            };
        let changes = Changes::before(ctx, &session, look).await.about(&access)?;
        let [mut here, mut there] = Reader::both(ctx, &changes);
        let (mut source_took, mut destination_took) = (Duration::ZERO, Duration::ZERO);
        found.tables = found.tables.max(changes.tables());
        let mut after = None;
        while let Some(page) = changes.page(ctx, &session, after.as_ref()).await.about(&access)? {
            ctx.still_mine()?;
            let began = Instant::now();
            let ours = here.read(&page).await?;
            source_took += began.elapsed();
            pages_read += 1;
            let marker = proof::name(ctx, order, MARKERS_FROM + pages_read);
            proof::write(ctx, source, &marker).await?;
            let until = Until(Instant::now() + LAG_MAX);
            if proof::arrived(ctx, &marker, until).await?.is_none() {
                return Ok(Err(too_far_behind()));
            }
            let began = Instant::now();
            let theirs = there.read(&page).await?;
            destination_took += began.elapsed();
            found.keys += page.keys;
            found.keys_compared += page.keys_compared;
            let differs = page.differing(ours, theirs);
            let judged = Box::pin(standing_still(ctx, &mut session, look, differs));
            let (stands, left) = match between_two(ctx, order, judged).await? {
                Ok(judged) => judged,
                Err(failure) => return Ok(Err(failure)),
            };
            undecided |= left;
            if let Some(failure) = differ(&stands) {
                return Ok(Err(failure));
            }
            after = Some(page.last());
        }
        if let Err(failure) =
            between_two(ctx, order, Box::pin(forget(ctx, &mut session, look))).await?
        {
            return Ok(Err(failure));
        }
        here.end();
        there.end();
        // Behind the fence both ends are read at once.
        took = source_took.max(destination_took);
        if took <= budget / 2 && (!undecided || nth == LOOKS_MAX) {
            session.close().await;
            return Ok(Ok(found));
        }
    }
    session.close().await;
    Ok(Err(over_budget(budget).remedy(format!(
        "what is changed within a look took {took:?} to look at, even at the last one: give it more by --check-budget, or begin anew \
         when less is written"
    ))))
}

/// Markers of looks are no markers of the proof.
const MARKERS_FROM: u32 = 100;

/// Looks at what is left, when nobody writes any more and all of it is applied.
pub(super) async fn behind_fence(
    ctx: &UnitContext,
    order: &CutoverOrder,
    until: Until,
) -> Result<Result<ComparedAgain, Failure>, UnitEnd> {
    let budget = Duration::from_millis(order.settings.check_budget_ms);
    let end = until.0.min(Instant::now() + budget);
    let looked = timeout_at(end, Box::pin(all_that_is_left(ctx))).await;
    match looked {
        Ok(looked) => looked,
        Err(_) => Ok(Err(over_budget(budget).remedy(
            "begin anew when less is written, or give it more by --check-budget (writers are stopped for so much longer)",
        ))),
    }
}

async fn all_that_is_left(ctx: &UnitContext) -> Result<Result<ComparedAgain, Failure>, UnitEnd> {
    let access = ctx.access(Side::Destination);
    let session = access.session().await.about(&access)?;
    let changes = Changes::all(ctx, &session).await.about(&access)?;
    let mut found = ComparedAgain { tables: changes.tables(), ..ComparedAgain::default() };
    let [mut here, mut there] = Reader::both(ctx, &changes);
    let mut differs = Vec::new();
    let mut after = None;
    while let Some(page) = changes.page(ctx, &session, after.as_ref()).await.about(&access)? {
        ctx.still_mine()?;
        let (ours, theirs) = tokio::try_join!(here.read(&page), there.read(&page))?;
        found.keys += page.keys;
        found.keys_compared += page.keys_compared;
        differs.extend(page.differing(ours, theirs));
        after = Some(page.last());
    }
    let (small, large) = changes.untold();
    found.tables_left_out = large;
    for page in small {
        ctx.still_mine()?;
        let (ours, theirs) = tokio::try_join!(here.read(&page), there.read(&page))?;
        let rows = ours.iter().map(|rows| rows.len() as u64).sum::<u64>();
        found.keys += rows;
        found.keys_compared += rows;
        differs.extend(page.differing(ours, theirs));
    }
    here.end();
    there.end();
    session.close().await;
    let differs: Vec<_> = differs.into_iter().map(|(_, table, row)| (table, row)).collect();
    Ok(differ(&differs).map_or(Ok(found), Err))
}

/// What is changed from here on is for the look after this one, whose number is told.
async fn next_look(
    ctx: &UnitContext,
    order: &CutoverOrder,
    session: &mut Session,
) -> Result<i32, UnitEnd> {
    let access = session.access().clone();
    let transaction = session.transaction().await.about(&access)?;
    transaction.batch_execute(&fence::hold(ctx)).await.about(&access)?;
    let next = "update pgconvoy.apply_progress set look = look + 1 where task = $1 and changes_for = $2::bigint returning look";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
        [&ctx.task.as_str(), &i64::from(order.attempt)];
    let row = transaction.query_opt(next, &values).await.about(&access)?;
    transaction.commit().await.about(&access)?;
    let row = row.ok_or_else(|| {
        let message = "the destination was not told to keep in mind what is changed";
        Failure::other("internal_error", message).about(access.to_string())
    })?;
    Ok(row.get(0))
}

/// What was looked at is kept in mind no longer; but which tables were changed in a way that no key tells.
async fn forget(ctx: &UnitContext, session: &mut Session, look: i32) -> Result<(), UnitEnd> {
    let access = session.access().clone();
    let transaction = session.transaction().await.about(&access)?;
    transaction.batch_execute(&with_applier_away(ctx)).await.about(&access)?;
    for table in ["changed_key where", "changed_table where not untold and"] {
        let forget = format!("delete from pgconvoy.{table} task = $1 and look < $2");
        transaction.execute(&forget, &[&ctx.task.as_str(), &look]).await.about(&access)?;
    }
    transaction.commit().await.about(&access)?;
    Ok(())
}

/// Between two transactions of the applier: no two of us meet at keys in different orders.
fn with_applier_away(ctx: &UnitContext) -> String {
    let (hold, task) = (fence::hold(ctx), &ctx.task);
    format!("{hold}; select from pgconvoy.apply_progress where task = '{task}' for no key update")
}

/// A row that differs, of the table of this number and name.
type Differing = (i64, QualifiedName, RowDifference);

/// Those that differed at an earlier look too, and were not changed since; and whether others, which were not changed either, are left to
/// the next one: at a source that waits for a standby a change is told of, and applied, a moment before it is seen. A row that was changed
/// since belongs to the next look anyway.
async fn standing_still(
    ctx: &UnitContext,
    session: &mut Session,
    look: i32,
    differs: Vec<Differing>,
) -> Result<(Vec<(QualifiedName, RowDifference)>, bool), UnitEnd> {
    if differs.is_empty() {
        return Ok((Vec::new(), false));
    }
    let access = session.access().clone();
    let task = ctx.task.as_str();
    let mut of_table: BTreeMap<i64, (QualifiedName, BTreeMap<String, RowDifference>)> =
        BTreeMap::new();
    for (no, name, row) in differs {
        let rows = &mut of_table.entry(no).or_insert_with(|| (name, BTreeMap::new())).1;
        rows.insert(row.key.clone(), row);
    }
    let transaction = session.transaction().await.about(&access)?;
    transaction.batch_execute(&with_applier_away(ctx)).await.about(&access)?;
    let (mut stands, mut left) = (Vec::new(), false);
    for (no, (name, mut rows)) in of_table {
        let keys: Vec<&str> = rows.keys().map(String::as_str).collect();
        // Of a table that is changed so much that only a part of its keys is kept, or in a way that no key tells, nobody knows.
        let stay = "select k.key from pgconvoy.changed_key k where k.task = $1 and k.table_no = $2 and k.key = any ($3) and k.look < $4
            and k.differed and not exists (select from pgconvoy.changed_table t where (t.task, t.table_no, t.look) = ($1, $2, $4) and (t.level > 0 or t.untold))";
        let stay = transaction.query(stay, &[&task, &no, &keys, &look]).await.about(&access)?;
        let table = "insert into pgconvoy.changed_table (task, table_no, look) values ($1, $2, $3) on conflict do nothing";
        transaction.execute(table, &[&task, &no, &look]).await.about(&access)?;
        let carry = "update pgconvoy.changed_key set look = $4, differed = true where task = $1 and table_no = $2 and key = any ($3) and look < $4";
        let carried = transaction.execute(carry, &[&task, &no, &keys, &look]).await;
        left |= carried.about(&access)? > 0;
        for row in &stay {
            stands.extend(rows.remove(row.get::<_, &str>(0)).map(|row| (name.clone(), row)));
        }
    }
    transaction.commit().await.about(&access)?;
    Ok((stands, left))
}

/// What differs, for people.
fn differ(rows: &[(QualifiedName, RowDifference)]) -> Option<Failure> {
    if rows.is_empty() {
        return None;
    }
    let told = rows.iter().map(|(table, row)| {
        format!("{table} ({}) is {}", row.key.replace('\t', ", "), row.difference.as_str())
    });
    let message = format!(
        "rows that were changed since both ends were compared are not the same: {}",
        named(told.collect())
    );
    Some(Failure::definite("cutover_rows_differ", message).remedy(
        "find out who wrote to the destination; `pgconvoy task resync` copies a table anew, then begin anew",
    ))
}

fn over_budget(budget: Duration) -> Failure {
    let message = format!(
        "what was changed since both ends were compared could not be compared again within {budget:?}"
    );
    Failure::definite("cutover_budget", message)
}

fn too_far_behind() -> Failure {
    let message = format!("the destination did not catch up within {LAG_MAX:?}");
    Failure::definite("cutover_lag", message)
        .remedy("wait until lag is small (`task show`), then begin anew")
}

/// What the destination has of it is no plan as this agent knows it.
fn not_understood(problem: impl std::fmt::Display) -> PgError {
    PgError::protocol(format!("changes that are kept in mind: {problem}"))
}
