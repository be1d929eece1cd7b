//! Raising a table's generation: from then on nobody writes for an older plan of it (laws O1, O4).
//!
//! One transaction: the generation goes up, what older plans had done is forgotten, and the table is made empty. (What was
//! kept of the changes of a table that is copied anew stays: it is later than that.) A table
//! that is planned for the first time must *be* empty, for its rows would be somebody else's. Repeated by a later owner
//! of the same plan it changes nothing: only the transaction that raised the generation deletes.
//!
//! A table has one task at a time. A first plan takes it over from a task that planned it and wrote nothing yet (or was
//! given up), whose fence then ends it for good; it is refused where the other one is writing, or has written.
//!
//! First plans of many tables are made current in one transaction, all or none: there is no older plan whose writers could
//! stand in the way, and nothing to delete.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::join;
use pgconvoy_flow::large_objects;
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{TableNo, TaskId};
use pgconvoy_shared::name::QualifiedName;
use tokio_postgres::Error;

use super::{AWAKE, progress};
use crate::pg::{About, PgError, Session, Value};
use crate::unit::apply_key::Followed;

/// SQLSTATE of what PostgreSQL does not do: here, to truncate a table that a foreign key points at.
const NOT_SUPPORTED: &str = "0A000";

/// SQLSTATE of a row that somebody else holds.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Held from a first plan's rows to their commit, so that of two such plans of one table the later sees the other's.
/// `convclai` in ASCII. Not `SCHEMA_LOCK`: who holds that may wait for the task's row.
const CLAIM_LOCK: i64 = 0x636f_6e76_636c_6169;

/// How long writers of older plans are waited for before they are ended.
const WRITERS_LIMIT: Duration = Duration::from_secs(2);

/// A plan of a table that is about to become the current one.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Whose.
    pub(crate) task: &'a TaskId,
    /// The table.
    pub(crate) table: TableNo,
    /// What the plan makes.
    pub(crate) generation: Generation,
    /// The table's name at both ends.
    pub(crate) name: &'a QualifiedName,
    /// Where its rows are written: itself, or the root of its partitions.
    pub(crate) write_to: &'a QualifiedName,
    /// What its changes are applied by, where they are followed.
    pub(crate) followed: Option<&'a Followed>,
}

/// Makes plans of one task the current ones.
pub(crate) async fn make_current(session: &Session, plans: &[Plan<'_>]) -> Result<(), Failure> {
    let Some(task) = plans.first().map(|plan| plan.task) else { return Ok(()) };
    let known = known(session, task, plans).await?;
    // Leaves that are written through one root have to be looked at one after another.
    let (first, others): (Vec<&Plan<'_>>, Vec<&Plan<'_>>) = plans
        .iter()
        .partition(|plan| !plan.through_root() && !known.contains(&i64::from(plan.table.0)));
    make_first_current(session, task, &first).await?;
    for plan in others {
        plan.make_current(session).await?;
    }
    Ok(())
}

/// The tables among these that were planned before.
async fn known(
    session: &Session,
    task: &TaskId,
    plans: &[Plan<'_>],
) -> Result<BTreeSet<i64>, Failure> {
    let tables: Vec<i64> = plans.iter().map(|plan| plan.table.0.into()).collect();
    let rows = session
        .query(
            "select table_no from pgconvoy.table_state where task = $1 and table_no = any ($2)",
            &[&task.as_str(), &tables],
        )
        .await
        .about(session.access())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// All that is asked is on its way before the first answer comes, in this order; only then it is committed.
async fn make_first_current(
    session: &Session,
    task: &TaskId,
    plans: &[&Plan<'_>],
) -> Result<(), Failure> {
    if plans.is_empty() {
        return Ok(());
    }
    let access = session.access();
    let names = |of: fn(&QualifiedName) -> &str| -> Vec<&str> {
        plans.iter().map(|plan| of(plan.write_to)).collect()
    };
    let (schemas, tables) = (names(|name| &name.schema), names(|name| &name.name));
    let looks: Vec<String> = (0..)
        .zip(plans)
        .map(|(nth, plan): (i32, _)| {
            format!("select {nth} where exists (select from only {})", plan.write_to.quoted())
        })
        .collect();
    let looks = looks.join(" union all ");
    session.send_ahead("begin");
    let (kept, raised, claimed, filled) = join!(
        lock_task(session, task),
        insert(session, task, plans, &schemas, &tables),
        claim(session, task, &schemas, &tables),
        session.query(&looks, &[]),
    );
    kept.about(access)?.ok_or_else(|| ended(access))?;
    if raised.about(access)? < plans.len() as u64 {
        let message = "another owner plans the same tables at this moment";
        return Err(Failure::other("superseded", message).about(access.to_string()));
    }
    claimed?;
    if let Some(row) = filled.about(access)?.first() {
        let nth = usize::try_from(row.get::<_, i32>(0)).expect("counted above");
        return Err(not_empty(plans[nth].write_to));
    }
    session.batch_execute("commit").await.about(access)
}

/// Writes first plans down; how many there were none of yet.
async fn insert(
    session: &Session,
    task: &TaskId,
    plans: &[&Plan<'_>],
    schemas: &[&str],
    tables: &[&str],
) -> Result<u64, Error> {
    let numbers = |of: fn(&Plan<'_>) -> u32| -> Vec<i64> {
        plans.iter().map(|plan| of(plan).into()).collect()
    };
    session
        .execute(
            "insert into pgconvoy.table_state (task, table_no, generation, write_schema, write_table, followed) \
             select $1, t.no, t.generation, t.schema, t.name, t.followed::jsonb
             from unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[]) as t (no, generation, schema, name, followed)
             on conflict do nothing",
            &[
                &task.as_str(),
                &numbers(|plan| plan.table.0),
                &numbers(|plan| plan.generation.0),
                &schemas,
                &tables,
                &plans.iter().map(|plan| plan.followed_as_json()).collect::<Vec<_>>(),
            ],
        )
        .await
}

/// Takes tables over from tasks that planned to write there. Whether they have written is to be looked at after it.
async fn claim(
    session: &Session,
    task: &TaskId,
    schemas: &[&str],
    tables: &[&str],
) -> Result<(), Failure> {
    let lock = format!("select pg_advisory_xact_lock({CLAIM_LOCK}); {AWAKE}");
    // Whoever writes holds the row (law O1): a writer is not waited for, its rows will be there.
    let held = "select s.task from pgconvoy.table_state s \
                where s.task <> $1 and (s.write_schema, s.write_table) in (select * from unnest($2::text[], $3::text[])) \
                for update nowait";
    let forget = "delete from pgconvoy.table_state s \
                  where s.task <> $1 and (s.write_schema, s.write_table) in (select * from unnest($2::text[], $3::text[]))";
    let of_others: [&dyn Value; 3] = [&task.as_str(), &schemas, &tables];
    let (locked, held, forgotten) = join!(
        session.batch_execute(&lock),
        session.query(held, &of_others),
        session.execute(forget, &of_others),
    );
    locked.about(task)?;
    if let Err(error) = held.map_err(PgError::from) {
        if error.sqlstate() != Some(LOCK_NOT_AVAILABLE) {
            return Err(error).about(task);
        }
        let message = "another task writes to a table of this one at this moment";
        return Err(Failure::other("table_of_another_task", message)
            .about(task.to_string())
            .remedy("leave the table out of one of the two, or cancel one"));
    }
    forgotten.map(drop).about(task)
}

/// Keeps the task's row; none = the task has ended (law O9).
async fn lock_task(session: &Session, task: &TaskId) -> Result<Option<()>, Error> {
    let lock = "select from pgconvoy.task where id = $1 for key share";
    Ok(session.query_opt(lock, &[&task.as_str()]).await?.map(drop))
}

fn ended(subject: impl ToString) -> Failure {
    Failure::other("superseded", "the task has ended at the destination").about(subject.to_string())
}

fn not_empty(table: &QualifiedName) -> Failure {
    Failure::definite("destination_not_empty", "the table has rows at the destination")
        .about(table.to_string())
        .remedy("empty it, or leave it out of the task; pgconvoy does not overwrite rows it did not write")
}

impl Plan<'_> {
    /// Makes this plan the current one. Copies of an older plan that stand in the way are ended.
    async fn make_current(&self, session: &Session) -> Result<(), Failure> {
        let access = session.access().clone();
        let pid: i32 =
            session.query_one("select pg_backend_pid()", &[]).await.about(&access)?.get(0);
        let raise = self.raise(session);
        tokio::pin!(raise);
        if let Ok(outcome) = tokio::time::timeout(WRITERS_LIMIT, &mut raise).await {
            return outcome;
        }
        // A writer of an older plan holds the row, and perhaps stands still. What it writes is void: it is ended.
        let other = access.session().await.about(&access)?;
        loop {
            tokio::select! {
                biased;
                outcome = &mut raise => {
                    other.close().await;
                    return outcome;
                }
                ended = self.end_writers(&other, pid) => ended?,
            }
        }
    }

    async fn end_writers(&self, session: &Session, blocked: i32) -> Result<(), Failure> {
        let copies = format!("pgconvoy/{}/copy/", self.task);
        session
            .execute(
                "select pg_terminate_backend(pid) from pg_stat_activity \
                 where pid = any(pg_blocking_pids($1)) and starts_with(application_name, $2)",
                &[&blocked, &copies],
            )
            .await
            .about(self.name)?;
        tokio::time::sleep(WRITERS_LIMIT).await;
        Ok(())
    }

    async fn raise(&self, session: &Session) -> Result<(), Failure> {
        session.send_ahead("begin");
        lock_task(session, self.task).await.about(self.name)?.ok_or_else(|| ended(self.name))?;
        match self.upsert(session).await? {
            Raised::Already => {}
            Raised::First => self.check_empty(session).await?,
            Raised::Again => self.start_over(session).await?,
        }
        session.batch_execute("commit").await.about(self.name)
    }

    async fn upsert(&self, session: &Session) -> Result<Raised, Failure> {
        let (table, generation) = (i64::from(self.table.0), i64::from(self.generation.0));
        // `xmax` is 0 in a row that was inserted just now.
        let raised = session
            .query_opt(
                "insert into pgconvoy.table_state as s (task, table_no, generation, write_schema, write_table, followed) \
                 values ($1, $2, $3, $4, $5, $6::text::jsonb) \
                 on conflict (task, table_no) do update set generation = excluded.generation, \
                     write_schema = excluded.write_schema, write_table = excluded.write_table, \
                     followed = excluded.followed, read_again_at = null, parked = null \
                     where s.generation < excluded.generation \
                 returning s.xmax::text = '0'",
                &[
                    &self.task.as_str(),
                    &table,
                    &generation,
                    &&*self.write_to.schema,
                    &&*self.write_to.name,
                    &self.followed_as_json(),
                ],
            )
            .await
            .about(self.name)?;
        if let Some(row) = raised {
            return Ok(if row.get(0) { Raised::First } else { Raised::Again });
        }
        let current: i64 = session
            .query_one(
                "select generation from pgconvoy.table_state where task = $1 and table_no = $2",
                &[&self.task.as_str(), &table],
            )
            .await
            .about(self.name)?
            .get(0);
        if current == generation {
            return Ok(Raised::Already);
        }
        let message = format!("generation {current} is current, this plan would be {generation}");
        Err(Failure::other("superseded", message).about(self.name.to_string()))
    }

    /// Rows under the root may be those of partitions planned before, so it is looked at for the first of them only.
    async fn check_empty(&self, session: &Session) -> Result<(), Failure> {
        let others: bool = session
            .query_one(
                "select exists (select from pgconvoy.table_state where task = $1 and table_no <> $2 \
                 and write_schema = $3 and write_table = $4)",
                &[
                    &self.task.as_str(),
                    &i64::from(self.table.0),
                    &&*self.write_to.schema,
                    &&*self.write_to.name,
                ],
            )
            .await
            .about(self.name)?
            .get(0);
        if others {
            return Ok(());
        }
        let (schema, table) = (&*self.write_to.schema, &*self.write_to.name);
        claim(session, self.task, &[schema], &[table]).await?;
        let only = if self.through_root() { "" } else { "only " };
        let look = format!("select exists (select from {only}{})", self.write_to.quoted());
        let filled: bool = session.query_one(&look, &[]).await.about(self.name)?.get(0);
        if filled { Err(not_empty(self.write_to)) } else { Ok(()) }
    }

    async fn start_over(&self, session: &Session) -> Result<(), Failure> {
        // All large objects at once would be too many for one transaction: each shard removes those of its range.
        let by_shards = *self.name == large_objects::table();
        if self.through_root() && !by_shards {
            return Err(Failure::definite(
                "cannot_copy_anew",
                "its rows are spread over the partitions of its root at the destination, among those of other \
                 partitions, and cannot be told apart",
            )
            .about(self.name.to_string())
            .remedy(format!("cancel the task, empty {} at the destination, and create the task again", self.write_to)));
        }
        session
            .execute(
                "with marks as (delete from pgconvoy.unlogged_mark where task = $1 and table_no = $2),
                 shards as (delete from pgconvoy.shard_progress where task = $1 and table_no = $2),
                 reread as (delete from pgconvoy.reread where task = $1 and table_no = $2)
                 delete from pgconvoy.parked_change k where task = $1 and table_no = $2
                     and not exists (select from pgconvoy.copied_anew a where (a.task, a.table_no) = (k.task, k.table_no))",
                &[&self.task.as_str(), &i64::from(self.table.0)],
            )
            .await
            .about(self.name)?;
        if by_shards {
            return Ok(());
        }
        let made = format!(
            "update pgconvoy.schema_entry set done = false where task = $1 and {}",
            progress::MADE_OF_ROWS
        );
        session.execute(&made, &[&self.task.as_str()]).await.about(self.name)?;
        if self.followed.is_some() {
            // What hangs on its rows is there already where it is copied anew: triggers, and foreign keys of other tables.
            let replica = "set local session_replication_role = replica";
            session.batch_execute(replica).await.about(self.name)?;
        }
        empty(session, self.write_to).await.about(self.name)
    }

    fn followed_as_json(&self) -> Option<String> {
        self.followed.map(|followed| {
            serde_json::to_string(followed).expect("texts, numbers and lists are JSON")
        })
    }

    fn through_root(&self) -> bool {
        self.write_to != self.name
    }
}

enum Raised {
    /// There was no plan before.
    First,
    /// There was an older plan.
    Again,
    /// By an earlier owner of this very plan.
    Already,
}

/// Truncates; a table that a foreign key points at can only be deleted from.
async fn empty(session: &Session, table: &QualifiedName) -> Result<(), PgError> {
    session.batch_execute("savepoint pgconvoy_truncate").await?;
    let truncated = session.batch_execute(&format!("truncate only {}", table.quoted())).await;
    match truncated.map_err(PgError::from) {
        Err(error) if error.sqlstate() == Some(NOT_SUPPORTED) => {
            let delete = format!(
                "rollback to savepoint pgconvoy_truncate; delete from only {}",
                table.quoted()
            );
            Ok(session.batch_execute(&delete).await?)
        }
        outcome => outcome,
    }
}
