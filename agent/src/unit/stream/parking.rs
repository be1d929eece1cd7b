//! Parking a table: its changes are kept at the destination from one on that cannot be applied, and the cause with them.
//!
//! Both are written in the transaction that would have applied the change, and told to the leader once that is durable.
//! Whoever takes over tells again what it finds; so nobody need remember whether it was heard.

use pgconvoy_flow::stream::entry::{Parked, Place, Told};
use pgconvoy_flow::stream::table::Mismatch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::parking::{Cause, Changes, Parking};
use tracing::{info, warn};

use super::applying::Applier;
use super::catalog::Unfit;
use super::reading::Noted;
use super::replaced;
use crate::pg::{About, PgError, Value};
use crate::unit::UnitEnd;

/// What is told of a server's message, and of a statement: enough to see what they are about.
const TOLD_MAX: usize = 1_500;

/// Changes that do not tell which rows they are of, whatever the destination is like.
const NO_IDENTITY: &str = "replica_identity_missing";

/// Why a change is not applied.
pub(super) struct Why {
    pub(super) failure: Failure,
    pub(super) change: Told,
    /// What was run; empty = nothing.
    pub(super) statement: String,
}

impl Applier<'_> {
    /// Changes of the table are kept from this one on.
    pub(super) async fn park_table(
        &mut self,
        table: TableNo,
        place: Place,
        why: Why,
    ) -> Result<(), UnitEnd> {
        // The first change is the one that tells what is wrong.
        if !self.parked.insert(table) {
            return Ok(());
        }
        let Why { failure, change: Told { operation, key }, statement } = why;
        let cause = Cause {
            failure,
            operation: operation.to_owned(),
            key,
            commit_lsn: place.commit_lsn,
            xid: place.xid.0,
            ordinal: place.ordinal,
            statement: cut(statement),
        };
        self.note_cause(table, cause).await?;
        // The reader is gone only when the unit ends.
        let _gone = self.reports.park.send(table);
        Ok(())
    }

    /// Changes of these tables are kept from this position on, and nothing is written to them as they are.
    pub(super) async fn park_from_here(&mut self, unfit: Vec<Unfit>) -> Result<(), UnitEnd> {
        if unfit.is_empty() {
            return Ok(());
        }
        self.ctx.still_mine()?;
        self.begin_piece(unfit.iter().map(|(table, _)| *table).collect(), &[]).await?;
        for (table, failure) in unfit {
            self.parked.insert(table);
            self.note_cause(table, self.cause_here(failure)).await?;
        }
        self.step_to(self.position.lsn, &Noted::default()).await
    }

    /// No change is at fault.
    pub(super) fn cause_here(&self, failure: Failure) -> Cause {
        Cause {
            failure,
            operation: String::new(),
            key: String::new(),
            commit_lsn: self.position.lsn,
            xid: 0,
            ordinal: 0,
            statement: String::new(),
        }
    }

    /// Notes why a table is parked, from now on or still.
    pub(super) async fn note_cause(
        &mut self,
        table: TableNo,
        mut cause: Cause,
    ) -> Result<(), UnitEnd> {
        let name = self.name_of(table);
        cause.failure.message = cut(std::mem::take(&mut cause.failure.message));
        cause.failure.subject.clone_from(&name);
        let task = &self.ctx.task;
        if replaced::tells_its_remedy(&cause.failure) {
            // What was not sent is not kept either, and whatever was refused before matters no more.
            let commit_lsn = cause.commit_lsn;
            cause = Cause { commit_lsn, ..self.cause_here(cause.failure) };
        } else if cause.failure.code == NO_IDENTITY {
            cause.failure.remedy = format!(
                "what was kept does not tell which rows it changed, so it cannot be applied: give the table a replica identity at the source \
                 that does; then `pgconvoy task resync {task} {name}` copies it anew"
            );
        } else {
            cause.failure.remedy = format!(
                "mend the cause at the destination; then `pgconvoy task resume {task} --table {name}` applies what was kept"
            );
        }
        warn!(table = %name, "parked: {cause}");
        let json = serde_json::to_string(&cause).expect("texts and numbers are JSON");
        let note = "with copied as (delete from pgconvoy.copied_anew where task = $1 and table_no = $2)
                    update pgconvoy.table_state set parked = $3::text::jsonb where task = $1 and table_no = $2";
        let (task, no) = (self.ctx.task.as_str(), i64::from(table.0));
        self.session.execute(note, &[&task, &no, &json]).await.about(&self.access)?;
        self.shall_tell(table, Changes::Parked(Box::new(cause)));
        Ok(())
    }

    pub(super) async fn keep_parked(&self, parked: &[Parked]) -> Result<(), UnitEnd> {
        let tables: Vec<i64> = parked.iter().map(|parked| i64::from(parked.table.0)).collect();
        let positions: Vec<String> =
            parked.iter().map(|parked| parked.place.commit_lsn.to_string()).collect();
        let ordinals: Vec<i64> =
            parked.iter().map(|parked| parked.place.ordinal.cast_signed()).collect();
        let xids: Vec<String> = parked.iter().map(|parked| parked.place.xid.to_string()).collect();
        let messages: Vec<&[u8]> = parked.iter().map(|parked| &*parked.message).collect();
        let keep =
            "insert into pgconvoy.parked_change (task, table_no, commit_lsn, ordinal, xid, message)
                    select $1, t.no, t.lsn::pg_lsn, t.ordinal, t.xid::xid8, t.message
                    from unnest($2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::bytea[])
                        with ordinality as t (no, lsn, ordinal, xid, message, nth) order by t.nth";
        let task = self.ctx.task.as_str();
        let values: [&dyn Value; 6] = [&task, &tables, &positions, &ordinals, &xids, &messages];
        self.session.execute(keep, &values).await.about(&self.access)?;
        Ok(())
    }

    /// The leader is told once it is durable.
    pub(super) fn shall_tell(&mut self, table: TableNo, changes: Changes) {
        let generation = self.generation_of(table);
        self.untold.push(Parking { table, generation, changes });
    }

    /// These are tried now: what comes of that is told.
    pub(super) fn tells_later(&mut self, tables: &[TableNo]) {
        self.untold.retain(|told| !tables.contains(&told.table));
    }

    pub(super) fn tell(&mut self) {
        for parking in self.untold.drain(..) {
            if parking.changes == Changes::Applied {
                info!(table = %parking.table, "it is followed again");
            }
            self.ctx.parts.tell(parking);
        }
    }
}

/// What the source's table has become.
pub(super) fn not_as_planned(mismatch: &Mismatch) -> Failure {
    let code = match mismatch {
        Mismatch::Renamed(_)
        | Mismatch::ColumnAdded(_)
        | Mismatch::ColumnGone(_)
        | Mismatch::ColumnType(_)
        | Mismatch::ColumnMadeAnew(_)
        | Mismatch::NotReadable(_) => "table_reshaped",
        Mismatch::KeyNotTold(_) => NO_IDENTITY,
        Mismatch::PartTruncated => "partition_truncated",
    };
    Failure::definite(code, mismatch.to_string())
}

/// Whether the destination refuses the values, or the table as it is. All else passes, or is none of the changes' fault.
pub(super) fn is_refusal(error: &PgError) -> bool {
    /// Rows that are missing; what PostgreSQL does not do; a table that cannot be written as it is (its publication wants a
    /// replica identity).
    const STATES: [&str; 3] = ["PC003", "0A000", "55000"];
    /// Cardinality, data, constraints, names and types, checks of views, limits of rows and indexes, and what functions of
    /// a user raise.
    const CLASSES: [&str; 10] = ["21", "22", "23", "2F", "38", "39", "42", "44", "54", "P0"];
    error.sqlstate().is_some_and(|state| {
        STATES.contains(&state) || CLASSES.iter().any(|class| state.starts_with(class))
    })
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(TOLD_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::error_of;

    #[test]
    fn what_the_destination_refuses_parks_and_what_passes_does_not() {
        for state in ["23505", "22003", "42501", "54000", "55000", "PC003", "P0001", "38000"] {
            assert!(is_refusal(&error_of(state)), "{state}");
        }
        for state in ["40001", "40P01", "53100", "55P03", "55006", "57014", "57P01", "58030"] {
            assert!(!is_refusal(&error_of(state)), "{state}");
        }
        for state in ["08006", "PC001", "PC002", "PC004", "XX000", "25006"] {
            assert!(!is_refusal(&error_of(state)), "{state}");
        }
        assert!(!is_refusal(&PgError::Closed));
    }

    #[test]
    fn what_is_told_is_bounded() {
        assert_eq!(cut("short".into()), "short");
        assert_eq!(cut("ü".repeat(9_000)).chars().count(), TOLD_MAX + 1);
    }
}
