//! Operations as statements.
//!
//! Each has one text for as many rows as there are: a column of values is one parameter of type `text[]`, which is cast here
//! to the column's type *without* length or precision: a cast to `varchar(3)` would cut silently, its assignment raises. Where
//! the type has a cast from text of its own (`regclass` has, and it takes no number), an array of the one value is cast, which
//! the type itself reads. The texts repeat from batch to batch, so they can be prepared once.
//!
//! Where each row must be there, the statement itself raises when one is not (`pgconvoy.require_rows`): so a commit may
//! be sent behind it without waiting for an answer.
//!
//! Sessions have an empty `search_path`. Operators of keys are named by their schema, for a key may be of a type that an
//! extension brought.

use pgconvoy_shared::name::{quote_identifier, quote_literal};

use super::operation::{Expect, InTheWay, Moved, Operation};
use super::table::{Target, TargetColumn};
use super::text_array::{Parameter, TextArray};
use super::tuple::{Field, Tuple};

/// A statement, and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its text.
    pub sql: String,
    /// All of type `text[]`.
    pub parameters: Vec<Parameter>,
}

/// A value that has to be written, but was not told, or not as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value of column {column} that is to be written was not told as text")]
pub struct NotTold {
    /// The column's index in the target.
    pub column: usize,
}

/// The statement of an operation.
pub fn statement(operation: &Operation, targets: &[Target]) -> Result<Statement, NotTold> {
    match operation {
        Operation::Truncate { targets: emptied, restart_identity } => {
            let emptied: Vec<&Target> = emptied.iter().map(|each| &targets[*each]).collect();
            Ok(Statement { sql: truncate(&emptied, *restart_identity), parameters: Vec::new() })
        }
        Operation::Remove { target, keys, expect } => {
            let target = &targets[*target];
            let mut values = Values::default();
            values.key(target, keys.iter())?;
            let delete = format!(
                "delete from {} as t using {} where {}",
                named(target),
                values.rows(),
                same_key(target)
            );
            Ok(values.into_statement(delete, *expect))
        }
        Operation::RemoveAlike { target, rows } => remove_alike(&targets[*target], rows),
        Operation::Move { target, rows, expect, in_the_way } => {
            let target = &targets[*target];
            move_rows(target, rows, *expect, possible(*in_the_way, target))
        }
        Operation::Update { target, columns, rows, expect } => {
            let target = &targets[*target];
            let mut values = Values::default();
            values.key(target, rows.iter().map(|(key, _)| key))?;
            if columns.is_empty() {
                return Ok(values.into_look(target));
            }
            values.columns(target, columns, rows.iter().map(|(_, row)| row))?;
            let set = |column: &usize| format!("{} = v.c{column}", name(target, *column));
            let update = format!(
                "update {} as t set {} from {} where {}",
                named(target),
                list(columns.iter().map(set)),
                values.rows(),
                same_key(target)
            );
            Ok(values.into_statement(update, *expect))
        }
        Operation::Insert { target, rows, in_the_way } => {
            let target = &targets[*target];
            let in_the_way = possible(*in_the_way, target);
            let mut values = Values::default();
            let all: Vec<usize> = (0..target.columns.len()).collect();
            values.columns(target, &all, rows.iter())?;
            if all.is_empty() {
                values.count(rows.len());
            }
            let selected = list(all.iter().map(|column| format!("v.c{column}")));
            let rows = values.rows();
            let (clearing, cleared) = clearing(target, &values, None, in_the_way);
            let query = format!("select {selected} from {rows}{cleared}");
            let insert = insert(target, &query, in_the_way);
            let with = clearing.map(|clearing| format!("with {clearing} ")).unwrap_or_default();
            Ok(values.into_statement(with + &insert, Expect::Any))
        }
    }
}

/// A table that another one points at is not truncated without it, though no foreign key is looked at here: and that one may be
/// parked. So then rows are removed one by one, and sequences begin anew by themselves.
fn truncate(targets: &[&Target], restart_identity: bool) -> String {
    let emptied = list(targets.iter().map(|target| named(target)));
    let removed = targets.iter().map(|target| format!("delete from {}; ", named(target)));
    let removed: String = removed.collect();
    let (identity, restarted) = match restart_identity {
        true => (" restart identity", restarting(targets)),
        false => ("", String::new()),
    };
    let block = format!(
        "declare restarted regclass; begin truncate {emptied}{identity}; \
         exception when feature_not_supported then {removed}{restarted}end"
    );
    format!("do language plpgsql {}", quote_literal(&block))
}

/// Begins the sequences of some tables' columns anew.
fn restarting(targets: &[&Target]) -> String {
    let tables = list(targets.iter().map(|target| quote_literal(&target.name.quoted())));
    format!(
        "for restarted in select d.objid from pg_catalog.pg_depend d \
         join pg_catalog.pg_class c on c.oid = d.objid and c.relkind = 'S' \
         where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = d.classid \
         and d.deptype in ('a', 'i') and d.refobjid = any (array[{tables}]::regclass[]) \
         loop execute pg_catalog.format('alter sequence %s restart', restarted); end loop; "
    )
}

/// Rows may swap their keys, so all of them are taken away before the first is put: sorting reads the whole of what it sorts.
fn move_rows(
    target: &Target,
    rows: &[Moved],
    expect: Expect,
    in_the_way: InTheWay,
) -> Result<Statement, NotTold> {
    let mut values = Values::default();
    values.key(target, rows.iter().map(|moved| &moved.from))?;
    let all: Vec<usize> = (0..target.columns.len()).collect();
    let told = |(_, field): Value<'_>| !field.is_unchanged();
    let mut returned = vec!["v.place".to_owned()];
    for column in &all {
        let fields = || rows.iter().map(|moved| field(&moved.row, *column));
        if fields().all(told) {
            values.column(target, *column, fields())?;
            returned.push(format!("v.c{column} as c{column}"));
            continue;
        }
        let or_null = fields()
            .map(|(row, field)| (row, if told((row, field)) { field } else { Field::Null }));
        values.column(target, *column, or_null)?;
        values.flags(*column, fields().map(told));
        returned.push(format!(
            "case when v.told{column} is null then t.{} else v.c{column} end as c{column}",
            name(target, *column)
        ));
    }
    let delete = format!(
        "delete from {} as t using {} where {} returning {}",
        named(target),
        values.rows_in_order(),
        same_key(target),
        list(returned)
    );
    let selected = list(all.iter().map(|column| format!("moved.c{column}")));
    let taken = format!("select from {} where {}", values.rows(), same_key(target));
    let (clearing, cleared) = clearing(target, &values, Some(&taken), in_the_way);
    let query = format!("select {selected} from moved{cleared} order by moved.place");
    let insert = insert(target, &query, in_the_way);
    let clearing = clearing.map(|clearing| format!("{clearing}, ")).unwrap_or_default();
    let found = match expect {
        Expect::Each => require("moved", "pg_catalog.cardinality($1::text[])"),
        Expect::Any => "select".to_owned(),
    };
    let sql = format!("with moved as ({delete}), {clearing}put as ({insert}) {found}");
    Ok(Statement { sql, parameters: values.parameters })
}

/// Rows are compared as the server prints them, byte by byte: so it is for types that know no equality, and for values that
/// are equal and not the same. The columns' collations are of no matter: they may differ, or take other letters for the same.
fn remove_alike(target: &Target, rows: &[(Tuple, u64)]) -> Result<Statement, NotTold> {
    let mut values = Values::default();
    let all: Vec<usize> = (0..target.columns.len()).collect();
    for column in &all {
        values.texts(*column, rows.iter().map(|(row, _)| field(row, *column)))?;
    }
    values.numbers("n", rows.iter().map(|(_, count)| *count));
    let wanted = list(all.iter().map(|column| format!("v.c{column}")));
    let printed = |column: &usize| {
        let name = name(target, *column);
        // Of a composite value `is null` asks for its fields.
        format!(
            "case when t.{name} is distinct from null then pg_catalog.format('%s', t.{name}) end"
        )
    };
    let printed = list(all.iter().map(printed));
    let (named, rows) = (named(target), values.rows());
    let sql = format!(
        "with wanted as (select array[{wanted}]::text[] as alike, v.n from {rows}), \
         found as (select t.tableoid, t.ctid, wanted.n, \
         pg_catalog.row_number() over (partition by wanted.alike) as nth \
         from {named} as t join wanted on array[{printed}]::text[] collate pg_catalog.\"C\" = wanted.alike), \
         done as (delete from {named} as t using found \
         where t.ctid = found.ctid and t.tableoid = found.tableoid and found.nth <= found.n returning 1) {}",
        require("done", "(select pg_catalog.sum(n)::bigint from wanted)")
    );
    Ok(Statement { sql, parameters: values.parameters })
}

/// A table with rules, though they do not fire, takes no `on conflict do update`.
fn possible(in_the_way: InTheWay, target: &Target) -> InTheWay {
    match in_the_way {
        InTheWay::IsReplaced if target.has_rules => InTheWay::IsRemoved,
        other => other,
    }
}

/// What removes the rows that are in the way of those to be put, and how whoever puts them waits for it. A row that is taken
/// to another key is not in the way.
fn clearing(
    target: &Target,
    values: &Values,
    taken: Option<&str>,
    in_the_way: InTheWay,
) -> (Option<String>, &'static str) {
    if in_the_way != InTheWay::IsRemoved {
        return (None, "");
    }
    let clearing = format!(
        "cleared as (delete from {} as t using {} where {}{} returning 1)",
        named(target),
        values.source("w", "", "", ""),
        same(target, |_, column| format!("w.c{column}")),
        taken.map(|taken| format!(" and not exists ({taken})")).unwrap_or_default()
    );
    (Some(clearing), " cross join (select pg_catalog.count(*) from cleared) as waited")
}

fn insert(target: &Target, query: &str, in_the_way: InTheWay) -> String {
    let columns = list(target.columns.iter().map(|column| quote_identifier(&column.name)));
    // A table without columns has no list of them.
    let columns = if columns.is_empty() { columns } else { format!(" ({columns})") };
    let identity = target.columns.iter().any(|column| column.identity_always);
    let overriding = if identity { " overriding system value" } else { "" };
    let conflict = match in_the_way {
        InTheWay::Fails | InTheWay::IsRemoved => String::new(),
        InTheWay::IsReplaced => replacing(target),
    };
    format!("insert into {}{columns}{overriding} {query}{conflict}", target.name.quoted())
}

/// The key's columns too: equal values need not be the same. But an identity cannot be set, and need not: equal numbers are
/// the same.
fn replacing(target: &Target) -> String {
    let key = list(target.key.iter().map(|key| name(target, key.column)));
    let settable = target.columns.iter().filter(|column| !column.identity_always);
    let set = list(settable.map(|column| {
        let name = quote_identifier(&column.name);
        format!("{name} = excluded.{name}")
    }));
    if set.is_empty() {
        format!(" on conflict ({key}) do nothing")
    } else {
        format!(" on conflict ({key}) do update set {set}")
    }
}

/// Columns of values, as parameters.
#[derive(Default)]
struct Values {
    parameters: Vec<Parameter>,
    /// Their names within `v`.
    names: Vec<String>,
    /// The same with their casts.
    typed: Vec<String>,
}

impl Values {
    fn add(&mut self, name: String, array: TextArray) {
        let value = format!("u.{name}");
        self.add_as(name, &value, array);
    }

    fn add_of(&mut self, name: String, column: &TargetColumn, array: TextArray) {
        let type_name = &column.type_name;
        let value = match column.cast_of_its_own {
            true => format!("(array[u.{name}]::text::{type_name}[])[1]"),
            false => format!("u.{name}::{type_name}"),
        };
        self.add_as(name, &value, array);
    }

    fn add_as(&mut self, name: String, value: &str, array: TextArray) {
        self.parameters.push(array.finish());
        self.typed.push(format!("{value} as {name}"));
        self.names.push(name);
    }

    fn key<'a>(
        &mut self,
        target: &Target,
        keys: impl Iterator<Item = &'a Tuple> + Clone,
    ) -> Result<(), NotTold> {
        for (index, key) in target.key.iter().enumerate() {
            let array = texts(key.column, keys.clone().map(|key| field(key, index)))?;
            self.add_of(format!("k{index}"), &target.columns[key.column], array);
        }
        Ok(())
    }

    fn columns<'a>(
        &mut self,
        target: &Target,
        columns: &[usize],
        rows: impl Iterator<Item = &'a Tuple>,
    ) -> Result<(), NotTold> {
        let mut arrays: Vec<TextArray> = columns.iter().map(|_| TextArray::default()).collect();
        for row in rows {
            // Each row is walked over once, however wide it is: the columns ascend.
            let (mut fields, mut passed) = (row.fields(), 0);
            for (column, array) in columns.iter().zip(&mut arrays) {
                let field = fields.nth(column - passed).unwrap_or(Field::Unchanged);
                passed = column + 1;
                push(array, *column, (row, field))?;
            }
        }
        for (column, array) in columns.iter().zip(arrays) {
            self.add_of(format!("c{column}"), &target.columns[*column], array);
        }
        Ok(())
    }

    fn column<'a>(
        &mut self,
        target: &Target,
        column: usize,
        fields: impl Iterator<Item = Value<'a>>,
    ) -> Result<(), NotTold> {
        self.add_of(format!("c{column}"), &target.columns[column], texts(column, fields)?);
        Ok(())
    }

    fn texts<'a>(
        &mut self,
        column: usize,
        fields: impl Iterator<Item = Value<'a>>,
    ) -> Result<(), NotTold> {
        self.add(format!("c{column}"), texts(column, fields)?);
        Ok(())
    }

    /// Not null where it is true.
    fn flags(&mut self, column: usize, flags: impl Iterator<Item = bool>) {
        let mut array = TextArray::default();
        flags.for_each(|flag| array.push(flag.then_some(b"")));
        self.add(format!("told{column}"), array);
    }

    fn numbers(&mut self, name: &str, numbers: impl Iterator<Item = u64>) {
        let mut array = TextArray::default();
        numbers.for_each(|number| array.push(Some(number.to_string().as_bytes())));
        self.add_as(name.to_owned(), &format!("u.{name}::bigint"), array);
    }

    /// So many rows of no column.
    fn count(&mut self, rows: usize) {
        let mut array = TextArray::default();
        (0..rows).for_each(|_| array.push(None));
        self.add("nothing".to_owned(), array);
    }

    fn rows(&self) -> String {
        self.source("v", "", "", "")
    }

    /// With the place of each row among them.
    fn rows_in_order(&self) -> String {
        self.source("v", " with ordinality", ", place", ", u.place")
    }

    fn source(&self, alias: &str, ordinality: &str, named: &str, selected: &str) -> String {
        let arrays = list((1..=self.parameters.len()).map(|number| format!("${number}::text[]")));
        let (typed, names) = (self.typed.join(", "), self.names.join(", "));
        // Unqualified: only so may it have several arrays.
        format!(
            "(select {typed}{selected} from unnest({arrays}){ordinality} as u({names}{named})) as {alias}"
        )
    }

    /// A statement that changes nothing, and fails where one of the rows under these keys is not there.
    fn into_look(self, target: &Target) -> Statement {
        let sql = format!(
            "with found as (select 1 from {} as t, {} where {}) {}",
            named(target),
            self.rows(),
            same_key(target),
            require("found", "pg_catalog.cardinality($1::text[])")
        );
        Statement { sql, parameters: self.parameters }
    }

    /// A statement that changes one row for each of them, or fewer where it may.
    fn into_statement(self, change: String, expect: Expect) -> Statement {
        let sql = match expect {
            Expect::Any => change,
            Expect::Each => format!(
                "with done as ({change} returning 1) {}",
                require("done", "pg_catalog.cardinality($1::text[])")
            ),
        };
        Statement { sql, parameters: self.parameters }
    }
}

fn require(done: &str, rows: &str) -> String {
    format!("select pgconvoy.require_rows((select pg_catalog.count(*) from {done}), {rows})")
}

fn texts<'a>(column: usize, fields: impl Iterator<Item = Value<'a>>) -> Result<TextArray, NotTold> {
    let mut array = TextArray::default();
    for field in fields {
        push(&mut array, column, field)?;
    }
    Ok(array)
}

fn push(array: &mut TextArray, column: usize, (row, field): Value<'_>) -> Result<(), NotTold> {
    match field {
        Field::Null => array.push(None),
        Field::Text(value) => array.push_of(row, value),
        Field::Unchanged | Field::Binary(_) => return Err(NotTold { column }),
    }
    Ok(())
}

/// A field, and the row that it is of.
type Value<'a> = (&'a Tuple, Field<'a>);

/// A row that lacks a column has not told it.
fn field(row: &Tuple, column: usize) -> Value<'_> {
    (row, row.fields().nth(column).unwrap_or(Field::Unchanged))
}

fn named(target: &Target) -> String {
    format!("{}{}", if target.only { "only " } else { "" }, target.name.quoted())
}

fn name(target: &Target, column: usize) -> String {
    quote_identifier(&target.columns[column].name)
}

fn same_key(target: &Target) -> String {
    same(target, |index, _| format!("v.k{index}"))
}

/// `with`: what a column of the key is compared with, by its place in the key and its number in the table.
fn same(target: &Target, with: impl Fn(usize, usize) -> String) -> String {
    let same = target.key.iter().enumerate().map(|(index, key)| {
        format!("t.{} {} {}", name(target, key.column), key.equals, with(index, key.column))
    });
    same.collect::<Vec<_>>().join(" and ")
}

fn list(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
