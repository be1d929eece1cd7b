use std::future;
use std::io;

use pgconvoy_runtime::shutdown::{Reason, Shutdown};
use pgconvoy_runtime::tasks::{self, Died, Kind};
use tokio::sync::oneshot;

fn failed(task: &str, cause: &str) -> Option<Reason> {
    Some(Reason::Failed { task: task.to_owned(), cause: cause.to_owned() })
}

#[tokio::test]
async fn a_critical_task_takes_the_process_with_it() {
    for (task, cause) in [("fails", "disk full"), ("panics", "panicked: a bug")] {
        let shutdown = Shutdown::new();
        tasks::spawn(Kind::Critical(shutdown.clone()), task, async move {
            assert_ne!(task, "panics", "a bug");
            Err(io::Error::other("disk full"))
        })
        .await
        .unwrap();
        let Some(Reason::Failed { task: named, cause: told }) = shutdown.reason() else {
            panic!("{:?}", shutdown.reason());
        };
        assert_eq!(named, task);
        assert!(told.starts_with(cause.split(' ').next().unwrap()), "{told}");
    }
}

#[tokio::test]
async fn a_critical_task_that_ends_well_takes_nothing_with_it() {
    let shutdown = Shutdown::new();
    tasks::spawn(Kind::Critical(shutdown.clone()), "ends", async {}).await.unwrap();
    assert_eq!(shutdown.reason(), None);
}

#[tokio::test]
async fn the_cause_of_a_failure_is_told_whole() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot write the log")]
    struct Outer(#[source] io::Error);

    let shutdown = Shutdown::new();
    let critical = Kind::Critical(shutdown.clone());
    let work = async { Err(Outer(io::Error::other("disk full"))) };
    tasks::spawn(critical, "writer", work).await.unwrap();
    assert_eq!(shutdown.reason().cloned(), failed("writer", "cannot write the log: disk full"));
}

#[tokio::test]
async fn an_owned_task_gives_its_value_or_says_why_not() {
    assert_eq!(tasks::owned("adds", async { 1 + 1 }).await, Ok(2));
    let panicked = tasks::owned("panics", async { panic!("a bug") }).await;
    let told = Died::Panicked { task: "panics".into(), message: "a bug".into() };
    assert_eq!(panicked, Err::<(), _>(told));
    let cancelled = tasks::owned("waits", future::pending::<()>());
    cancelled.cancel();
    assert_eq!(cancelled.await, Err(Died::Cancelled { task: "waits".into() }));
    assert_eq!(tasks::blocking("computes", || 6 * 7).await, Ok(42));
}

#[tokio::test]
async fn an_owned_task_ends_with_its_handle() {
    let (held, ended) = oneshot::channel::<()>();
    let task = tasks::owned("waits", async move {
        future::pending::<()>().await;
        drop(held);
    });
    drop(task);
    ended.await.unwrap_err();
}
