//! `pgconvoy task create`.

use std::path::PathBuf;

use clap::Args;
use pgconvoy_proto::v1;
use serde_json::json;

use crate::client::TaskClient;
use crate::connect::Reach;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::submission::{Acknowledge, Wanted, new_request_id};

/// Create a task from a task file, and print its id
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy task create -f shop.yaml --start
  pgconvoy task create -f - --request-id deploy-42 < shop.yaml

The same --request-id gives the same task, however often it is sent.")]
pub(super) struct Create {
    /// Task file (YAML); - reads standard input
    #[arg(short = 'f', long = "file", value_name = "TASK.yaml")]
    file: PathBuf,
    /// Start it at once
    #[arg(long)]
    start: bool,
    /// Your mark on this request, for sending it again safely
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Compare both ends when all is moved
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    acknowledge: Acknowledge,
    #[command(flatten)]
    reach: Reach,
}

impl Create {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let wanted = Wanted::from_file(&self.file)?;
        let request_id = self.request_id.unwrap_or_else(|| new_request_id("create"));
        let request = wanted.request(request_id, self.acknowledge)?;
        let verify = self.verify.then(v1::VerifySettings::default);
        let request = v1::CreateTaskRequest { start: self.start, verify, ..request };
        let ask = async |mut client: TaskClient| client.create_task(request.clone()).await;
        let v1::CreateTaskResponse { task_id, repeated } =
            self.reach.with(async |cluster| cluster.tasks(ask).await).await?;
        let value = json!({ "task_id": task_id, "repeated": repeated });
        output::data(format, &value, |_| task_id.clone())?;
        Ok(Exit::Done)
    }
}
