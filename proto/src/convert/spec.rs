//! The task specification. What is left out on the wire gets its default here.

use std::collections::BTreeSet;

use pgconvoy_shared::spec::{
    CopySettings, IncrementalSettings, MigrationType, ObjectRules, RetryWindows, SchemaSettings,
    TaskSpec, limits,
};
use pgconvoy_shared::unit::SnapshotMode;

use super::{WireError, optional_enum, required, required_enum, wire_enum};
use crate::v1;

wire_enum!(MigrationType { Schema, Full, Incremental });
wire_enum!(SnapshotMode { Task, Shard });

impl From<TaskSpec> for v1::TaskSpec {
    fn from(spec: TaskSpec) -> Self {
        Self {
            name: spec.name,
            source: Some(spec.source.into()),
            destination: Some(spec.destination.into()),
            types: spec
                .types
                .into_iter()
                .map(|kind| v1::MigrationType::from(kind).into())
                .collect(),
            include: spec.objects.include,
            exclude: spec.objects.exclude,
            copy_jobs: spec.copy.jobs,
            shard_size_bytes: spec.copy.shard_size_bytes,
            index_jobs: spec.copy.index_jobs,
            snapshot: v1::SnapshotMode::from(spec.copy.snapshot).into(),
            retry_connection_ms: spec.retry.connection_ms,
            retry_other_ms: spec.retry.other_ms,
            roles: spec.schema.roles,
            database_settings: spec.schema.database_settings,
            tablespaces: spec.schema.tablespaces,
            set_replica_identity: spec.incremental.set_replica_identity,
        }
    }
}

impl TryFrom<v1::TaskSpec> for TaskSpec {
    type Error = WireError;
    fn try_from(wire: v1::TaskSpec) -> Result<Self, WireError> {
        let types: BTreeSet<MigrationType> = wire
            .types
            .into_iter()
            .map(|number| required_enum(number, "types"))
            .collect::<Result<_, _>>()?;
        let jobs = or_default(wire.copy_jobs, limits::JOBS_DEFAULT);
        Ok(Self {
            name: wire.name,
            source: required(wire.source, "source")?,
            destination: required(wire.destination, "destination")?,
            types: if types.is_empty() { MigrationType::usual() } else { types },
            objects: ObjectRules { include: wire.include, exclude: wire.exclude },
            schema: SchemaSettings {
                roles: wire.roles,
                database_settings: wire.database_settings,
                tablespaces: wire.tablespaces,
            },
            copy: CopySettings {
                jobs,
                shard_size_bytes: or_default(
                    wire.shard_size_bytes,
                    limits::shard_size_bytes_for(jobs),
                ),
                index_jobs: or_default(wire.index_jobs, jobs),
                snapshot: optional_enum(wire.snapshot, "snapshot")?.unwrap_or(SnapshotMode::Task),
            },
            retry: RetryWindows {
                connection_ms: or_default(
                    wire.retry_connection_ms,
                    limits::RETRY_CONNECTION_MS_DEFAULT,
                ),
                other_ms: or_default(wire.retry_other_ms, limits::RETRY_OTHER_MS_DEFAULT),
            },
            incremental: IncrementalSettings { set_replica_identity: wire.set_replica_identity },
        })
    }
}

/// On the wire, 0 is "the default".
fn or_default<T: PartialEq + Default>(value: T, default: T) -> T {
    if value == T::default() { default } else { value }
}
