//! `pgconvoy verify`: compares two databases, embedded. Writes to neither, and leaves nothing here but the report.

use clap::Args;
use pgconvoy_proto::v1;
use pgconvoy_runtime::shutdown::Shutdown;
use pgconvoy_shared::verify::Sample;

use super::job::{Job, remove, slots_for, start};
use super::migrate::conclude;
use crate::client::Watch;
use crate::embedded::Embedded;
use crate::exit::Exit;
use crate::output::Format;
use crate::output::progress::Progress;
use crate::problem::Problem;
use crate::report::ReportFlag;
use crate::submission::{Acknowledge, Wanted, new_request_id};

/// Compare two databases: schema, rows, sequences; writes to neither
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy verify --source postgres://me@old/shop --destination postgres://me@new/shop
  pgconvoy verify -f shop.yaml --sample 5 --report differences.jsonl -o json

Exits with 4 if anything differs, with 3 if a database cannot be reached or used.")]
pub(super) struct Verify {
    #[command(flatten)]
    job: Job,
    #[command(flatten)]
    sample: SampleFlag,
    #[command(flatten)]
    report: ReportFlag,
}

/// Which rows are compared.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct SampleFlag {
    /// Compare only so many percent of the rows, chosen by their keys; all are counted in any case
    #[arg(long = "sample", value_name = "PERCENT", value_parser = sample)]
    sample: Option<Sample>,
}

impl SampleFlag {
    pub(crate) fn is_given(self) -> bool {
        self.sample.is_some()
    }

    pub(crate) fn settings(self) -> v1::VerifySettings {
        let all = self.sample.unwrap_or_default();
        pgconvoy_shared::verify::VerifySettings { sample: all }.into()
    }
}

/// `5`, `2.5`, `0.01`.
pub(super) fn sample(text: &str) -> Result<Sample, String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let number = format!("{whole}{part:0<2}");
    let plain = part.len() <= 2 && number.bytes().all(|byte| byte.is_ascii_digit());
    let hundredths = number.parse().ok().filter(|_| plain).unwrap_or(0);
    Sample::hundredths(hundredths).map_err(|bad| bad.to_string())
}

impl Verify {
    pub(super) async fn run(self, format: Format, shutdown: &Shutdown) -> Result<Exit, Problem> {
        let Job { spec, acknowledge, data_dir, agents } = self.job;
        let wanted = spec.wanted()?;
        let report = self.report.create()?;
        let folder = data_dir.join("verify");
        let lists = report.is_some().then(|| folder.join("differences"));
        let slots = slots_for(&wanted);
        let embedded = start(&folder, agents, slots, lists.clone()).await?;
        let ended = tokio::select! {
            ended = compare(&embedded, wanted, acknowledge, self.sample) => ended.map(Some),
            () = shutdown.begun() => Ok(None),
        };
        embedded.stop().await;
        let written = match (&ended, report) {
            (Ok(Some(task)), Some(report)) => report.write(task, lists.as_deref()),
            _ => Ok(()),
        };
        let removed = remove(&folder, &data_dir);
        let exit = match ended? {
            Some(task) => conclude(task, format)?,
            None => Exit::Interrupted,
        };
        written?;
        removed?;
        Ok(exit)
    }
}

async fn compare(
    embedded: &Embedded,
    wanted: Wanted,
    acknowledge: Acknowledge,
    sample: SampleFlag,
) -> Result<v1::Task, Problem> {
    let cluster = embedded.cluster();
    let request = wanted.request(new_request_id("verify"), acknowledge)?;
    let verify = Some(sample.settings());
    let request = v1::CreateTaskRequest { start: true, verify_only: true, verify, ..request };
    let created =
        cluster.tasks(async |mut client| client.create_task(request.clone()).await).await?;
    let mut progress = Progress::new();
    let ended = tokio::select! {
        watched = cluster.watch(&created.task_id, 1, |task| {
            progress.update(task);
            Ok(Watch::Further)
        }) => watched?,
        problem = embedded.failed() => return Err(problem),
    };
    progress.finish();
    cluster.task(&ended.id, 0).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_percents_with_two_digits_at_most() {
        for (text, hundredths) in [("100", 10_000), ("5", 500), ("2.5", 250), ("0.01", 1)] {
            assert_eq!(sample(text).map(Sample::as_hundredths), Ok(hundredths), "{text}");
        }
        for text in ["0", "101", "-1", "1.234", "x", "", "1e2"] {
            assert!(sample(text).is_err(), "{text}");
        }
    }
}
