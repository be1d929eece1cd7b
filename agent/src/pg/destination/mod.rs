//! Schema `pgconvoy` at the destination: what decides whether something was done, and who may still write.
//!
//! - [`ensure`] makes the schema and a task's row.
//! - [`generation`] raises a table's generation, which fences all older plans of it (laws O1, O4).
//! - [`progress`] reads and writes `shard_progress` (law O2).
//! - [`search_path`] lets functions that writing a row calls find what they look for.
//! - [`takeover`] ends what an older owner of a unit left (law O5).
//!
//! Two units that do the same at the same time meet at a lock or at a unique index; either order gives the same state.

pub(crate) mod generation;
pub(crate) mod progress;
pub(crate) mod search_path;
pub(crate) mod takeover;

use futures::try_join;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::name::quote_literal;

use super::{About, Access, Session};

/// The layout that this code makes and understands.
const VERSION: i32 = 10;

/// Held while the schema is looked at, made or removed: `pgconvoy` in ASCII.
pub(crate) const SCHEMA_LOCK: i64 = 0x7067_636f_6e76_6f79;

/// Rows of ours that hang on others go with them by foreign keys, and large objects are made by a trigger. A default of the role or the
/// database may have put both to sleep, and no count of rows would tell; this wakes them until the transaction ends.
pub(crate) const AWAKE: &str = "select pg_catalog.set_config('session_replication_role', 'origin', true) \
     where pg_catalog.current_setting('session_replication_role') = 'replica'";

/// Makes what is missing of the schema and of the task's row. May be called any number of times, by several agents at
/// once; only by units that come before all that write rows, for it would bring back the row of a task that has ended.
pub(crate) async fn ensure(session: &Session, task: &TaskId) -> Result<(), Failure> {
    let subject = session.access();
    let begin = format!("begin; select pg_advisory_xact_lock({SCHEMA_LOCK})");
    let there =
        "select to_regnamespace('pgconvoy') is not null, to_regclass('pgconvoy.meta') is not null";
    let (_, found) =
        try_join!(session.batch_execute(&begin), session.query_one(there, &[])).about(subject)?;
    let make = match (found.get(0), found.get(1)) {
        (false, _) => include_str!("schema.sql"),
        (true, true) => {
            let meta = session.query_one("select version from pgconvoy.meta", &[]).await;
            let version: i32 = meta.about(subject)?.get(0);
            if version != VERSION {
                return Err(Failure::definite(
                    "destination_schema_version",
                    format!("schema pgconvoy has layout {version}, this agent knows {VERSION}"),
                )
                .about(subject.to_string())
                .remedy("let an agent of that version finish its tasks, or drop schema pgconvoy if none is left"));
            }
            ""
        }
        (true, false) => {
            return Err(Failure::definite(
                "destination_schema_foreign",
                "there is a schema pgconvoy that pgconvoy did not make",
            )
            .about(subject.to_string())
            .remedy("rename or drop it"));
        }
    };
    let task = quote_literal(task.as_str());
    let row = format!("insert into pgconvoy.task (id) values ({task}) on conflict do nothing");
    session.batch_execute(&format!("{make}; {row}; commit")).await.about(subject)
}

/// What failed for want of the schema is told as that: no statement is to be mended then.
pub(crate) async fn or_lost(access: &Access, failure: Failure) -> Failure {
    const NOT_THERE: [&str; 3] = ["3F000", "42P01", "42883"];
    let state = failure.sqlstate.as_deref().unwrap_or_default();
    if !NOT_THERE.contains(&state) || !failure.message.contains("pgconvoy") {
        return failure;
    }
    let Ok(session) = access.session().await else { return failure };
    let gone = session.query_one("select to_regclass('pgconvoy.task') is null", &[]).await;
    session.close().await;
    if !gone.is_ok_and(|row| row.get(0)) {
        return failure;
    }
    let message = "schema pgconvoy, where it stands what was copied and applied, is not there any more: it was dropped, or the \
                   destination was restored from a time before the task";
    Failure::definite("destination_lost_progress", message).about(access.to_string()).remedy(
        "let the task's destination lead to the server that has it, then resume; or cancel the task, empty the destination and \
         create the task again",
    )
}
