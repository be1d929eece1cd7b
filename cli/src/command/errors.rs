//! `pgconvoy errors`.

use clap::Args;
use pgconvoy_shared::codes;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// Print the page of an error code, or list all codes
#[derive(Debug, Args)]
#[command(
    visible_alias = "explain-error",
    after_help = "Examples:\n  pgconvoy errors destination_not_empty\n  pgconvoy errors"
)]
pub(super) struct Errors {
    /// The code, as it stands in `[brackets]` after an error
    code: Option<String>,
}

#[derive(Serialize)]
struct Page<'p> {
    code: &'p str,
    title: &'p str,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<&'p str>,
}

impl Errors {
    pub(super) fn run(self, format: Format) -> Result<Exit, Problem> {
        let Some(code) = &self.code else {
            let pages: Vec<Page<'_>> =
                codes::list().map(|(code, title)| Page { code, title, page: None }).collect();
            output::data(format, &pages, |pages| {
                let rows = pages.iter().map(|page| [page.code.to_owned(), page.title.to_owned()]);
                output::table::table(&["code", "about"], rows)
            })?;
            return Ok(Exit::Done);
        };
        // Codes are often copied with their brackets.
        let code = code.trim_matches(['[', ']']);
        let Some(page) = codes::page(code) else {
            return Err(Problem::usage(
                "unknown_code",
                format!("no error has the code `{code}`"),
                "see `pgconvoy errors` for all of them",
            ));
        };
        let title = codes::title(page);
        output::data(format, &Page { code, title, page: Some(page) }, |_| page.to_owned())?;
        Ok(Exit::Done)
    }
}
