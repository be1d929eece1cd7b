//! What an agent tells Prometheus: what it moved, how its units ended, and whether it may work at all.
//!
//! All of it is read off the runner at each scrape, so nothing is kept up to date twice. Rows and bytes count work done,
//! that of units which failed or went elsewhere too: what is *done* only a coordinator knows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgconvoy_runtime::http::Probed;
use pgconvoy_shared::ids::AgentId;
use pgconvoy_shared::stream::ChangeCounts;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::relay::Relay;
use crate::runner::Runner;
use crate::session::Connected;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabel {
    task: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    task: String,
    kind: &'static str,
}

/// A running agent, as those see it who watch over processes.
#[derive(Debug, Clone)]
pub struct Probe {
    agent: AgentId,
    slots: u32,
    runner: Runner,
    relay: Relay,
    connected: Connected,
}

impl Probe {
    pub(crate) fn new(
        agent: AgentId,
        slots: u32,
        runner: Runner,
        relay: Relay,
        connected: Connected,
    ) -> Self {
        Self { agent, slots, runner, relay, connected }
    }
}

impl Probed for Probe {
    fn name(&self) -> String {
        format!("agent {}", self.agent)
    }

    async fn metrics(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry()).expect("a String takes all that is written");
        text
    }

    async fn health(&self) -> Result<(), String> {
        Ok(())
    }

    /// Whether units may run here.
    fn readiness(&self) -> Result<(), String> {
        if self.runner.is_draining() {
            Err("it is leaving".to_owned())
        } else if !self.connected.now() {
            Err("no session with a leader".to_owned())
        } else if !self.runner.lease().holds() {
            Err("no leader has answered a heartbeat within the lease".to_owned())
        } else {
            Ok(())
        }
    }
}

impl Probe {
    /// What there is to tell now.
    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("pgconvoy_agent");
        let rows = Family::<KindLabel, Counter>::default();
        let bytes = Family::<KindLabel, Counter>::default();
        let running = Family::<KindLabel, Level>::default();
        let ended = Family::<EndLabels, Counter>::default();
        for (kind, tally) in self.runner.tallies() {
            let label = KindLabel { kind: kind.as_str() };
            rows.get_or_create(&label).inc_by(tally.moved.rows);
            bytes.get_or_create(&label).inc_by(tally.moved.bytes);
            running.get_or_create(&label).set(tally.running);
            for (outcome, count) in
                [("done", tally.done), ("failed", tally.failed), ("given_back", tally.given_back)]
            {
                ended.get_or_create(&EndLabels { kind: kind.as_str(), outcome }).inc_by(count);
            }
        }
        registry.register("rows", "Rows moved or compared", rows);
        registry.register_with_unit("moved", "Moved or compared", Unit::Bytes, bytes);
        registry.register("units_running", "Units that run or wait for a slot", running);
        registry.register("units_ended", "Units by how they ended", ended);
        self.register_relayed(&mut registry);
        registry.register("slots", "Units that may run at once", level(self.slots.into()));
        let connected = level(self.connected.now().into());
        registry.register("connected", "1 while there is a session with a leader", connected);
        let lease = Gauge::<f64, AtomicU64>::default();
        lease.set(self.runner.lease().remaining().as_secs_f64());
        let help = "Until units have to be gone, unless a heartbeat is answered";
        registry.register_with_unit("lease_remaining", help, Unit::Seconds, lease);
        self.register_streams(&mut registry);
        registry
    }

    /// What it did for agents of other sites.
    fn register_relayed(&self, registry: &mut Registry) {
        let tally = self.relay.tally();
        let counter = |value: &AtomicU64| {
            let counter = Counter::<u64>::default();
            counter.inc_by(value.load(Ordering::Relaxed));
            counter
        };
        for (name, help, value) in [
            (
                "relayed_from_server",
                "Taken from databases for agents of other sites",
                &tally.from_server,
            ),
            ("relayed_sent", "Sent to agents of other sites for what databases said", &tally.sent),
            ("relayed_to_server", "Given to databases for agents of other sites", &tally.to_server),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, counter(value));
        }
    }

    /// What is known of the streams that this agent runs.
    fn register_streams(&self, registry: &mut Registry) {
        let lag = Family::<TaskLabel, Gauge<f64, AtomicU64>>::default();
        let kept = Family::<TaskLabel, Level>::default();
        let spilled = Family::<TaskLabel, Level>::default();
        let changes = Family::<ChangeLabels, Counter>::default();
        for running in self.runner.progress() {
            let label = TaskLabel { task: running.unit.task.to_string() };
            if let Some(slot) = running.progress.slot {
                kept.get_or_create(&label).set(slot.kept);
            }
            let Some(stream) = running.progress.stream else { continue };
            let seconds = Duration::from_millis(stream.lag_ms).as_secs_f64();
            lag.get_or_create(&label).set(seconds);
            spilled.get_or_create(&label).set(stream.spilled);
            let ChangeCounts { inserts, updates, deletes, truncates } = stream.changes;
            for (kind, count) in [
                ("insert", inserts),
                ("update", updates),
                ("delete", deletes),
                ("truncate", truncates),
            ] {
                let labels = ChangeLabels { task: label.task.clone(), kind };
                changes.get_or_create(&labels).inc_by(count);
            }
        }
        let help = "Since the source committed what is not applied yet";
        registry.register_with_unit("stream_lag", help, Unit::Seconds, lag);
        let help = "Log that the source keeps for the slot";
        registry.register_with_unit("stream_slot_kept", help, Unit::Bytes, kept);
        let help = "Of transactions in progress, in files now";
        registry.register_with_unit("stream_spilled", help, Unit::Bytes, spilled);
        registry.register("stream_changes", "Applied since this agent took over", changes);
    }
}

/// An unsigned gauge.
type Level = Gauge<u64, AtomicU64>;

fn level(value: u64) -> Level {
    let level = Level::default();
    level.set(value);
    level
}
