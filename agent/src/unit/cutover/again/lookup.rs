//! Looking rows up by their keys, at either end.
//!
//! Keys come from the destination page by page, each a bounded number of them, and are looked up by a few sessions side by side.
//! Rows become hashes as in every comparison ([`pgconvoy_flow::digest`]): all columns, as COPY's text has them.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use pgconvoy_flow::digest::{HashKey, Kept, Row, Rows, classify, key_values};
use pgconvoy_flow::sql::{self, Beside};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::{CopyFormat, KeyColumn, Part, TablePlan};
use pgconvoy_shared::verify::Sample;
use rand::Rng;

use super::{Differing, not_understood};
use crate::pg::wire::Wire;
use crate::pg::{About, PgError, Session, Value};
use crate::unit::apply_key::Followed;
use crate::unit::verify::{bad_data, see_bytes_as_they_are};
use crate::unit::{UnitContext, UnitEnd};

/// Keys that are looked up before the next ones are asked for.
const KEYS_OF_PAGE: i64 = 50_000;

/// Keys that one statement looks up.
const KEYS_AT_ONCE: usize = 1_000;

/// Sessions at each end.
const SESSIONS_MAX: u32 = 4;

/// Statements that are worth a session of their own.
const STATEMENTS_A_SESSION: usize = 8;

/// Tables of no more, all together, are compared whole where they have to be.
const SMALL_BYTES: i64 = 8 << 20;

/// A table as it is read at both ends.
struct Table {
    plan: TablePlan,
    only: bool,
    untold: bool,
    bytes: i64,
}

/// What was changed, and is not compared yet.
pub(super) struct Changes {
    tables: BTreeMap<i64, Table>,
    before_look: i32,
    /// See [`sql::find_operators`].
    find_operators: Option<String>,
}

const TABLES: &str = "
    select s.table_no, s.write_schema, s.write_table, s.followed::text, bool_or(t.untold), r.relkind = 'p', pg_catalog.pg_table_size(r.oid),
        (select pg_catalog.array_agg(a.attname::text order by a.attname) from pg_catalog.pg_attribute a
            where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped),
        (select pg_catalog.array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) order by a.attname) from pg_catalog.pg_attribute a
            where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped)
    from pgconvoy.changed_table t join pgconvoy.table_state s using (task, table_no)
    join pg_catalog.pg_class r on r.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', s.write_schema, s.write_table))
    where t.task = $1 and (t.look < $2 or t.untold) and s.followed is not null group by s.task, s.table_no, r.oid, r.relkind";

impl Changes {
    /// What was noted before this look.
    pub(super) async fn before(
        ctx: &UnitContext,
        session: &Session,
        look: i32,
    ) -> Result<Self, PgError> {
        let rows = session.query(TABLES, &[&ctx.task.as_str(), &look]).await?;
        let mut tables = BTreeMap::new();
        for row in &rows {
            let followed: Followed = serde_json::from_str(row.get(3)).map_err(not_understood)?;
            let names: Vec<String> = row.get::<_, Option<_>>(7).unwrap_or_default();
            let types: Vec<String> = row.get::<_, Option<_>>(8).unwrap_or_default();
            let no: i64 = row.get(0);
            let mut key = followed.key;
            key.sort_unstable();
            let typed = |name: &String| {
                let at = names.iter().position(|column| column == name)?;
                Some(KeyColumn { name: name.clone(), type_name: types.get(at)?.clone() })
            };
            let typed: Option<Vec<KeyColumn>> = key.iter().map(typed).collect();
            let typed = typed.ok_or_else(|| not_understood("a key without one of its columns"))?;
            let others = names.iter().filter(|name| !key.contains(name)).cloned();
            let plan = TablePlan {
                no: TableNo(u32::try_from(no).map_err(not_understood)?),
                generation: Generation::default(),
                name: followed.name,
                write_to: QualifiedName::new(row.get::<_, &str>(1), row.get::<_, &str>(2)),
                columns: key.iter().cloned().chain(others).collect(),
                fingerprint: String::new(),
                filenode: None,
                format: CopyFormat::Text,
                key: typed,
            };
            let of_root: bool = row.get(5);
            // What a root is large is what its partitions are.
            let bytes = if of_root { i64::MAX } else { row.get(6) };
            tables.insert(no, Table { plan, only: !of_root, untold: row.get(4), bytes });
        }
        let keys = tables.values().flat_map(|table: &Table| &table.plan.key);
        let find_operators = sql::find_operators(keys, false);
        Ok(Self { tables, before_look: look, find_operators })
    }

    /// All that is left.
    pub(super) async fn all(ctx: &UnitContext, session: &Session) -> Result<Self, PgError> {
        Self::before(ctx, session, i32::MAX).await
    }

    /// How many tables were changed.
    pub(super) fn tables(&self) -> u32 {
        u32::try_from(self.tables.len()).unwrap_or(u32::MAX)
    }

    /// The keys that come next.
    pub(super) async fn page(
        &self,
        ctx: &UnitContext,
        session: &Session,
        after: Option<&(i64, String)>,
    ) -> Result<Option<Page<'_>>, PgError> {
        let next = "select k.table_no, k.key, coalesce(t.level, 0) from pgconvoy.changed_key k
            left join pgconvoy.changed_table t using (task, table_no, look)
            where k.task = $1 and k.look < $2 and (k.table_no, k.key) > ($3, $4) order by k.table_no, k.key limit $5";
        let (table, key) = after.map_or((-1, ""), |(table, key)| (*table, key.as_str()));
        let values: [&dyn Value; 5] =
            [&ctx.task.as_str(), &self.before_look, &table, &key, &KEYS_OF_PAGE];
        let rows = session.query(next, &values).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        let mut page = Page { last: (last.get(0), last.get(1)), ..Page::default() };
        for of_table in rows.chunk_by(|a, b| a.get::<_, i64>(0) == b.get::<_, i64>(0)) {
            // A table that was dropped meanwhile has no rows that could differ; and is not followed.
            let Some(table) = self.tables.get(&of_table[0].get(0)) else { continue };
            for some in of_table.chunks(KEYS_AT_ONCE) {
                let mut keys = Vec::with_capacity(some.len());
                for row in some {
                    let values = key_values(row.get(1), table.plan.key.len());
                    keys.push(values.ok_or_else(|| not_understood("a key of other columns"))?);
                    page.keys += 1 << row.get::<_, i32>(2).clamp(0, 62);
                    page.keys_compared += 1;
                }
                page.lookups.push(Lookup { table, keys: Some(keys) });
            }
        }
        Ok(Some(page))
    }

    /// Tables with changed rows that no key tells: the smallest of them, which are read whole, and how many are left.
    pub(super) fn untold(&self) -> (impl Iterator<Item = Page<'_>>, u32) {
        let mut untold: Vec<&Table> = self.tables.values().filter(|table| table.untold).collect();
        untold.sort_unstable_by_key(|table| table.bytes);
        let mut left = SMALL_BYTES;
        let fits = |table: &&Table| {
            left = left.saturating_sub(table.bytes);
            left >= 0
        };
        let small: Vec<&Table> = untold.iter().copied().take_while(fits).collect();
        let large = u32::try_from(untold.len() - small.len()).unwrap_or(u32::MAX);
        let page = |table| Page { lookups: vec![Lookup { table, keys: None }], ..Page::default() };
        (small.into_iter().map(page), large)
    }
}

/// Some keys, to be looked up at both ends.
#[derive(Default)]
pub(super) struct Page<'a> {
    lookups: Vec<Lookup<'a>>,
    last: (i64, String),
    /// Keys that were changed, as far as these stand for others too.
    pub(super) keys: u64,
    /// Those that are looked up.
    pub(super) keys_compared: u64,
}

/// Some keys of one table; none = all of its rows.
struct Lookup<'a> {
    table: &'a Table,
    keys: Option<Vec<Vec<String>>>,
}

impl Page<'_> {
    /// Its last key.
    pub(super) fn last(&self) -> (i64, String) {
        self.last.clone()
    }

    /// What differs of the rows that were found for it.
    pub(super) fn differing(
        &self,
        source: Vec<Vec<Kept>>,
        destination: Vec<Vec<Kept>>,
    ) -> Vec<Differing> {
        let mut differs = Vec::new();
        for ((lookup, ours), theirs) in self.lookups.iter().zip(source).zip(destination) {
            let plan = &lookup.table.plan;
            classify(ours, theirs, |row| {
                differs.push((i64::from(plan.no.0), plan.write_to.clone(), row));
            });
        }
        differs
    }
}

impl Lookup<'_> {
    async fn read(&self, wire: &mut Wire, secret: &HashKey) -> Result<Vec<Kept>, PgError> {
        let Table { plan, only, .. } = self.table;
        let statement = match &self.keys {
            Some(keys) => sql::copy_out_keys(plan, keys, &plan.write_to, *only, Beside::Nothing),
            None => {
                sql::copy_out_compared(plan, &Part::Whole, &plan.write_to, *only, Beside::Nothing)
            }
        };
        let mut rows = Rows::new(secret.clone(), plan.key.len());
        let mut kept = Vec::new();
        let mut copy = wire.copy_out(&statement).await?;
        while let Some(data) = copy.next().await? {
            let keep = |row: Row<'_>| kept.push(Kept::of(&row, Sample::ALL));
            rows.take(&data, keep).map_err(|bad| bad_data(&bad))?;
        }
        Ok(kept)
    }
}

/// The sessions of one end, opened as they are needed.
pub(super) struct Reader<'a> {
    ctx: &'a UnitContext,
    side: Side,
    secret: HashKey,
    find_operators: Option<&'a str>,
    wires: Vec<Wire>,
}

impl<'a> Reader<'a> {
    /// The source's, and the destination's.
    pub(super) fn both(ctx: &'a UnitContext, changes: &'a Changes) -> [Self; 2] {
        let mut secret = Box::new([0; HashKey::BYTES]);
        rand::rng().fill_bytes(&mut secret[..]);
        let secret = HashKey(secret);
        [Side::Source, Side::Destination].map(|side| Self {
            ctx,
            side,
            secret: secret.clone(),
            find_operators: changes.find_operators.as_deref(),
            wires: Vec::new(),
        })
    }

    /// The rows of each of the page's lookups, as they are now.
    pub(super) async fn read(&mut self, page: &Page<'_>) -> Result<Vec<Vec<Kept>>, UnitEnd> {
        let access = self.ctx.access(self.side);
        let most = self.ctx.spec.copy.jobs.clamp(1, SESSIONS_MAX) as usize;
        let wanted = page.lookups.len().div_ceil(STATEMENTS_A_SESSION).clamp(1, most);
        while self.wires.len() < wanted {
            let mut wire = self.ctx.means.pool.reader(&access).await.about(&access)?;
            see_bytes_as_they_are(&mut wire).await.about(&access)?;
            if let Some(find_operators) = self.find_operators {
                wire.query(find_operators).await.about(&access)?;
            }
            self.wires.push(wire);
        }
        let (sessions, secret) = (self.wires.len(), &self.secret);
        let each = self.wires.iter_mut().enumerate().map(|(nth, wire)| async move {
            let mut found = Vec::new();
            for lookup in page.lookups.iter().skip(nth).step_by(sessions) {
                found.push(lookup.read(wire, secret).await.about(&lookup.table.plan.write_to)?);
            }
            Ok::<_, UnitEnd>(found.into_iter())
        });
        let mut found = try_join_all(each).await?;
        let in_turn = (0..page.lookups.len()).map(|nth| found[nth % sessions].next());
        Ok(in_turn.map(Option::unwrap_or_default).collect())
    }

    /// Leaves the sessions to other units, as far as they are like others.
    pub(super) fn end(self) {
        if self.find_operators.is_none() {
            self.wires.into_iter().for_each(|wire| self.ctx.means.pool.give(wire));
        }
    }
}
