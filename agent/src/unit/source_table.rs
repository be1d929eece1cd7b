//! A table at the source, locked and looked at: what planning, copying and comparing have in common (law S4).

use std::time::Duration;

use pgconvoy_flow::{fingerprint, sql};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, TableNo};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::SharedSnapshot;
use tokio::time::Instant;

use super::plan_tables::catalog;
use super::{UnitContext, UnitEnd};
use crate::keeper::{NoSnapshot, is_gone, set_snapshot};
use crate::pg::wire::{Answer, Wire, field};
use crate::pg::{About, Access, PgError};

/// The WAL writer flushes what was committed within 0.6 s; a server that takes longer than this has trouble with its
/// disk.
const FLUSH_LIMIT: Duration = Duration::from_secs(60);
const FLUSH_PAUSE: Duration = Duration::from_millis(20);
const FLUSH_NUDGE: Duration = Duration::from_millis(500);

/// How often it is looked whether all transactions that are older than the slot have ended.
const BARRIER_PAUSE: Duration = Duration::from_millis(100);

const BEGIN: &str = "begin isolation level repeatable read read only";

/// Begins a transaction that sees the task's moment, or one of its own.
pub(super) async fn begin(
    ctx: &UnitContext,
    access: &Access,
    wire: &mut Wire,
    shared: Option<&SharedSnapshot>,
) -> Result<(), UnitEnd> {
    Ok(begin_with(ctx, access, wire, shared, "").await?.map(drop).about(access)?)
}

/// The same, and these statements are its first, in one round trip; their answers, or how one was refused.
async fn begin_with(
    ctx: &UnitContext,
    access: &Access,
    wire: &mut Wire,
    shared: Option<&SharedSnapshot>,
    statements: &str,
) -> Result<Result<Vec<Answer>, PgError>, UnitEnd> {
    let Some(shared) = shared else {
        let answers = wire.answers(&format!("{BEGIN}; {statements}")).await;
        return Ok(answers.map(|mut answers| answers.split_off(1)));
    };
    // Twice: the agent's own keeper may turn out to have lost its session, and is opened anew.
    for _ in 0..2 {
        let export = match ctx.means.keepers.export(access, &ctx.task, shared).await {
            Ok(export) => export,
            Err(NoSnapshot::Gone(gone)) => return Err(lost(shared, gone)),
            Err(NoSnapshot::Failed(failure)) => return Err(failure.into()),
        };
        match wire.answers(&format!("{BEGIN}; {}; {statements}", set_snapshot(&export))).await {
            Ok(mut answers) => return Ok(Ok(answers.split_off(2))),
            Err(error) if is_gone(&error) => {
                ctx.means.keepers.forget(&ctx.task, shared.round, &export);
                wire.query("rollback").await.about(access)?;
            }
            Err(error) => return Ok(Err(error)),
        }
    }
    Err(lost(shared, Vec::new()))
}

fn lost(shared: &SharedSnapshot, gone: Vec<AgentId>) -> UnitEnd {
    UnitEnd::SnapshotLost { round: shared.round, gone }
}

/// Begins a transaction that sees the present, from its first statement but a lock on: what plans are made in (law S3).
pub(super) async fn begin_now(wire: &mut Wire) -> Result<(), PgError> {
    wire.query(BEGIN).await.map(drop)
}

/// Locks a table in the current transaction, so that neither its columns nor its file change until that ends. Names are
/// looked up in the present, also under an imported snapshot.
pub(super) async fn lock(wire: &mut Wire, table: &QualifiedName) -> Result<(), PgError> {
    wire.query(&sql::lock_table(table)).await.map(drop)
}

/// A table that is to be moved, as a transaction found it.
pub(super) struct Opened {
    /// The digest of its columns.
    pub(super) fingerprint: String,
    /// What else was asked.
    pub(super) answers: Vec<Answer>,
}

/// Begins a transaction, locks a table that is to be moved, sees whether its file is the one noted, and asks what else there is
/// to ask: all in one round trip.
///
/// One that is not there any more ends the unit, with the identity of the server that says so: a name that leads to another
/// server by now must not make tables look dropped.
pub(super) async fn open(
    ctx: &UnitContext,
    wire: &mut Wire,
    shared: Option<&SharedSnapshot>,
    table: (TableNo, &QualifiedName, Option<u32>),
    asked: &str,
) -> Result<Opened, UnitEnd> {
    let access = wire.access().clone();
    let (no, name, noted) = table;
    let look = format!(
        "{}; {}; {}; {asked}",
        sql::lock_table(name),
        filenode(name),
        sql::describe_table(name)
    );
    let mut answers = match begin_with(ctx, &access, wire, shared, &look).await? {
        Ok(answers) => answers,
        Err(error) if is_absent(&error) => {
            wire.query("rollback").await.about(&access)?;
            let ask = "select system_identifier from pg_catalog.pg_control_system()";
            let said = wire.value(ask).await.about(&access)?;
            let signed: i64 = said
                .parse()
                .map_err(|_| PgError::protocol(format!("system identifier {said}")))
                .about(&access)?;
            // It uses all 64 bits; PostgreSQL has no unsigned type to show it in.
            return Err(UnitEnd::TableGone {
                table: no,
                system_identifier: signed.cast_unsigned(),
            });
        }
        Err(error) => return Err(error.failure(name.to_string()).into()),
    };
    let more = answers.split_off(3);
    let [_locked, file, described] = &answers[..] else {
        unreachable!("what is left when all beyond three is taken off");
    };
    compare_filenode(no, name, noted, file.value().about(name)?)?;
    Ok(Opened { fingerprint: fingerprint::fingerprint(&described.columns), answers: more })
}

/// No such table, or no such schema.
pub(super) fn is_absent(error: &PgError) -> bool {
    matches!(error.sqlstate(), Some("42P01" | "3F000"))
}

/// The digest of its columns as the server describes them.
pub(super) async fn fingerprint(wire: &mut Wire, table: &QualifiedName) -> Result<String, PgError> {
    let answers = wire.answers(&sql::describe_table(table)).await?;
    Ok(fingerprint::fingerprint(answers.first().map_or(&[][..], |answer| &answer.columns)))
}

/// Asks for the file of a table.
fn filenode(table: &QualifiedName) -> String {
    format!("select pg_catalog.pg_relation_filenode({})", catalog::regclass(table))
}

/// Ends the unit if the locked table's file is not the one noted before the task's snapshot was taken.
pub(super) async fn check_filenode(
    wire: &mut Wire,
    no: TableNo,
    table: &QualifiedName,
    noted: Option<u32>,
) -> Result<(), UnitEnd> {
    if noted.is_none() {
        return Ok(());
    }
    let now = wire.value(&filenode(table)).await.about(table)?;
    compare_filenode(no, table, noted, &now)
}

/// Its rows were rewritten or truncated since, and that snapshot shows none.
fn compare_filenode(
    no: TableNo,
    table: &QualifiedName,
    noted: Option<u32>,
    now: &str,
) -> Result<(), UnitEnd> {
    let Some(noted) = noted.filter(|noted| noted.to_string() != now) else { return Ok(()) };
    let failure = Failure::definite(
        "table_rewritten",
        format!("its rows were rewritten or truncated after the task's snapshot was taken (file {noted}, now {now})"),
    )
    .about(table.to_string())
    .remedy(
        "let TRUNCATE, VACUUM FULL, CLUSTER and rewriting ALTER TABLE rest, cancel the task and create it again; \
         copy.snapshot: shard does not need that rest",
    );
    Err(UnitEnd::TableChanged { table: no, failure })
}

/// The partitions below a locked root that an imported snapshot does not show as they were when it was taken: rewritten or truncated since, gone, or come.
/// The snapshot shows the catalogue's rows as they were, functions and locks the present.
pub(super) async fn partitions_changed(
    wire: &mut Wire,
    root: &QualifiedName,
) -> Result<Vec<String>, PgError> {
    let ask = format!(
        "with recursive was (leaf) as (
             select {root}::oid
             union all
             select i.inhrelid from was join pg_catalog.pg_inherits i on i.inhparent = was.leaf
         ), now (leaf) as (
             select relid::oid from pg_catalog.pg_partition_tree({root})
         )
         select coalesce(n.nspname || '.' || c.relname, leaf::regclass::text)
         from was full join now using (leaf)
         left join pg_catalog.pg_class c on c.oid = leaf
         left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where was.leaf is null or now.leaf is null
             or c.relkind = 'r' and c.relfilenode is distinct from pg_catalog.pg_relation_filenode(leaf)
         order by 1",
        root = catalog::regclass(root)
    );
    let rows = wire.query(&ask).await?;
    rows.iter().map(|row| field(row, 0)).collect()
}

/// Asks for the snapshot, and then for the WAL insert position, in this order (law S4).
pub(super) const MOMENT: &str = "select pg_current_snapshot(); select pg_current_wal_insert_lsn()";

/// Reads the answers to [`MOMENT`].
pub(super) fn moment(answers: &[Answer]) -> Result<(String, Lsn), PgError> {
    let [snapshot, position] = answers else {
        return Err(PgError::protocol("no moment where there must be one"));
    };
    let position = position.value()?;
    let position =
        position.parse().map_err(|_| PgError::protocol(format!("position {position}")))?;
    Ok((snapshot.value()?.to_owned(), position))
}

/// The moment of the current transaction.
pub(super) async fn note_moment(wire: &mut Wire) -> Result<(String, Lsn), PgError> {
    moment(&wire.answers(MOMENT).await?)
}

/// Waits until every transaction that is older than the barrier has ended (law S2): what they did may be missing in the
/// stream, so a snapshot must show it. Their commits become visible in no order that the log tells, and the oldest one that
/// runs only grows younger.
pub(super) async fn wait_for_barrier(wire: &mut Wire, barrier: u64) -> Result<(), PgError> {
    loop {
        let oldest = "select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())";
        let rows = wire.query(oldest).await?;
        let row =
            rows.first().ok_or_else(|| PgError::protocol("a snapshot without a beginning"))?;
        if field::<u64>(row, 0)? >= barrier {
            return Ok(());
        }
        tokio::time::sleep(BARRIER_PAUSE).await;
    }
}

/// Ends the transaction, so that what was read holds up nobody, and waits.
///
/// A commit that is seen but not yet on disk may be undone by a crash of the source, and its transaction id used again.
///
/// On an idle server the last bytes before the noted position may be of no commit, and nobody flushes them: a page's
/// header after a switch of segments, or what a session wrote that is idle in its transaction. A message in the log,
/// which is no transaction and takes no transaction id, makes the server flush them.
pub(super) async fn wait_until_flushed(wire: &mut Wire, noted: Lsn) -> Result<(), UnitEnd> {
    let begin = Instant::now();
    let mut nudge = begin;
    let access = wire.access().clone();
    let mut flushed = flushed_up_to(wire, "commit; ").await.about(&access)?;
    while flushed < noted {
        if begin.elapsed() >= FLUSH_LIMIT {
            return Err(Failure::transient(
                "wal_not_flushed",
                format!(
                    "the source did not write its log to disk up to {noted} within {FLUSH_LIMIT:?}"
                ),
            )
            .about(access.to_string())
            .remedy("look at the load on the source's disk")
            .into());
        }
        if Instant::now() >= nudge {
            nudge += FLUSH_NUDGE;
            match wire.query("select pg_logical_emit_message(false, 'pgconvoy', '')").await {
                Ok(_) => {}
                // Refused: the server flushes when it sees fit.
                Err(error) if error.sqlstate().is_some() => {}
                Err(error) => return Err(access.failure(&error).into()),
            }
        }
        tokio::time::sleep(FLUSH_PAUSE).await;
        flushed = flushed_up_to(wire, "").await.about(&access)?;
    }
    Ok(())
}

async fn flushed_up_to(wire: &mut Wire, before: &str) -> Result<Lsn, PgError> {
    let rows = wire.query(&format!("{before}select pg_current_wal_flush_lsn()")).await?;
    let row = rows.first().ok_or_else(|| PgError::protocol("no position in the log"))?;
    field(row, 0)
}
