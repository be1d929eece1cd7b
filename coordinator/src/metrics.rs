//! What a node tells Prometheus.
//!
//! Counters and the histogram are moved where something happens; everything that can be read off
//! the node (Raft's positions, tasks, units, agents) is read at each scrape instead of being kept
//! up to date twice.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use pgconvoy_control::view::TaskView;
use pgconvoy_shared::stream::{SlotState, StreamProgress};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// An unsigned gauge: what we show are counts and positions.
type Level = Gauge<u64, AtomicU64>;

/// 10 µs to 2.6 s: an entry of a few commands takes some 50 µs, a slow disk makes nobody apply
/// slower.
const APPLY_BUCKETS: (f64, f64, u16) = (0.000_01, 4.0, 10);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UnitLabels {
    kind: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    task: String,
    name: String,
}

/// All metrics of one node.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Commands handed to Raft.
    pub(crate) commands: Counter,
    /// Entries they went into.
    pub(crate) entries: Counter,
    /// Time that applying one entry took.
    apply: Histogram,
    /// Agents that were not heard of for a lease time, and lost what they had.
    pub(crate) agents_lost: Counter,
    /// Leases that ended so.
    pub(crate) leases_lost: Counter,
    /// Sessions dropped because the agent did not keep up.
    pub(crate) sessions_dropped: Counter,
    levels: Levels,
    /// Locked from setting the levels to reading them, so that two scrapes do not mix.
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Levels {
    term: Level,
    leads: Level,
    last_log: Level,
    applied: Level,
    snapshot: Level,
    log_bytes: Level,
    tasks: Family<StatusLabel, Level>,
    units: Family<UnitLabels, Level>,
    agents: Family<StatusLabel, Level>,
    rows_done: Family<TaskLabels, Level>,
    rows_expected: Family<TaskLabels, Level>,
    bytes_done: Family<TaskLabels, Level>,
    bytes_expected: Family<TaskLabels, Level>,
    lag_bytes: Family<TaskLabels, Level>,
    lag: Family<TaskLabels, Gauge<f64, AtomicU64>>,
    slot_kept: Family<TaskLabels, Level>,
    slot_left: Family<TaskLabels, Level>,
    parked: Family<TaskLabels, Level>,
}

/// What is read off a node for a scrape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) term: u64,
    pub(crate) leads: bool,
    pub(crate) last_log: u64,
    pub(crate) applied: u64,
    pub(crate) snapshot: u64,
    pub(crate) log_bytes: u64,
    pub(crate) tasks: Vec<TaskReading>,
    /// Kind, state, number.
    pub(crate) units: Vec<(&'static str, &'static str, u64)>,
    /// Status, number. Known to the leader only.
    pub(crate) agents: Vec<(&'static str, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskReading {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: &'static str,
    pub(crate) rows_done: u64,
    pub(crate) rows_expected: u64,
    pub(crate) bytes_done: u64,
    pub(crate) bytes_expected: u64,
    /// Where changes are followed, and somebody says how far.
    pub(crate) stream: Option<StreamProgress>,
    /// What the source keeps for its slot, where somebody has looked.
    pub(crate) slot: Option<SlotState>,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let (start, factor, length) = APPLY_BUCKETS;
        let metrics = Metrics {
            commands: Counter::default(),
            entries: Counter::default(),
            apply: Histogram::new(exponential_buckets(start, factor, length)),
            agents_lost: Counter::default(),
            leases_lost: Counter::default(),
            sessions_dropped: Counter::default(),
            levels: Levels::default(),
            registry: Mutex::default(),
        };
        metrics.register();
        metrics
    }

    /// One entry was applied.
    pub(crate) fn applied_in(&self, time: Duration) {
        self.apply.observe(time.as_secs_f64());
    }

    /// All metrics in the OpenMetrics text form.
    pub(crate) fn render(&self, reading: &Reading) -> String {
        let registry = self.registry.lock().expect("nothing panics while it holds this lock");
        self.levels.set(reading);
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a String takes all that is written");
        text
    }

    fn register(&self) {
        let mut registry = self.registry.lock().expect("nothing panics while it holds this lock");
        let registry = registry.sub_registry_with_prefix("pgconvoy");
        registry.register("commands", "Commands handed to Raft", self.commands.clone());
        registry.register("entries", "Raft entries they went into", self.entries.clone());
        registry.register_with_unit(
            "apply",
            "Time that applying one entry took",
            Unit::Seconds,
            self.apply.clone(),
        );
        let lost = "Agents not heard of for a lease time";
        registry.register("agents_lost", lost, self.agents_lost.clone());
        let lost = "Leases that ended because their agent was lost";
        registry.register("leases_lost", lost, self.leases_lost.clone());
        let dropped = "Agent sessions dropped because the agent did not keep up";
        registry.register("sessions_dropped", dropped, self.sessions_dropped.clone());
        self.levels.register(registry);
    }
}

impl Levels {
    fn register(&self, registry: &mut Registry) {
        registry.register("raft_term", "Term of this node", self.term.clone());
        registry.register("raft_leads", "1 on the node that leads", self.leads.clone());
        registry.register("raft_log_index", "Last entry in the log", self.last_log.clone());
        registry.register("raft_applied_index", "Last entry applied", self.applied.clone());
        registry.register("raft_snapshot_index", "Last entry in a snapshot", self.snapshot.clone());
        let bytes = || Unit::Bytes;
        registry.register_with_unit("raft_log", "Size of the log", bytes(), self.log_bytes.clone());
        registry.register("tasks", "Tasks by status", self.tasks.clone());
        registry.register("units", "Units by kind and state", self.units.clone());
        let agents = "Agents by status; known to the leader only";
        registry.register("agents", agents, self.agents.clone());
        registry.register("task_rows_done", "Rows copied", self.rows_done.clone());
        registry.register("task_rows_expected", "Rows to copy", self.rows_expected.clone());
        registry.register("task_bytes_done", "Bytes copied", self.bytes_done.clone());
        registry.register("task_bytes_expected", "Bytes to copy", self.bytes_expected.clone());
        let lag = "Between the source's log and what is applied";
        registry.register_with_unit("task_lag", lag, bytes(), self.lag_bytes.clone());
        let lag = "Since the source committed what is not applied yet";
        registry.register_with_unit("task_lag", lag, Unit::Seconds, self.lag.clone());
        let kept = "Log that the source keeps for the slot";
        registry.register_with_unit("task_slot_kept", kept, bytes(), self.slot_kept.clone());
        let left = "Until max_slot_wal_keep_size is reached, as things go; absent where it is not";
        registry.register_with_unit("task_slot_left", left, Unit::Seconds, self.slot_left.clone());
        registry.register("task_tables_parked", "Tables that are parked", self.parked.clone());
    }

    fn set(&self, reading: &Reading) {
        self.term.set(reading.term);
        self.leads.set(u64::from(reading.leads));
        self.last_log.set(reading.last_log);
        self.applied.set(reading.applied);
        self.snapshot.set(reading.snapshot);
        self.log_bytes.set(reading.log_bytes);
        // What is not there any more must not stay on show.
        self.tasks.clear();
        self.units.clear();
        self.agents.clear();
        let families = [
            &self.rows_done,
            &self.rows_expected,
            &self.bytes_done,
            &self.bytes_expected,
            &self.lag_bytes,
            &self.slot_kept,
            &self.slot_left,
            &self.parked,
        ];
        families.into_iter().for_each(Family::clear);
        self.lag.clear();
        for task in &reading.tasks {
            self.tasks.get_or_create(&StatusLabel { status: task.status }).inc();
            let labels = TaskLabels { task: task.id.clone(), name: task.name.clone() };
            self.rows_done.get_or_create(&labels).set(task.rows_done);
            self.rows_expected.get_or_create(&labels).set(task.rows_expected);
            self.bytes_done.get_or_create(&labels).set(task.bytes_done);
            self.bytes_expected.get_or_create(&labels).set(task.bytes_expected);
            if let Some(stream) = &task.stream {
                self.set_stream(&labels, stream);
            }
            if let Some(slot) = &task.slot {
                self.set_slot(&labels, slot);
            }
        }
        for &(kind, state, number) in &reading.units {
            self.units.get_or_create(&UnitLabels { kind, state }).inc_by(number);
        }
        for &(status, number) in &reading.agents {
            self.agents.get_or_create(&StatusLabel { status }).inc_by(number);
        }
    }
}

impl Levels {
    fn set_stream(&self, labels: &TaskLabels, stream: &StreamProgress) {
        let behind = stream.source.0.saturating_sub(stream.applied.0);
        self.lag_bytes.get_or_create(labels).set(behind);
        self.lag.get_or_create(labels).set(Duration::from_millis(stream.lag_ms).as_secs_f64());
        self.parked.get_or_create(labels).set(stream.parked.into());
    }

    fn set_slot(&self, labels: &TaskLabels, slot: &SlotState) {
        self.slot_kept.get_or_create(labels).set(slot.kept);
        if let Some(left) = slot.seconds_left() {
            self.slot_left.get_or_create(labels).set(left);
        }
    }
}

impl Reading {
    /// Takes in a task and its units.
    pub(crate) fn add(&mut self, task: TaskView) {
        for kind in &task.units {
            let states = [
                ("done", kind.done),
                ("running", kind.running),
                ("ready", kind.ready),
                ("backed_off", kind.backed_off),
                ("failed", kind.failed),
            ];
            let of_kind = states.map(|(state, number)| (kind.kind.as_str(), state, number.into()));
            self.units.extend(of_kind);
        }
        self.tasks.push(TaskReading {
            id: task.id.into(),
            name: task.name,
            status: task.status.as_str(),
            rows_done: task.rows_done,
            rows_expected: task.rows_total,
            bytes_done: task.bytes_done,
            bytes_expected: task.bytes_total,
            slot: task.stream.as_ref().and_then(|stream| stream.slot),
            stream: task.stream.and_then(|stream| stream.progress),
        });
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::lsn::Lsn;
    use pgconvoy_shared::stream::WalStatus;

    use super::*;

    #[test]
    fn a_scrape_shows_what_is_and_not_what_was() {
        let metrics = Metrics::new();
        let task = TaskReading {
            id: "t1".into(),
            name: "shop".into(),
            rows_done: 7,
            stream: Some(StreamProgress {
                applied: Lsn(60),
                source: Lsn(100),
                lag_ms: 1_500,
                ..Default::default()
            }),
            slot: Some(SlotState {
                status: WalStatus::Extended,
                kept: 90,
                left: Some(20),
                growth: Some(4),
                source_spilled: 0,
            }),
            ..Default::default()
        };
        let reading = Reading { leads: true, term: 3, tasks: vec![task], ..Default::default() };
        metrics.agents_lost.inc();
        let text = metrics.render(&reading);
        for line in [
            "pgconvoy_raft_leads 1",
            "pgconvoy_raft_term 3",
            "pgconvoy_task_rows_done{task=\"t1\",name=\"shop\"} 7",
            "pgconvoy_agents_lost_total 1",
            "pgconvoy_task_lag_bytes{task=\"t1\",name=\"shop\"} 40",
            "pgconvoy_task_lag_seconds{task=\"t1\",name=\"shop\"} 1.5",
            "pgconvoy_task_slot_kept_bytes{task=\"t1\",name=\"shop\"} 90",
            "pgconvoy_task_slot_left_seconds{task=\"t1\",name=\"shop\"} 5",
            "pgconvoy_task_tables_parked{task=\"t1\",name=\"shop\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let text = metrics.render(&Reading::default());
        assert!(!text.contains("shop"), "{text}");
    }
}
