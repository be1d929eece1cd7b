//! A task as a stream: once at the beginning, then whenever it has changed, to its end.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use pgconvoy_proto::v1;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::TaskId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::error::ApiError;
use super::show;
use crate::leader::Leader;

/// At most four messages a second.
const PAUSE: Duration = Duration::from_millis(250);

/// Progress is in no entry: it is looked for this often.
const PROGRESS: Duration = PAUSE;

/// The task, as often as it changes; ends once it is done, failed or cancelled. An end of the
/// leader's office ends it with an error, on which the client asks the next leader.
pub(super) fn watch(
    leader: Arc<Leader>,
    task: TaskId,
    tables_max: usize,
) -> impl Stream<Item = Result<v1::WatchTaskResponse, Status>> + Send {
    let applied = leader.applied();
    let watch = Watch { leader, task, tables_max, applied, last: None, sent: None };
    stream::unfold(Some(watch), async |watch| {
        let mut watch = watch?;
        match watch.next().await {
            Some(Ok(task)) => Some((Ok(v1::WatchTaskResponse { task: Some(task) }), Some(watch))),
            Some(Err(error)) => Some((Err(error.into()), None)),
            None => None,
        }
    })
}

struct Watch {
    leader: Arc<Leader>,
    task: TaskId,
    tables_max: usize,
    applied: watch::Receiver<u64>,
    last: Option<v1::Task>,
    sent: Option<Instant>,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<v1::Task, ApiError>> {
        if self.last.as_ref().is_some_and(has_ended) {
            return None;
        }
        if let Some(sent) = self.sent {
            tokio::select! {
                dismissed = self.leader.ended() => return Some(Err(dismissed)),
                () = sleep_until(sent + PAUSE) => {}
            }
        }
        loop {
            self.applied.mark_unchanged();
            let Some(view) = self.leader.view(&self.task, self.tables_max) else {
                return Some(Err(self.deleted()));
            };
            let now = show::task(view);
            if self.last.as_ref() != Some(&now) {
                self.last = Some(now.clone());
                self.sent = Some(Instant::now());
                return Some(Ok(now));
            }
            tokio::select! {
                dismissed = self.leader.ended() => return Some(Err(dismissed)),
                changed = self.applied.changed() => if changed.is_err() {
                    return Some(Err(ApiError::Stopping));
                },
                () = tokio::time::sleep(PROGRESS) => {}
            }
        }
    }

    fn deleted(&self) -> ApiError {
        let failure = Failure::definite("unknown_task", format!("task {} was deleted", self.task));
        ApiError::NotFound(failure.about(self.task.to_string()).into())
    }
}

fn has_ended(task: &v1::Task) -> bool {
    match task.status() {
        v1::TaskStatus::Done | v1::TaskStatus::Failed | v1::TaskStatus::Cancelled => true,
        v1::TaskStatus::Unspecified
        | v1::TaskStatus::Created
        | v1::TaskStatus::Running
        | v1::TaskStatus::Paused => false,
    }
}
