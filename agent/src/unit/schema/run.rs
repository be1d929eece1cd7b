//! Runs statements of the schema, each exactly once.
//!
//! ```text
//!  begin; statement; select pgconvoy.finish_entry(…); commit
//! ```
//!
//! goes to the server as one message. The mark is set by the transaction that ran the statement, and only if the task
//! goes on and no younger owner was here: whatever dies in between, statement and mark are both there or both not. A lost
//! answer is found by the mark. Statements before the rows, and those that build indexes of small tables, are many and
//! short, so several share a transaction; when that fails, they are run one by one to find out which one it was.
//!
//! Names that a function looks up without saying a schema are not found, for sessions of ours look nowhere. A statement that
//! fails by that is tried once more as the source would run it: with the source's `search_path`, and the object's schema.
//!
//! Whom an object is given to must be allowed to make such objects in its schema, unless a superuser gives it; at the source that may be long
//! ago, or the right be granted further down. So where that is refused, the right is lent for the statement alone.
//!
//! What may fail without stopping the migration: grants to roles that are not there, their user mappings, and changes of owner
//! that the role may not make (the precheck has warned of these), comments on what belongs to somebody else, and what belongs
//! to the server: here they are logged.

use std::mem;

use tracing::warn;

use pgconvoy_shared::failure::{Failure, FailureClass};
use pgconvoy_shared::name::quote_identifier;

use super::entry::{Section, new_owner, without_owner};
use super::store::{self, Pick, StoredEntry};
use super::text::statements;
use super::{roles, settings};
use crate::pg::{PgError, Session};
use crate::unit::{UnitContext, UnitEnd};

/// Short statements that share a transaction: their locks must fit the lock table (64 for each connection by default).
const BATCH_ENTRIES: usize = 48;
const BATCH_BYTES: usize = 256 * 1024;

pub(super) const USER_MAPPING: &str = "USER MAPPING";

const UNDEFINED_OBJECT: &str = "42704";
const MISSING_PRIVILEGE: &str = "42501";

/// Runs what was picked and is not done; says how many it ran.
pub(in crate::unit) async fn run(
    ctx: &UnitContext,
    session: &mut Session,
    pick: &Pick,
) -> Result<u32, UnitEnd> {
    prepare(ctx, session);
    run_picked(ctx, session, pick).await
}

/// The same in a session that is prepared.
pub(super) async fn run_picked(
    ctx: &UnitContext,
    session: &mut Session,
    pick: &Pick,
) -> Result<u32, UnitEnd> {
    let mut count = 0;
    let mut last = -1;
    loop {
        let page = store::page(ctx, session, pick, last).await?;
        let Some(end) = page.last().map(|entry| entry.no) else { return Ok(count) };
        for batch in batches(page, pick.is_quick()) {
            ctx.still_mine()?;
            run_batch(ctx, session, &batch).await?;
            let ran = u32::try_from(batch.len()).expect("a batch has few entries");
            ctx.progress.add(ran.into(), 0);
            count += ran;
        }
        last = end;
    }
}

/// What pg_restore's script sets at its beginning, beside what all sessions have; and memory to build indexes with: a
/// part of the shared buffers for each build that may run, unless the server gives more anyway.
pub(super) fn prepare(ctx: &UnitContext, session: &Session) {
    let jobs = ctx.spec.copy.index_jobs.max(1);
    let settings = format!(
        "set check_function_bodies = off;
         set client_min_messages = warning;
         select set_config('maintenance_work_mem', greatest(
             (select setting::bigint from pg_settings where name = 'maintenance_work_mem'),
             least(1048576, (select setting::bigint * 8 from pg_settings where name = 'shared_buffers') / (4 * {jobs}))
         )::text, false)"
    );
    session.send_ahead(&settings);
}

/// What shares a transaction. A statement that may take hours is kept as soon as it is done.
fn batches(entries: Vec<StoredEntry>, quick: bool) -> Vec<Vec<StoredEntry>> {
    let mut batches = Vec::new();
    let mut batch: Vec<StoredEntry> = Vec::new();
    let mut bytes = 0;
    let mut alone = false;
    for entry in entries {
        let full = batch.len() >= BATCH_ENTRIES || bytes + entry.statement.len() > BATCH_BYTES;
        let slow = !quick || may_read_rows(&entry);
        if !batch.is_empty() && (full || slow || alone) {
            batches.push(mem::take(&mut batch));
            bytes = 0;
        }
        alone = slow;
        bytes += entry.statement.len();
        batch.push(entry);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Constraints that could not be made without a look at the rows: a foreign key of a partitioned table, a domain's check.
fn may_read_rows(entry: &StoredEntry) -> bool {
    matches!(entry.kind.as_str(), "FK CONSTRAINT" | "CHECK CONSTRAINT")
        && !entry.statement.ends_with(" NOT VALID;")
}

async fn run_batch(
    ctx: &UnitContext,
    session: &mut Session,
    batch: &[StoredEntry],
) -> Result<(), UnitEnd> {
    if batch.len() > 1 && try_together(ctx, session, batch, None).await.is_ok() {
        return Ok(());
    }
    for entry in batch {
        run_one(ctx, session, entry).await?;
    }
    Ok(())
}

async fn try_together(
    ctx: &UnitContext,
    session: &Session,
    entries: &[StoredEntry],
    search_path: Option<&str>,
) -> Result<(), PgError> {
    let mut script = String::from("begin;\n");
    if let Some(path) = search_path {
        script.push_str(&format!("set local search_path = {path};\n"));
    }
    for entry in entries {
        // The line end closes a comment that the statement may end with.
        script.push_str(&format!("{}\n;\n{};\n", entry.statement, finish(ctx, entry)));
    }
    script.push_str("commit");
    let ran = session.batch_execute(&script).await.map_err(PgError::from);
    if ran.is_err() && !session.is_closed() {
        // The error is the cause; a rollback that fails too means a connection that is gone.
        drop(session.batch_execute("rollback").await);
    }
    ran
}

fn finish(ctx: &UnitContext, entry: &StoredEntry) -> String {
    format!(
        "select pgconvoy.finish_entry('{}', {}, {}, {})",
        ctx.task, entry.no, ctx.unit, ctx.epoch
    )
}

async fn run_one(ctx: &UnitContext, session: &Session, entry: &StoredEntry) -> Result<(), UnitEnd> {
    let one = std::slice::from_ref(entry);
    let Err(error) = try_together(ctx, session, one, None).await else {
        return Ok(());
    };
    if session.is_closed() {
        return Err(failure(entry, &error).into());
    }
    if store::is_done(ctx, session, entry.no).await? {
        return Ok(());
    }
    let may_pass = may_pass(entry, &error);
    match pieces(entry) {
        Some(pieces) if may_pass => run_leniently(ctx, session, entry, &pieces).await,
        _ => {
            if looks_names_up(entry, &error) {
                let path = format!("{}, {}", entry.search_path, quote_identifier(&entry.schema));
                if try_together(ctx, session, one, Some(&path)).await.is_ok() {
                    warn!("{} relies on search_path; it was run with {path}", entry.title());
                    return Ok(());
                }
            }
            Err(failure(entry, &error).into())
        }
    }
}

/// Whether a function that the statement calls may have failed for want of a `search_path`. What is made before the rows
/// calls none.
fn looks_names_up(entry: &StoredEntry, error: &PgError) -> bool {
    entry.section != Section::Pre.as_str() && !entry.schema.is_empty() && error.is_name_not_found()
}

/// Whether an error is one that an entry's optional part may end with. What belongs to the server may be refused for many
/// reasons: a setting of another version, a library that is not there.
fn may_pass(entry: &StoredEntry, error: &PgError) -> bool {
    let Some(state) = error.sqlstate() else { return false };
    match entry.kind.as_str() {
        roles::ROLE | roles::MEMBERSHIP | settings::SETTING => {
            ["22", "42", "55", "58"].iter().any(|class| state.starts_with(class))
        }
        _ => matches!(state, UNDEFINED_OBJECT | MISSING_PRIVILEGE),
    }
}

/// A part of an entry.
struct Piece<'a> {
    statement: &'a str,
    /// What the entry is for; the rest may fail.
    needed: bool,
}

/// The parts of an entry of which some may fail.
fn pieces(entry: &StoredEntry) -> Option<Vec<Piece<'_>>> {
    let optional = |statement| Piece { statement, needed: false };
    match entry.kind.as_str() {
        "ACL" | "DEFAULT ACL" => {
            Some(statements(&entry.statement).into_iter().map(optional).collect())
        }
        roles::ROLE => {
            let parts = statements(&entry.statement).into_iter().enumerate();
            Some(parts.map(|(nth, statement)| Piece { statement, needed: nth == 0 }).collect())
        }
        roles::MEMBERSHIP | settings::SETTING => Some(vec![optional(&entry.statement)]),
        // Only its owner may comment on an extension or a schema, and that may be somebody else where it was there before.
        "COMMENT" if ["EXTENSION ", "SCHEMA "].iter().any(|of| entry.object.starts_with(of)) => {
            Some(vec![optional(&entry.statement)])
        }
        // Its role may not be there.
        USER_MAPPING => Some(vec![optional(&entry.statement)]),
        _ => {
            let body = without_owner(&entry.statement);
            let owner = &entry.statement[body.len()..];
            (!owner.trim().is_empty())
                .then(|| vec![Piece { statement: body, needed: true }, optional(owner)])
        }
    }
}

async fn run_leniently(
    ctx: &UnitContext,
    session: &Session,
    entry: &StoredEntry,
    pieces: &[Piece<'_>],
) -> Result<(), UnitEnd> {
    let refused = |error: tokio_postgres::Error| failure(entry, &error.into());
    session.batch_execute("begin").await.map_err(refused)?;
    for piece in pieces {
        let run = async |statement: &str| {
            let script = format!("savepoint piece;\n{statement}\n;\nrelease piece");
            session.batch_execute(&script).await.map_err(PgError::from)
        };
        let Err(error) = run(piece.statement).await else { continue };
        if let Some(lent) = with_right_lent(entry, piece, &error) {
            session.batch_execute("rollback to piece").await.map_err(refused)?;
            if run(&lent).await.is_ok() {
                continue;
            }
        }
        if piece.needed || !may_pass(entry, &error) {
            // The error is the cause.
            drop(session.batch_execute("rollback").await);
            return Err(failure(entry, &error).into());
        }
        warn!(
            "left out of {}: {}: {error}",
            entry.title(),
            tellable(entry, piece.statement.trim())
        );
        session.batch_execute("rollback to piece").await.map_err(refused)?;
    }
    let end = format!("{}; commit", finish(ctx, entry));
    session.batch_execute(&end).await.map_err(refused).map_err(UnitEnd::from)
}

/// A change of owner that was refused, with the right to make objects in the schema for as long as it takes. The new owner did not
/// have it: else it is refused for something else, once more, and takes the grant back with it.
fn with_right_lent(entry: &StoredEntry, piece: &Piece<'_>, error: &PgError) -> Option<String> {
    let refused = error.sqlstate() == Some(MISSING_PRIVILEGE) && !entry.schema.is_empty();
    let owner = new_owner(piece.statement).filter(|_| refused && !piece.needed)?;
    let (schema, change) = (quote_identifier(&entry.schema), piece.statement);
    Some(format!(
        "grant create on schema {schema} to {owner};\n{change}\nrevoke create on schema {schema} from {owner}"
    ))
}

/// A statement without what nobody is told: among the options of a user mapping there is a password.
fn tellable<'a>(entry: &StoredEntry, statement: &'a str) -> &'a str {
    match entry.kind.as_str() {
        USER_MAPPING => statement.split(" OPTIONS (").next().unwrap_or_default(),
        _ => statement,
    }
}

/// Which object, which statement, and what the server said.
fn failure(entry: &StoredEntry, error: &PgError) -> Failure {
    let mut failure = error.failure(entry.title());
    let definite = |failure: &mut Failure, code: &str, remedy: &str| {
        failure.class = FailureClass::Definite;
        failure.code = code.to_owned();
        failure.remedy = remedy.to_owned();
    };
    match (error.sqlstate().unwrap_or_default(), entry.kind.as_str()) {
        // Duplicate table, object, function, schema, column.
        ("42P07" | "42710" | "42723" | "42P06" | "42701", _) => definite(
            &mut failure,
            "object_exists",
            "drop or rename the object at the destination, or leave it out of the task",
        ),
        ("58P01" | "0A000" | "42704", "EXTENSION") => definite(
            &mut failure,
            "extension_missing",
            "install the extension's files on the destination server, or drop the extension at the source",
        ),
        (state, _) if state.starts_with("23") => definite(
            &mut failure,
            "constraint_violation",
            "the source's rows do not keep it, as where triggers were off: correct them at the destination, then resume the task",
        ),
        _ if looks_names_up(entry, error) => definite(
            &mut failure,
            "statement_refused",
            "where a function it calls finds names by search_path, give it one at both ends (ALTER FUNCTION … SET search_path = …), then resume the task",
        ),
        _ => {}
    }
    let statement: String = tellable(entry, &entry.statement).chars().take(400).collect();
    failure.message = format!("{}; statement: {statement}", failure.message);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(no: i64, section: &str, statement: &str) -> StoredEntry {
        StoredEntry {
            no,
            section: section.to_owned(),
            kind: "TABLE".to_owned(),
            schema: "public".to_owned(),
            object: format!("t{no}"),
            statement: statement.to_owned(),
            search_path: String::new(),
        }
    }

    #[test]
    fn short_statements_share_a_transaction_and_long_ones_do_not() {
        let mut entries: Vec<_> = (0..50).map(|no| entry(no, "pre", "create")).collect();
        entries.push(entry(50, "pre", &"x".repeat(BATCH_BYTES)));
        entries.push(entry(51, "pre", "create"));
        let sizes =
            |quick| batches(entries.clone(), quick).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(true), [BATCH_ENTRIES, 2, 1, 1]);
        assert_eq!(sizes(false), [1; 52]);
        let key = StoredEntry { kind: "FK CONSTRAINT".to_owned(), ..entries[0].clone() };
        let unproven = StoredEntry { statement: "add NOT VALID;".to_owned(), ..key.clone() };
        entries = vec![unproven.clone(), unproven.clone(), key, unproven.clone(), unproven];
        assert_eq!(batches(entries, true).iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 2]);
    }

    #[test]
    fn a_change_of_owner_may_fail_without_its_object() {
        let entry = entry(1, "pre", "CREATE TABLE t ();\n\n\nALTER TABLE t OWNER TO app;");
        let pieces = pieces(&entry).expect("two pieces");
        let told: Vec<_> = pieces.iter().map(|p| (p.statement.trim(), p.needed)).collect();
        assert_eq!(told, [("CREATE TABLE t ();", true), ("ALTER TABLE t OWNER TO app;", false)]);
    }
}
