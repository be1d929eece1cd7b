//! Names that functions look up without saying a schema.
//!
//! Our sessions look nowhere (`search_path` is empty), so that nothing that lies in the way is taken for what PostgreSQL
//! has. But a check, a generated column or the expression of a partition key may call a function that finds others by
//! `search_path`. Such a table is written to under the source's, with the table's own schema behind it.

use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::name::{QualifiedName, quote_identifier, quote_literal};

/// Sets the path until the transaction ends, if writing to the table calls a function of the user's.
pub(crate) fn for_rows_of(task: &TaskId, table: &QualifiedName) -> String {
    let name = quote_literal(&table.quoted());
    let set = as_at_the_source(task, table);
    format!(
        "with calling (class, oid) as (
             select 'pg_attrdef'::regclass, d.oid from pg_attrdef d where d.adrelid = {name}::regclass
             union all
             select 'pg_constraint'::regclass, k.oid from pg_constraint k
             where k.contype = 'c' and (k.conrelid = {name}::regclass or k.contypid in (
                 select a.atttypid from pg_attribute a where a.attrelid = {name}::regclass and a.attnum > 0))
             union all
             select 'pg_class'::regclass, i.indexrelid from pg_index i where i.indrelid = {name}::regclass
             union all
             select 'pg_class'::regclass, above.relid from pg_partition_ancestors({name}::regclass) as above (relid)
         )
         {set} where exists (
             select from calling join pg_depend d on d.classid = calling.class and d.objid = calling.oid
             where d.refclassid = 'pg_proc'::regclass and d.deptype = 'n')"
    )
}

/// Sets the path until the transaction ends.
pub(crate) fn as_at_the_source(task: &TaskId, table: &QualifiedName) -> String {
    let task = quote_literal(task.as_str());
    let own = quote_literal(&format!(", {}", quote_identifier(&table.schema)));
    format!(
        "select pg_catalog.set_config('search_path', coalesce(
             (select e.search_path from pgconvoy.schema_entry e where e.task = {task} limit 1),
             '\"$user\", public') || {own}, true)"
    )
}
