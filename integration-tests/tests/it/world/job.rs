//! A task in a cluster, driven by the binary's commands and seen through the public interface.

use std::collections::BTreeSet;
use std::path::Path;

use pgconvoy_integration_tests::convoy::Convoy;
use pgconvoy_integration_tests::process::Finished;
use pgconvoy_proto::v1::{Event, ListEventsRequest, Task, TaskStatus};

use super::{LIMIT, Pair, SOON, told};

/// A cluster and what runs commands at it.
pub(crate) struct Fleet {
    pub(crate) convoy: Convoy,
}

impl Fleet {
    /// Three nodes with mutual TLS, and agents.
    pub(crate) async fn of_three(agents: &[&str]) -> Fleet {
        Fleet::start(3, agents).await
    }

    /// Nodes with mutual TLS, and agents.
    pub(crate) async fn start(nodes: u64, agents: &[&str]) -> Fleet {
        let builder = Convoy::builder().coordinators(nodes).tls();
        let builder = agents.iter().fold(builder, |builder, agent| builder.agent(agent));
        Fleet { convoy: builder.start().await.unwrap() }
    }

    /// Runs a client command.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Finished {
        self.convoy.cli(arguments.iter().copied()).unwrap().run(SOON).await.unwrap()
    }

    /// Runs a client command that must succeed; its standard output.
    pub(crate) async fn ok(&self, arguments: &[&str]) -> String {
        let finished = self.run(arguments).await;
        assert_eq!(finished.code(), Some(0), "{arguments:?}: {}", told(&finished));
        finished.stdout
    }

    /// Runs a client command that is refused.
    pub(crate) async fn refused(&self, arguments: &[&str], exit: i32, code: &str) {
        let finished = self.run(arguments).await;
        assert_eq!(finished.code(), Some(exit), "{arguments:?}: {}", told(&finished));
        assert!(finished.log.contains(code), "{arguments:?}: {}", told(&finished));
    }

    /// Creates a task and starts it; warnings are acknowledged.
    pub(crate) async fn begin(&self, task_file: &Path) -> Job<'_> {
        let file = task_file.to_str().unwrap();
        let id = self.ok(&["task", "create", "--start", "--yes", "-f", file]).await;
        self.job(id.trim())
    }

    /// A task that was begun.
    pub(crate) fn job(&self, id: &str) -> Job<'_> {
        Job { fleet: self, id: id.to_owned() }
    }
}

/// One task.
pub(crate) struct Job<'a> {
    pub(crate) fleet: &'a Fleet,
    pub(crate) id: String,
}

impl Job<'_> {
    /// As the leader shows it.
    pub(crate) async fn task(&self) -> Task {
        self.fleet.convoy.task(&self.id).await.unwrap()
    }

    /// Waits until it is as wanted; fails at once when it ended otherwise.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Task) -> bool) -> Task {
        self.fleet.convoy.task_until(&self.id, LIMIT, what, wanted).await.unwrap()
    }

    /// Waits for its good end; both databases are the same then, and nothing is left.
    pub(crate) async fn done(&self, pair: &Pair) -> Task {
        let task = self.ended().await;
        let compared = pair.same().await;
        assert_eq!(task.rows_done, compared.rows, "rows are counted once");
        task
    }

    /// Waits for its good end.
    pub(crate) async fn ended(&self) -> Task {
        self.until("the task to be done", |task| task.status() == TaskStatus::Done).await
    }

    /// Waits until all shards of a table are done.
    pub(crate) async fn copied(&self, table: &str) {
        let copied = |task: &Task| {
            let mut tables = task.tables.iter();
            tables.any(|t| t.name == table && t.shards > 0 && t.shards_done == t.shards)
        };
        self.until(&format!("{table} to be copied"), copied).await;
    }

    /// Agents that run a copy now.
    pub(crate) async fn holders(&self) -> BTreeSet<String> {
        let running = self.task().await.running;
        running.into_iter().filter(|unit| unit.kind == "copy").map(|unit| unit.agent).collect()
    }

    /// All that happened to it, by kind.
    pub(crate) async fn events(&self, kind: &str) -> Vec<Event> {
        let all = events(&self.fleet.convoy, &self.id).await;
        all.into_iter().filter(|event| event.kind == kind).collect()
    }
}

/// All that happened to a task so far.
pub(crate) async fn events(convoy: &Convoy, task: &str) -> Vec<Event> {
    let request = ListEventsRequest { task: task.to_owned(), after: 0, limit: 0 };
    convoy.tasks().await.unwrap().list_events(request).await.unwrap().into_inner().events
}
