//! One write: a transaction of a few changes, and what the book says once it is acknowledged.
//!
//! The book is changed at once, each change with its opposite kept: what is rolled back, to a savepoint or altogether, and what
//! turns out not to have been written, is taken back by the same means.

use std::fmt::Write;

use rand::RngExt;
use rand::rngs::StdRng;

use super::book::{Book, Change, Row};
use super::tables::Table;

/// How a transaction is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Commit,
    /// In two phases.
    CommitPrepared,
    /// In two phases, of which the second takes all back.
    RollbackPrepared,
}

/// What was sent, or is to be.
#[derive(Debug)]
pub(super) struct Deed {
    pub(super) number: i64,
    pub(super) statements: String,
    pub(super) ending: Ending,
    /// Rows it writes, those of the journal and the receipt not counted.
    pub(super) rows: u64,
    /// What takes it back, the last first.
    undo: Vec<Change>,
}

impl Deed {
    /// It was not written.
    pub(super) fn take_back(self, book: &mut Book) {
        take_back(self.undo, book);
    }
}

fn take_back(undo: Vec<Change>, book: &mut Book) {
    for change in undo.into_iter().rev() {
        book.change(change);
    }
}

/// Rows of a large transaction.
const MANY: i64 = 1_000;

/// A deed in the making.
pub(super) struct Draft<'a> {
    scribe: i64,
    number: i64,
    book: &'a mut Book,
    random: &'a mut StdRng,
    sql: String,
    undo: Vec<Change>,
    rows: u64,
    /// Keys that were given out in it.
    keys: i64,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        scribe: i64,
        number: i64,
        book: &'a mut Book,
        random: &'a mut StdRng,
    ) -> Self {
        let sql = String::from("begin; ");
        Draft { scribe, number, book, random, sql, undo: Vec::new(), rows: 0, keys: 0 }
    }

    /// The first one: rows of each kind.
    pub(super) fn first(mut self) -> Deed {
        for _ in 0..200 {
            self.insert_account();
        }
        for place in 1..11 {
            let key = self.new_key();
            let place = text(self.scribe * 1_000 + place);
            self.put(Table::Seat, key, vec![text(key), place]);
        }
        for _ in 0..10 {
            self.insert_paper();
        }
        for _ in 0..20 {
            self.insert_kind();
            self.insert_badge();
        }
        for _ in 0..60 {
            self.insert_part();
        }
        for _ in 0..10 {
            self.insert_same();
        }
        self.bulk();
        self.scratch();
        self.end(Ending::Commit)
    }

    /// Any of those that come later.
    pub(super) fn next(mut self) -> Deed {
        let ending = match self.random.random_range(0..200) {
            0..3 => Ending::CommitPrepared,
            3 => Ending::RollbackPrepared,
            _ => Ending::Commit,
        };
        match self.random.random_range(0..1_000) {
            0..4 => self.bulk(),
            4..50 => self.never(),
            _ => {
                for _ in 0..self.random.random_range(1..4) {
                    self.some();
                }
            }
        }
        self.end(ending)
    }

    fn some(&mut self) {
        match self.random.random_range(0..100) {
            0..12 => self.insert_account(),
            12..30 => self.update_account(),
            30..38 => self.delete_account(),
            38..44 => self.move_key(Table::Account),
            44..52 => self.swap_seats(),
            52..54 => self.insert_paper(),
            54..58 => self.change_paper(),
            58..60 => self.move_key(Table::Paper),
            60..64 => self.insert_kind(),
            64..70 => self.change_kind(),
            70..72 => self.delete(Table::Kind, 15),
            72..82 => self.move_part(),
            82..84 => self.insert_part(),
            84..86 => self.delete(Table::Part, 40),
            86..88 => self.insert_same(),
            88..91 => self.change_same(),
            91..94 => self.delete_same(),
            94..96 => self.scratch(),
            96..97 => self.insert_badge(),
            97..99 => self.change_badge(),
            _ => self.delete(Table::Paper, 8),
        }
    }

    fn end(mut self, ending: Ending) -> Deed {
        let (scribe, number, rows) = (self.scribe, self.number, self.rows);
        let first = if number == 1 {
            format!("insert into journal values ({scribe}, {number}); ")
        } else {
            format!("update journal set number = {number} where scribe = {scribe}; ")
        };
        // First: what refers to it waits for no one, and who is fenced off is refused at once.
        self.sql.insert_str("begin; ".len(), &first);
        let entry = vec![text(scribe), text(number)];
        self.change(Change::Keyed(Table::Journal, scribe, Some(entry)));
        write!(self.sql, "insert into receipt (scribe, number) values ({scribe}, {number}); ")
            .expect("a string takes all");
        let receipt = vec![scribe.to_string(), number.to_string()];
        self.change(Change::Loose(Table::Receipt, receipt, 1));
        match ending {
            Ending::Commit => self.sql.push_str("commit"),
            Ending::CommitPrepared | Ending::RollbackPrepared => {
                let name = prepared(scribe, number);
                write!(self.sql, "prepare transaction '{name}'").expect("a string takes all");
            }
        }
        let Draft { number, sql: statements, undo, .. } = self;
        Deed { number, statements, ending, rows, undo }
    }

    fn change(&mut self, change: Change) {
        let opposite = self.book.change(change);
        self.undo.push(opposite);
        self.rows += 1;
    }

    fn say(&mut self, statement: &str) {
        self.sql.push_str(statement);
        self.sql.push_str("; ");
    }

    /// Keys grow: none comes twice, in whichever order writes are taken back.
    fn new_key(&mut self) -> i64 {
        self.keys += 1;
        (self.scribe * 10_000_000 + self.number) * 10_000 + self.keys
    }

    fn some_row(&mut self, table: Table) -> Option<(i64, Row)> {
        let count = self.book.count(table);
        let nth = self.random.random_range(0..count.max(1));
        self.book.nth(table, nth).map(|(key, row)| (key, row.clone()))
    }

    fn put(&mut self, table: Table, key: i64, row: Row) {
        let values: Vec<String> = row.iter().map(literal).collect();
        let (name, columns) = (table.of(self.scribe), table.columns().join(", "));
        self.say(&format!("insert into {name} ({columns}) values ({})", values.join(", ")));
        self.change(Change::Keyed(table, key, Some(row)));
    }

    /// Updates columns of a row, by their place in a line.
    fn set(&mut self, table: Table, key: i64, mut row: Row, to: Vec<(usize, Option<String>)>) {
        let set: Vec<String> = to
            .iter()
            .map(|(column, value)| format!("{} = {}", table.columns()[*column], literal(value)))
            .collect();
        let found = format!("{} = {}", table.columns()[0], literal(&row[0]));
        self.say(&format!("update {} set {} where {found}", table.of(self.scribe), set.join(", ")));
        for (column, value) in to {
            row[column] = value;
        }
        self.change(Change::Keyed(table, key, Some(row)));
    }

    /// Some row goes, unless few are left.
    fn delete(&mut self, table: Table, few: usize) {
        if self.book.count(table) <= few {
            return;
        }
        let Some((key, row)) = self.some_row(table) else { return };
        let found = format!("{} = {}", table.columns()[0], literal(&row[0]));
        self.say(&format!("delete from {} where {found}", table.of(self.scribe)));
        self.change(Change::Keyed(table, key, None));
    }

    fn move_key(&mut self, table: Table) {
        let Some((key, mut row)) = self.some_row(table) else { return };
        let to = self.new_key();
        self.say(&format!("update {} set id = {to} where id = {key}", table.name()));
        row[0] = text(to);
        self.change(Change::Keyed(table, key, None));
        self.change(Change::Keyed(table, to, Some(row)));
    }

    fn insert_account(&mut self) {
        let (key, scribe) = (self.new_key(), self.scribe);
        let amount = self.random.random_range(-1_000..1_000);
        let note = self.random.random_bool(0.8).then(|| format!("note {amount}"));
        self.put(Table::Account, key, vec![text(key), text(scribe), text(amount), note]);
    }

    fn update_account(&mut self) {
        let Some((key, row)) = self.some_row(Table::Account) else { return };
        let amount = self.random.random_range(-1_000..1_000);
        self.set(Table::Account, key, row, vec![(2, text(amount)), (3, None)]);
    }

    fn delete_account(&mut self) {
        self.delete(Table::Account, 150);
    }

    fn swap_seats(&mut self) {
        let Some((one, row)) = self.some_row(Table::Seat) else { return };
        let Some((other, other_row)) = self.some_row(Table::Seat) else { return };
        if one == other {
            return;
        }
        let (place, other_place) = (row[1].clone(), other_row[1].clone());
        self.say(&format!("update seat set place = -place where id in ({one}, {other})"));
        self.set(Table::Seat, one, row, vec![(1, other_place)]);
        self.set(Table::Seat, other, other_row, vec![(1, place)]);
    }

    fn insert_paper(&mut self) {
        let key = self.new_key();
        let body = self.body();
        self.put(Table::Paper, key, vec![text(key), Some(format!("title {key}")), body]);
    }

    fn body(&mut self) -> Option<String> {
        let seed: u64 = self.random.random();
        Some(format!("{seed:016x}").repeat(self.random.random_range(150..400)))
    }

    /// Mostly the title alone: the long value is not told then.
    fn change_paper(&mut self) {
        let Some((key, row)) = self.some_row(Table::Paper) else { return };
        let to = if self.random.random_bool(0.8) {
            vec![(1, Some(format!("title no. {}", self.number)))]
        } else {
            vec![(2, self.body())]
        };
        self.set(Table::Paper, key, row, to);
    }

    fn insert_kind(&mut self) {
        let key = self.new_key();
        let row = self.values(key);
        self.put(Table::Kind, key, row);
    }

    fn change_kind(&mut self) {
        let Some((key, row)) = self.some_row(Table::Kind) else { return };
        let values = self.values(key);
        let to = values.into_iter().enumerate().skip(1);
        let to = to.filter(|_| self.random.random_bool(0.4)).collect::<Vec<_>>();
        if !to.is_empty() {
            self.set(Table::Kind, key, row, to);
        }
    }

    /// In the columns' order, each as the server prints it.
    fn values(&mut self, key: i64) -> Row {
        let n = self.random.random_range(1..1_000_000);
        let small = n % 100;
        let pick = |of: &[&str]| of[(n % of.len() as i64) as usize].to_owned();
        let mut row = vec![
            format!("{n}.{small:03}"),
            format!("2026-{:02}-{:02} 05:06:07.00{}1+00", 1 + n % 12, 1 + n % 28, n % 10),
            format!("Zoë's \\ \"{n}\"\t\n✓ | ~ "),
            format!(r#"{{"n": {n}, "list": [1, null, "é\\"]}}"#),
            format!("\\x00ff{n:08x}"),
            format!("{{{n},NULL,-{n}}}"),
            format!("00000000-0000-4000-8000-{n:012}"),
            format!("10.0.{small}.4/24"),
            format!("{} mons {} days 03:04:05.5", 2 + n % 9, 2 + n % 20),
            pick(&["0.1", "-1.5e+300", "NaN", "Infinity", "-0", "5e-324", "3"]),
            pick(&["true", "false"]),
            pick(&["glad", "sad", "so-so"]),
            pick(&["[1,5)", "empty", "(,7)", "[3,)"]),
            format!("{:04b}", n % 16),
            format!("({small},2.5)"),
            pick(&["2026-02-03", "infinity", "0044-03-15 BC"]),
            format!("short {small}"),
        ]
        .into_iter()
        .map(|value| self.random.random_bool(0.9).then_some(value))
        .collect::<Row>();
        row.insert(0, text(key));
        row
    }

    fn insert_part(&mut self) {
        let key = self.new_key();
        let region = self.region();
        self.put(Table::Part, key, vec![text(key), region, text(self.number)]);
    }

    fn region(&mut self) -> Option<String> {
        Some(["a", "b", "c"][self.random.random_range(0..3)].to_owned())
    }

    /// To another leaf, or within its own.
    fn move_part(&mut self) {
        let Some((key, row)) = self.some_row(Table::Part) else { return };
        let to = vec![(1, self.region()), (2, text(self.number))];
        self.set(Table::Part, key, row, to);
    }

    fn insert_same(&mut self) {
        let (scribe, no) = (self.scribe.to_string(), self.random.random_range(0..5));
        let (words, times) = (format!("same {no}"), self.random.random_range(1..4));
        self.say(&format!(
            "insert into same select {scribe}, '{words}' from generate_series(1, {times})"
        ));
        self.change(Change::Loose(Table::Same, vec![scribe, words], times));
    }

    fn some_same(&mut self) -> Option<(Vec<String>, String)> {
        let nth = self.random.random_range(0..5);
        let row = self.book.nth_loose(Table::Same, nth)?.to_vec();
        let found = format!(
            "(select min(ctid) from same where scribe = {} and words = '{}')",
            row[0], row[1]
        );
        Some((row, found))
    }

    /// One of identical rows.
    fn change_same(&mut self) {
        let Some((row, found)) = self.some_same() else { return };
        let to = vec![row[0].clone(), format!("{} once", row[1].trim_end_matches(" once"))];
        self.say(&format!("update same set words = '{}' where ctid = {found}", to[1]));
        self.change(Change::Loose(Table::Same, row, -1));
        self.change(Change::Loose(Table::Same, to, 1));
    }

    fn delete_same(&mut self) {
        let Some((row, found)) = self.some_same() else { return };
        self.say(&format!("delete from same where ctid = {found}"));
        self.change(Change::Loose(Table::Same, row, -1));
    }

    /// Many rows come, or all of them change, or they go.
    fn bulk(&mut self) {
        let (scribe, number) = (self.scribe, self.number);
        let rows: Vec<(i64, Row)> =
            self.book.rows(Table::Bulk).map(|(key, row)| (key, row.clone())).collect();
        if rows.is_empty() {
            let first = self.new_key();
            self.keys += MANY;
            self.say(&format!(
                "insert into bulk select {first} + i, {scribe}, i, 'row ' || i from generate_series(0, {MANY} - 1) i"
            ));
            for i in 0..MANY {
                let row = vec![text(first + i), text(scribe), text(i), Some(format!("row {i}"))];
                self.change(Change::Keyed(Table::Bulk, first + i, Some(row)));
            }
        } else if self.random.random_bool(0.7) {
            self.say(&format!(
                "update bulk set n = n + 1, words = 'no. {number}' where scribe = {scribe}"
            ));
            for (key, mut row) in rows {
                let n = row[2].as_deref().and_then(|n| n.parse::<i64>().ok()).unwrap_or_default();
                row[2] = text(n + 1);
                row[3] = Some(format!("no. {number}"));
                self.change(Change::Keyed(Table::Bulk, key, Some(row)));
            }
        } else {
            self.say(&format!("delete from bulk where scribe = {scribe}"));
            for (key, _) in rows {
                self.change(Change::Keyed(Table::Bulk, key, None));
            }
        }
    }

    /// A few rows more, or the table is emptied before.
    fn scratch(&mut self) {
        let table = Table::Scratch.of(self.scribe);
        if self.random.random_bool(0.3) {
            self.say(&format!("truncate {table}"));
            let keys: Vec<i64> = self.book.rows(Table::Scratch).map(|(key, _)| key).collect();
            for key in keys {
                self.change(Change::Keyed(Table::Scratch, key, None));
            }
        }
        for _ in 0..3 {
            let key = self.new_key();
            self.put(Table::Scratch, key, vec![text(key), Some(format!("of {}", self.number))]);
        }
    }

    fn insert_badge(&mut self) {
        let key = self.new_key();
        let row = vec![Some(format!("badge {key}")), text(self.number)];
        self.put(Table::Badge, key, row);
    }

    fn change_badge(&mut self) {
        let Some((key, row)) = self.some_row(Table::Badge) else { return };
        self.set(Table::Badge, key, row, vec![(1, text(self.number))]);
    }

    /// Changes of which some are taken back, to a savepoint.
    fn never(&mut self) {
        self.some();
        for _ in 0..2 {
            self.say("savepoint here");
            let (mark, rows) = (self.undo.len(), self.rows);
            self.some();
            self.some();
            if self.random.random_bool(0.7) {
                self.say("rollback to here");
                let undo = self.undo.split_off(mark);
                take_back(undo, self.book);
                self.rows = rows;
            }
        }
        self.some();
    }
}

/// The name of a transaction that is prepared.
pub(super) fn prepared(scribe: i64, number: i64) -> String {
    format!("scribe {scribe} no. {number}")
}

fn text(value: i64) -> Option<String> {
    Some(value.to_string())
}

fn literal(value: &Option<String>) -> String {
    value
        .as_ref()
        .map_or_else(|| "null".to_owned(), |value| format!("'{}'", value.replace('\'', "''")))
}
