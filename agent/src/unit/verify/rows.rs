//! Comparing the rows of one shard.
//!
//! ```text
//!  source half                                       destination half
//!  1. end older owners' sessions (O5)
//!  2. the task's moment, or one of its own (S13)
//!  3. lock the table; its file is the one noted
//!  4. begin: the key of all hashes  ──────────────▶  a. end older owners' sessions, lock, one moment of its own
//!  5. all rows ▶ digest                              b. all rows ▶ digest
//!  6. which buckets differ?         ◀──────────────  c. the digest
//!  7. too many rows in them?        ── narrow to ──▶  d. digest of those rows, in the same moment; then 6 again
//!  8. rows of those, pass by pass   ──── buckets ──▶  e. rows of those
//!  9. match them by key             ◀──── rows ─────
//! 10. a stream is followed: look again at what differs ([`relook`](super::relook))
//! ```
//!
//! Both ends are read at once, each in its own order ([`reading`](super::reading), [`pgconvoy_flow::digest`]). Where nothing differs that is all. Memory is
//! bounded: what differs is looked at in a few passes of so many rows, and what is left is judged by the buckets' counts;
//! the result says so. Beside a stream, what is not looked at again counts as moving.

use rand::Rng;

use pgconvoy_flow::digest::{
    Digest, Focus, HashKey, Kept, LOOKS_MAX, Suspects, classify, narrowing, passes,
};
use pgconvoy_flow::sql;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::{QualifiedName, quote_literal};
use pgconvoy_shared::unit::{TablePlan, VerifyRows, WorkResult};
use pgconvoy_shared::verify::{
    Difference, LISTED_MAX, NotCompared, RowDifference, RowsCompared, shortened,
};

use super::list::List;
use super::reading::{End, Reading, Sessions, see_bytes_as_they_are};
use super::relook::{Keys, Relook, Stream};
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::wire::Wire;
use crate::pg::{About, PgError};
use crate::unit::link::{Link, link, out_of_turn};
use crate::unit::plan_tables::catalog;
use crate::unit::{UnitContext, UnitEnd, source_table};

/// Rows in one message: a few hundred KiB.
const ROWS_PER_MESSAGE: usize = 5_000;

#[derive(Debug)]
enum FromSource {
    /// Read your rows, a whole table in so many sessions.
    Begin { secret: HashKey, sessions: u32 },
    /// From now on only the rows in these buckets matter: send their digest.
    Narrow(Vec<u32>),
    /// Send the rows of these buckets.
    Buckets(Vec<u32>),
    /// Send the rows with these keys, as they are once all is there that was committed before this position.
    Again { keys: Keys, noted: Lsn },
}

#[derive(Debug)]
enum FromDestination {
    /// There is no such table, or no such column, any more; or its rows cannot be read as text.
    Absent(NotCompared),
    /// Of the rows in focus; changes of the table are followed, or not.
    Digest { digest: Digest, followed: bool },
    /// Some of the rows that were asked for.
    Rows(Vec<Kept>),
    /// That was all of them.
    AllRows,
    /// The stream does not get there.
    StandsStill,
}

/// Compares a shard.
pub(in crate::unit) async fn run(
    ctx: &UnitContext,
    order: VerifyRows,
) -> Result<WorkResult, UnitEnd> {
    let (source, destination) = link(4);
    let (compared, ()) = tokio::try_join!(
        Box::pin(source_half(ctx, &order, source)),
        Box::pin(destination_half(ctx, &order, destination))
    )?;
    Ok(WorkResult::VerifyRows(compared))
}

async fn source_half(
    ctx: &UnitContext,
    order: &VerifyRows,
    mut link: Link<FromSource, FromDestination>,
) -> Result<RowsCompared, UnitEnd> {
    let access = ctx.access(Side::Source);
    let shard = &order.shard;
    let table = &shard.table;
    let mut wire = ctx.means.pool.reader(&access).await.about(&access)?;
    end_old_sessions(&mut wire).await?;
    see_bytes_as_they_are(&mut wire).await.about(&access)?;
    source_table::begin(ctx, &access, &mut wire, shard.snapshot.as_ref()).await?;
    match lock(&mut wire, table).await {
        Ok(()) => {}
        Err(error) if source_table::is_absent(&error) => {
            return Ok(left_out("the source dropped the table", true));
        }
        Err(error) => return Err(error.failure(table.name.to_string()).into()),
    }
    if let Some(why) = no_longer_shown(&mut wire, order).await? {
        return Ok(left_out(&why, false));
    }

    if !catalog::ranges_hold_all(&mut wire, table, &shard.part, &table.name)
        .await
        .about(&table.name)?
    {
        return Ok(left_out("the source changed the table's columns", true));
    }

    let mut secret = Box::new([0; HashKey::BYTES]);
    rand::rng().fill_bytes(&mut secret[..]);
    let secret = HashKey(secret);
    let sessions = Sessions::of(ctx, &mut wire, shard).await.about(&table.name)?;
    link.send(FromSource::Begin { secret: secret.clone(), sessions: sessions.count }).await?;
    let here = End { ctx, access: &access, table: &table.write_to, only: !through_root(table) };
    let mut reading =
        Reading::of(here, wire, secret.clone(), order, sessions.count).await.about(&table.name)?;
    let mut focus = Focus::all();
    let (mut ours, bytes) = match reading.digest(&focus, Some(&ctx.progress)).await {
        Ok(read) => read,
        Err(error) if is_changed(&error) => {
            return Ok(left_out("the source changed the table's columns", true));
        }
        Err(error) if is_too_long(&error) => return Ok(left_out(TOO_LONG, false)),
        Err(error) => return Err(error.failure(table.name.to_string()).into()),
    };
    let (mut theirs, followed) = match link.expect().await? {
        FromDestination::Digest { digest, followed } => (digest, followed),
        FromDestination::Absent(why) => {
            return Ok(RowsCompared { not_compared: Some(why), ..RowsCompared::default() });
        }
        FromDestination::Rows(_) | FromDestination::AllRows | FromDestination::StandsStill => {
            return Err(out_of_turn().into());
        }
    };

    let mut found = RowsCompared {
        source_rows: ours.rows,
        destination_rows: theirs.rows,
        bytes,
        compared: ours.compared,
        ..RowsCompared::default()
    };
    while let Some(buckets) = narrowing(&ours, &theirs) {
        ctx.still_mine()?;
        focus = focus.narrowed(&buckets);
        link.send(FromSource::Narrow(buckets)).await?;
        let (here, there) = tokio::join!(reading.digest(&focus, None), link.expect());
        ours = here.about(&table.name)?.0;
        let FromDestination::Digest { digest, .. } = there? else {
            return Err(out_of_turn().into());
        };
        theirs = digest;
    }
    let passes = passes(&ours, &theirs);
    if followed {
        found.moving = [passes.missing, passes.extra, passes.different].iter().sum();
    } else {
        found.missing = passes.missing;
        found.extra = passes.extra;
        found.different = passes.different;
    }
    found.at_least = passes.at_least;
    drop((ours, theirs));
    let mut suspects = Suspects::default();
    let mut list = List::of(ctx, &table.write_to)?;
    for buckets in passes.look_at {
        ctx.still_mine()?;
        let focus = focus.clone().narrowed(&buckets);
        link.send(FromSource::Buckets(buckets)).await?;
        let (ours, theirs) = tokio::join!(reading.rows_of(&focus), collect(&mut link));
        let (ours, theirs) = (ours.about(&table.name)?, theirs?.ok_or_else(out_of_turn)?);
        if followed {
            suspects.suspect(ours, theirs);
        } else {
            let mut listed = Ok(());
            classify(ours, theirs, |row| tell(row, &mut found, &mut list, &mut listed));
            listed?;
        }
    }
    reading.end(ctx).await.about(&table.name)?;
    if !suspects.is_empty() {
        drop(sessions);
        look_again(here, order, secret, &mut link, suspects, &mut found, &mut list).await?;
    }
    if let Some(path) = list.end()? {
        found.lists.push(format!("{}:{}", ctx.agent, path.display()));
    }
    keep_first(&mut found.listed);
    Ok(found)
}

/// Looks at suspects until each is judged, or was looked at often enough.
async fn look_again(
    here: End<'_>,
    order: &VerifyRows,
    secret: HashKey,
    link: &mut Link<FromSource, FromDestination>,
    mut suspects: Suspects,
    found: &mut RowsCompared,
    list: &mut List,
) -> Result<(), UnitEnd> {
    let mut relook = Relook::of(here, order, secret).await.about(here.table)?;
    let mut is_settled = true;
    for nth in 0..LOOKS_MAX {
        if suspects.is_empty() {
            break;
        }
        here.ctx.still_mine()?;
        if nth > 0 && is_settled {
            is_settled = relook.settled().await.about(here.table)?;
        }
        let keys = Keys::of(&suspects, &order.shard.table);
        let (ours, noted) = relook.look(&keys).await.about(here.table)?;
        link.send(FromSource::Again { keys, noted }).await?;
        let Some(theirs) = collect(link).await? else { break };
        let mut listed = Ok(());
        suspects.look(ours, theirs, |row| tell(row, found, list, &mut listed));
        listed?;
    }
    relook.end();
    found.moving = found.moving.saturating_add(suspects.len());
    Ok(())
}

/// Counts a row that differs, and lists it.
fn tell(
    row: RowDifference,
    found: &mut RowsCompared,
    list: &mut List,
    listed: &mut Result<(), Failure>,
) {
    if listed.is_ok() {
        *listed = list.add(&row);
    }
    count(found, row);
}

/// Numbers by their value, and everything by its text: for people, not for machines.
fn by_key(one: &RowDifference, other: &RowDifference) -> std::cmp::Ordering {
    let number = |row: &RowDifference| row.key.parse::<i64>().unwrap_or(i64::MAX);
    (number(one), &one.key, one.difference).cmp(&(number(other), &other.key, other.difference))
}

/// Those with the smallest keys are listed.
fn keep_first(listed: &mut Vec<RowDifference>) {
    listed.sort_by(by_key);
    listed.truncate(LISTED_MAX);
}

fn count(found: &mut RowsCompared, row: RowDifference) {
    let figure = match row.difference {
        Difference::Missing => &mut found.missing,
        Difference::Extra => &mut found.extra,
        Difference::Different => &mut found.different,
    };
    *figure = figure.saturating_add(row.count);
    found.listed.push(RowDifference { key: shortened(&row.key), ..row });
    if found.listed.len() == 2 * LISTED_MAX {
        keep_first(&mut found.listed);
    }
}

/// The rows that were asked for; none = the stream stands still.
async fn collect(
    link: &mut Link<FromSource, FromDestination>,
) -> Result<Option<Vec<Kept>>, UnitEnd> {
    let mut rows = Vec::new();
    loop {
        match link.expect().await? {
            FromDestination::Rows(some) => rows.extend(some),
            FromDestination::AllRows => return Ok(Some(rows)),
            FromDestination::StandsStill => return Ok(None),
            FromDestination::Absent(_) | FromDestination::Digest { .. } => {
                return Err(out_of_turn().into());
            }
        }
    }
}

async fn send(
    link: &mut Link<FromDestination, FromSource>,
    mut rows: Vec<Kept>,
) -> Result<(), UnitEnd> {
    while !rows.is_empty() {
        let rest = rows.split_off(rows.len().min(ROWS_PER_MESSAGE));
        link.send(FromDestination::Rows(std::mem::replace(&mut rows, rest))).await?;
    }
    link.send(FromDestination::AllRows).await
}

async fn destination_half(
    ctx: &UnitContext,
    order: &VerifyRows,
    mut link: Link<FromDestination, FromSource>,
) -> Result<(), UnitEnd> {
    // None: there is nothing to compare.
    let Some(FromSource::Begin { secret, sessions }) = link.next().await else { return Ok(()) };
    let access = ctx.access(Side::Destination);
    let table = &order.shard.table.write_to;
    let mut wire = ctx.means.pool.reader(&access).await.about(&access)?;
    end_old_sessions(&mut wire).await?;
    see_bytes_as_they_are(&mut wire).await.about(&access)?;
    let stream = Stream::of(&mut wire, table).await.about(&access)?;
    let again = secret.clone();
    wire.query("begin isolation level repeatable read read only").await.about(&access)?;
    let begun = async {
        let shard = &order.shard;
        lock(&mut wire, &shard.table).await?;
        if !catalog::ranges_hold_all(&mut wire, &shard.table, &shard.part, table).await? {
            return Ok(None);
        }
        let only = !is_partitioned(&mut wire, table).await?;
        let here = End { ctx, access: &access, table, only };
        let mut reading = Reading::of(here, wire, secret, order, sessions).await?;
        let (digest, _) = reading.digest(&Focus::all(), None).await?;
        Ok(Some((reading, digest, here)))
    };
    const CHANGED: &str = "the table was changed at the destination meanwhile";
    let not_compared = |reason: &str, differs| NotCompared { reason: reason.to_owned(), differs };
    let begun = match begun.await {
        Ok(Some(begun)) => Ok(begun),
        Ok(None) => Err(not_compared(CHANGED, true)),
        Err(error) if source_table::is_absent(&error) || is_changed(&error) => {
            Err(not_compared(CHANGED, true))
        }
        Err(error) if is_too_long(&error) => Err(not_compared(TOO_LONG, false)),
        Err(error) => return Err(error.failure(table.to_string()).into()),
    };
    let followed = stream.is_some();
    let (begun, answer) = match begun {
        Ok((reading, digest, here)) => {
            (Some((reading, here)), FromDestination::Digest { digest, followed })
        }
        Err(why) => (None, FromDestination::Absent(why)),
    };
    // Nobody listens: the source half found out by itself that there is nothing to compare.
    let (Ok(()), Some((mut reading, here))) = (link.send(answer).await, begun) else {
        return Ok(());
    };
    let mut focus = Focus::all();
    while let Some(message) = link.next().await {
        let buckets = match message {
            FromSource::Narrow(buckets) => {
                focus = focus.narrowed(&buckets);
                let (digest, _) = reading.digest(&focus, None).await.about(table)?;
                link.send(FromDestination::Digest { digest, followed }).await?;
                continue;
            }
            FromSource::Buckets(buckets) => buckets,
            FromSource::Again { keys, noted } => {
                let stream = stream.ok_or_else(out_of_turn)?;
                reading.end(ctx).await.about(table)?;
                let relook = Relook::of(here, order, again).await.about(table)?;
                return answer_again(relook, &stream, link, (keys, noted)).await;
            }
            FromSource::Begin { .. } => return Err(out_of_turn().into()),
        };
        let rows = reading.rows_of(&focus.clone().narrowed(&buckets)).await.about(table)?;
        send(&mut link, rows).await?;
    }
    Ok(reading.end(ctx).await.about(table)?)
}

/// Whether both ends are read at the root of the table's partitions.
fn through_root(table: &TablePlan) -> bool {
    table.name != table.write_to
}

async fn lock(wire: &mut Wire, table: &TablePlan) -> Result<(), PgError> {
    match through_root(table) {
        true => wire.query(&sql::lock_partitions(&table.write_to)).await.map(drop),
        false => source_table::lock(wire, &table.write_to).await,
    }
}

/// Why the task's moment shows the locked table no longer as it was: it was copied so, and there is nothing left to compare that with.
async fn no_longer_shown(wire: &mut Wire, order: &VerifyRows) -> Result<Option<String>, UnitEnd> {
    let table = &order.shard.table;
    if !through_root(table) {
        let noted = table.filenode;
        return match source_table::check_filenode(wire, table.no, &table.name, noted).await {
            Ok(()) => Ok(None),
            Err(UnitEnd::TableChanged { failure, .. }) => Ok(Some(failure.message)),
            Err(end) => Err(end),
        };
    }
    if order.shard.snapshot.is_none() {
        return Ok(None);
    }
    let root = &table.write_to;
    let changed = source_table::partitions_changed(wire, root).await.about(root)?;
    Ok((!changed.is_empty()).then(|| {
        format!(
            "partitions were rewritten, truncated, attached or detached after the task's snapshot was taken: {}",
            changed.join(", ")
        )
    }))
}

/// Answers looks until the source half has seen enough.
async fn answer_again(
    mut relook: Relook<'_>,
    stream: &Stream,
    mut link: Link<FromDestination, FromSource>,
    first: (Keys, Lsn),
) -> Result<(), UnitEnd> {
    let (mut keys, mut noted) = first;
    let table = relook.table();
    loop {
        if !relook.wait_for(stream, noted).await.about(table)? {
            link.send(FromDestination::StandsStill).await?;
            return Ok(());
        }
        let (rows, _) = relook.look(&keys).await.about(table)?;
        send(&mut link, rows).await?;
        match link.next().await {
            Some(FromSource::Again { keys: next, noted: later }) => (keys, noted) = (next, later),
            None => break,
            Some(_) => return Err(out_of_turn().into()),
        }
    }
    relook.end();
    Ok(())
}

/// A partitioned table holds rows only through its partitions.
async fn is_partitioned(wire: &mut Wire, table: &QualifiedName) -> Result<bool, PgError> {
    let ask = format!(
        "select count(*) from pg_catalog.pg_class where relkind = 'p' and oid = pg_catalog.to_regclass({})",
        quote_literal(&table.quoted())
    );
    Ok(wire.value(&ask).await? != "0")
}

fn left_out(reason: &str, differs: bool) -> RowsCompared {
    let why = NotCompared { reason: reason.to_owned(), differs };
    RowsCompared { not_compared: Some(why), ..RowsCompared::default() }
}

const TOO_LONG: &str = "a row is too long for the server to write it as text: more than 1 GB, and bytes take two digits each";

/// A text that outgrows what the server can hold in one piece: the limit of what it allocates, or of its buffer.
fn is_too_long(error: &PgError) -> bool {
    match error.sqlstate() {
        Some("54000") => true,
        Some("XX000") => error.to_string().contains("invalid memory alloc request size"),
        _ => false,
    }
}

/// No such column, any more; or something else goes by the table's name.
fn is_changed(error: &PgError) -> bool {
    matches!(error.sqlstate(), Some("42703" | "42809"))
}
