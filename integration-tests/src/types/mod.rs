//! A database with every type, each with the values that something on the way might change.
//!
//! - Schema `plain`: a table for each type, with its values, and arrays of them whose bounds begin elsewhere.
//! - `public.everything`: a column for each of those. A table whose types all have a binary form may travel by that, this
//!   one cannot, for some of its types have none: so each type travels in both ways.
//! - `public.within`: the same rows as one composite value, and in an array.
//!
//! What travelled is judged by the [`oracle`](crate::oracle) as text, and by [`sent`] as the bytes that the types'
//! own functions send.

pub mod sent;
mod values;

use std::fmt::Write;

use crate::postgres::{Postgres, quoted};

/// A type with its values.
#[derive(Debug, Clone, Copy)]
struct Type {
    /// Its name in SQL, unless it is tried twice.
    name: &'static str,
    sql: &'static str,
    /// As text.
    values: &'static [&'static str],
    /// As expressions, some with a `from`.
    made: &'static [&'static str],
    /// The first major that has it, or has these values.
    since: u32,
    /// Arrays of it are not tried.
    is_array: bool,
    never_null: bool,
}

impl Type {
    const fn new(sql: &'static str, values: &'static [&'static str]) -> Type {
        Type { name: sql, sql, values, made: &[], since: 0, is_array: false, never_null: false }
    }

    const fn array(sql: &'static str, values: &'static [&'static str]) -> Type {
        Type { is_array: true, ..Type::new(sql, values) }
    }

    const fn and(self, made: &'static [&'static str]) -> Type {
        Type { made, ..self }
    }

    const fn named(self, name: &'static str) -> Type {
        Type { name, ..self }
    }

    const fn since(self, since: u32) -> Type {
        Type { since, ..self }
    }

    const fn never_null(self) -> Type {
        Type { never_null: true, ..self }
    }

    /// Its own table. No type's name by itself: what is a keyword, and so is quoted, differs between majors.
    fn table(&self) -> String {
        quoted(&format!("of {}", self.name))
    }

    fn count(&self) -> usize {
        self.values.len() + self.made.len()
    }

    /// Its values as SQL.
    fn expressions(&self) -> impl Iterator<Item = String> {
        let literal = |value: &&str| format!("'{}'", value.replace('\'', "''"));
        let made = self.made.iter().map(|made| format!("(select {made})"));
        self.values.iter().map(literal).chain(made)
    }
}

/// What the values are of, and extensions.
const BEFORE: &str = r#"
    create schema plain;
    create schema odd;
    create schema ext;
    create extension hstore schema ext;
    create extension citext schema ext;
    create extension ltree schema ext;
    create extension cube schema ext;
    create extension seg schema ext;
    create extension isn schema ext;
    create extension intarray schema ext;
    create type odd.mood as enum ('sad', 'ok', 'it''s \ fine', '', ',', 'NULL');
    -- Its labels stand in another order than they were made in.
    alter type odd.mood add value 'first' before 'sad';
    create domain odd.moods as odd.mood[];
    create domain odd.short as text check (length(value) < 9);
    create domain odd.even as int check (value % 2 = 0);
    create domain odd.latest as date not null default 'infinity';
    create type odd."Pair "" of" as (a int, "b c" text);
    create type odd.nested as (m odd.mood, t text[], p odd."Pair "" of", ps odd."Pair "" of"[]);
    create type odd.dropped as (a int, gone text, b text);
    alter type odd.dropped drop attribute gone;
    create type odd.moodrange as range (subtype = odd.mood);
    create type odd.floatrange as range (subtype = float8, subtype_diff = float8mi);
    create function odd.twice(int, odd.mood) returns int language sql as 'select 2 * $1';
    create text search configuration odd.words (copy = english);
"#;

/// Types that a server of this major has.
fn types(major: u32) -> impl Iterator<Item = &'static Type> {
    [values::PLAIN, values::ARRAYS, values::MADE, values::OF_EXTENSIONS]
        .into_iter()
        .flatten()
        .filter(move |of| of.since <= major)
}

/// Fills a database that is empty.
pub async fn build(server: &Postgres, database: &str) -> anyhow::Result<()> {
    server.sql(database, BEFORE).await?;
    let major = server.major().number();
    for of in types(major) {
        server.sql(database, &plain(of)).await?;
    }
    server.sql(database, &everything(major)).await
}

/// A type's own table.
fn plain(of: &Type) -> String {
    let (table, sql) = (of.table(), of.sql);
    let in_array = if of.is_array { String::new() } else { format!(", a {sql}[]") };
    let mut script =
        format!("create table plain.{table} (id int primary key, v {sql}{in_array});\n");
    for (no, value) in (1..).zip(of.expressions()) {
        writeln!(script, "insert into plain.{table} (id, v) values ({no}, {value}::{sql});")
            .expect(STRING);
    }
    // Rows without a value, and in arrays without an element.
    writeln!(script, "insert into plain.{table} (id) values (-1), (0);").expect(STRING);
    if !of.is_array {
        let null = if of.never_null { "" } else { " || null" };
        writeln!(
            script,
            "update plain.{table} set a = array_fill(v, array[2, 1, 1 + id % 2], array[-1, id, 7]) where id > 0;
             update plain.{table} set a = (select array_agg(v order by id){null} from plain.{table} where id > 0)
              where id = 0;"
        )
        .expect(STRING);
    }
    script
}

/// All types' values side by side, as often as it takes to have each.
fn everything(major: u32) -> String {
    let mut columns = String::new();
    let mut values = String::new();
    for of in types(major) {
        let (table, count) = (of.table(), of.count());
        let mut column = |kind: &str, suffix: &str, from: &str| {
            let name = quoted(&format!("{}{kind}", of.name));
            write!(columns, ", {name} {}{suffix}", of.sql).expect(STRING);
            write!(values, ", (select {from} from plain.{table} where id = 1 + n % {count})")
                .expect(STRING);
        };
        column("", "", "v");
        if !of.is_array {
            column(" in array", "[]", "a");
        }
    }
    let rows = types(major).map(Type::count).max().unwrap_or(0);
    format!(
        "create table public.everything (id int primary key{columns});
         insert into public.everything select n{values} from generate_series(0, {rows} - 1) n;
         insert into public.everything (id) values (-1);
         create table public.within (id int primary key, one public.everything, many public.everything[]);
         insert into public.within select id, e, array[e, null, e] from public.everything e;
         insert into public.within values (1000, null, '[-1:-1]={{NULL}}'), (1001, null, '{{}}');
         analyze"
    )
}

const STRING: &str = "writing to a string cannot fail";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_name_of_its_own_and_values() {
        let mut names: Vec<&str> = types(u32::MAX).map(|of| of.name).collect();
        assert!(types(u32::MAX).all(|of| of.count() > 0));
        assert!(names.len() > types(13).count() && names.len() > 100);
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "two tables of one name");
    }
}
