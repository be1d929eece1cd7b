//! The report of a comparison: everything that differs, one JSON object a line.
//!
//! Objects, sequences and tables that were not compared come from the task. Rows come from the lists that agents write where
//! they are told to, for a task keeps only the first of each table; where no list tells of a table, those are taken. Rows that
//! were found to differ and are in neither are counted in a line of their own, so what a report leaves out, it says:
//!
//! ```text
//! {"table":"public.orders","not_listed":250000,"at_least":true,"lists":["a1:/var/lib/pgconvoy/differences/…-7.jsonl"]}
//! ```
//!
//! with the files, by agent, where those are listed that agents listed.
//!
//! Lists are passed on line by line: a report may be larger than memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use pgconvoy_proto::v1;
use pgconvoy_shared::failure::Failure;
use serde::Deserialize;
use serde_json::json;

use crate::exit::Exit;
use crate::problem::Problem;
use crate::view::verification::{object_lines, row_lines};

/// Where the report goes.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReportFlag {
    /// Write everything that differs to this file, one JSON object a line; rows that are left out are counted
    #[arg(long = "report", value_name = "FILE")]
    report: Option<PathBuf>,
}

impl ReportFlag {
    pub(crate) fn is_given(&self) -> bool {
        self.report.is_some()
    }

    /// Makes the file before anything is read for hours.
    pub(crate) fn create(&self) -> Result<Option<Report>, Problem> {
        self.report.as_deref().map(Report::create).transpose()
    }
}

/// A file that is to be the report.
pub(crate) struct Report(File);

/// What is read of a line of a list.
#[derive(Deserialize)]
struct Listed {
    table: String,
    count: u64,
}

impl Report {
    fn create(path: &Path) -> Result<Self, Problem> {
        File::create(path).map(Self).map_err(|error| {
            let message = format!("cannot write the report `{}`: {error}", path.display());
            Problem::usage("file_unwritable", message, "give another --report")
        })
    }

    /// Writes what is known of a task's differences; `lists` is the folder of the lists, if there is one.
    pub(crate) fn write(self, task: &v1::Task, lists: Option<&Path>) -> Result<(), Problem> {
        write(BufWriter::new(self.0), task, lists).map_err(|error| {
            let message = format!("cannot write the report: {error}");
            let failure = Failure::other("file_unwritable", message);
            Problem::new(Exit::Failed, failure.remedy("free space, or give another --report"))
        })
    }
}

fn write(mut to: impl Write, task: &v1::Task, lists: Option<&Path>) -> io::Result<()> {
    for line in object_lines(task) {
        writeln!(to, "{line}")?;
    }
    let mut listed: BTreeMap<String, u64> = BTreeMap::new();
    for path in lists.map(|folder| of_task(folder, task)).transpose()?.into_iter().flatten() {
        for line in BufReader::new(File::open(path)?).lines() {
            let line = line?;
            let Listed { table, count } = serde_json::from_str(&line)?;
            *listed.entry(table).or_default() += count;
            writeln!(to, "{line}")?;
        }
    }
    for table in &task.tables {
        let Some(found) = &table.rows_compared else { continue };
        let written = match listed.get(&table.name) {
            Some(rows) => *rows,
            None => {
                for line in row_lines(table) {
                    writeln!(to, "{line}")?;
                }
                found.listed.iter().map(|row| row.count).sum()
            }
        };
        let differ = found.missing.saturating_add(found.extra).saturating_add(found.different);
        let left_out = differ.saturating_sub(written);
        if left_out > 0 || found.at_least {
            let (table, at_least, lists) = (&table.name, found.at_least, &found.lists);
            let mut line = json!({ "table": table, "not_listed": left_out, "at_least": at_least });
            if !lists.is_empty() {
                line["lists"] = json!(lists);
            }
            writeln!(to, "{line}")?;
        }
    }
    to.flush()
}

/// The lists of a task's units, in a lasting order. No folder: no unit found a difference.
fn of_task(folder: &Path, task: &v1::Task) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let begin = format!("{}-", task.id);
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&begin) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn task() -> v1::Task {
        let row = v1::RowDifference {
            difference: v1::Difference::Missing.into(),
            key: "7".into(),
            count: 1,
        };
        let table = |name: &str, missing| v1::TaskTable {
            name: name.into(),
            rows_compared: Some(v1::RowsCompared {
                missing,
                listed: vec![row.clone()],
                ..Default::default()
            }),
            ..Default::default()
        };
        v1::Task {
            id: "task1".into(),
            verification: Some(v1::Verification::default()),
            tables: vec![table("public.few", 1), table("public.many", 9)],
            ..Default::default()
        }
    }

    fn written(lists: Option<&Path>) -> Vec<Value> {
        let mut text = Vec::new();
        write(&mut text, &task(), lists).expect("memory takes it");
        let text = String::from_utf8(text).expect("JSON");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn files_of_agents_are_named_where_rows_are_left_out() {
        let mut task = task();
        for table in &mut task.tables {
            let found = table.rows_compared.as_mut().expect("they were compared");
            found.lists.push("a1:/differences/task1-4.jsonl".into());
        }
        let mut text = Vec::new();
        write(&mut text, &task, None).expect("memory takes it");
        let text = String::from_utf8(text).expect("JSON");
        let naming: Vec<&str> = text.lines().filter(|line| line.contains("lists")).collect();
        assert_eq!(naming.len(), 1, "nothing is left out of the other table: {text}");
        assert!(naming[0].contains(r#""lists":["a1:/differences/task1-4.jsonl"]"#), "{text}");
    }

    fn missing(table: &str, key: &str, count: u64) -> Value {
        json!({ "table": table, "difference": "missing", "key": key, "count": count })
    }

    #[test]
    fn without_lists_what_a_task_keeps_is_told_and_the_rest_counted() {
        let left_out = json!({ "table": "public.many", "not_listed": 8, "at_least": false });
        let expected = [missing("public.few", "7", 1), missing("public.many", "7", 1), left_out];
        assert_eq!(written(None), expected);
    }

    #[test]
    fn lists_of_this_task_alone_are_passed_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let list = |name: &str, lines: &[Value]| {
            let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(folder.path().join(name), lines.concat()).expect("it is written");
        };
        list("task1-4.jsonl", &[missing("public.many", "a", 4), missing("public.many", "b", 5)]);
        list("task2-4.jsonl", &[missing("public.few", "c", 1)]);
        let expected = [
            missing("public.many", "a", 4),
            missing("public.many", "b", 5),
            missing("public.few", "7", 1),
        ];
        assert_eq!(written(Some(folder.path())), expected);
    }
}
