//! Sessions of this agent that keep a task's snapshot alive beyond the unit that took or imported it (law S13).
//!
//! A snapshot lives as long as one session that holds it. The surveying agent takes it in a keeper session and exports
//! it; each agent that reads imports it from any agent's export into a keeper session of its own and exports it again,
//! so it survives the loss of all agents but one. Units import from their own agent's keeper.
//!
//! An export is named by numbers that a restarted server uses again; so what was imported is compared with the snapshot
//! that was asked for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::try_join;
use tokio::sync::watch;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, TaskId};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::quote_literal;
use pgconvoy_shared::unit::SharedSnapshot;

use crate::pg::{About, Access, PgError, Session};

/// A snapshot that this agent exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptSnapshot {
    /// Of this task.
    pub(crate) task: TaskId,
    /// Counts the task's snapshots from 1.
    pub(crate) round: u32,
    /// What `pg_export_snapshot()` answered.
    pub(crate) export: String,
}

/// A snapshot taken just now, in a session that is not one of the agent's keepers yet.
#[derive(Debug)]
pub(crate) struct TakenSnapshot {
    /// Holds it.
    pub(crate) session: Session,
    /// What `pg_export_snapshot()` answered.
    pub(crate) export: String,
    /// As `pg_current_snapshot()` printed it.
    pub(crate) snapshot: String,
    /// WAL insert position, noted after the snapshot was taken.
    pub(crate) noted_lsn: Lsn,
}

/// Why an agent has no session with the task's snapshot.
#[derive(Debug)]
pub(crate) enum NoSnapshot {
    /// None of these agents' exports is there any more.
    Gone(Vec<AgentId>),
    /// Something else.
    Failed(Failure),
}

impl From<Failure> for NoSnapshot {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The agent's keeper sessions.
#[derive(Debug)]
pub(crate) struct Keepers {
    changes: watch::Sender<()>,
    kept: Mutex<BTreeMap<(TaskId, u32), Kept>>,
    /// Held while a snapshot is imported: units that begin together need one keeper, not one each.
    importing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Kept {
    session: Session,
    export: String,
}

impl Keepers {
    /// None is open.
    pub(crate) fn new() -> Self {
        Self {
            changes: watch::channel(()).0,
            kept: Mutex::default(),
            importing: tokio::sync::Mutex::default(),
        }
    }

    /// What is exported now: told to the leader, all of it in each session.
    pub(crate) fn exports(&self) -> Vec<KeptSnapshot> {
        let kept = self.kept();
        let alive = kept.iter().filter(|(_, kept)| !kept.session.is_closed());
        alive
            .map(|((task, round), kept)| KeptSnapshot {
                task: task.clone(),
                round: *round,
                export: kept.export.clone(),
            })
            .collect()
    }

    /// Marked whenever [`Keepers::exports`] answers something else.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Ends what is kept for a task.
    pub(crate) fn close(&self, task: &TaskId) {
        self.kept().retain(|(of, _), _| of != task);
        self.changes.send_replace(());
    }

    /// Keeps a snapshot that was taken here. Earlier rounds of the task are of no use any more.
    pub(crate) fn keep(&self, task: &TaskId, round: u32, taken: TakenSnapshot) {
        let TakenSnapshot { session, export, .. } = taken;
        let mut kept = self.kept();
        kept.retain(|(of, earlier), _| of != task || *earlier > round);
        kept.insert((task.clone(), round), Kept { session, export });
        drop(kept);
        self.changes.send_replace(());
    }

    /// The agent's own export of the task's snapshot; imports it if this agent has none yet.
    pub(crate) async fn export(
        &self,
        source: &Access,
        task: &TaskId,
        shared: &SharedSnapshot,
    ) -> Result<String, NoSnapshot> {
        let _one_at_a_time = self.importing.lock().await;
        if let Some(export) = self.own(task, shared.round) {
            return Ok(export);
        }
        let access = source.named(keeper_name(task, shared.round));
        let mut gone = Vec::new();
        for theirs in &shared.exports {
            match import(&access, &theirs.id).await {
                Ok(Some(taken)) if taken.snapshot == shared.snapshot => {
                    let export = taken.export.clone();
                    self.keep(task, shared.round, taken);
                    return Ok(export);
                }
                Ok(_) => gone.push(theirs.agent.clone()),
                Err(error) => return Err(access.failure(&error).into()),
            }
        }
        Err(NoSnapshot::Gone(gone))
    }

    /// Forgets a keeper whose export turned out to be gone.
    pub(crate) fn forget(&self, task: &TaskId, round: u32, export: &str) {
        let mut kept = self.kept();
        let key = (task.clone(), round);
        if kept.get(&key).is_some_and(|kept| kept.export == export) {
            kept.remove(&key);
        }
    }

    fn own(&self, task: &TaskId, round: u32) -> Option<String> {
        let kept = self.kept();
        let own = kept.get(&(task.clone(), round))?;
        (!own.session.is_closed()).then(|| own.export.clone())
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<(TaskId, u32), Kept>> {
        // A map of sessions is whole at every step: a panic elsewhere did not spoil it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A keeper is of no unit and no epoch: what ends a unit's old sessions passes it by.
fn keeper_name(task: &TaskId, round: u32) -> String {
    format!("pgconvoy/{task}/keeper/{round}")
}

/// Opens a session to take a snapshot in.
pub(crate) async fn open(source: &Access, task: &TaskId, round: u32) -> Result<Session, Failure> {
    let access = source.named(keeper_name(task, round));
    access.session().await.about(&access)
}

/// Takes a new snapshot.
pub(crate) async fn take(session: Session) -> Result<TakenSnapshot, Failure> {
    let access = session.access().clone();
    hold(session, None).await.about(&access)
}

/// The same moment as another session's export shows; none if the export is gone.
async fn import(access: &Access, export: &str) -> Result<Option<TakenSnapshot>, PgError> {
    let session = access.session().await?;
    match hold(session, Some(export)).await {
        Ok(taken) => Ok(Some(taken)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A standby, which is compared and never copied from, inserts nothing and is where it has replayed to.
const NOTE_POSITION: &str = "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() \
    else pg_current_wal_insert_lsn() end)::text";

async fn hold(session: Session, import: Option<&str>) -> Result<TakenSnapshot, PgError> {
    let begin = "begin isolation level repeatable read read only";
    let begin = match import {
        None => begin.to_owned(),
        Some(export) => format!("{begin}; {}", set_snapshot(export)),
    };
    let (_, taken, lsn) = try_join!(
        session.batch_execute(&begin),
        session.query_one("select pg_export_snapshot(), pg_current_snapshot()::text", &[]),
        // A statement of its own, later than the snapshot.
        session.query_one(NOTE_POSITION, &[]),
    )?;
    let lsn: &str = lsn.get(0);
    let noted_lsn = lsn.parse().map_err(|bad| PgError::protocol(format!("{bad}")))?;
    Ok(TakenSnapshot { session, export: taken.get(0), snapshot: taken.get(1), noted_lsn })
}

/// Makes a transaction that has only just begun see what the export's owner sees.
pub(crate) fn set_snapshot(export: &str) -> String {
    format!("set transaction snapshot {}", quote_literal(export))
}

/// Whether an import failed because the export is not there any more: no such file (two codes, by version), or its owner
/// has ended.
pub(crate) fn is_gone(error: &PgError) -> bool {
    matches!(error.sqlstate(), Some("22023" | "42704" | "55000"))
}
