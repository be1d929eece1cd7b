//! Whether the publication is as it was when tables were planned.
//!
//! The source sends what the publication said at the moment of a change, and nothing tells that it said something else: a table
//! that somebody took out of it, or out of all of it, has a gap there, and still has it when it is put back. (From PostgreSQL 18 on not
//! even a publication that is gone ends the stream.) The same goes for kinds of changes that it did not publish for a while. So each table
//! must be in it by an entry that its plan has seen, and so must the publication itself be: whatever alters that (an owner, too, which
//! would not matter) is taken for a gap.

use std::collections::{BTreeMap, BTreeSet};

use pgconvoy_flow::stream::message::Xid;
use pgconvoy_flow::stream::snapshot::{Snapshot, Widener};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::StreamOrder;

use super::takeover::TakenTable;
use crate::pg::{About, Session, Value};
use crate::unit::{UnitContext, UnitEnd, open_stream};

/// Tables are gone when somebody drops them: then nothing more is to come of them.
const ENTRIES: &str = "
    select c.oid, r.xmin::text::bigint, p.xmin::text::bigint
    from pg_catalog.pg_class c
    left join (pg_catalog.pg_publication_rel r join pg_catalog.pg_publication p on p.oid = r.prpubid
        and p.pubname = $1 and p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate) on r.prrelid = c.oid
    where c.oid = any ($2::oid[])";

/// Tables that are named in one failure.
const NAMED_MAX: usize = 5;

/// What is followed, as it was planned, by object id.
pub(super) struct Published {
    name: String,
    tables: BTreeMap<u32, PlannedTable>,
    /// Of all whose changes are applied or kept.
    relations: Vec<u32>,
    /// Those that are copied anew: by their names, for they may be others by now.
    anew: BTreeSet<QualifiedName>,
}

struct PlannedTable {
    name: QualifiedName,
    plan: Snapshot,
}

impl Published {
    pub(super) fn of(task: &TaskId, taken: &[TakenTable], order: &StreamOrder) -> Self {
        let is_planned = |table: &&TakenTable| {
            !order.hold.contains(&table.no) && (!table.held || order.resume.contains(&table.no))
        };
        let planned = |table: &TakenTable| {
            let (name, plan) = (table.followed.name.clone(), table.plan.clone());
            (table.followed.relation, PlannedTable { name, plan })
        };
        // Of one that is another by now nothing is applied, whatever was planned.
        let is_it = |table: &&TakenTable| table.relation.0 == table.followed.relation;
        let tables = taken.iter().filter(is_planned).filter(is_it).map(planned).collect();
        let anew = taken.iter().filter(|table| !is_planned(table));
        let anew = anew.map(|table| table.followed.name.clone()).collect();
        let relations = taken.iter().map(|table| table.relation.0).collect();
        Self { name: open_stream::name(task), tables, relations, anew }
    }

    /// Tables that the task would follow, and does not.
    pub(super) async fn not_followed(
        &self,
        source: &Session,
        ctx: &UnitContext,
    ) -> Result<Vec<QualifiedName>, UnitEnd> {
        let tables = open_stream::not_followed(source, ctx, &self.relations).await;
        let mut tables = tables.about(source.access())?;
        tables.retain(|table| !self.anew.contains(table));
        Ok(tables)
    }

    /// Fails where a change may not have been sent.
    pub(super) async fn check(&self, source: &Session) -> Result<(), UnitEnd> {
        let access = source.access();
        let relations: Vec<u32> = self.tables.keys().copied().collect();
        let values: [&dyn Value; 2] = [&self.name, &relations];
        let entries = source.query(ENTRIES, &values).await.about(access)?;
        let missed = entries.iter().filter_map(|row| {
            let (relation, altered_by): (u32, [Option<i64>; 2]) =
                (row.get(0), [row.get(1), row.get(2)]);
            let table = self.tables.get(&relation)?;
            let is_as_planned = altered_by.iter().all(|by| by.is_some_and(|by| table.has_seen(by)));
            (!is_as_planned).then_some(&table.name)
        });
        let missed: Vec<&QualifiedName> = missed.collect();
        match missed[..] {
            [] => Ok(()),
            _ => Err(changed(&self.name, &missed).about(access.to_string()).into()),
        }
    }
}

impl PlannedTable {
    /// Whether it was planned when this transaction had ended; `xid` is of 32 bits.
    fn has_seen(&self, xid: i64) -> bool {
        let Ok(xid) = u32::try_from(xid) else { return false };
        self.plan.shows(Widener::new(self.plan.xmin()).widen(Xid(xid)))
    }
}

fn changed(publication: &str, missed: &[&QualifiedName]) -> Failure {
    let named: Vec<_> = missed.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = missed.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let message = format!(
        "publication {publication} was changed by somebody else: it does not publish all of {}{more}, or did not for some time",
        named.join(", ")
    );
    Failure::definite("publication_changed", message).remedy(
        "put each of them back (alter publication … add table only …), have it copied anew (`pgconvoy task resync`) and resume the task; \
         where that is refused, cancel the task, empty the destination and create the task again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_as_old_as_the_plan_whichever_round_ids_are_in() {
        let table = |snapshot: &str| PlannedTable {
            name: QualifiedName::new("s", "t"),
            plan: snapshot.parse().unwrap(),
        };
        assert!(table("700:705:701").has_seen(699));
        assert!(!table("700:705:701").has_seen(701));
        assert!(!table("700:705:701").has_seen(705));
        // 2^32 + 10: the entry was made before ids began anew, or after it.
        assert!(table("4294967306:4294967306:").has_seen(4_294_967_000));
        assert!(table("4294967306:4294967306:").has_seen(9));
        assert!(!table("4294967306:4294967306:").has_seen(11));
    }
}
