//! What tests of units are made of: two databases, an agent, a leader, a task.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use pgconvoy_agent::{Agent, AgentConfig, AgentHandle, Coordinators};
use pgconvoy_integration_tests::postgres::{Options, PASSWORD, Postgres, SUPERUSER};
use pgconvoy_proto::convert::Leased;
use pgconvoy_runtime::shutdown::Shutdown;
use pgconvoy_shared::endpoint::{Endpoint, SslMode};
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{TaskId, UnitId, UnitNo};
use pgconvoy_shared::secret::Secret;
use pgconvoy_shared::spec::{
    CopySettings, MigrationType, ObjectRules, RetryWindows, SchemaSettings, TaskSpec,
};
use pgconvoy_shared::unit::{Ended, SnapshotMode, Work, WorkResult};
use pgconvoy_shared::verify::Purpose;

use crate::leader::Leader;

/// Long enough for a loaded machine to send a heartbeat.
pub(crate) const LEASE_MS: u32 = 10_000;

pub(crate) fn task_id() -> TaskId {
    "abcdefghijkl".parse().expect("twelve letters")
}

pub(crate) fn unit(no: u32) -> UnitId {
    UnitId { task: task_id(), no: UnitNo(no) }
}

/// An endpoint on this machine.
pub(crate) fn endpoint(port: u16, database: &str) -> Endpoint {
    Endpoint {
        host: "127.0.0.1".to_owned(),
        port,
        database: database.to_owned(),
        user: SUPERUSER.to_owned(),
        sslmode: SslMode::Disable,
        sslrootcert: None,
        sslcert: None,
        sslkey: None,
        connect_timeout_secs: 30,
        settings: Default::default(),
        site: None,
    }
}

/// A task between two endpoints, schema and rows, everything else as by default.
pub(crate) fn spec(source: Endpoint, destination: Endpoint) -> TaskSpec {
    TaskSpec {
        name: "test".to_owned(),
        source,
        destination,
        types: BTreeSet::from([MigrationType::Schema, MigrationType::Full]),
        objects: ObjectRules::default(),
        schema: SchemaSettings::default(),
        copy: CopySettings {
            jobs: 2,
            shard_size_bytes: 256 << 20,
            index_jobs: 2,
            snapshot: SnapshotMode::Task,
        },
        retry: RetryWindows { connection_ms: 60_000, other_ms: 60_000 },
        incremental: Default::default(),
    }
}

/// An agent of this process with two slots.
pub(crate) async fn agent(
    name: &str,
    coordinators: Coordinators,
    shutdown: &Shutdown,
) -> AgentHandle {
    let config = AgentConfig {
        id: name.parse().expect("a good name"),
        site: None,
        slots: 2,
        listener: None,
        advertise: None,
        coordinators,
        differences: None,
    };
    Agent::start(config, shutdown.clone()).await.expect("an agent")
}

/// Two servers with a database each, and an agent between them.
pub(crate) struct World {
    pub(crate) source: Postgres,
    pub(crate) destination: Postgres,
    pub(crate) leader: Leader,
    /// Ends with the world.
    _agent: AgentHandle,
    pub(crate) shutdown: Shutdown,
    pub(crate) spec: TaskSpec,
    epochs: AtomicU32,
}

/// The database at both ends.
pub(crate) const DATABASE: &str = "shop";

impl World {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        Self::with(Options::default(), Options::default()).await
    }

    pub(crate) async fn with(source: Options, destination: Options) -> anyhow::Result<Self> {
        let (source, destination) =
            tokio::try_join!(Postgres::start(source), Postgres::start(destination))?;
        source.create_database(DATABASE).await?;
        destination.create_database(DATABASE).await?;
        let leader = Leader::start(LEASE_MS);
        let shutdown = Shutdown::new();
        let _agent = agent("a1", Coordinators::Channel(leader.channel()), &shutdown).await;
        let spec = spec(endpoint(source.port(), DATABASE), endpoint(destination.port(), DATABASE));
        Ok(Self { source, destination, leader, _agent, shutdown, spec, epochs: AtomicU32::new(0) })
    }

    /// Work as the leader leases it.
    pub(crate) fn leased(&self, no: u32, epoch: Epoch, work: Work) -> Leased {
        Leased {
            unit: unit(no),
            epoch,
            spec: self.spec.clone(),
            source_password: Some(Secret::new(PASSWORD)),
            destination_password: Some(Secret::new(PASSWORD)),
            work,
            purpose: Purpose::Migrate,
        }
    }

    pub(crate) fn next_epoch(&self) -> Epoch {
        Epoch(self.epochs.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Leases work as a unit and waits for its end.
    pub(crate) async fn end_of(&self, no: u32, work: Work) -> Ended {
        let epoch = self.next_epoch();
        self.leader.lease(self.leased(no, epoch, work)).await;
        self.leader.ended(&unit(no), epoch).await
    }

    /// The same for work that is to succeed.
    pub(crate) async fn done(&self, no: u32, work: Work) -> WorkResult {
        match self.end_of(no, work).await {
            Ended::Done(result) => result,
            other => panic!("not done: {other:#?}"),
        }
    }
}
