//! The whole list of rows that differ, for who wants it: JSON lines in a file of the unit.
//!
//! What a task keeps is bounded, for it stands in the coordinators' memory. A file that is there is of an earlier run of the
//! unit, and begins anew.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::verify::RowDifference;
use serde_json::json;

use crate::unit::UnitContext;

/// A list being written; nothing where the agent was not told to.
pub(super) struct List {
    file: Option<BufWriter<File>>,
    table: String,
}

impl List {
    pub(super) fn of(ctx: &UnitContext, table: &QualifiedName) -> Result<Self, Failure> {
        let table = table.to_string();
        let Some(folder) = &ctx.means.differences else { return Ok(Self { file: None, table }) };
        let path = folder.join(format!("{}-{}.jsonl", ctx.task, ctx.unit));
        let file = create(folder, &path).map_err(|error| unwritable(&error))?;
        Ok(Self { file: Some(BufWriter::new(file)), table })
    }

    /// Lists a row. The lines are short and go to the page cache: this does not block for long.
    pub(super) fn add(&mut self, row: &RowDifference) -> Result<(), Failure> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let line = json!({
            "table": self.table,
            "difference": row.difference,
            "key": row.key,
            "count": row.count,
        });
        writeln!(file, "{line}").map_err(|error| unwritable(&error))
    }

    pub(super) fn end(mut self) -> Result<(), Failure> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush().map_err(|error| unwritable(&error))
    }
}

fn create(folder: &Path, path: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(folder)?;
    File::create(path)
}

fn unwritable(error: &std::io::Error) -> Failure {
    Failure::other("temporary_file", format!("cannot write the list of differences: {error}"))
        .remedy("free space where the list is written, or do without it")
}
