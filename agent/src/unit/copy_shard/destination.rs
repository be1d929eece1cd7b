//! The destination half of copying a shard.

use std::time::Duration;

use pgconvoy_flow::{large_objects, sql};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::{QualifiedName, quote_literal};
use pgconvoy_shared::unit::{CopyDone, CopyShard, Part};
use tokio::time::Instant;

use super::{Encoding, FromSource, Go, ReadRows};
use crate::laws::Law;
use crate::pg::destination::AWAKE;
use crate::pg::destination::progress::{self, ShardId};
use crate::pg::destination::search_path;
use crate::pg::destination::takeover::{end_lock_holder, end_old_sessions};
use crate::pg::sqlstate::{INSUFFICIENT_PRIVILEGE, UNIQUE_VIOLATION};
use crate::pg::wire::{Answer, CopyIn, Wire};
use crate::pg::{About, PgError};
use crate::unit::link::{Link, out_of_turn};
use crate::unit::{UnitContext, UnitEnd};

/// An older owner's transaction is rolled back within this time, unless its server process does not end at all.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Making a file anew costs little, but for a server with many buffers, all of which it looks through.
const FRESH_BYTES_MIN: u64 = 32 << 20;

pub(super) async fn half(
    ctx: &UnitContext,
    shard: &CopyShard,
    mut link: Link<Go, FromSource>,
) -> Result<CopyDone, UnitEnd> {
    let id = ShardId {
        task: ctx.task.clone(),
        table: shard.table.no,
        generation: shard.table.generation,
        shard: shard.shard,
    };
    let access = ctx.access(Side::Destination);
    let mut wire = ctx.means.pool.writer(&access).await.about(&access)?;
    end_old_sessions(&mut wire).await?;
    let subject = &shard.table.write_to;
    if let Some(done) = begin(&mut wire, &id).await? {
        wire.query("rollback").await.about(subject)?;
        ctx.means.pool.give(wire);
        return Ok(done);
    }
    link.send(Go).await?;

    let done = write_rows(ctx, shard, &id, &mut wire, &mut link).await?;
    ctx.still_mine()?;
    match progress::record_and_commit(&mut wire, &id, subject, ctx.epoch, &done).await {
        Ok(()) => {}
        Err(error) if error.sqlstate() == Some(UNIQUE_VIOLATION) => {
            return done_by_another(&mut wire, &id, error).await.about(subject).map_err(Into::into);
        }
        Err(error) => return Err(error.failure(subject.to_string()).into()),
    }
    ctx.means.pool.give(wire);
    Ok(done)
}

/// Begins the transaction, takes the shard's lock and passes the fence; the shard's completion, if it is done. Whoever else
/// holds the lock is an older owner that was not found by its name, and is ended, or one that is about to find out that it is
/// superseded.
async fn begin(wire: &mut Wire, id: &ShardId) -> Result<Option<CopyDone>, Failure> {
    let subject = wire.access().to_string();
    let key = id.lock_key();
    let lock = match Law::Lease.is_left_out() {
        true => "true".to_owned(),
        false => format!("pg_try_advisory_xact_lock({key})"),
    };
    let begin = format!("begin; select {lock}; {}", progress::ask_fenced(id));
    let end = Instant::now() + LOCK_LIMIT;
    loop {
        let answers = wire.answers(&begin).await.about(&subject)?;
        if answers.get(1).is_some_and(Answer::is_true) {
            return progress::found_fenced(&answers).about(&subject);
        }
        wire.query("rollback").await.about(&subject)?;
        if Instant::now() >= end {
            return Err(Failure::transient(
                "shard_locked",
                format!(
                    "another session holds the lock of shard {} of table {}",
                    id.shard, id.table
                ),
            )
            .about(subject));
        }
        end_lock_holder(wire, &key).await?;
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

async fn write_rows(
    ctx: &UnitContext,
    shard: &CopyShard,
    id: &ShardId,
    wire: &mut Wire,
    link: &mut Link<Go, FromSource>,
) -> Result<CopyDone, UnitEnd> {
    let subject = &shard.table.write_to;
    // While the source half opens the table.
    let freeze = prepare(ctx, shard, id, wire).await?;
    match link.expect().await? {
        FromSource::Opened { encoding: Encoding::Utf8 } => {}
        FromSource::Opened { encoding: Encoding::Unknown } => {
            wire.query("set client_encoding = 'SQL_ASCII'").await.about(subject)?;
        }
        _ => return Err(out_of_turn().into()),
    }
    let mut copy = wire.copy_in(&sql::copy_in(&shard.table, freeze)).await.about(subject)?;
    let read = pass_rows(ctx, &mut copy, link, subject).await?;
    let passed = copy.frames().rows_at_end(shard.table.format);
    if passed != read.rows {
        copy.fail("rows were lost on the way").await.about(subject)?;
        return Err(miscounted(passed, read.rows).about(subject.to_string()).into());
    }
    let written = copy.finish().await.about(subject)?;
    if written != read.rows {
        return Err(miscounted(written, read.rows).about(subject.to_string()).into());
    }
    let FromSource::Flushed = link.expect().await? else { return Err(out_of_turn().into()) };
    Ok(CopyDone {
        rows: read.rows,
        bytes: read.bytes,
        snapshot: read.snapshot,
        noted_lsn: read.noted_lsn,
        found_done: false,
    })
}

/// Makes everything ready for rows; whether they can be frozen.
async fn prepare(
    ctx: &UnitContext,
    shard: &CopyShard,
    id: &ShardId,
    wire: &mut Wire,
) -> Result<bool, UnitEnd> {
    let subject = &shard.table.write_to;
    if shard.barrier.is_some() && shard.table.name != large_objects::table() {
        // Changes are followed, so the role may; where a table is copied anew, its triggers and foreign keys are there.
        // (Large objects are written by a trigger.)
        let replica = "set local session_replication_role = replica";
        wire.query(replica).await.about(subject)?;
    }
    if let Some(clear) = sql::clear(&shard.table, &shard.part) {
        wire.query(&format!("{AWAKE}; {clear}")).await.about(subject)?;
    }
    let mut settings = search_path::for_rows_of(&ctx.task, subject);
    if ctx.with_schema() {
        settings = format!("{settings}; {}", silence_triggers(subject));
    }
    wire.query(&settings).await.map_err(|error| may_not_silence(&error, subject))?;
    Ok(is_alone(shard) && progress::make_fresh(wire, id, subject).await.about(subject)?)
}

/// Whether the shard is all that is written to its table, and large enough for a new file to pay.
fn is_alone(shard: &CopyShard) -> bool {
    shard.part == Part::Whole
        && shard.table.write_to == shard.table.name
        && shard.bytes >= FRESH_BYTES_MIN
}

/// Triggers and foreign keys come after the rows. Where they are there, a crash of the server has emptied an unlogged table after that, and
/// its rows come back: what they are to set off, and are to be checked for, was done at the source.
fn silence_triggers(table: &QualifiedName) -> String {
    format!(
        "select pg_catalog.set_config('session_replication_role', 'replica', true) from pg_catalog.pg_class c \
         where c.oid = {}::pg_catalog.regclass and c.relkind = 'r' and c.relpersistence = 'u' \
         and exists (select from pg_catalog.pg_trigger t where t.tgrelid = c.oid)",
        quote_literal(&table.quoted())
    )
}

fn may_not_silence(error: &PgError, table: &QualifiedName) -> Failure {
    let told = error.failure(table.to_string());
    if error.sqlstate() != Some(INSUFFICIENT_PRIVILEGE) {
        return told;
    }
    Failure::definite(
        "unlogged_rows_lost",
        format!(
            "a crash of the destination emptied this unlogged table after its triggers and foreign keys were made, and the \
             role must not leave those out: {}",
            told.message
        ),
    )
    .about(table.to_string())
    .remedy(
        "let the role set session_replication_role (GRANT SET ON PARAMETER from PostgreSQL 15 on, or SUPERUSER) until the task \
         is done, then resume the task",
    )
}

/// Writes what comes until the source half says that this was all.
async fn pass_rows(
    ctx: &UnitContext,
    copy: &mut CopyIn<'_>,
    link: &mut Link<Go, FromSource>,
    subject: impl ToString,
) -> Result<ReadRows, UnitEnd> {
    let mut rows = 0;
    loop {
        match link.expect().await? {
            FromSource::Data(data) => {
                let bytes = data.len() as u64;
                copy.send(data).await.map_err(|error| error.failure(subject.to_string()))?;
                let so_far = copy.frames().messages();
                ctx.progress.add(so_far - rows, bytes);
                rows = so_far;
            }
            FromSource::End(read) => return Ok(read),
            FromSource::Opened { .. } | FromSource::Flushed => return Err(out_of_turn().into()),
        }
    }
}

async fn done_by_another(
    wire: &mut Wire,
    id: &ShardId,
    violation: PgError,
) -> Result<CopyDone, PgError> {
    wire.query("rollback").await?;
    progress::find(wire, id).await?.ok_or(violation)
}

/// A trigger or a rule at the destination that leaves rows out, or a fault of ours: nothing is committed.
pub(in crate::unit) fn miscounted(arrived: u64, read: u64) -> Failure {
    Failure::definite(
        "row_count_differs",
        format!("{read} rows were read at the source and {arrived} arrived at the destination"),
    )
    .remedy("disable triggers that leave out rows on the destination's table, then resume the task")
}
