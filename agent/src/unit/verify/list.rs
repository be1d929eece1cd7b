//! The whole list of rows that differ, for who wants it: JSON lines in a file of the unit.
//!
//! What a task keeps is bounded, for it stands in the coordinators' memory; where the file is, it keeps too. There is none for
//! a unit that found nothing: what an earlier run of it left is removed.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::verify::RowDifference;
use serde_json::json;

use crate::unit::UnitContext;

/// A list being written; nothing where the agent was not told to.
pub(super) struct List {
    path: Option<PathBuf>,
    file: Option<BufWriter<File>>,
    table: String,
}

impl List {
    pub(super) fn of(ctx: &UnitContext, table: &QualifiedName) -> Result<Self, Failure> {
        let name = format!("{}-{}.jsonl", ctx.task, ctx.unit);
        let path = ctx.means.differences.as_ref().map(|folder| folder.join(name));
        if let Some(path) = &path {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(unwritable(&error));
                }
                _ => {}
            }
        }
        Ok(Self { path, file: None, table: table.to_string() })
    }

    /// Lists a row. The lines are short and go to the page cache: this does not block for long.
    pub(super) fn add(&mut self, row: &RowDifference) -> Result<(), Failure> {
        let Some(path) = &self.path else { return Ok(()) };
        let line = json!({
            "table": self.table,
            "difference": row.difference,
            "key": row.key,
            "count": row.count,
        });
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(create(path).map_err(|error| unwritable(&error))?),
        };
        writeln!(file, "{line}").map_err(|error| unwritable(&error))
    }

    /// The file, if there is one.
    pub(super) fn end(mut self) -> Result<Option<PathBuf>, Failure> {
        let Some(file) = &mut self.file else { return Ok(None) };
        file.flush().map_err(|error| unwritable(&error))?;
        Ok(self.path)
    }
}

fn create(path: &std::path::Path) -> std::io::Result<BufWriter<File>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::create(path).map(BufWriter::new)
}

fn unwritable(error: &std::io::Error) -> Failure {
    Failure::other("temporary_file", format!("cannot write the list of differences: {error}"))
        .remedy("free space where the list is written, or do without it")
}
