//! What must be in the tables, known without asking anybody: the sum of what was acknowledged.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use pgconvoy_integration_tests::postgres::Postgres;
use tokio_postgres::SimpleQueryMessage;

use super::super::DATABASE;
use super::tables::Table;

/// Values as the server prints them; none = null.
pub(super) type Row = Vec<Option<String>>;

/// One scribe's rows.
#[derive(Debug, Default)]
pub(super) struct Book {
    keyed: BTreeMap<Table, BTreeMap<i64, Row>>,
    /// Identical rows: how often each is there.
    loose: BTreeMap<Table, BTreeMap<Vec<String>, i64>>,
}

/// A change of a book, which has an opposite.
#[derive(Debug)]
pub(super) enum Change {
    /// The row under a key is this one, or there is none.
    Keyed(Table, i64, Option<Row>),
    /// There are so many more such rows.
    Loose(Table, Vec<String>, i64),
}

impl Book {
    /// Changes it, and tells what takes that back.
    pub(super) fn change(&mut self, change: Change) -> Change {
        match change {
            Change::Keyed(table, key, row) => {
                let rows = self.keyed.entry(table).or_default();
                let before = match row {
                    Some(row) => rows.insert(key, row),
                    None => rows.remove(&key),
                };
                Change::Keyed(table, key, before)
            }
            Change::Loose(table, row, more) => {
                *self.loose.entry(table).or_default().entry(row.clone()).or_default() += more;
                Change::Loose(table, row, -more)
            }
        }
    }

    /// How many rows with a key there are.
    pub(super) fn count(&self, table: Table) -> usize {
        self.keyed.get(&table).map_or(0, BTreeMap::len)
    }

    /// One of them, counted from the lowest key.
    pub(super) fn nth(&self, table: Table, nth: usize) -> Option<(i64, &Row)> {
        self.rows(table).nth(nth)
    }

    /// All of them.
    pub(super) fn rows(&self, table: Table) -> impl Iterator<Item = (i64, &Row)> {
        self.keyed.get(&table).into_iter().flatten().map(|(key, row)| (*key, row))
    }

    /// A row that is there at least once, counted from the lowest.
    pub(super) fn nth_loose(&self, table: Table, nth: usize) -> Option<&[String]> {
        let rows = self.loose.get(&table).into_iter().flatten();
        let mut there = rows.filter(|(_, count)| **count > 0);
        there.nth(nth).map(|(row, _)| row.as_slice())
    }

    fn lines(&self) -> impl Iterator<Item = ((Table, String), i64)> {
        let line = |row: &Row| {
            row.iter().map(|value| value.as_deref().unwrap_or("~")).collect::<Vec<_>>().join("|")
        };
        let keyed = self
            .keyed
            .iter()
            .flat_map(move |(table, rows)| rows.values().map(move |row| ((*table, line(row)), 1)));
        let loose = self.loose.iter().flat_map(|(table, rows)| {
            rows.iter().map(|(row, count)| ((*table, row.join("|")), *count))
        });
        keyed.chain(loose)
    }
}

/// Differences that are told of.
const TOLD_MAX: usize = 8;

/// Fails unless a database holds what stands in the books, each line as often as there, and nothing else. How many lines that
/// are.
pub(super) async fn prove(books: &[Book], server: &Postgres) -> anyhow::Result<u64> {
    // How often it is there, less how often it should be.
    let mut lines: BTreeMap<(Table, String), i64> = BTreeMap::new();
    for (line, count) in books.iter().flat_map(Book::lines) {
        *lines.entry(line).or_default() -= count;
    }
    let client = server.client(DATABASE).await?;
    let mut found = 0;
    for table in Table::ALL {
        let answers = client.simple_query(&table.lines()).await?;
        for answer in answers {
            if let SimpleQueryMessage::Row(row) = answer {
                let line = row.get(0).context("a line is no null")?.to_owned();
                *lines.entry((table, line)).or_default() += 1;
                found += 1;
            }
        }
    }
    let wrong: Vec<String> = lines
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|((table, line), count)| {
            let line: String = line.chars().take(120).collect();
            format!("{} {count:+}: {line}", table.name())
        })
        .collect();
    let told = wrong.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>().join("\n");
    ensure!(
        wrong.is_empty(),
        "{} lines are not as acknowledged (+ too often, - missing):\n{told}",
        wrong.len()
    );
    Ok(found)
}
