//! Statements of the copy path, as text.
//!
//! They go by the simple query protocol, which has no parameters: every name and every value is quoted here. Sessions have
//! an empty `search_path`, so every name is qualified; operators are those of `pg_catalog`, which is always searched:
//! a key is chosen only where they are the ones its index is sorted by. Where rows are looked up by any key, the operators of
//! its types may be elsewhere: [`find_operators`].

use std::collections::BTreeSet;

use pgconvoy_shared::name::{QualifiedName, quote_identifier, quote_literal};
use pgconvoy_shared::unit::{CopyFormat, KeyColumn, Part, TablePlan};

use crate::large_objects;

/// Locks a table against everything that would change its columns or rewrite its rows (law S4). Takes no snapshot.
#[must_use]
pub fn lock_table(table: &QualifiedName) -> String {
    format!("lock table only {} in access share mode", table.quoted())
}

/// The same for a partitioned table with all its partitions.
#[must_use]
pub fn lock_partitions(root: &QualifiedName) -> String {
    format!("lock table {} in access share mode", root.quoted())
}

/// What the server describes when asked for a table's fingerprint.
#[must_use]
pub fn describe_table(table: &QualifiedName) -> String {
    format!("select * from only {} limit 0", table.quoted())
}

/// Reads one shard.
#[must_use]
pub fn copy_out(plan: &TablePlan, part: &Part) -> String {
    if plan.name == large_objects::table() {
        return large_objects::copy_out(plan, part);
    }
    let table = plan.name.quoted();
    let options = options(plan.format);
    match predicate(&plan.key, part) {
        None => format!("copy {table}{} to stdout{options}", column_list(plan)),
        Some(predicate) => {
            let columns = names(&plan.columns);
            format!(
                "copy (select {columns} from only {table} where {predicate}) to stdout{options}"
            )
        }
    }
}

/// Removes what an older plan of one shard wrote, where that is not done for the whole table at once.
#[must_use]
pub fn clear(plan: &TablePlan, part: &Part) -> Option<String> {
    (plan.name == large_objects::table()).then(|| large_objects::clear(plan, part))
}

/// Writes one shard. Rows can be frozen in a table whose file was made by the same transaction.
#[must_use]
pub fn copy_in(plan: &TablePlan, freeze: bool) -> String {
    let options = match (plan.format, freeze) {
        (format, false) => options(format),
        (CopyFormat::Text, true) => " (freeze)",
        (CopyFormat::Binary, true) => " (format binary, freeze)",
    };
    format!("copy {}{} from stdin{options}", plan.write_to.quoted(), column_list(plan))
}

/// What is read of rows that are compared, besides their columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// First of all the transaction that wrote them: another one wrote another version, also of the same values.
    Version,
}

impl Beside {
    fn columns(self, plan: &TablePlan) -> String {
        let columns = names(&plan.columns);
        match self {
            Self::Nothing => columns,
            Self::Version if columns.is_empty() => "xmin".to_owned(),
            Self::Version => format!("xmin, {columns}"),
        }
    }
}

/// Reads the rows of a part for comparing them: `table` is the plan's at one of the two ends. All columns as the plan lists
/// them, generated ones too; `only` leaves out what inherits from the table.
#[must_use]
pub fn copy_out_compared(
    plan: &TablePlan,
    part: &Part,
    table: &QualifiedName,
    only: bool,
    beside: Beside,
) -> String {
    if plan.name == large_objects::table() {
        debug_assert_eq!(
            beside,
            Beside::Nothing,
            "no stream brings them: nobody looks at them again"
        );
        return large_objects::copy_out_compared(plan, part);
    }
    let columns = beside.columns(plan);
    let only = if only { "only " } else { "" };
    let predicate = predicate(&plan.key, part).map(|p| format!(" where {p}")).unwrap_or_default();
    format!("copy (select {columns} from {only}{}{predicate}) to stdout", table.quoted())
}

/// Reads the rows with these keys, for comparing them: as [`copy_out_compared`] does.
#[must_use]
pub fn copy_out_keys(
    plan: &TablePlan,
    keys: &[Vec<String>],
    table: &QualifiedName,
    only: bool,
    beside: Beside,
) -> String {
    let columns = beside.columns(plan);
    let only = if only { "only " } else { "" };
    let value = |(column, value): (&KeyColumn, &String)| {
        format!("{}::{}", quote_literal(value), column.type_name)
    };
    let row = |values: &Vec<String>| -> String {
        let values: Vec<String> = plan.key.iter().zip(values).map(value).collect();
        format!("({})", values.join(", "))
    };
    let keys: Vec<String> = keys.iter().map(row).collect();
    let key: Vec<String> = plan.key.iter().map(|column| quote_identifier(&column.name)).collect();
    format!(
        "copy (select {columns} from {only}{} where ({}) in (values {})) to stdout",
        table.quoted(),
        key.join(", "),
        keys.join(", ")
    )
}

/// Makes a session, or with `local` its transaction, search the schemas of these keys' types too, for types that an extension
/// brought have their operators there. None where all are the server's own.
pub fn find_operators<'k>(
    keys: impl IntoIterator<Item = &'k KeyColumn>,
    local: bool,
) -> Option<String> {
    // A type is printed with its schema where that is not searched.
    let of_others = keys.into_iter().map(|column| &column.type_name);
    let types: BTreeSet<&String> = of_others.filter(|name| name.contains('.')).collect();
    let types: Vec<String> = types
        .into_iter()
        .map(|name| format!("{}::pg_catalog.regtype", quote_literal(name)))
        .collect();
    (!types.is_empty()).then(|| {
        // Of a domain, those of the type that it is made of.
        format!(
            "select pg_catalog.set_config('search_path', 'pg_catalog, ' || (select \
             pg_catalog.string_agg(distinct pg_catalog.quote_ident(n.nspname), ', ') from pg_catalog.pg_type d \
             left join pg_catalog.pg_type b on b.oid = d.typbasetype \
             join pg_catalog.pg_namespace n on n.oid = coalesce(b.typnamespace, d.typnamespace) \
             where d.oid in ({})), {local})",
            types.join(", ")
        )
    })
}

fn options(format: CopyFormat) -> &'static str {
    match format {
        CopyFormat::Text => "",
        CopyFormat::Binary => " (format binary)",
    }
}

/// A table without columns that travel has no list: `()` is no SQL, and no list means just those columns.
fn column_list(plan: &TablePlan) -> String {
    if plan.columns.is_empty() { String::new() } else { format!(" ({})", names(&plan.columns)) }
}

fn names(columns: &[String]) -> String {
    let quoted: Vec<String> = columns.iter().map(|column| quote_identifier(column)).collect();
    quoted.join(", ")
}

/// The rows of a part; none = all.
pub(crate) fn predicate(key: &[KeyColumn], part: &Part) -> Option<String> {
    let conditions: Vec<String> = match part {
        Part::Whole => Vec::new(),
        Part::Range { from, to } => [(">=", from), ("<", to)]
            .into_iter()
            .filter_map(|(operator, bound)| Some(compare(key, operator, bound.as_deref()?)))
            .collect(),
        Part::Blocks { from, to } => {
            let tid = |block: u32| format!("'({block},0)'::pg_catalog.tid");
            let from = (*from > 0).then(|| format!("ctid >= {}", tid(*from)));
            let to = to.map(|to| format!("ctid < {}", tid(to)));
            from.into_iter().chain(to).collect()
        }
    };
    (!conditions.is_empty()).then(|| conditions.join(" and "))
}

/// One column is compared by itself, several as a row: `(a, b) < (1, 2)` is the order of the index on both.
fn compare(key: &[KeyColumn], operator: &str, bound: &[Box<str>]) -> String {
    let columns: Vec<String> = key.iter().map(|column| quote_identifier(&column.name)).collect();
    let values: Vec<String> = key
        .iter()
        .zip(bound)
        .map(|(column, value)| format!("{}::{}", quote_literal(value), column.type_name))
        .collect();
    match (columns.as_slice(), values.as_slice()) {
        ([column], [value]) => format!("{column} {operator} {value}"),
        _ => format!("({}) {operator} ({})", columns.join(", "), values.join(", ")),
    }
}

/// Picks `parts - 1` bounds out of a sample of about `percent` % of a table's blocks: the server reads, sorts and weighs,
/// so whatever it can order it can cut. Between two bounds there are equally many bytes of the sample, TOAST counted. No
/// more than one bound a sampled row; they ascend strictly, for keys are unique.
#[must_use]
pub fn sample_bounds(
    table: &QualifiedName,
    columns: &[String],
    key: &[KeyColumn],
    parts: u32,
    percent: f64,
) -> String {
    let key: Vec<String> = key.iter().map(|column| quote_identifier(&column.name)).collect();
    let key = key.join(", ");
    // Where another of the equal parts begins within a row's bytes, or with the first of them, it begins with the row.
    format!(
        "select {key} from (select {key}, pgconvoy_bytes, \
         sum(pgconvoy_bytes) over (order by {key} rows unbounded preceding) as pgconvoy_sum, \
         sum(pgconvoy_bytes) over () as pgconvoy_all \
         from (select {key}, {bytes} as pgconvoy_bytes from only {table} tablesample system ({percent:.6})) as pgconvoy_row) \
         as pgconvoy_sample where pgconvoy_sum > pgconvoy_bytes \
         and div((pgconvoy_sum - pgconvoy_bytes - 1) * {parts}, pgconvoy_all) < div((pgconvoy_sum - 1) * {parts}, pgconvoy_all) \
         order by {key}",
        bytes = row_bytes(columns),
        table = table.quoted()
    )
}

/// Weighs the blocks of a sample of about `percent` % of a table's: block number and bytes of its rows, TOAST counted.
#[must_use]
pub fn sample_blocks(table: &QualifiedName, columns: &[String], percent: f64) -> String {
    format!(
        "select (ctid::pg_catalog.text::pg_catalog.point)[0]::bigint, sum({})::bigint \
         from only {} tablesample system ({percent:.6}) group by 1 order by 1",
        row_bytes(columns),
        table.quoted()
    )
}

/// The bytes of a row as it is stored. Values in TOAST are not read for it: their size stands in the row.
fn row_bytes(columns: &[String]) -> String {
    const HEADER: &str = "28";
    let column = |name: &String| {
        format!("coalesce(pg_catalog.pg_column_size({}), 0)", quote_identifier(name))
    };
    let columns = columns.iter().map(column);
    let all: Vec<String> = std::iter::once(HEADER.to_owned()).chain(columns).collect();
    format!("({})::bigint", all.join(" + "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgconvoy_shared::epoch::Generation;
    use pgconvoy_shared::ids::TableNo;

    fn plan(columns: &[&str], key: &[(&str, &str)]) -> TablePlan {
        TablePlan {
            no: TableNo(0),
            generation: Generation(1),
            name: QualifiedName::new("Odd \"schema\"", "t"),
            write_to: QualifiedName::new("s", "root"),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            fingerprint: String::new(),
            filenode: None,
            format: CopyFormat::Text,
            key: key
                .iter()
                .map(|(name, type_name)| KeyColumn {
                    name: (*name).to_owned(),
                    type_name: (*type_name).to_owned(),
                })
                .collect(),
        }
    }

    fn bound(values: &[&str]) -> Option<Box<[Box<str>]>> {
        Some(values.iter().map(|value| Box::from(*value)).collect())
    }

    #[test]
    fn whole_tables_are_read_by_name() {
        let mut table = plan(&["a", "B c"], &[]);
        assert_eq!(
            copy_out(&table, &Part::Whole),
            r#"copy "Odd ""schema"""."t" ("a", "B c") to stdout"#
        );
        table.format = CopyFormat::Binary;
        assert_eq!(
            copy_in(&table, false),
            r#"copy "s"."root" ("a", "B c") from stdin (format binary)"#
        );
        assert_eq!(copy_in(&plan(&[], &[]), false), r#"copy "s"."root" from stdin"#);
        assert_eq!(
            copy_in(&table, true),
            r#"copy "s"."root" ("a", "B c") from stdin (format binary, freeze)"#
        );
        assert_eq!(copy_in(&plan(&[], &[]), true), r#"copy "s"."root" from stdin (freeze)"#);
    }

    #[test]
    fn ranges_are_half_open() {
        let table = plan(&["a"], &[("a", "text")]);
        let part = Part::Range { from: bound(&["it's"]), to: bound(&[r"b\"]) };
        assert_eq!(
            copy_out(&table, &part),
            r#"copy (select "a" from only "Odd ""schema"""."t" where "a" >= 'it''s'::text and "a" <  E'b\\'::text) to stdout"#
        );
        let last = Part::Range { from: bound(&["x"]), to: None };
        assert!(copy_out(&table, &last).contains(r#"where "a" >= 'x'::text) to"#));
    }

    #[test]
    fn rows_to_compare_are_read_by_a_query_for_generated_columns_are_no_part_of_a_table() {
        let table = plan(&["a", "b"], &[("a", "integer")]);
        let there = copy_out_compared(&table, &Part::Whole, &table.write_to, true, Beside::Nothing);
        assert_eq!(there, r#"copy (select "a", "b" from only "s"."root") to stdout"#);
        let last = Part::Range { from: bound(&["7"]), to: None };
        let here = copy_out_compared(&table, &last, &table.write_to, false, Beside::Nothing);
        assert_eq!(
            here,
            r#"copy (select "a", "b" from "s"."root" where "a" >= '7'::integer) to stdout"#
        );
    }

    #[test]
    fn rows_are_looked_up_by_their_keys() {
        let table = plan(&["a", "b", "c"], &[("a", "integer"), ("b", "text")]);
        let keys = [["1", "it's"], ["2", "x"]].map(|key| key.map(String::from).to_vec());
        assert_eq!(
            copy_out_keys(&table, &keys, &table.write_to, true, Beside::Version),
            r#"copy (select xmin, "a", "b", "c" from only "s"."root" where ("a", "b") in (values ('1'::integer, 'it''s'::text), ('2'::integer, 'x'::text))) to stdout"#
        );
    }

    #[test]
    fn several_columns_are_compared_as_a_row() {
        let table = plan(&["a"], &[("a", "integer"), ("b", "uuid")]);
        let part = Part::Range { from: None, to: bound(&["1", "u"]) };
        assert!(
            copy_out(&table, &part).contains(r#"where ("a", "b") < ('1'::integer, 'u'::uuid))"#)
        );
    }

    #[test]
    fn blocks_are_ranges_of_ctid() {
        let table = plan(&["a"], &[]);
        let middle = copy_out(&table, &Part::Blocks { from: 8, to: Some(16) });
        assert!(middle.contains(
            "where ctid >= '(8,0)'::pg_catalog.tid and ctid < '(16,0)'::pg_catalog.tid)"
        ));
        let all = copy_out(&table, &Part::Blocks { from: 0, to: None });
        assert!(!all.contains("where"), "{all}");
    }
}
