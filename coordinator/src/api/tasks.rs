//! `TaskService`: what users ask of tasks.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use pgconvoy_control::command::{Acknowledge, Command, CreateTask, NewPasswords};
use pgconvoy_control::outcome::Outcome;
use pgconvoy_control::state::Asked;
use pgconvoy_proto::convert::WireError;
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::task_service_server::TaskService;
use pgconvoy_runtime::clock;
use pgconvoy_shared::cutover::CutoverSettings;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{BadId, RequestId, TaskId};
use pgconvoy_shared::secret::{Sealed, Secret};
use pgconvoy_shared::spec::TaskSpec;
use pgconvoy_shared::verify::{Purpose, VerifySettings};
use rand::Rng;
use tonic::{Request, Response, Status};

use super::error::ApiError;
use super::{show, watch};
use crate::node::Node;

pub(super) struct Tasks {
    pub(super) node: Arc<Node>,
}

impl Tasks {
    pub(super) fn new(node: Arc<Node>) -> Tasks {
        Tasks { node }
    }

    async fn create(&self, request: v1::CreateTaskRequest) -> Result<(TaskId, bool), ApiError> {
        self.node.leader()?;
        let (purpose, verify) = purpose(&request)?;
        let request_id = request_id(request.request_id)?;
        let [source_password, destination_password] =
            [request.source_password, request.destination_password].map(Secret::new);
        let spec = request.spec.ok_or_else(|| unreadable("spec", "it is missing"))?;
        let spec = TaskSpec::try_from(spec)
            .map_err(|WireError { field, problem }| unreadable(&field, &problem.to_string()))?;
        let known = self.node.replica.read(|state| state.task_of_request(&request_id).cloned());
        if let Some(task) = known {
            return Ok((task, true));
        }
        spec.check().map_err(|problems| ApiError::Invalid(problems.to_failure().into()))?;
        let id = TaskId::from_parts(clock::wall_clock_ms(), rand::rng().next_u64());
        let command = Command::CreateTask(Box::new(CreateTask {
            source_password: self.seal(source_password, &id, Side::Source)?,
            destination_password: self.seal(destination_password, &id, Side::Destination)?,
            request_id,
            id,
            spec,
            acknowledge: acknowledge(request.acknowledge, request.acknowledge_all),
            start: request.start,
            purpose,
            verify,
        }));
        match self.node.propose(command).await? {
            Outcome::Created { task, repeated } => Ok((task, repeated)),
            other => Err(unexpected(&other)),
        }
    }

    /// Of what the task is told now, the passwords that are others than it has: nothing is begun again for one that
    /// it knows. One that cannot be opened is as good as none.
    fn changed_passwords(
        &self,
        task: &str,
        [source, destination]: [Secret; 2],
    ) -> Result<NewPasswords, ApiError> {
        let task = self.find(task)?;
        let known = self.node.replica.read(|state| state.asked(&task));
        let Asked { source_password, destination_password, spec: _ } =
            known.ok_or_else(|| unknown_task(task.as_str()))?;
        let changed = |told: Secret, known: Option<Sealed>, side| {
            let open = |known: Sealed| self.node.vault.unseal(&known, &task, side).ok();
            match known.and_then(open) {
                Some(known) if known == told => Ok(None),
                _ => self.seal(told, &task, side),
            }
        };
        Ok(NewPasswords {
            source: changed(source, source_password, Side::Source)?,
            destination: changed(destination, destination_password, Side::Destination)?,
        })
    }

    /// None = an empty one.
    pub(super) fn seal(
        &self,
        password: Secret,
        task: &TaskId,
        side: Side,
    ) -> Result<Option<Sealed>, ApiError> {
        if password.expose().is_empty() {
            return Ok(None);
        }
        Ok(Some(self.node.vault.seal(&password, task, side)?))
    }

    /// The task of this id or name.
    pub(super) fn find(&self, id_or_name: &str) -> Result<TaskId, ApiError> {
        let found = self.node.replica.read(|state| state.find_task(id_or_name).cloned());
        found.ok_or_else(|| unknown_task(id_or_name))
    }

    async fn get(&self, request: &v1::GetTaskRequest) -> Result<v1::Task, ApiError> {
        let leader = self.node.leader_for_reading().await?;
        let task = self.find(&request.task)?;
        let view = leader.view(&task, tables_max(request.tables_max));
        view.map(show::task).ok_or_else(|| unknown_task(&request.task))
    }

    async fn list(&self) -> Result<Vec<v1::Task>, ApiError> {
        let leader = self.node.leader_for_reading().await?;
        let ids: Vec<_> = self.node.replica.read(|state| state.task_ids().cloned().collect());
        let views = ids.iter().filter_map(|id| leader.view(id, 0));
        Ok(views.map(|view| v1::Task { precheck: Vec::new(), ..show::task(view) }).collect())
    }

    async fn events(&self, request: &v1::ListEventsRequest) -> Result<Vec<v1::Event>, ApiError> {
        self.node.leader_for_reading().await?;
        let task = self.find(&request.task)?;
        let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
        Ok(self.node.replica.read(|state| {
            state.events(&task, request.after).take(limit).map(show::event).collect()
        }))
    }

    async fn explain(&self, task: &str) -> Result<Vec<v1::Explanation>, ApiError> {
        let leader = self.node.leader_for_reading().await?;
        let task = self.find(task)?;
        Ok(leader.explain(&task).into_iter().map(show::explanation).collect())
    }

    /// Proposes a command that changes how a task stands.
    async fn change(
        &self,
        task: &str,
        command: impl FnOnce(TaskId) -> Command,
    ) -> Result<Response<v1::TaskStateResponse>, ApiError> {
        self.node.leader()?;
        match self.node.propose(command(self.find(task)?)).await? {
            Outcome::Task { task, status, changed } => Ok(Response::new(v1::TaskStateResponse {
                task_id: task.into(),
                status: show::status(status).into(),
                changed,
            })),
            other => Err(unexpected(&other)),
        }
    }

    /// A task that is not there is as good as deleted.
    async fn delete(&self, task: &str) -> Result<bool, ApiError> {
        self.node.leader_for_reading().await?;
        let Some(task) = self.node.replica.read(|state| state.find_task(task).cloned()) else {
            return Ok(false);
        };
        match self.node.propose(Command::DeleteTask { task }).await? {
            Outcome::Deleted { changed } => Ok(changed),
            other => Err(unexpected(&other)),
        }
    }
}

/// An empty one is made up: such a request cannot be repeated.
pub(super) fn request_id(text: String) -> Result<RequestId, ApiError> {
    let text = match text.is_empty() {
        true => format!("made-up-{:032x}", rand::random::<u128>()),
        false => text,
    };
    text.parse().map_err(|bad: BadId| {
        ApiError::invalid(
            "bad_request_id",
            "request_id",
            bad.to_string(),
            "leave it out, or choose another one",
        )
    })
}

/// What the task is there for, and whether both ends are compared.
fn purpose(request: &v1::CreateTaskRequest) -> Result<(Purpose, Option<VerifySettings>), ApiError> {
    let verify = request.verify.map(VerifySettings::try_from).transpose();
    let verify = verify.map_err(|bad| unreadable("verify", &bad.to_string()))?;
    match (request.precheck_only, request.verify_only) {
        (false, false) => Ok((Purpose::Migrate, verify)),
        (true, false) => Ok((Purpose::Precheck, None)),
        (false, true) => Ok((Purpose::Verify, Some(verify.unwrap_or_default()))),
        (true, true) => Err(unreadable("verify_only", "it does not go with precheck_only")),
    }
}

fn acknowledge(codes: Vec<String>, all: bool) -> Acknowledge {
    Acknowledge { codes: codes.into_iter().collect(), all }
}

/// 0 = all.
fn tables_max(asked: u32) -> usize {
    if asked == 0 { usize::MAX } else { asked as usize }
}

pub(super) fn unknown_task(id_or_name: &str) -> ApiError {
    let failure = Failure::definite("unknown_task", format!("there is no task `{id_or_name}`"))
        .about(id_or_name)
        .remedy("`pgconvoy task list` shows the tasks there are");
    ApiError::NotFound(failure.into())
}

pub(super) fn unreadable(field: &str, problem: &str) -> ApiError {
    ApiError::invalid("bad_message", field, problem, "see the contract, task.proto")
}

pub(super) fn unexpected(outcome: &Outcome) -> ApiError {
    ApiError::internal(format!("a task's command answers {outcome:?}"))
}

#[tonic::async_trait]
impl TaskService for Tasks {
    async fn create_task(
        &self,
        request: Request<v1::CreateTaskRequest>,
    ) -> Result<Response<v1::CreateTaskResponse>, Status> {
        let (task, repeated) = self.create(request.into_inner()).await?;
        Ok(Response::new(v1::CreateTaskResponse { task_id: task.into(), repeated }))
    }

    async fn get_task(
        &self,
        request: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::GetTaskResponse>, Status> {
        let task = Some(self.get(request.get_ref()).await?);
        Ok(Response::new(v1::GetTaskResponse { task }))
    }

    async fn list_tasks(
        &self,
        _request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        Ok(Response::new(v1::ListTasksResponse { tasks: self.list().await? }))
    }

    type WatchTaskStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchTaskResponse, Status>> + Send>>;

    async fn watch_task(
        &self,
        request: Request<v1::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let request = request.into_inner();
        let leader = self.node.leader_for_reading().await?;
        let task = self.find(&request.task)?;
        let watch = watch::watch(leader, task, tables_max(request.tables_max));
        Ok(Response::new(Box::pin(watch)))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let events = self.events(request.get_ref()).await?;
        Ok(Response::new(v1::ListEventsResponse { events }))
    }

    async fn explain_task(
        &self,
        request: Request<v1::ExplainTaskRequest>,
    ) -> Result<Response<v1::ExplainTaskResponse>, Status> {
        let explanations = self.explain(&request.get_ref().task).await?;
        Ok(Response::new(v1::ExplainTaskResponse { explanations }))
    }

    async fn precheck_task(
        &self,
        request: Request<v1::PrecheckTaskRequest>,
    ) -> Result<Response<v1::TaskStateResponse>, Status> {
        let command = |task| Command::PrecheckTask { task };
        Ok(self.change(&request.get_ref().task, command).await?)
    }

    async fn start_task(
        &self,
        request: Request<v1::StartTaskRequest>,
    ) -> Result<Response<v1::TaskStateResponse>, Status> {
        let v1::StartTaskRequest { task, acknowledge: codes, acknowledge_all } =
            request.into_inner();
        let acknowledge = acknowledge(codes, acknowledge_all);
        Ok(self.change(&task, |task| Command::StartTask { task, acknowledge }).await?)
    }

    async fn pause_task(
        &self,
        request: Request<v1::PauseTaskRequest>,
    ) -> Result<Response<v1::TaskStateResponse>, Status> {
        let v1::PauseTaskRequest { task, leave_fence } = request.into_inner();
        if leave_fence {
            let left = self.change(&task, |task| Command::LeaveFence { task }).await?;
            // Nothing of a task that has failed goes on.
            if left.get_ref().status() == v1::TaskStatus::Failed {
                return Ok(left);
            }
        }
        Ok(self.change(&task, |task| Command::PauseTask { task }).await?)
    }

    async fn resume_task(
        &self,
        request: Request<v1::ResumeTaskRequest>,
    ) -> Result<Response<v1::TaskStateResponse>, Status> {
        let v1::ResumeTaskRequest {
            task,
            acknowledge: codes,
            acknowledge_all,
            source_password,
            destination_password,
            table,
        } = request.into_inner();
        if !table.is_empty() {
            return Ok(self.change(&task, |task| Command::ResumeTable { task, table }).await?);
        }
        let acknowledge = acknowledge(codes, acknowledge_all);
        let told = [source_password, destination_password].map(Secret::new);
        let passwords = self.changed_passwords(&task, told)?;
        let command = |task| Command::ResumeTask { task, acknowledge, passwords };
        Ok(self.change(&task, command).await?)
    }

    async fn resync_table(
        &self,
        request: Request<v1::ResyncTableRequest>,
    ) -> Result<Response<v1::TaskStateResponse>, Status> {
        let v1::ResyncTableRequest { task, table } = request.into_inner();
        Ok(self.change(&task, |task| Command::ResyncTable { task, table }).await?)
    }

    async fn cancel_task(
        &self,
        request: Request<v1::CancelTaskRequest>,
    ) -> Result<Response<v1::TaskStateResponse>, Status> {
        let v1::CancelTaskRequest { task, leave_fence } = request.into_inner();
        if leave_fence {
            self.change(&task, |task| Command::LeaveFence { task }).await?;
        }
        Ok(self.change(&task, |task| Command::CancelTask { task }).await?)
    }

    async fn verify_task(
        &self,
        request: Request<v1::VerifyTaskRequest>,
    ) -> Result<Response<v1::VerifyTaskResponse>, Status> {
        let (task, repeated) = self.verify(request.into_inner()).await?;
        Ok(Response::new(v1::VerifyTaskResponse { task_id: task.into(), repeated }))
    }

    async fn cutover_task(
        &self,
        request: Request<v1::CutoverTaskRequest>,
    ) -> Result<Response<v1::TaskStateResponse>, Status> {
        let v1::CutoverTaskRequest { task, settings } = request.into_inner();
        let settings = settings.ok_or_else(|| unreadable("settings", "they are missing"))?;
        let settings = CutoverSettings::try_from(settings)
            .map_err(|WireError { field, problem }| unreadable(&field, &problem.to_string()))?;
        Ok(self.change(&task, |task| Command::CutoverTask { task, settings }).await?)
    }

    async fn delete_task(
        &self,
        request: Request<v1::DeleteTaskRequest>,
    ) -> Result<Response<v1::DeleteTaskResponse>, Status> {
        let changed = self.delete(&request.get_ref().task).await?;
        Ok(Response::new(v1::DeleteTaskResponse { changed }))
    }
}
