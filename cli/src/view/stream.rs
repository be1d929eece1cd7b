//! How a source's changes are followed.

use pgconvoy_proto::v1;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::stream::SlotState;
use serde::Serialize;

use crate::output::human;
use crate::output::table::{fields, table};

/// How the source's changes are followed. What is none is known only while somebody follows them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StreamView {
    /// Changes that were committed behind this position are followed.
    start_lsn: Lsn,
    /// Applied, as far as is agreed on.
    applied_lsn: Lsn,
    /// All tables show one moment of the source after another; not while some are copied anew.
    consistent: bool,
    /// Read up to here.
    received_lsn: Option<Lsn>,
    /// The slot is confirmed up to here.
    confirmed_lsn: Option<Lsn>,
    /// Where the source's log is.
    source_lsn: Option<Lsn>,
    /// Tables whose changes are kept instead of being applied.
    tables_parked: Option<u32>,
    /// Tables of the source that were made since, and are not followed.
    tables_not_followed: Vec<String>,
    /// Tables that are copied anew, or shall be: their changes are kept meanwhile.
    tables_copied_anew: Vec<String>,
    /// Bytes of transactions in progress that the agent keeps in files.
    spilled_bytes: Option<u64>,
    slot: Option<SlotView>,
    /// Applied since this agent took over.
    changes: Option<ChangesView>,
    changes_per_second: Option<RatesView>,
    /// Those that change most, the busiest first.
    tables: Vec<TableChangesView>,
    #[serde(skip)]
    lag: Option<Lag>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct SlotView {
    wal_status: String,
    /// Of the source's log.
    kept_bytes: u64,
    /// Until `max_slot_wal_keep_size`; none = there is no such limit.
    left_bytes: Option<u64>,
    growth_bytes_per_second: Option<i64>,
    /// Until that limit, as things go; none = it is not coming nearer.
    left_seconds: Option<u64>,
    /// By the source's decoder.
    source_spilled_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct ChangesView {
    inserts: u64,
    updates: u64,
    deletes: u64,
    truncates: u64,
}

/// To one decimal.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct RatesView {
    inserts: f64,
    updates: f64,
    deletes: f64,
    truncates: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct TableChangesView {
    name: String,
    changes: ChangesView,
    changes_per_second: RatesView,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Lag {
    bytes: u64,
    ms: u64,
}

/// How far the destination is behind, in bytes.
pub(crate) fn bytes_behind(progress: &v1::StreamProgress) -> u64 {
    progress.source.saturating_sub(progress.applied)
}

impl From<&v1::TaskStream> for StreamView {
    fn from(stream: &v1::TaskStream) -> Self {
        let (checkpoint, now) = (stream.checkpoint.unwrap_or_default(), stream.progress.as_ref());
        let applied = now.map_or(0, |now| now.applied).max(checkpoint.applied);
        let tables = now.map(|now| {
            now.tables
                .iter()
                .filter_map(|table| TableChangesView::of(table, now.recent_ms))
                .collect()
        });
        Self {
            start_lsn: Lsn(stream.start),
            applied_lsn: Lsn(applied),
            consistent: checkpoint.consistent && stream.tables_copied_anew.is_empty(),
            received_lsn: now.map(|now| Lsn(now.received)),
            confirmed_lsn: now.map(|now| Lsn(now.confirmed)),
            source_lsn: now.map(|now| Lsn(now.source)),
            tables_parked: now.map(|now| now.parked),
            tables_not_followed: all_shown(&stream.tables_not_followed),
            tables_copied_anew: all_shown(&stream.tables_copied_anew),
            spilled_bytes: now.map(|now| now.spilled),
            slot: stream.slot.and_then(SlotView::of),
            changes: now.map(|now| now.changes.unwrap_or_default().into()),
            changes_per_second: now
                .map(|now| RatesView::of(now.recent.unwrap_or_default(), now.recent_ms)),
            tables: tables.unwrap_or_default(),
            lag: now.map(|now| Lag { bytes: bytes_behind(now), ms: now.lag_ms }),
        }
    }
}

/// Tables in words.
pub(crate) fn all_shown(names: &[v1::QualifiedName]) -> Vec<String> {
    names.iter().cloned().filter_map(shown).collect()
}

fn shown(name: v1::QualifiedName) -> Option<String> {
    QualifiedName::try_from(name).ok().map(|name| name.to_string())
}

impl SlotView {
    fn of(wire: v1::SlotState) -> Option<Self> {
        let slot = SlotState::try_from(wire).ok()?;
        Some(Self {
            wal_status: slot.status.as_str().to_owned(),
            kept_bytes: slot.kept,
            left_bytes: slot.left,
            growth_bytes_per_second: slot.growth,
            left_seconds: slot.seconds_left(),
            source_spilled_bytes: slot.source_spilled,
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!("keeps {}, {}", human::bytes(self.kept_bytes), self.wal_status);
        if let Some(growth) = self.growth_bytes_per_second.filter(|growth| *growth > 0) {
            text.push_str(&format!(", grows {}/s", human::bytes(growth.unsigned_abs())));
        }
        match (self.left_seconds, self.left_bytes) {
            (Some(secs), _) => {
                let time = human::duration_ms(secs.saturating_mul(1000));
                text.push_str(&format!(", max_slot_wal_keep_size in {time}"));
            }
            (None, Some(left)) => {
                text.push_str(&format!(", {} below max_slot_wal_keep_size", human::bytes(left)));
            }
            (None, None) => {}
        }
        text
    }
}

impl From<v1::ChangeCounts> for ChangesView {
    fn from(counts: v1::ChangeCounts) -> Self {
        let v1::ChangeCounts { inserts, updates, deletes, truncates } = counts;
        Self { inserts, updates, deletes, truncates }
    }
}

impl ChangesView {
    fn all(self) -> u64 {
        let Self { inserts, updates, deletes, truncates } = self;
        [inserts, updates, deletes, truncates].into_iter().fold(0, u64::saturating_add)
    }
}

impl RatesView {
    fn of(counts: v1::ChangeCounts, ms: u64) -> Self {
        let rate = |count: u64| {
            let tenths = count.saturating_mul(10_000).checked_div(ms).unwrap_or(0);
            #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
            let tenths = tenths as f64;
            tenths / 10.0
        };
        Self {
            inserts: rate(counts.inserts),
            updates: rate(counts.updates),
            deletes: rate(counts.deletes),
            truncates: rate(counts.truncates),
        }
    }

    fn to_text(self) -> String {
        let Self { inserts, updates, deletes, .. } = self;
        format!("{inserts} inserts/s, {updates} updates/s, {deletes} deletes/s")
    }
}

impl TableChangesView {
    fn of(table: &v1::TableChanges, ms: u64) -> Option<Self> {
        Some(Self {
            name: shown(table.name.clone()?)?,
            changes: table.changes.unwrap_or_default().into(),
            changes_per_second: RatesView::of(table.recent.unwrap_or_default(), ms),
        })
    }

    fn row(&self) -> [String; 5] {
        let RatesView { inserts, updates, deletes, .. } = self.changes_per_second;
        [
            self.name.clone(),
            inserts.to_string(),
            updates.to_string(),
            deletes.to_string(),
            human::count(self.changes.all()),
        ]
    }
}

impl StreamView {
    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let lag = self.lag.map_or_else(String::new, |Lag { bytes, ms }| {
            format!(", {} and {} behind", human::bytes(bytes), human::duration_ms(ms))
        });
        let changes = self.changes.zip(self.changes_per_second).map(|(changes, rates)| {
            format!("{}, {} in all", rates.to_text(), human::count(changes.all()))
        });
        let at_source = self.slot.as_ref().map_or(0, |slot| slot.source_spilled_bytes);
        let spilled = match (self.spilled_bytes.unwrap_or(0), at_source) {
            (0, 0) => String::new(),
            (here, there) => {
                let (here, there) = (human::bytes(here), human::bytes(there));
                format!("{here} at the agent now, {there} at the source so far")
            }
        };
        let mut text = fields([
            ("applied", format!("{}{lag}", self.applied_lsn)),
            ("slot", self.slot.as_ref().map(SlotView::to_text).unwrap_or_default()),
            ("changes", changes.unwrap_or_default()),
            ("spilled", spilled),
            ("copied anew", self.tables_copied_anew.join(", ")),
            ("not followed", self.tables_not_followed.join(", ")),
        ]);
        if !self.tables.is_empty() {
            let rows = self.tables.iter().map(TableChangesView::row);
            let head = ["changing", ">inserts/s", ">updates/s", ">deletes/s", ">changes"];
            text = format!("{text}\n\n{}", table(&head, rows));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> v1::TaskStream {
        let counts = |inserts, updates, deletes| v1::ChangeCounts {
            inserts,
            updates,
            deletes,
            truncates: 0,
        };
        let name = |name: &str| v1::QualifiedName { schema: "public".into(), name: name.into() };
        v1::TaskStream {
            start: 1,
            checkpoint: Some(v1::Checkpoint { applied: 0x800, consistent: true }),
            progress: Some(v1::StreamProgress {
                received: 0x1000,
                applied: 0x900,
                source: 0x1100,
                lag_ms: 1_500,
                spilled: 1 << 20,
                changes: Some(counts(1_200, 30, 4)),
                recent: Some(counts(123, 5, 0)),
                recent_ms: 10_000,
                tables: vec![v1::TableChanges {
                    name: Some(name("orders")),
                    changes: Some(counts(1_200, 30, 4)),
                    recent: Some(counts(123, 5, 0)),
                }],
                ..Default::default()
            }),
            tables_not_followed: vec![name("new")],
            tables_copied_anew: Vec::new(),
            slot: Some(v1::SlotState {
                status: v1::WalStatus::Extended.into(),
                kept: 2 << 30,
                left: Some(600 << 20),
                growth: Some(1 << 20),
                source_spilled: 0,
            }),
        }
    }

    #[test]
    fn people_see_lag_rates_and_when_the_slot_is_given_up() {
        let text = StreamView::from(&stream()).to_text();
        for words in [
            "0/900, 2.0 KiB and 1.5s behind",
            "keeps 2.0 GiB, extended, grows 1.0 MiB/s, max_slot_wal_keep_size in 10m 00s",
            "12.3 inserts/s, 0.5 updates/s, 0 deletes/s, 1,234 in all",
            "1.0 MiB at the agent now",
            "public.new",
            "public.orders",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        let stopped = v1::TaskStream { progress: None, ..stream() };
        let text = StreamView::from(&stopped).to_text();
        assert!(text.starts_with("applied:       0/800\n"), "{text}");
        assert!(text.contains("keeps 2.0 GiB"), "while rows are copied, too\n{text}");
    }

    #[test]
    fn programs_see_the_same() {
        let json = serde_json::to_value(StreamView::from(&stream())).unwrap();
        assert_eq!(json["slot"]["left_seconds"], 600);
        assert_eq!(json["slot"]["kept_bytes"], 2_u64 << 30);
        assert_eq!(json["received_lsn"], "0/1000");
        assert_eq!(json["changes_per_second"]["inserts"], 12.3);
        assert_eq!(json["tables"][0]["changes"]["updates"], 30);
        assert_eq!(json["tables_not_followed"][0], "public.new");
        assert_eq!(json["consistent"], true);
        let anew = v1::QualifiedName { schema: "public".into(), name: "orders".into() };
        let anew = v1::TaskStream { tables_copied_anew: vec![anew], ..stream() };
        let json = serde_json::to_value(StreamView::from(&anew)).unwrap();
        assert_eq!(json["tables_copied_anew"][0], "public.orders");
        assert_eq!(json["consistent"], false);
    }
}
