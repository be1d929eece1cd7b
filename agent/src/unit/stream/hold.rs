//! Keeping the changes of tables that are to be copied anew.
//!
//! From this position on whatever the stream tells of them is kept, in the transaction that steps the position on. What was
//! kept before, and what was applied, ends before this position: a transaction id that is given out after it is the barrier
//! that no snapshot of the new copy may be older than (law S2), so the copy shows all of that. What it does not show of the
//! rest is applied when it is there.
//!
//! One that the publication does not name, because it was made again, stays as it is at the destination, and is parked: of it
//! nothing would come.

use std::collections::BTreeSet;

use pgconvoy_flow::stream::message::RelationId;
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::{TableNo, TaskId};
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::parking::{Changes, Parking};

use super::applying::Applier;
use super::catalog::Course;
use super::reading::Noted;
use super::takeover::number;
use crate::pg::{About, PgError, Session};
use crate::unit::{UnitEnd, apply_key, open_stream};

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
        let name = &course.taken[at].followed.name;
        let now = of_its_name(source, &applier.ctx.task, name).await.about(source.access())?;
        if let Some(OfItsName { is_published: false, is_identified, .. }) = now {
            applier.is_not_published(*no, name, is_identified).await?;
            course.lose(at);
            continue;
        }
        let relation = now.map_or(RelationId::NONE, |table| table.relation);
        if !course.taken[at].held || course.tables[at].relation != relation {
            applier.hold(*no, relation).await?;
        }
        course.tables[at].parked = true;
        course.tables[at].relation = relation;
        course.taken[at].held = true;
        if relation != RelationId::NONE {
            applier.take_relation(course, *no, relation).await?;
        }
        // An older one was given out by somebody who could not say so any more.
        let barrier = open_stream::newest_transaction(source).await.about(source.access())?;
        applier.shall_tell(*no, Changes::Held(barrier));
    }
    Ok(())
}

/// What the source has under a table's name by now: it may have been dropped and made again.
#[derive(Clone, Copy)]
struct OfItsName {
    relation: RelationId,
    is_published: bool,
    /// See [`apply_key::not_published`].
    is_identified: bool,
}

async fn of_its_name(
    source: &Session,
    task: &TaskId,
    table: &QualifiedName,
) -> Result<Option<OfItsName>, PgError> {
    let ask = format!(
        "select c.oid, exists (
                   select from pg_catalog.pg_publication_rel pr
                   join pg_catalog.pg_publication p on p.oid = pr.prpubid
                   where pr.prrelid = c.oid and p.pubname = $3),
                   c.relreplident = 'f' or {key} is not null
               from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
               where n.nspname = $1 and c.relname = $2 and c.relkind = 'r' and c.relpersistence = 'p'",
        key = apply_key::INDEX,
    );
    let (schema, name) = (&*table.schema, &*table.name);
    let row = source.query_opt(&ask, &[&schema, &name, &open_stream::name(task)]).await?;
    let found = row.map(|row| OfItsName {
        relation: RelationId(row.get(0)),
        is_published: row.get(1),
        is_identified: row.get(2),
    });
    Ok(found)
}

impl Applier<'_> {
    /// Nothing of it is kept: the stream tells nothing of unlogged tables and large objects.
    pub(super) async fn is_not_followed(&mut self, table: TableNo) -> Result<(), UnitEnd> {
        let query = "select generation from pgconvoy.table_state where task = $1 and table_no = $2";
        let (task, no) = (self.ctx.task.as_str(), i64::from(table.0));
        let row = self.session.query_opt(query, &[&task, &no]).await.about(&self.access)?;
        let Some(row) = row else { return Ok(()) };
        let generation = Generation(number(row.get(0)).about(&self.access)?);
        // It may have been followed when it was to be copied anew.
        self.ctx.still_mine()?;
        self.begin_piece(BTreeSet::new(), &[]).await?;
        let forget =
            "with kept as (delete from pgconvoy.parked_change where task = $1 and table_no = $2)
                      delete from pgconvoy.copied_anew where task = $1 and table_no = $2";
        self.session.execute(forget, &[&task, &no]).await.about(&self.access)?;
        self.step_to(self.position.lsn, &Noted::default()).await?;
        self.untold.push(Parking { table, generation, changes: Changes::Applied });
        Ok(())
    }

    /// It is not copied anew, and told to be parked.
    async fn is_not_published(
        &mut self,
        table: TableNo,
        name: &QualifiedName,
        is_identified: bool,
    ) -> Result<(), UnitEnd> {
        let task = &self.ctx.task;
        let again = format!("`pgconvoy task resync {task} {name}` again");
        let failure = apply_key::not_published(task, name, is_identified, &again);
        self.shall_tell(table, Changes::Applied);
        self.stays_parked(table, failure).await
    }

    async fn hold(&mut self, table: TableNo, relation: RelationId) -> Result<(), UnitEnd> {
        self.ctx.still_mine()?;
        self.begin_piece(BTreeSet::new(), &[]).await?;
        // Not the table's own row: whoever still writes for its plan holds that until it is raised.
        let hold = "with held as (insert into pgconvoy.copied_anew (task, table_no, held_from, relation)
                                  values ($1, $2, $3::text::pg_lsn, $4)
                                  on conflict (task, table_no) do update
                                      set held_from = excluded.held_from, relation = excluded.relation)
                    delete from pgconvoy.parked_change where task = $1 and table_no = $2";
        let (task, no) = (self.ctx.task.as_str(), i64::from(table.0));
        let position = self.position.lsn.to_string();
        let relation = i64::from(relation.0);
        self.session
            .execute(hold, &[&task, &no, &position, &relation])
            .await
            .about(&self.access)?;
        self.step_to(self.position.lsn, &Noted::default()).await?;
        self.parked.insert(table);
        self.held.insert(table);
        Ok(())
    }
}
