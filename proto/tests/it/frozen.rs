//! Bytes that a released version sent, kept for ever: a later version must read them as what they meant.
//!
//! Files are added, never changed. `PGCONVOY_FREEZE=1` writes those that do not exist yet.

use std::fs;
use std::path::Path;

use pgconvoy_proto::convert::{Leased, ReportBody};
use pgconvoy_proto::v1;
use pgconvoy_shared::endpoint::{Endpoint, SslMode};
use pgconvoy_shared::epoch::{Epoch, Generation};
use pgconvoy_shared::failure::{Failure, FailureClass};
use pgconvoy_shared::ids::{TableNo, UnitId, UnitNo};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::secret::Secret;
use pgconvoy_shared::spec::{
    CopySettings, MigrationType, ObjectRules, RetryWindows, SchemaSettings, TaskSpec,
};
use pgconvoy_shared::unit::*;
use prost::Message;

fn frozen<W: Message + Default>(name: &str, now: W) -> W {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen").join(name);
    if !path.exists() && std::env::var_os("PGCONVOY_FREEZE").is_some() {
        fs::write(&path, now.encode_to_vec()).unwrap();
    }
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    W::decode(bytes.as_slice()).unwrap()
}

fn spec() -> TaskSpec {
    let endpoint = |host: &str| Endpoint {
        host: host.into(),
        port: 5433,
        database: "shop".into(),
        user: "ann".into(),
        sslmode: SslMode::VerifyFull,
        sslrootcert: Some("/etc/ca.pem".into()),
        sslcert: None,
        sslkey: None,
        connect_timeout_secs: 7,
        settings: [("work_mem".to_owned(), "64MB".to_owned())].into(),
        site: Some("dc1".into()),
    };
    TaskSpec {
        name: "shop".into(),
        source: endpoint("src"),
        destination: endpoint("dst"),
        types: MigrationType::usual(),
        objects: ObjectRules {
            include: vec!["public.*".into()],
            exclude: vec!["public.audit_*".into()],
        },
        schema: SchemaSettings::default(),
        copy: CopySettings {
            jobs: 8,
            shard_size_bytes: 256 << 20,
            index_jobs: 4,
            snapshot: SnapshotMode::Task,
        },
        retry: RetryWindows { connection_ms: 43_200_000, other_ms: 600_000 },
        incremental: Default::default(),
    }
}

fn copy_lease() -> Leased {
    let name = QualifiedName::new("public", "Orders");
    let snapshot = SharedSnapshot {
        round: 2,
        snapshot: "730:733:731".into(),
        noted_lsn: Lsn(0x16B_3748),
        exports: vec![Export { agent: "agent-1".parse().unwrap(), id: "00000003-1".into() }],
    };
    let table = TablePlan {
        no: TableNo(3),
        generation: Generation(2),
        name: name.clone(),
        write_to: name,
        columns: vec!["id".into(), "note".into()],
        fingerprint: "f".into(),
        filenode: Some(16_385),
        format: CopyFormat::Binary,
        key: vec![KeyColumn { name: "id".into(), type_name: "bigint".into() }],
    };
    let bound = |text: &str| Some(Box::from([Box::from(text)]));
    Leased {
        purpose: Default::default(),
        unit: UnitId { task: "0123456789abcdefghjkm".parse().unwrap(), no: UnitNo(17) },
        epoch: Epoch(5),
        spec: spec(),
        source_password: Some(Secret::new("one")),
        destination_password: None,
        work: Work::Copy(Box::new(CopyShard {
            barrier: None,
            table,
            shard: 4,
            part: Part::Range { from: bound("1"), to: bound("1000") },
            snapshot: Some(snapshot),
            bytes: 0,
        })),
    }
}

#[test]
fn a_lease_of_the_first_version() {
    let wire = frozen("lease-copy-1.bin", v1::Lease::from(copy_lease()));
    assert_eq!(Leased::try_from(wire), Ok(copy_lease()));
}

#[test]
fn reports_of_the_first_version() {
    let done = CopyDone {
        rows: 10,
        bytes: 1000,
        snapshot: "730:733:731".into(),
        noted_lsn: Lsn(0x16B_3748),
        found_done: true,
    };
    let failure = Failure {
        class: FailureClass::Definite,
        code: "wrong_password".into(),
        subject: "source".into(),
        message: "no".into(),
        remedy: "yes".into(),
        sqlstate: Some("28P01".into()),
    };
    let gone = vec!["agent-1".parse().unwrap()];
    for (name, ended) in [
        ("report-copy-done-1.bin", Ended::Done(WorkResult::Copy(done))),
        ("report-failed-1.bin", Ended::Failed(failure)),
        ("report-snapshot-lost-1.bin", Ended::SnapshotLost { round: 2, gone }),
    ] {
        let body = ReportBody::Ended { parts: 0, ended };
        let now = v1::UnitReport {
            seq: 9,
            task_id: "0123456789abcdefghjkm".into(),
            unit: 17,
            epoch: 5,
            body: Some(body.clone().into()),
        };
        let read = frozen(name, now);
        assert_eq!((read.seq, read.unit, read.epoch), (9, 17, 5), "{name}");
        assert_eq!(read.body.map(ReportBody::try_from), Some(Ok(body)), "{name}");
    }
}
