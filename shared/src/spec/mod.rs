//! The task specification: what a user asks for.
//!
//! [`TaskSpec`] is the form that everything else works with. [`file::read`] makes a [`Draft`] of a task file, flags
//! change it, [`Draft::finish`] fills in what was left out. [`TaskSpec::check`] says what is wrong with a specification
//! wherever it came from: the client asks it before it sends one, the coordinator before it accepts one, and whatever
//! works on a task needs no further checks.
//!
//! Nothing here reads a file or a variable: passwords come out as a [`PasswordRef`], for the client to follow.

mod check;
mod conninfo;
mod draft;
pub mod file;
pub mod limits;
pub mod measure;
mod objects;
mod problem;
mod reader;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;
use crate::unit::SnapshotMode;

pub use conninfo::{BadConninfo, Conninfo};
pub use draft::{Draft, PasswordRef, Submission};
pub use objects::is_system_schema;
pub use problem::{SpecProblem, SpecProblems};

/// A valid specification. Passwords stand apart: this value may be logged, stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Unique among the tasks that exist; works wherever an id does.
    pub name: String,
    /// Where rows come from.
    pub source: Endpoint,
    /// Where they go.
    pub destination: Endpoint,
    /// What is asked for; never empty.
    pub types: BTreeSet<MigrationType>,
    /// Which objects.
    pub objects: ObjectRules,
    /// What comes with the schema that belongs to the server.
    pub schema: SchemaSettings,
    /// How rows are copied.
    pub copy: CopySettings,
    /// How long a failing unit is tried again.
    pub retry: RetryWindows,
    /// How changes are followed.
    pub incremental: IncrementalSettings,
}

/// How changes are followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncrementalSettings {
    /// With the user's consent tables of the source that nothing identifies the rows of get `replica identity full` for as long
    /// as the task lasts; otherwise they are refused.
    pub set_replica_identity: bool,
}

/// A part of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MigrationType {
    /// Tables, types, functions, indexes, …
    Schema,
    /// The rows that are there.
    Full,
    /// The changes that are made meanwhile and later.
    Incremental,
}

impl TaskSpec {
    /// The source's changes are followed.
    #[must_use]
    pub fn is_incremental(&self) -> bool {
        self.types.contains(&MigrationType::Incremental)
    }

    /// Which moment of the source its shards show. Where changes are followed, each its own: what they miss or have twice is
    /// made good by those.
    #[must_use]
    pub fn snapshot_mode(&self) -> SnapshotMode {
        if self.is_incremental() { SnapshotMode::Shard } else { self.copy.snapshot }
    }
}

/// Which objects take part: patterns `schema.table` with `*` and `?`; what is excluded wins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRules {
    /// Left out = everything but system schemas.
    pub include: Vec<String>,
    /// Taken away from that.
    pub exclude: Vec<String>,
}

/// What belongs to the server rather than to the database, and comes with the schema where it is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaSettings {
    /// Roles that the database's objects name, and what those are members of, or are members of those; without passwords.
    pub roles: bool,
    /// What `ALTER DATABASE … SET` and `ALTER ROLE … IN DATABASE … SET` said, and the database's comment.
    pub database_settings: bool,
    /// Objects go to tablespaces of the same names, which must be there.
    pub tablespaces: bool,
}

/// How rows are copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopySettings {
    /// Copy units running at once in the whole task.
    pub jobs: u32,
    /// Bytes a shard aims at.
    pub shard_size_bytes: u64,
    /// Index builds running at once in the whole task.
    pub index_jobs: u32,
    /// Which moment of the source.
    pub snapshot: SnapshotMode,
}

/// How long a failing unit is tried again before its task fails; milliseconds since its first failure in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryWindows {
    /// For [`crate::failure::FailureClass::Transient`].
    pub connection_ms: u64,
    /// For [`crate::failure::FailureClass::Other`].
    pub other_ms: u64,
}
