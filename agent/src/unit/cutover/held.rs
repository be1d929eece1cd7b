//! Constraints that applying changes does not look at: foreign keys, and unique constraints that are deferrable, whose checks
//! are triggers, and those do not fire. They held at the source for every transaction; that they hold here is seen by query.
//!
//! Each is one statement, so one moment of the destination, which is one of the source.

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::{QualifiedName, quote_identifier};

use super::named;
use crate::pg::{PgError, Session};

const FOREIGN_KEYS: &str = "
    select c.conname::text, n.nspname::text, r.relname::text, pn.nspname::text, p.relname::text,
        (select pg_catalog.array_agg(a.attname::text order by k.nth) from pg_catalog.unnest(c.conkey) with ordinality k (no, nth)
            join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.no),
        (select pg_catalog.array_agg(a.attname::text order by k.nth) from pg_catalog.unnest(c.confkey) with ordinality k (no, nth)
            join pg_catalog.pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.no)
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_class r on r.oid = c.conrelid join pg_catalog.pg_namespace n on n.oid = r.relnamespace
    join pg_catalog.pg_class p on p.oid = c.confrelid join pg_catalog.pg_namespace pn on pn.oid = p.relnamespace
    where c.contype = 'f' and c.convalidated and c.conparentid = 0 and n.nspname <> 'pgconvoy' order by 2, 3, 1";

const UNIQUES: &str = "
    select c.conname::text, n.nspname::text, r.relname::text,
        (select pg_catalog.array_agg(a.attname::text order by k.nth) from pg_catalog.unnest(c.conkey) with ordinality k (no, nth)
            join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.no)
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_class r on r.oid = c.conrelid join pg_catalog.pg_namespace n on n.oid = r.relnamespace
    where c.contype in ('p', 'u') and c.condeferrable and c.conparentid = 0 and n.nspname <> 'pgconvoy' order by 2, 3, 1";

/// Those that do not hold at the destination.
pub(super) async fn broken(session: &Session) -> Result<Option<Failure>, PgError> {
    let mut broken = Vec::new();
    for row in session.query(FOREIGN_KEYS, &[]).await? {
        let table = QualifiedName::new(row.get::<_, &str>(1), row.get::<_, &str>(2));
        let parent = QualifiedName::new(row.get::<_, &str>(3), row.get::<_, &str>(4));
        let orphan =
            orphan(&table, &parent, &row.get::<_, Vec<String>>(5), &row.get::<_, Vec<String>>(6));
        if session.query_opt(&orphan, &[]).await?.is_some() {
            broken.push(format!("{table} {}", row.get::<_, &str>(0)));
        }
    }
    for row in session.query(UNIQUES, &[]).await? {
        let table = QualifiedName::new(row.get::<_, &str>(1), row.get::<_, &str>(2));
        if session.query_opt(&twice(&table, &row.get::<_, Vec<String>>(3)), &[]).await?.is_some() {
            broken.push(format!("{table} {}", row.get::<_, &str>(0)));
        }
    }
    Ok((!broken.is_empty()).then(|| {
        let message = format!("constraints do not hold at the destination: {}", named(broken));
        Failure::definite("cutover_constraints_broken", message)
            .remedy("compare both ends (`task verify`): somebody wrote to the destination, or the source does not hold them either")
    }))
}

/// A row that refers to none.
fn orphan(
    table: &QualifiedName,
    parent: &QualifiedName,
    columns: &[String],
    referred: &[String],
) -> String {
    let child = |column: &String| format!("c.{}", quote_identifier(column));
    let set: Vec<String> =
        columns.iter().map(|column| format!("{} is not null", child(column))).collect();
    let equal: Vec<String> = columns
        .iter()
        .zip(referred)
        .map(|(column, referred)| format!("p.{} = {}", quote_identifier(referred), child(column)))
        .collect();
    format!(
        "select from {} c where {} and not exists (select from {} p where {}) limit 1",
        table.quoted(),
        set.join(" and "),
        parent.quoted(),
        equal.join(" and ")
    )
}

/// A value that is there twice.
fn twice(table: &QualifiedName, columns: &[String]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| quote_identifier(column)).collect();
    let set: Vec<String> = columns.iter().map(|column| format!("{column} is not null")).collect();
    format!(
        "select from {} where {} group by {} having pg_catalog.count(*) > 1 limit 1",
        table.quoted(),
        set.join(" and "),
        columns.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_its_parent_and_a_value_twice_are_looked_for() {
        let (orders, people) =
            (QualifiedName::new("s", "orders"), QualifiedName::new("s", "People"));
        let texts = |names: [&str; 2]| names.map(String::from);
        assert_eq!(
            orphan(&orders, &people, &texts(["a", "b"]), &texts(["x", "y"])),
            r#"select from "s"."orders" c where c."a" is not null and c."b" is not null and not exists (select from "s"."People" p where p."x" = c."a" and p."y" = c."b") limit 1"#
        );
        assert_eq!(
            twice(&orders, &texts(["a", "b"])),
            r#"select from "s"."orders" where "a" is not null and "b" is not null group by "a", "b" having pg_catalog.count(*) > 1 limit 1"#
        );
    }
}
