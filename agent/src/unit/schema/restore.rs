//! From an archive to its entries: pg_restore writes lists and a script, and runs nothing.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::process::Stdio;

use bytes::Bytes;
use pgconvoy_runtime::tasks;
use pgconvoy_shared::failure::Failure;

use super::contents::{self, BadArchive};
use super::dump;
use super::toc::{self, BadToc, TocEntry};
use crate::tools::Toolset;
use crate::unit::{UnitContext, UnitEnd};

/// An archive as it comes in: in a file without a name, which goes with this process however it ends.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
}

impl Archive {
    pub(super) fn new() -> Result<Self, UnitEnd> {
        Ok(Self { file: tempfile::tempfile().map_err(|error| full(&error))? })
    }

    /// Schema archives are small and the file is in the page cache: this does not block for long.
    pub(super) fn write(&mut self, piece: &Bytes) -> Result<(), UnitEnd> {
        self.file.write_all(piece).map_err(|error| full(&error))
    }

    /// The entries with their statements, in the order in which pg_restore would run them.
    pub(super) async fn entries(
        &self,
        ctx: &UnitContext,
        tools: &Toolset,
    ) -> Result<Vec<TocEntry>, UnitEnd> {
        let all = self.restore(ctx, tools, &["--list"]).await?;
        let post_data = self.restore(ctx, tools, &["--list", "--section=post-data"]).await?;
        let mut script = vec!["--verbose", "--file=-"];
        if !ctx.spec.schema.tablespaces {
            script.push("--no-tablespaces");
        }
        let script = self.restore(ctx, tools, &script).await?;
        let mut file = self.file.try_clone().map_err(|error| full(&error))?;
        let read = aside("the archive's contents", move || {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            let archived = contents::contents(&bytes).map_err(BadToc::from);
            Ok(archived.and_then(|archived| toc::parse(archived, &all, &post_data, &script)))
        });
        let parsed = read.await?.map_err(|error: io::Error| full(&error))?;
        parsed.map_err(|bad| {
            if bad == BadToc::Archive(BadArchive::NotUtf8) {
                return not_utf8().into();
            }
            let message =
                format!("the archive of pg_dump {} is not understood: {bad}", tools.major);
            Failure::definite("archive_not_understood", message)
                .remedy("please report it, with the versions of both servers and of pg_dump")
                .into()
        })
    }

    async fn restore(
        &self,
        ctx: &UnitContext,
        tools: &Toolset,
        arguments: &[&str],
    ) -> Result<String, UnitEnd> {
        let mut input = self.file.try_clone().map_err(|error| full(&error))?;
        input.rewind().map_err(|error| full(&error))?;
        let mut command = ctx.means.tools.command(&tools.pg_restore);
        command.args(arguments).stdin(Stdio::from(input));
        let mut text = Vec::new();
        let collected = dump::run("pg_restore", command, |piece| {
            text.extend_from_slice(&piece);
            std::future::ready(Ok(()))
        });
        collected.await?;
        String::from_utf8(text).map_err(|_| not_utf8().into())
    }
}

/// Names and statements are texts to us, in one encoding.
pub(in crate::unit) fn not_utf8() -> Failure {
    Failure::definite("schema_not_utf8", "the schema's names or texts are not valid UTF-8")
        .remedy("a SQL_ASCII source must hold UTF-8 in names, comments and function bodies")
}

/// Works through the texts of a large schema where nobody waits for it: a heartbeat of the agent least of all.
pub(super) async fn aside<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, UnitEnd> {
    tasks::blocking(what, work)
        .await
        .map_err(|died| Failure::other("internal_error", died.to_string()).into())
}

fn full(error: &io::Error) -> UnitEnd {
    Failure::other("temporary_file", format!("cannot keep the schema's archive: {error}"))
        .remedy("free space in the agent's folder for temporary files (TMPDIR)")
        .into()
}
