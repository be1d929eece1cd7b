//! Where changes go: the destination's tables as its catalogue has them, in the words of the pure part.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::try_join;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use pgconvoy_flow::stream::snapshot::Snapshot;
use pgconvoy_flow::stream::table::{KeyColumn, SourceColumn, Table, Target, TargetColumn};
use pgconvoy_flow::stream::window::Window;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::name::{QualifiedName, quote_identifier};
use tokio_postgres::Row;

use super::takeover::TakenTable;
use crate::pg::{About, PgError, Session, Value};
use crate::unit::apply_key::{Followed, FollowedColumn};

/// Columns that can be written, with their types without length or precision. (A domain is cast as what it is made of.) No row =
/// there is no such table; one without columns has a row of nulls.
const COLUMNS: &str = "
    select a.attname::text, tn.nspname::text, t.typname::text, a.attidentity = 'a', c.relkind = 'p',
        t.typtype = 'd' or exists (select from pg_catalog.pg_cast
            where castsource = 'pg_catalog.text'::pg_catalog.regtype and casttarget = t.oid and castmethod = 'f'),
        c.relhasrules
    from pg_catalog.pg_class c
    left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    left join pg_catalog.pg_type t on t.oid = a.atttypid left join pg_catalog.pg_namespace tn on tn.oid = t.typnamespace
    where c.oid = pg_catalog.to_regclass($1) and c.relkind in ('r', 'p') order by a.attnum";

/// Columns of the unique indexes that can find a row, each with the operator by which it does.
const KEYS: &str = "
    select i.indexrelid, a.attname::text, opn.nspname::text, op.oprname::text
    from pg_catalog.pg_index i
    cross join lateral unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality as k(attnum, opclass, ord)
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    join pg_catalog.pg_opclass oc on oc.oid = k.opclass
    join pg_catalog.pg_amop ao on ao.amopfamily = oc.opcfamily and ao.amoplefttype = oc.opcintype
        and ao.amoprighttype = oc.opcintype and ao.amopstrategy = 3
    join pg_catalog.pg_operator op on op.oid = ao.amopopr join pg_catalog.pg_namespace opn on opn.oid = op.oprnamespace
    where i.indrelid = pg_catalog.to_regclass($1) and i.indisunique and i.indisvalid and i.indimmediate
    and i.indpred is null and i.indexprs is null and k.ord <= i.indnkeyatts
    order by i.indisprimary desc, i.indexrelid, k.ord";

/// Tables that are looked at beside each other.
const LOOKS_MAX: usize = 64;

/// The tables that are followed, and where their rows go.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) tables: Vec<Table>,
    pub(super) targets: Arc<[Target]>,
    /// As each of the tables was taken over.
    pub(super) taken: Vec<TakenTable>,
}

/// A table whose changes go nowhere as the destination is, and why.
pub(super) type Unfit = (TableNo, Failure);

impl Course {
    /// With the tables whose changes cannot be applied any more: nothing is written to what they were written to.
    pub(super) async fn of(
        session: &Session,
        taken: Vec<TakenTable>,
    ) -> Result<(Self, Vec<Unfit>), Failure> {
        let mut places: BTreeMap<&QualifiedName, usize> = BTreeMap::new();
        // Asked about many at once: the destination may be far away.
        let mut looks = Vec::new();
        for table in &taken {
            places.entry(&table.write_to).or_insert_with(|| {
                looks.push(target(session, table).boxed());
                looks.len() - 1
            });
        }
        let looks: Vec<_> = stream::iter(looks).buffered(LOOKS_MAX).try_collect().await?;
        let (targets, flaws): (Vec<Target>, Vec<Option<Failure>>) = looks.into_iter().unzip();
        let mut tables = Vec::with_capacity(taken.len());
        let mut unfit = Vec::new();
        for table in &taken {
            let place = places[&table.write_to];
            let (mut source, other_columns) = source_table(table, place, &targets[place])?;
            // Whether it has columns says nothing where there is no table.
            let flaw = flaws[place].clone().or(other_columns).filter(|_| !table.is_aside());
            if let Some(flaw) = flaw {
                source.parked = true;
                unfit.push((table.no, flaw));
            }
            tables.push(source);
        }
        Ok((Self { tables, targets: targets.into(), taken }, unfit))
    }

    /// A table in another shape than it was planned in, if its destination has that by now.
    pub(super) async fn shaped(
        &self,
        session: &Session,
        at: usize,
        shape: &Table,
    ) -> Result<(Table, Target, Followed), Failure> {
        let known = &self.taken[at];
        let mut in_order: Vec<&SourceColumn> = shape.columns.iter().collect();
        in_order.sort_unstable_by_key(|column| column.place);
        let columns = in_order.into_iter().map(|column| FollowedColumn {
            name: column.name.to_string(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
        });
        let followed = Followed { columns: columns.collect(), ..known.followed.clone() };
        let place = self.tables[at].target;
        let shared = self.tables.iter().filter(|table| table.target == place).count() > 1;
        if shared && followed.columns != known.followed.columns {
            let message =
                "its columns were changed, and other tables are written through the same root";
            return Err(Failure::definite("table_reshaped", message));
        }
        let table =
            TakenTable { cause: None, held: false, followed: followed.clone(), ..known.clone() };
        let (target, flaw) = target(session, &table).await?;
        let (table, other_columns) = source_table(&table, place, &target)?;
        match flaw.or(other_columns) {
            Some(flaw) => Err(flaw),
            None => Ok((table, target, followed)),
        }
    }
}

/// What a table is written to, and why it cannot be as it is.
async fn target(
    session: &Session,
    table: &TakenTable,
) -> Result<(Target, Option<Failure>), Failure> {
    let name = &table.write_to;
    let quoted = name.quoted();
    let values: [&dyn Value; 1] = [&quoted];
    let looks = try_join(session.query(COLUMNS, &values), session.query(KEYS, &values));
    let (rows, indexes) = looks.await.about(name)?;
    let taking_part = |column: &str| table.followed.columns.iter().any(|of| of.name == column);
    let columns: Vec<TargetColumn> = rows
        .iter()
        .filter(|row| row.get::<_, Option<&str>>(0).is_some_and(taking_part))
        .map(|row| TargetColumn {
            name: row.get::<_, String>(0).into(),
            type_name: format!("{}.{}", quote_identifier(row.get(1)), quote_identifier(row.get(2)))
                .into(),
            cast_of_its_own: row.get(5),
            identity_always: row.get(3),
        })
        .collect();
    let only = !rows.first().is_some_and(|row| row.get(4));
    let has_rules = rows.first().is_some_and(|row| row.get(6));
    let key = key(&indexes, table, &columns);
    let flaw = match (rows.is_empty(), &key) {
        (true, _) => Some(gone(name)),
        (false, None) => Some(without_key(table)),
        (false, Some(_)) => None,
    };
    let (columns, key) = (columns.into(), key.unwrap_or_default().into());
    Ok((Target { name: name.clone(), only, has_rules, columns, key }, flaw))
}

fn gone(name: &QualifiedName) -> Failure {
    Failure::definite("undefined_table", format!("the destination has no table {name}"))
}

fn without_key(table: &TakenTable) -> Failure {
    let message = format!(
        "the destination's table has no unique index on ({}), by which changes find their rows",
        table.followed.key.join(", ")
    );
    Failure::definite("apply_key_missing", message)
}

/// The index of the apply key, known by its columns: it may have any name here.
fn key(indexes: &[Row], table: &TakenTable, columns: &[TargetColumn]) -> Option<Vec<KeyColumn>> {
    let wanted = &table.followed.key;
    if wanted.is_empty() {
        return Some(Vec::new());
    }
    let mut indexes = indexes.chunk_by(|a, b| a.get::<_, u32>(0) == b.get::<_, u32>(0));
    indexes.find_map(|index| {
        let same = index.len() == wanted.len()
            && index.iter().all(|row| wanted.iter().any(|column| column == row.get::<_, &str>(1)));
        let key = index.iter().map(|row| {
            let column =
                columns.iter().position(|column| *column.name == *row.get::<_, &str>(1))?;
            let (schema, operator): (&str, &str) = (row.get(2), row.get(3));
            let equals = format!("operator({}.{operator})", quote_identifier(schema)).into();
            Some(KeyColumn { column, equals })
        });
        same.then(|| key.collect()).flatten()
    })
}

/// A table of the source, its columns in the order of its target's; and which of the two have no counterpart.
fn source_table(
    table: &TakenTable,
    place: usize,
    target: &Target,
) -> Result<(Table, Option<Failure>), Failure> {
    let column = |of: &TargetColumn| {
        let mut columns = table.followed.columns.iter().enumerate();
        let found = columns.find(|(_, column)| *column.name == *of.name);
        found.map(|(place, column)| SourceColumn {
            name: column.name.as_str().into(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            place,
        })
    };
    let columns: Vec<_> = target.columns.iter().filter_map(column).collect();
    let other_columns = other_columns(&table.followed.columns, target);
    let window =
        match (table.followed.key.is_empty() || table.followed.one_snapshot, &*table.shards) {
            (false, _) => Window::Keyed {
                plan: table.plan.clone(),
                until: table.until,
                shards: table.shards.clone().into(),
            },
            (true, [copied]) => Window::OneSnapshot { copied: copied.clone() },
            // It is not copied yet: whatever comes is kept.
            (true, []) if table.held => Window::OneSnapshot { copied: Snapshot::none() },
            (true, shards) => {
                let problem = format!(
                    "a table that is to be copied under one snapshot was, in {} shards",
                    shards.len()
                );
                let error = PgError::protocol(problem);
                return Err(error.failure(table.write_to.to_string()));
            }
        };
    let table = Table {
        no: table.no,
        relation: table.relation,
        name: table.followed.name.clone(),
        columns: columns.into(),
        dropped: Box::default(),
        target: place,
        window,
        parked: table.is_aside(),
    };
    Ok((table, other_columns))
}

/// Columns that one has and the other has not.
fn other_columns(planned: &[FollowedColumn], target: &Target) -> Option<Failure> {
    let there = |name: &str| target.columns.iter().any(|column| *column.name == *name);
    let is_planned = |name: &str| planned.iter().any(|column| *column.name == *name);
    let missing = planned.iter().map(|column| &*column.name).filter(|name| !there(name));
    let others = target.columns.iter().map(|column| &*column.name).filter(|name| !is_planned(name));
    let names: Vec<&str> = missing.chain(others).collect();
    (!names.is_empty()).then(|| {
        let message = format!(
            "the destination's table has not the columns that were planned: {}",
            names.join(", ")
        );
        Failure::definite("undefined_column", message)
    })
}
