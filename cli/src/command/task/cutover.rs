//! `pgconvoy task cutover`.

use clap::Args;
use clap::builder::PossibleValuesParser;
use pgconvoy_proto::v1;
use pgconvoy_shared::cutover::IGNORABLE;

use super::Which;
use crate::command::cutover::{CutoverFlags, cut_over, exit_of};
use crate::exit::Exit;
use crate::output::{self, Format, note};
use crate::problem::{Problem, in_lines};

/// Let the destination take over: keep writers from the source, prove that nothing is missing, switch
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy task cutover shop --fence --dry-run
  pgconvoy task cutover shop --fence --timeout 30
  pgconvoy task cutover shop --writers-stopped --sequence-margin 1000
  pgconvoy task cutover shop --fence --compare 5

Both ends are compared first, while the source stays in use; what differs ends the cutover before
anybody is stopped. Whatever fails before the switch, or takes longer than the timeout, is taken back: the source is as
before, and the task follows it. After the switch the source stays fenced; the statement that lifts
the fence is printed. Exits with 1 if the cutover was undone, with 4 if both ends differ.")]
pub(super) struct Cutover {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    flags: CutoverFlags,
    /// Only what comes before the fence: tells whether anything stands in the way; nobody is stopped
    #[arg(long)]
    dry_run: bool,
    /// What may be, and stands in no way
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = PossibleValuesParser::new(IGNORABLE))]
    ignore: Vec<String>,
}

impl Cutover {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Self { which: Which { task, reach }, flags, dry_run, ignore } = self;
        let settings = v1::CutoverSettings { dry_run, ..flags.settings(ignore)? };
        let view = reach.with(async |cluster| cut_over(cluster, &task, &settings).await).await?;
        match format {
            Format::Json => output::json(&view)?,
            Format::Table => output::line(&view.to_text())?,
        }
        if let Some(cause) = &view.cause {
            note(&format!("error: {}", in_lines(cause)));
        }
        Ok(exit_of(&view))
    }
}
