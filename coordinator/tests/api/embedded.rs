//! One embedded node: tasks from their creation to their end.

use std::fs;
use std::path::Path;

use pgconvoy_coordinator::{Coordinator, CoordinatorConfig, SecretsError, StartError};
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::work::Kind;
use pgconvoy_runtime::shutdown::Shutdown;
use tonic::Code;
use tonic_types::StatusExt;

use super::script::{Agent, BYTES, ROWS, hello, is_copy, kind};
use super::world::{DESTINATION_PASSWORD, LIMIT, Node, SOURCE_PASSWORD, request};

fn is_finish(lease: &v1::Lease) -> bool {
    matches!(kind(lease), Kind::Finish(_))
}

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().unwrap().reason
}

#[tokio::test]
async fn a_task_runs_from_its_creation_to_its_end() {
    let node = Node::embedded().await;
    let task = node.create(request("shop")).await;
    let mut agent = Agent::connect(node.handle.channel(), hello("a", 1)).await.unwrap();

    let copy = agent.work_until(is_copy).await;
    assert_eq!(copy.source_password, SOURCE_PASSWORD);
    assert_eq!(copy.destination_password, DESTINATION_PASSWORD);
    let running = node.task(&task).await;
    assert_eq!(running.status(), v1::TaskStatus::Running);
    assert_eq!(running.phase(), v1::Phase::Copy);
    assert_eq!((running.rows_done, running.rows_total), (0, ROWS));

    agent.running[0].rows = 400;
    agent.beat().await;
    let moving = node.until(&task, |task| task.running.iter().any(|unit| unit.rows == 400)).await;
    assert_eq!(moving.running[0].agent, "a");

    agent.work(&copy).await;
    let finish = agent.work_until(is_finish).await;
    agent.work(&finish).await;
    let done = node.until(&task, |task| task.status() == v1::TaskStatus::Done).await;
    assert_eq!((done.rows_done, done.bytes_done), (ROWS, BYTES));
    assert_eq!(done.name, "shop");
    assert!(done.ended_ms >= done.started_ms && done.started_ms > 0);
    let events = node.events(&task).await;
    assert_eq!(events.first().unwrap().kind, "task_created");
    assert_eq!(events.last().unwrap().kind, "task_done");
    node.handle.stop().await;
}

#[tokio::test]
async fn a_repeated_request_makes_one_task() {
    let node = Node::embedded().await;
    let again = v1::CreateTaskRequest { request_id: "r-1".to_owned(), ..request("shop") };
    let create = async || node.tasks().create_task(again.clone()).await.unwrap().into_inner();
    let (first, second) = (create().await, create().await);
    assert_eq!(first.task_id, second.task_id);
    assert_eq!((first.repeated, second.repeated), (false, true));
    let other = node.tasks().create_task(request("shop")).await.unwrap_err();
    assert_eq!((other.code(), reason(&other).as_str()), (Code::AlreadyExists, "task_name_taken"));
    let all = node.tasks().list_tasks(v1::ListTasksRequest {}).await.unwrap().into_inner().tasks;
    assert_eq!(all.len(), 1);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_its_place_and_a_remedy() {
    let node = Node::embedded().await;
    let get = v1::GetTaskRequest { task: "nobody".to_owned(), tables_max: 0 };
    let status = node.tasks().get_task(get).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "unknown_task"));

    let mut same = request("shop");
    let spec = same.spec.as_mut().unwrap();
    spec.destination = spec.source.clone();
    let status = node.tasks().create_task(same).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "same_database"));

    let empty = v1::CreateTaskRequest { spec: None, ..request("shop") };
    let status = node.tasks().create_task(empty).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    let task = node.create(request("shop")).await;
    let delete = v1::DeleteTaskRequest { task };
    let status = node.tasks().delete_task(delete).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(!status.get_details_error_info().unwrap().metadata["remedy"].is_empty());
}

#[tokio::test]
async fn a_watch_tells_each_change_and_ends_with_the_task() {
    let node = Node::embedded().await;
    let task = node.create(v1::CreateTaskRequest { start: false, ..request("shop") }).await;
    let watch = v1::WatchTaskRequest { task: "shop".to_owned(), tables_max: 0 };
    let mut watch = node.tasks().watch_task(watch).await.unwrap().into_inner();
    let mut next = async || {
        let said = tokio::time::timeout(LIMIT, watch.message()).await.unwrap().unwrap();
        said.map(|said| said.task.unwrap().status())
    };
    assert_eq!(next().await, Some(v1::TaskStatus::Created));
    let start = v1::StartTaskRequest { task: task.clone(), ..Default::default() };
    let started = node.tasks().start_task(start).await.unwrap().into_inner();
    assert_eq!((started.status(), started.changed), (v1::TaskStatus::Running, true));
    assert_eq!(next().await, Some(v1::TaskStatus::Running));
    node.tasks().cancel_task(v1::CancelTaskRequest { task, ..Default::default() }).await.unwrap();
    assert_eq!(next().await, Some(v1::TaskStatus::Cancelled));
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn explain_tells_why_units_wait() {
    let node = Node::embedded().await;
    let task = node.create(request("shop")).await;
    let explain = v1::ExplainTaskRequest { task };
    let answer = node.tasks().explain_task(explain).await.unwrap().into_inner();
    let codes: Vec<_> = answer.explanations.iter().map(|why| why.code.as_str()).collect();
    assert!(codes.contains(&"no_agent"), "{answer:?}");
}

#[tokio::test]
async fn a_task_survives_a_restart_with_its_leases() {
    let node = Node::embedded().await;
    let task = node.create(request("shop")).await;
    let mut agent = Agent::connect(node.handle.channel(), hello("a", 1)).await.unwrap();
    let copy = agent.work_until(is_copy).await;
    node.handle.stop().await;
    let node = Node::embedded_in(node.dir).await;
    let again = v1::Hello { running: agent.running.clone(), ..hello("a", 1) };
    let mut agent = Agent::connect(node.handle.channel(), again).await.unwrap();
    agent.work(&copy).await;
    let task = node.task(&task).await;
    assert_eq!(task.rows_done, ROWS);
}

#[tokio::test]
async fn a_member_that_lost_its_key_does_not_start() {
    let node = Node::embedded().await;
    node.handle.stop().await;
    fs::remove_file(node.dir.path().join("secret.key")).unwrap();
    let config = CoordinatorConfig::embedded(node.dir.path());
    let refused = Coordinator::start(config, Shutdown::new()).await.err().unwrap();
    assert!(matches!(refused, StartError::Secrets(SecretsError::Missing { .. })), "{refused:?}");
    assert!(!node.dir.path().join("secret.key").exists(), "no other key was made");
}

#[tokio::test]
async fn a_directory_has_one_node() {
    let node = Node::embedded().await;
    let config = CoordinatorConfig::embedded(node.dir.path());
    assert!(Coordinator::start(config, Shutdown::new()).await.is_err());
    assert_eq!(node.create(request("shop")).await.len(), 21);
}

#[tokio::test]
async fn passwords_are_in_no_file_and_no_answer() {
    let node = Node::embedded().await;
    let task = node.create(request("shop")).await;
    let mut agent = Agent::connect(node.handle.channel(), hello("a", 1)).await.unwrap();
    let finish = agent.work_until(is_finish).await;
    agent.work(&finish).await;
    let done = node.until(&task, |task| task.status() == v1::TaskStatus::Done).await;
    let answers = format!("{done:?} {:?}", node.events(&task).await);
    let lease = format!("{finish:?}");
    node.handle.stop().await;
    for password in [SOURCE_PASSWORD, DESTINATION_PASSWORD] {
        assert!(!answers.contains(password) && !lease.contains(password));
        assert!(!contains(node.dir.path(), password.as_bytes()), "{password} is on the disk");
    }
}

/// Whether any file below a directory holds these bytes.
fn contains(dir: &Path, wanted: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            return contains(&entry.path(), wanted);
        }
        let bytes = fs::read(entry.path()).unwrap_or_default();
        bytes.windows(wanted.len()).any(|window| window == wanted)
    })
}

#[tokio::test]
async fn a_verification_is_a_task_of_its_own_with_the_same_ends_and_passwords() {
    let node = Node::embedded().await;
    let task = node.create(request("shop")).await;
    let verify = v1::VerifyTaskRequest {
        task: "shop".to_owned(),
        settings: None,
        request_id: "v-1".to_owned(),
    };
    let ask = async || node.tasks().verify_task(verify.clone()).await.unwrap().into_inner();
    let (first, again) = (ask().await, ask().await);
    assert_ne!(first.task_id, task);
    assert_eq!((again.task_id, again.repeated), (first.task_id.clone(), true));

    let mut agent = Agent::connect(node.handle.channel(), hello("a", 1)).await.unwrap();
    let mine = |lease: &v1::Lease| lease.task_id == first.task_id;
    let rows = agent.work_until(|l| mine(l) && matches!(kind(l), Kind::VerifyRows(_))).await;
    assert_eq!(rows.source_password, SOURCE_PASSWORD);
    assert_eq!(rows.destination_password, DESTINATION_PASSWORD);
    assert_eq!(rows.purpose(), v1::Purpose::Verify);
    agent.work(&rows).await;
    let finish = agent.work_until(|lease| mine(lease) && is_finish(lease)).await;
    agent.work(&finish).await;
    let done = node.until(&first.task_id, |task| task.status() == v1::TaskStatus::Done).await;
    assert_eq!((done.name.as_str(), done.purpose()), ("shop-verify-1", v1::Purpose::Verify));
    assert_eq!(done.cause.unwrap().code, "verification_differs");
    let found = done.verification.unwrap();
    assert_eq!((found.differences, found.tables_different, found.complete), (1, 1, true));
    node.handle.stop().await;
}
