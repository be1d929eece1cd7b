//! Keeping the changes of tables that are to be copied anew.
//!
//! From this position on whatever the stream tells of them is kept, in the transaction that steps the position on. What was
//! kept before, and what was applied, ends before this position: a transaction id that is given out after it is the barrier
//! that no snapshot of the new copy may be older than (law S2), so the copy shows all of that. What it does not show of the
//! rest is applied when it is there.

use std::collections::BTreeSet;

use pgconvoy_flow::stream::message::RelationId;
use pgconvoy_flow::stream::table::Table;
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::parking::{Changes, Parking};

use super::applying::Applier;
use super::catalog::Course;
use super::reading::Noted;
use super::takeover::number;
use crate::pg::{About, PgError, Session};
use crate::unit::{UnitEnd, open_stream};

pub(super) async fn hold(
    applier: &mut Applier<'_>,
    course: &mut Course,
    source: &Session,
    tables: &[TableNo],
) -> Result<(), UnitEnd> {
    for no in tables {
        let Some(at) = course.tables.iter().position(|table| table.no == *no) else {
            applier.is_not_followed(*no).await?;
            continue;
        };
        if !course.taken[at].held {
            applier.hold(*no).await?;
        }
        course.tables[at].parked = true;
        course.taken[at].held = true;
        // An older one was given out by somebody who could not say so any more.
        let barrier = open_stream::newest_transaction(source).await.about(source.access())?;
        applier.shall_tell(*no, Changes::Held(barrier));
    }
    for (table, taken) in course.tables.iter_mut().zip(&course.taken) {
        if taken.held && table.parked {
            by_name(table, source).await.about(source.access())?;
        }
    }
    Ok(())
}

/// It may have been dropped and made again: then the changes to be kept are those of the one that will be copied.
async fn by_name(table: &mut Table, source: &Session) -> Result<(), PgError> {
    let ask = "select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
               where n.nspname = $1 and c.relname = $2";
    let (schema, name) = (&*table.name.schema, &*table.name.name);
    let row = source.query_opt(ask, &[&schema, &name]).await?;
    if let Some(row) = row {
        table.relation = RelationId(row.get(0));
    }
    Ok(())
}

impl Applier<'_> {
    /// Nothing of it is kept: the stream tells nothing of unlogged tables and large objects.
    async fn is_not_followed(&mut self, table: TableNo) -> Result<(), UnitEnd> {
        let query = "select generation from pgconvoy.table_state where task = $1 and table_no = $2";
        let (task, no) = (self.ctx.task.as_str(), i64::from(table.0));
        let row = self.session.query_opt(query, &[&task, &no]).await.about(&self.access)?;
        let Some(row) = row else { return Ok(()) };
        let generation = Generation(number(row.get(0)).about(&self.access)?);
        self.untold.push(Parking { table, generation, changes: Changes::Applied });
        Ok(())
    }

    async fn hold(&mut self, table: TableNo) -> Result<(), UnitEnd> {
        self.ctx.still_mine()?;
        self.begin_piece(BTreeSet::new(), &[]).await?;
        // Not the table's own row: whoever still writes for its plan holds that until it is raised.
        let hold = "with held as (insert into pgconvoy.copied_anew (task, table_no, held_from)
                                  values ($1, $2, $3::text::pg_lsn))
                    delete from pgconvoy.parked_change where task = $1 and table_no = $2";
        let (task, no) = (self.ctx.task.as_str(), i64::from(table.0));
        let position = self.position.lsn.to_string();
        self.session.execute(hold, &[&task, &no, &position]).await.about(&self.access)?;
        self.step_to(self.position.lsn, &Noted::default()).await?;
        self.parked.insert(table);
        self.held.insert(table);
        Ok(())
    }
}
