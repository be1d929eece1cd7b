//! Constraints that applying changes does not look at: foreign keys, and those unique and exclusion constraints that are
//! deferrable, whose checks are triggers, and those do not fire. They held at the source for every transaction; that they hold
//! here is seen by query.
//!
//! Each is one statement, so one moment of the destination, which is one of the source. A table that others inherit from is
//! looked at without them: its constraints are not theirs.

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::{QualifiedName, quote_identifier};

use super::named;
use crate::pg::PgError;

const FOREIGN_KEYS: &str = "
    select c.conname::text, n.nspname::text, r.relname::text, pn.nspname::text, p.relname::text,
        (select pg_catalog.array_agg(a.attname::text order by k.nth) from pg_catalog.unnest(c.conkey) with ordinality k (no, nth)
            join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.no),
        (select pg_catalog.array_agg(a.attname::text order by k.nth) from pg_catalog.unnest(c.confkey) with ordinality k (no, nth)
            join pg_catalog.pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.no),
        r.relkind = 'p', p.relkind = 'p', coalesce((pg_catalog.to_jsonb(c) ->> 'conperiod')::bool, false)
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_class r on r.oid = c.conrelid join pg_catalog.pg_namespace n on n.oid = r.relnamespace
    join pg_catalog.pg_class p on p.oid = c.confrelid join pg_catalog.pg_namespace pn on pn.oid = p.relnamespace
    where c.contype = 'f' and c.convalidated and c.conparentid = 0 and n.nspname <> 'pgconvoy' order by 2, 3, 1";

const UNIQUES: &str = "
    select c.conname::text, n.nspname::text, r.relname::text,
        (select pg_catalog.array_agg(a.attname::text order by k.nth) from pg_catalog.unnest(c.conkey) with ordinality k (no, nth)
            join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.no),
        r.relkind = 'p'
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_class r on r.oid = c.conrelid join pg_catalog.pg_namespace n on n.oid = r.relnamespace
    where c.contype in ('p', 'u') and c.conexclop is null and c.condeferrable and c.conparentid = 0
    and n.nspname <> 'pgconvoy' order by 2, 3, 1";

/// Those without overlaps, too: they are keys by name, and exclude by operators. An expression has no name.
const EXCLUSIONS: &str = "
    select c.conname::text, n.nspname::text, r.relname::text,
        (select pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, o.nth::int, true) order by o.nth)
            from pg_catalog.unnest(c.conexclop) with ordinality o (no, nth)),
        (select pg_catalog.array_agg(pg_catalog.format('operator(%I.%s)', s.nspname, p.oprname) order by o.nth)
            from pg_catalog.unnest(c.conexclop) with ordinality o (no, nth)
            join pg_catalog.pg_operator p on p.oid = o.no join pg_catalog.pg_namespace s on s.oid = p.oprnamespace),
        pg_catalog.pg_get_expr(i.indpred, i.indrelid), r.relkind = 'p'
    from pg_catalog.pg_constraint c join pg_catalog.pg_index i on i.indexrelid = c.conindid
    join pg_catalog.pg_class r on r.oid = c.conrelid join pg_catalog.pg_namespace n on n.oid = r.relnamespace
    where c.conexclop is not null and c.condeferrable and c.conparentid = 0 and n.nspname <> 'pgconvoy' order by 2, 3, 1";

/// Those that do not hold at the destination.
pub(super) async fn broken(session: &tokio_postgres::Client) -> Result<Option<Failure>, PgError> {
    let mut broken = Vec::new();
    for row in session.query(FOREIGN_KEYS, &[]).await? {
        let table = QualifiedName::new(row.get::<_, &str>(1), row.get::<_, &str>(2));
        let parent = QualifiedName::new(row.get::<_, &str>(3), row.get::<_, &str>(4));
        let (child, parent) = (rows_of(&table, row.get(7)), rows_of(&parent, row.get(8)));
        let (columns, referred): (Vec<String>, Vec<String>) = (row.get(5), row.get(6));
        let orphan = match row.get(9) {
            true => uncovered(&child, &parent, &columns, &referred),
            false => orphan(&child, &parent, &columns, &referred),
        };
        if session.query_opt(&orphan, &[]).await?.is_some() {
            broken.push(format!("{table} {}", row.get::<_, &str>(0)));
        }
    }
    for row in session.query(UNIQUES, &[]).await? {
        let table = QualifiedName::new(row.get::<_, &str>(1), row.get::<_, &str>(2));
        let twice = twice(&rows_of(&table, row.get(4)), &row.get::<_, Vec<String>>(3));
        if session.query_opt(&twice, &[]).await?.is_some() {
            broken.push(format!("{table} {}", row.get::<_, &str>(0)));
        }
    }
    for row in session.query(EXCLUSIONS, &[]).await? {
        let table = QualifiedName::new(row.get::<_, &str>(1), row.get::<_, &str>(2));
        let (elements, operators): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
        let together = together(&rows_of(&table, row.get(6)), &elements, &operators, row.get(5));
        if session.query_opt(&together, &[]).await?.is_some() {
            broken.push(format!("{table} {}", row.get::<_, &str>(0)));
        }
    }
    Ok((!broken.is_empty()).then(|| {
        let message = format!("constraints do not hold at the destination: {}", named(broken));
        Failure::definite("cutover_constraints_broken", message)
            .remedy("compare both ends (`task verify`): somebody wrote to the destination, or the source does not hold them either")
    }))
}

/// The rows that a table's constraints are about.
fn rows_of(table: &QualifiedName, partitioned: bool) -> String {
    let only = if partitioned { "" } else { "only " };
    format!("{only}{}", table.quoted())
}

/// A row that refers to none.
fn orphan(child: &str, parent: &str, columns: &[String], referred: &[String]) -> String {
    format!(
        "select from {child} c where {} and not exists (select from {parent} p where {}) limit 1",
        all_set(columns),
        equal(columns, referred)
    )
}

/// A row whose time, the last of its columns, is not within the times of those it refers to.
fn uncovered(child: &str, parent: &str, columns: &[String], referred: &[String]) -> String {
    let times = [columns, referred].map(|columns| columns.last().map_or("", String::as_str));
    let [time, of_parent] = times.map(quote_identifier);
    let keys = |columns: &[String]| columns[..columns.len().saturating_sub(1)].to_vec();
    let equal = equal(&keys(columns), &keys(referred));
    format!(
        "select from {child} c where {} and not coalesce(c.{time} <@ \
         (select pg_catalog.range_agg(p.{of_parent}) from {parent} p where {equal}), false) limit 1",
        all_set(columns)
    )
}

fn all_set(columns: &[String]) -> String {
    let set = columns.iter().map(|column| format!("c.{} is not null", quote_identifier(column)));
    set.collect::<Vec<_>>().join(" and ")
}

fn equal(columns: &[String], referred: &[String]) -> String {
    let equal = columns.iter().zip(referred).map(|(column, referred)| {
        format!("p.{} = c.{}", quote_identifier(referred), quote_identifier(column))
    });
    equal.collect::<Vec<_>>().join(" and ")
}

/// Two rows that exclude each other. The index finds the second one.
fn together(
    rows: &str,
    elements: &[String],
    operators: &[String],
    only_where: Option<&str>,
) -> String {
    let named: Vec<String> =
        elements.iter().enumerate().map(|(nth, element)| format!("{element} as e{nth}")).collect();
    let only_where = only_where.map_or(String::new(), |only| format!(" where {only}"));
    let rows =
        format!("(select tableoid as t, ctid as c, {} from {rows}{only_where})", named.join(", "));
    let both: Vec<String> = operators
        .iter()
        .enumerate()
        .map(|(nth, operator)| format!("a.e{nth} {operator} b.e{nth}"))
        .collect();
    format!(
        "select from {rows} a join {rows} b on (a.t, a.c) <> (b.t, b.c) and {} limit 1",
        both.join(" and ")
    )
}

/// A value that is there twice.
fn twice(rows: &str, columns: &[String]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| quote_identifier(column)).collect();
    let set: Vec<String> = columns.iter().map(|column| format!("{column} is not null")).collect();
    format!(
        "select from {rows} where {} group by {} having pg_catalog.count(*) > 1 limit 1",
        set.join(" and "),
        columns.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use pgconvoy_integration_tests::postgres::{Options, Postgres};

    use super::*;

    #[test]
    fn a_row_without_its_parent_and_a_value_twice_are_looked_for() {
        let (orders, people) =
            (QualifiedName::new("s", "orders"), QualifiedName::new("s", "People"));
        let (orders, people) = (rows_of(&orders, false), rows_of(&people, true));
        let texts = |names: [&str; 2]| names.map(String::from);
        assert_eq!(
            orphan(&orders, &people, &texts(["a", "b"]), &texts(["x", "y"])),
            r#"select from only "s"."orders" c where c."a" is not null and c."b" is not null and not exists (select from "s"."People" p where p."x" = c."a" and p."y" = c."b") limit 1"#
        );
        assert_eq!(
            twice(&orders, &texts(["a", "b"])),
            r#"select from only "s"."orders" where "a" is not null and "b" is not null group by "a", "b" having pg_catalog.count(*) > 1 limit 1"#
        );
    }

    /// What holds on each server, and what is written while nothing checks it.
    #[tokio::test]
    async fn what_no_trigger_checked_is_found() {
        let server = Postgres::start(Options::default()).await.unwrap();
        let schema = "
            create table room (no int, at int4range, open bool default true,
                constraint taken exclude using gist (int4range(no, no, '[]') with &&, at with &&) where (open) deferrable);
            create table parent (id int primary key, code int unique deferrable);
            create table heir () inherits (parent);
            create table child (id int references parent);
            insert into room values (1, '[1,5)', true), (1, '[5,9)', true), (2, '[1,9)', true), (1, '[1,9)', false), (1, null, true);
            insert into parent values (1, 1); insert into heir values (1, 1), (2, 2);
            insert into child values (1), (null)";
        server.sql("postgres", schema).await.unwrap();
        let session = server.client("postgres").await.unwrap();
        assert_eq!(broken(&session).await.unwrap(), None);
        for (written, told) in [
            ("insert into room values (1, '[8,10)')", "public.room taken"),
            ("insert into child values (2)", "public.child child_id_fkey"),
            ("insert into parent values (3, 1)", "public.parent parent_code_key"),
        ] {
            let unchecked =
                format!("begin; set local session_replication_role = replica; {written}; commit");
            server.sql("postgres", &unchecked).await.unwrap();
            let failure = broken(&session).await.unwrap().unwrap();
            assert!(failure.message.contains(told), "{}", failure.message);
        }
    }
}
