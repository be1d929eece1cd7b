//! The tables that scribes write into: each kind of key, of value and of change that has a rule of its own.
//!
//! A row is told as a line: its columns' text, in the order given here. Values are written as the text that the server prints of
//! them, so that the book, which never asked the server, and the server agree on what a line is.

use std::fmt::Write;

/// How many write at once. Each has rows of its own, so that what becomes of them is told by its own writes alone.
pub(super) const SCRIBES: i64 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// The last write of each scribe.
    Journal,
    /// A line for each write, without a key: one that came twice is there twice.
    Receipt,
    Account,
    /// A further unique value, which rows swap.
    Seat,
    /// Long values, stored beside the row.
    Paper,
    /// Values of many types, some of them null.
    Kind,
    /// Rows move between leaves.
    Part,
    /// Identical rows, and no key.
    Same,
    /// Written in large transactions.
    Bulk,
    /// A table for each scribe, which it empties.
    Scratch,
    /// No primary key: another index tells rows.
    Badge,
}

impl Table {
    pub(super) const ALL: [Table; 11] = [
        Table::Journal,
        Table::Receipt,
        Table::Account,
        Table::Seat,
        Table::Paper,
        Table::Kind,
        Table::Part,
        Table::Same,
        Table::Bulk,
        Table::Scratch,
        Table::Badge,
    ];

    /// As it is read; scribes' scratch tables by a view over them all.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Table::Journal => "journal",
            Table::Receipt => "receipt",
            Table::Account => "account",
            Table::Seat => "seat",
            Table::Paper => "paper",
            Table::Kind => "kind",
            Table::Part => "part",
            Table::Same => "same",
            Table::Bulk => "bulk",
            Table::Scratch => "scratch",
            Table::Badge => "badge",
        }
    }

    /// As this scribe writes it.
    pub(super) fn of(self, scribe: i64) -> String {
        match self {
            Table::Scratch => format!("scratch_{scribe}"),
            _ => self.name().to_owned(),
        }
    }

    /// The columns of a line; the key is the first one, where there is one.
    pub(super) const fn columns(self) -> &'static [&'static str] {
        match self {
            Table::Journal => &["scribe", "number"],
            Table::Receipt => &["scribe", "number"],
            Table::Account => &["id", "scribe", "amount", "note"],
            Table::Seat => &["id", "place"],
            Table::Paper => &["id", "title", "body"],
            Table::Kind => &[
                "id", "n", "moment", "words", "doc", "raw", "list", "uid", "net", "span", "dbl",
                "flag", "mood", "range", "bits", "spot", "day", "short",
            ],
            Table::Part => &["id", "region", "n"],
            Table::Same => &["scribe", "words"],
            Table::Bulk => &["id", "scribe", "n", "words"],
            Table::Scratch => &["id", "words"],
            Table::Badge => &["code", "n"],
        }
    }

    /// All lines of it.
    pub(super) fn lines(self) -> String {
        let columns: Vec<String> =
            self.columns().iter().map(|column| format!("{column}::text")).collect();
        format!(
            "select array_to_string(array[{}], '|', '~') from {}",
            columns.join(", "),
            self.name()
        )
    }
}

/// For an empty database.
pub(super) fn schema() -> String {
    let mut sql = String::from(
        "create sequence drawn;
        create sequence backwards increment -2;
        create type mood as enum ('glad', 'sad', 'so-so');
        create domain short as text check (length(value) < 20);
        create table journal (scribe int primary key, number bigint not null);
        create table receipt (scribe int references journal, number bigint not null,
            drawn bigint not null default nextval('drawn'), low bigint not null default nextval('backwards'));
        alter table receipt replica identity full;
        create table account (id bigint primary key, scribe int not null references journal, amount bigint not null,
            note text, twice bigint generated always as (amount * 2) stored);
        create index on account (note);
        create table seat (id bigint primary key, place bigint not null unique);
        create table paper (id bigint primary key, title text, body text);
        alter table paper alter body set storage external;
        create table kind (id bigint primary key, n numeric(12,3), moment timestamptz, words text, doc jsonb, raw bytea,
            list int[], uid uuid, net inet, span interval, dbl float8, flag bool, mood mood, range int4range, bits bit(4),
            spot point, day date, short short, no int generated always as identity);
        create table part (id bigint, region text, n bigint, primary key (id, region)) partition by list (region);
        create table part_a partition of part for values in ('a');
        create table part_b partition of part for values in ('b');
        create table part_c partition of part for values in ('c');
        create table same (scribe int, words text);
        alter table same replica identity full;
        create table bulk (id bigint primary key, scribe int not null, n bigint not null, words text);
        create table badge (code text not null, n bigint);
        create unique index by_code on badge (code);
        alter table badge replica identity using index by_code;",
    );
    let mut all = Vec::new();
    for scribe in 0..SCRIBES {
        let table = Table::Scratch.of(scribe);
        write!(sql, "create table {table} (id bigint primary key, words text);")
            .expect("a string takes all");
        all.push(format!("select * from {table}"));
    }
    format!("{sql} create view scratch as {};", all.join(" union all "))
}
