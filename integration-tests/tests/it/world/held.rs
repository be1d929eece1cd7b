//! A migration that is held at its last steps, so that something can happen between what it did and what it compares.

use pgconvoy_integration_tests::process::Process;
use tokio_postgres::Client;

use super::{DATABASE, Gate, LIMIT, Pair};

/// `migrate --verify`, which has copied everything and cannot analyze table `held`.
pub(crate) struct Held {
    pub(crate) pair: Pair,
    pub(crate) process: Process,
    lock: Client,
}

impl Held {
    /// In a schema: nothing but the analysis of this table has to wait for its lock.
    pub(crate) const SCHEMA: &str =
        "create table public.held (word text); insert into public.held values ('word');";

    /// With these tables and sequences beside its own and the gate's.
    pub(crate) async fn migration(schema: &str) -> Held {
        let pair = Pair::new(&format!("{}{}{schema}", Gate::SCHEMA, Self::SCHEMA)).await;
        let gate = Gate::shut(&pair.destination).await;
        let file = pair.task_file("held", Gate::COPY);
        let program = pair.command("migrate").args(["--yes", "--verify", "-f"]).arg(&file);
        let process = Process::start("migrate", program, &pair.path("")).unwrap();
        gate.waiting(4, LIMIT).await;
        let lock = pair.destination.client(DATABASE).await.unwrap();
        let held = "begin; lock table public.held in share update exclusive mode";
        lock.batch_execute(held).await.unwrap();
        gate.open().await;
        Held { pair, process, lock }
    }

    /// Lets it compare and end; what it tells.
    pub(crate) async fn let_go(self, exit: i32) -> (Pair, String) {
        self.lock.batch_execute("rollback").await.unwrap();
        self.ended(exit).await
    }

    /// The same, where the lock went with its server.
    pub(crate) async fn ended(self, exit: i32) -> (Pair, String) {
        let status = self.process.wait(LIMIT).await.unwrap();
        let told = self.process.stdout();
        assert_eq!(status.code(), Some(exit), "{told}{}", self.process.log());
        (self.pair, told)
    }
}
