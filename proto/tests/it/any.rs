//! Strategies for any value of the vocabulary.

use std::collections::{BTreeMap, BTreeSet};

use pgconvoy_proto::convert::{Leased, ReportBody, RunningUnit};
use pgconvoy_shared::cutover::{
    ComparedAgain, CopiedAgain, CutoverDone, CutoverOrder, CutoverSettings, CutoverStep, Writers,
};
use pgconvoy_shared::endpoint::{Endpoint, Side, SslMode};
use pgconvoy_shared::epoch::{Epoch, Generation};
use pgconvoy_shared::failure::{Failure, FailureClass};
use pgconvoy_shared::ids::{AgentId, TableNo, TaskId, UnitId, UnitNo};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::neighbours::{Neighbour, Neighbours};
use pgconvoy_shared::parking::{Cause, Changes, Parking};
use pgconvoy_shared::precheck::{PrecheckItem, Severity};
use pgconvoy_shared::secret::Secret;
use pgconvoy_shared::spec::{
    CopySettings, IncrementalSettings, MigrationType, ObjectRules, RetryWindows, SchemaSettings,
    TaskSpec,
};
use pgconvoy_shared::stream::*;
use pgconvoy_shared::unit::*;
use pgconvoy_shared::verify::*;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,8}"
}

/// A text that says something, for where empty means none.
fn some_text() -> impl Strategy<Value = String> {
    "\\PC{1,8}"
}

fn name() -> impl Strategy<Value = QualifiedName> {
    (some_text(), some_text()).prop_map(|(schema, name)| QualifiedName::new(schema, name))
}

fn agent() -> impl Strategy<Value = AgentId> {
    "[a-z0-9._-]{1,12}".prop_map(|text| text.parse().unwrap())
}

pub(crate) fn neighbours() -> impl Strategy<Value = Neighbours> {
    let one = || {
        (agent(), text(), text()).prop_map(|(agent, site, address)| Neighbour {
            agent,
            site,
            address,
        })
    };
    (vec(one(), 0..3), vec(one(), 0..3))
        .prop_map(|(partners, owners)| Neighbours { partners, owners })
}

fn unit() -> impl Strategy<Value = UnitId> {
    let task = "[a-z0-9]{12,26}".prop_map(|text| text.parse::<TaskId>().unwrap());
    (task, any::<u32>()).prop_map(|(task, no)| UnitId { task, no: UnitNo(no) })
}

pub(crate) fn failure() -> impl Strategy<Value = Failure> {
    let classes = vec![FailureClass::Transient, FailureClass::Other, FailureClass::Definite];
    (select(classes), text(), text(), text(), text(), option::of(some_text())).prop_map(
        |(class, code, subject, message, remedy, sqlstate)| Failure {
            class,
            code,
            subject,
            message,
            remedy,
            sqlstate,
        },
    )
}

pub(crate) fn precheck_item() -> impl Strategy<Value = PrecheckItem> {
    let sides = option::of(select(vec![Side::Source, Side::Destination]));
    let severities = select(vec![Severity::Info, Severity::Warning, Severity::Error]);
    (text(), sides, text(), severities, text(), text(), text()).prop_map(
        |(code, side, object, severity, observed, required, remedy)| PrecheckItem {
            code,
            side,
            object,
            severity,
            observed,
            required,
            remedy,
        },
    )
}

prop_compose! {
    fn endpoint()(
        host in text(),
        port in 1..=u16::MAX,
        database in text(),
        user in text(),
        sslmode in select(vec![
            SslMode::Disable, SslMode::Allow, SslMode::Prefer,
            SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull,
        ]),
        files in [option::of(some_text()), option::of(some_text()), option::of(some_text())],
        connect_timeout_secs in any::<u32>(),
        settings in btree_map(text(), text(), 0..3),
        site in option::of(some_text()),
    ) -> Endpoint {
        let settings: BTreeMap<String, String> = settings;
        let [sslrootcert, sslcert, sslkey] = files;
        Endpoint {
            host, port, database, user, sslmode, sslrootcert, sslcert, sslkey,
            connect_timeout_secs, settings, site,
        }
    }
}

fn mode() -> impl Strategy<Value = SnapshotMode> {
    select(vec![SnapshotMode::Task, SnapshotMode::Shard])
}

prop_compose! {
    pub(crate) fn spec()(
        name in text(),
        source in endpoint(),
        destination in endpoint(),
        types in btree_set(select(vec![MigrationType::Schema, MigrationType::Full, MigrationType::Incremental]), 1..=3),
        include in vec(text(), 0..3),
        exclude in vec(text(), 0..3),
        jobs in 1..=u32::MAX,
        index_jobs in 1..=u32::MAX,
        shard_size_bytes in 1..=u64::MAX,
        snapshot in mode(),
        connection_ms in 1..=u64::MAX,
        other_ms in 1..=u64::MAX,
        (roles, database_settings, tablespaces) in any::<(bool, bool, bool)>(),
        set_replica_identity in any::<bool>(),
    ) -> TaskSpec {
        let types: BTreeSet<MigrationType> = types;
        TaskSpec {
            name, source, destination, types,
            objects: ObjectRules { include, exclude },
            schema: SchemaSettings { roles, database_settings, tablespaces },
            copy: CopySettings { jobs, shard_size_bytes, index_jobs, snapshot },
            retry: RetryWindows { connection_ms, other_ms },
            incremental: IncrementalSettings { set_replica_identity },
        }
    }
}

fn shared_snapshot() -> impl Strategy<Value = SharedSnapshot> {
    let export = (agent(), text()).prop_map(|(agent, id)| Export { agent, id });
    (any::<u32>(), text(), any::<u64>(), vec(export, 0..3)).prop_map(
        |(round, snapshot, lsn, exports)| SharedSnapshot {
            round,
            snapshot,
            noted_lsn: Lsn(lsn),
            exports,
        },
    )
}

fn part() -> impl Strategy<Value = Part> {
    let bound = || {
        option::of(vec(text(), 0..3).prop_map(|values| values.into_iter().map(Box::from).collect()))
    };
    prop_oneof![
        Just(Part::Whole),
        (bound(), bound()).prop_map(|(from, to)| Part::Range { from, to }),
        (any::<u32>(), any::<Option<u32>>()).prop_map(|(from, to)| Part::Blocks { from, to }),
    ]
}

prop_compose! {
    fn table_plan()(
        no in any::<u32>(),
        generation in any::<u32>(),
        name in name(),
        write_to in name(),
        columns in vec(text(), 0..3),
        fingerprint in text(),
        filenode in any::<Option<u32>>(),
        format in select(vec![CopyFormat::Text, CopyFormat::Binary]),
        key in vec((text(), text()), 0..3),
    ) -> TablePlan {
        let key = key.into_iter().map(|(name, type_name)| KeyColumn { name, type_name }).collect();
        TablePlan {
            no: TableNo(no), generation: Generation(generation), name, write_to, columns,
            fingerprint, filenode, format, key,
        }
    }
}

prop_compose! {
    fn plan_table()(
        no in any::<u32>(),
        name in name(),
        generation in any::<u32>(),
        bytes in any::<u64>(),
        filenode in any::<Option<u32>>(),
    ) -> PlanTable {
        let generation = Generation(generation);
        PlanTable { no: TableNo(no), name, generation, bytes, filenode, anew: bytes % 2 == 1 }
    }
}

prop_compose! {
    fn opened()(start in any::<u64>(), barrier in any::<u64>(), system_identifier in any::<u64>(), timeline in any::<u32>()) -> StreamOpened {
        StreamOpened { start: Lsn(start), barrier, system_identifier, timeline }
    }
}

prop_compose! {
    fn checkpoint()(applied in any::<u64>(), consistent in any::<bool>()) -> Checkpoint {
        Checkpoint { applied: Lsn(applied), consistent }
    }
}

fn table_nos() -> impl Strategy<Value = Vec<TableNo>> {
    vec(any::<u32>().prop_map(TableNo), 0..3)
}

prop_compose! {
    fn park_cause()(
        failure in failure(),
        [operation, key, statement] in [text(), text(), text()],
        [commit_lsn, xid, ordinal] in any::<[u64; 3]>(),
    ) -> Cause {
        Cause { failure, operation, key, commit_lsn: Lsn(commit_lsn), xid, ordinal, statement }
    }
}

prop_compose! {
    fn parking()(
        table in any::<u32>(),
        generation in any::<u32>(),
        changes in prop_oneof![
            Just(Changes::Applied),
            park_cause().prop_map(|cause| Changes::Parked(Box::new(cause))),
            any::<u64>().prop_map(Changes::Held),
        ],
    ) -> Parking {
        Parking { table: TableNo(table), generation: Generation(generation), changes }
    }
}

prop_compose! {
    fn changes()(counts in any::<[u64; 4]>()) -> ChangeCounts {
        let [inserts, updates, deletes, truncates] = counts;
        ChangeCounts { inserts, updates, deletes, truncates }
    }
}

prop_compose! {
    fn table_changes()(name in name(), changes in changes(), recent in changes()) -> TableChanges {
        TableChanges { name, changes, recent }
    }
}

prop_compose! {
    fn slot()(
        status in select(vec!["reserved", "extended", "unreserved", "lost"]),
        kept in any::<u64>(),
        left in any::<Option<u64>>(),
        growth in any::<Option<i64>>(),
        source_spilled in any::<u64>(),
    ) -> SlotState {
        let status = WalStatus::named(status).unwrap();
        SlotState { status, kept, left, growth, source_spilled }
    }
}

fn note() -> impl Strategy<Value = StreamNote> {
    prop_oneof![
        vec(name(), 0..3).prop_map(StreamNote::NotFollowed),
        slot().prop_map(StreamNote::SlotAtRisk),
        slot().prop_map(StreamNote::SlotSafe),
    ]
}

prop_compose! {
    fn stream_progress()(
        positions in any::<[u64; 4]>(),
        counts in any::<[u64; 4]>(),
        consistent in any::<bool>(),
        parked in any::<u32>(),
        changes in changes(),
        recent in changes(),
        tables in vec(table_changes(), 0..3),
    ) -> StreamProgress {
        let [received, applied, confirmed, source] = positions.map(Lsn);
        let [looks, lag_ms, spilled, recent_ms] = counts;
        StreamProgress {
            received,
            applied,
            confirmed,
            source,
            looks,
            lag_ms,
            consistent,
            parked,
            spilled,
            changes,
            recent,
            recent_ms,
            tables,
        }
    }
}

pub(crate) fn work() -> impl Strategy<Value = Work> {
    let survey = (mode(), any::<u32>(), option::of(some_text()))
        .prop_map(|(mode, round, lost)| Work::Survey(Survey { mode, round, lost }));
    let shard = || {
        let numbers = any::<(u32, Option<u64>, u64)>();
        (table_plan(), part(), option::of(shared_snapshot()), numbers).prop_map(
            |(table, part, snapshot, (shard, barrier, bytes))| CopyShard {
                table,
                shard,
                part,
                snapshot,
                barrier,
                bytes,
            },
        )
    };
    let copy = shard().prop_map(|shard| Work::Copy(Box::new(shard)));
    let verify_rows = (shard(), 1..=10_000u32).prop_map(|(shard, sample)| {
        let sample = Sample::hundredths(sample).unwrap();
        Work::VerifyRows(Box::new(VerifyRows { shard, sample }))
    });
    let audited =
        (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(no, generation, shards)| {
            AuditTable { no: TableNo(no), generation: Generation(generation), shards }
        });
    let index = (text(), vec(any::<u32>(), 0..3))
        .prop_map(|(subject, entries)| Work::Index(IndexBuild { subject, entries }));
    prop_oneof![
        select(vec![
            Work::Precheck { verified: true },
            Work::SchemaPre,
            Work::OpenStream,
            Work::SchemaPost,
            Work::Sequences,
            Work::VerifySchema,
            Work::VerifySequences,
            Work::Finish
        ]),
        survey,
        (opened(), checkpoint(), [table_nos(), table_nos(), table_nos()], any::<u32>()).prop_map(
            |(opened, checkpoint, [resume, hold, gone], cutovers_over)| {
                Work::Stream(StreamOrder { opened, checkpoint, resume, hold, gone, cutovers_over })
            }
        ),
        cutover_order().prop_map(|order| Work::Cutover(Box::new(order))),
        vec(plan_table(), 0..3).prop_map(Work::Plan),
        copy,
        vec(audited, 0..3).prop_map(Work::Audit),
        index,
        vec(name(), 0..3).prop_map(Work::Analyze),
        vec(plan_table(), 0..3).prop_map(Work::VerifyPlan),
        verify_rows,
    ]
}

fn difference() -> impl Strategy<Value = Difference> {
    select(vec![Difference::Missing, Difference::Extra, Difference::Different])
}

fn not_compared() -> impl Strategy<Value = NotCompared> {
    (text(), any::<bool>()).prop_map(|(reason, differs)| NotCompared { reason, differs })
}

prop_compose! {
    fn rows_compared()(
        figures in any::<[u64; 8]>(),
        at_least in any::<bool>(),
        listed in vec((difference(), text(), any::<u64>()), 0..3),
        lists in vec(text(), 0..3),
        not_compared in option::of(not_compared()),
        through in option::of(name()),
    ) -> RowsCompared {
        let [source_rows, destination_rows, bytes, compared, missing, extra, different, moving] = figures;
        let listed = listed
            .into_iter()
            .map(|(difference, key, count)| RowDifference { difference, key, count })
            .collect();
        RowsCompared {
            source_rows, destination_rows, bytes, compared, missing, extra, different, moving, at_least,
            listed, lists, not_compared, through,
        }
    }
}

fn objects_compared() -> impl Strategy<Value = ObjectsCompared> {
    let object = (difference(), text(), text(), text()).prop_map(
        |(difference, object, source, destination)| ObjectDifference {
            difference,
            object,
            source,
            destination,
        },
    );
    let skipped = (text(), text()).prop_map(|(object, reason)| ObjectSkipped { object, reason });
    let figures = (any::<u64>(), any::<u64>(), any::<u64>());
    (figures, vec(object, 0..3), vec(skipped, 0..3)).prop_map(
        |((objects, differences, went_on), listed, skipped)| ObjectsCompared {
            objects,
            differences,
            listed,
            went_on,
            skipped,
        },
    )
}

prop_compose! {
    fn cutover_order()(
        step in select(vec![
            CutoverStep::Check, CutoverStep::Compare, CutoverStep::Ready, CutoverStep::Fence, CutoverStep::Prove,
            CutoverStep::Switch, CutoverStep::Lift,
        ]),
        attempt in any::<u32>(),
        writers in select(vec![Writers::Fenced, Writers::Stopped]),
        dry_run in any::<bool>(),
        timeout_ms in 1..=u64::MAX,
        sequence_margin in any::<u32>(),
        ignore in btree_set(text(), 0..3),
        sample in option::of(1u32..=10_000),
        check_budget_ms in any::<u64>(),
        copy_again in any::<bool>(),
        leave_sessions_of in btree_set(text(), 0..3),
        by in text(),
        setting_before in option::of(text()),
        [fence, marker, left_ms] in any::<[u64; 3]>(),
    ) -> CutoverOrder {
        let compare = sample.map(|sample| VerifySettings { sample: Sample::hundredths(sample).unwrap() });
        let settings =
            CutoverSettings { writers, dry_run, timeout_ms, sequence_margin, ignore, compare, check_budget_ms, copy_again, leave_sessions_of, by };
        let (fence, marker) = (Lsn(fence), Lsn(marker));
        CutoverOrder { step, attempt, settings, setting_before, fence, marker, left_ms }
    }
}

fn again() -> impl Strategy<Value = ComparedAgain> {
    (any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
        |(tables, tables_left_out, keys, keys_compared)| ComparedAgain {
            tables,
            tables_left_out,
            keys,
            keys_compared,
        },
    )
}

fn copied() -> impl Strategy<Value = CopiedAgain> {
    (any::<u32>(), any::<u64>(), any::<u64>())
        .prop_map(|(tables, rows, large_objects)| CopiedAgain { tables, rows, large_objects })
}

fn cutover_done() -> impl Strategy<Value = CutoverDone> {
    prop_oneof![
        (option::of(text()), any::<u64>()).prop_map(|(setting_before, lag_bytes)| {
            CutoverDone::Checked { setting_before, lag_bytes }
        }),
        (any::<u64>(), option::of(again()))
            .prop_map(|(lag_bytes, again)| CutoverDone::Ready { lag_bytes, again }),
        (any::<u64>(), any::<u32>(), vec(text(), 0..3))
            .prop_map(|(at, ended, left)| CutoverDone::Fenced { at: Lsn(at), ended, left }),
        (any::<u64>(), any::<u32>(), option::of(again()), option::of(copied())).prop_map(
            |(at, sequences, again, copied)| {
                CutoverDone::Proved { marker: Lsn(at), sequences, again, copied }
            }
        ),
        select(vec![CutoverDone::Switched, CutoverDone::Lifted]),
        failure().prop_map(CutoverDone::Refused),
    ]
}

fn work_result() -> impl Strategy<Value = WorkResult> {
    let left_out = (any::<u32>(), vec(name(), 0..3));
    let survey = (any::<u64>(), option::of(shared_snapshot()), any::<bool>(), left_out).prop_map(
        |(system_identifier, snapshot, continues, (left_out, left_out_names))| {
            WorkResult::Survey(SurveyDone {
                system_identifier,
                snapshot,
                continues,
                left_out,
                left_out_names,
            })
        },
    );
    let copy = (any::<u64>(), any::<u64>(), text(), any::<u64>(), any::<bool>()).prop_map(
        |(rows, bytes, snapshot, lsn, found_done)| {
            WorkResult::Copy(CopyDone { rows, bytes, snapshot, noted_lsn: Lsn(lsn), found_done })
        },
    );
    let missing = (any::<u32>(), any::<u32>()).prop_map(|(table, shard)| (TableNo(table), shard));
    prop_oneof![
        vec(precheck_item(), 0..3).prop_map(WorkResult::Precheck),
        (any::<u32>(), any::<u32>()).prop_map(|(entries_run, entries_kept)| {
            WorkResult::SchemaPre { entries_run, entries_kept }
        }),
        survey,
        opened().prop_map(WorkResult::OpenStream),
        cutover_done().prop_map(WorkResult::Cutover),
        copy,
        vec(missing, 0..3).prop_map(|missing| WorkResult::Audit { missing }),
        any::<u32>().prop_map(|entries_run| WorkResult::SchemaPost { entries_run }),
        any::<u32>().prop_map(|count| WorkResult::Sequences { count }),
        select(vec![
            WorkResult::Plan,
            WorkResult::Index,
            WorkResult::Analyze,
            WorkResult::VerifyPlan,
            WorkResult::Finish
        ]),
        rows_compared().prop_map(WorkResult::VerifyRows),
        objects_compared().prop_map(WorkResult::VerifySchema),
        objects_compared().prop_map(WorkResult::VerifySequences),
    ]
}

prop_compose! {
    fn surveyed()(
        name in name(),
        bytes in any::<u64>(),
        rows in any::<u64>(),
        filenode in any::<Option<u32>>(),
        index_entries in vec(any::<u32>(), 0..3),
        late_entries in vec(any::<u32>(), 0..3),
    ) -> SurveyedTable {
        SurveyedTable { name, bytes, rows, filenode, index_entries, late_entries }
    }
}

fn result_part() -> impl Strategy<Value = ResultPart> {
    let shard = (part(), any::<u64>(), any::<u64>()).prop_map(|(part, bytes, rows)| PlannedShard {
        part,
        bytes,
        rows,
    });
    prop_oneof![
        vec(surveyed(), 0..3).prop_map(ResultPart::Tables),
        table_plan().prop_map(ResultPart::Plan),
        vec(shard, 0..3).prop_map(ResultPart::Shards),
        (any::<u32>(), not_compared())
            .prop_map(|(table, why)| ResultPart::NotCompared { table: TableNo(table), why }),
    ]
}

pub(crate) fn report_body() -> impl Strategy<Value = ReportBody> {
    let done = (any::<u32>(), work_result())
        .prop_map(|(parts, result)| ReportBody::Ended { parts, ended: Ended::Done(result) });
    let undone = prop_oneof![
        failure().prop_map(Ended::Failed),
        Just(Ended::Released),
        (any::<u32>(), vec(agent(), 0..3))
            .prop_map(|(round, gone)| Ended::SnapshotLost { round, gone }),
        (any::<u32>(), failure())
            .prop_map(|(table, failure)| Ended::TableChanged { table: TableNo(table), failure }),
        any::<(u32, u64)>().prop_map(|(table, system_identifier)| {
            Ended::TableGone { table: TableNo(table), system_identifier }
        }),
    ];
    prop_oneof![
        (any::<u32>(), result_part()).prop_map(|(no, part)| ReportBody::Part { no, part }),
        checkpoint().prop_map(ReportBody::Checkpoint),
        note().prop_map(ReportBody::Note),
        parking().prop_map(|parking| ReportBody::Parking(Box::new(parking))),
        done,
        undone.prop_map(|ended| ReportBody::Ended { parts: 0, ended }),
    ]
}

pub(crate) fn leased() -> impl Strategy<Value = Leased> {
    let password = || option::of(some_text().prop_map(Secret::new));
    let purpose = select(vec![Purpose::Migrate, Purpose::Precheck, Purpose::Verify]);
    (unit(), any::<u32>(), spec(), password(), password(), work(), purpose).prop_map(
        |(unit, epoch, spec, source_password, destination_password, work, purpose)| Leased {
            purpose,
            unit,
            epoch: Epoch(epoch),
            spec,
            source_password,
            destination_password,
            work,
        },
    )
}

pub(crate) fn running() -> impl Strategy<Value = RunningUnit> {
    let counts = any::<(u64, u64)>();
    let progress = (counts, option::of(stream_progress()), option::of(slot()));
    let progress =
        progress.prop_map(|((rows, bytes), stream, slot)| Progress { rows, bytes, stream, slot });
    (unit(), any::<u32>(), progress).prop_map(|(unit, epoch, progress)| RunningUnit {
        unit,
        epoch: Epoch(epoch),
        progress,
    })
}
