//! Commands of replication: who the server is, slots, and the beginning of a stream.
//!
//! A session of this kind speaks SQL too, by simple queries. A slot is made by it because only so it exports nothing and
//! holds nothing once it is there; it is looked at and dropped by SQL from any session.

use pgconvoy_shared::lsn::Lsn;

pub(crate) use super::copy_both::{CopyBoth, Event};
use super::*;

/// The first major that sends transactions while they are in progress.
const STREAMING: u32 = 14;

/// The first major whose standbys can keep a copy of a slot, to go on from after a failover.
const FAILOVER_SLOTS: u32 = 17;

/// A session that speaks of replication, and reads nothing yet.
#[derive(Debug)]
pub(crate) struct Replication {
    wire: Wire,
}

/// How transactions come that are larger than what the server holds of one in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Large {
    /// Like all others: from begin to commit, once they are committed. Until then the server keeps them in files.
    Whole,
    /// In blocks while they are in progress, between others. A server before 14 does not do that.
    InBlocks,
}

/// Which server this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct System {
    /// Of the cluster: the same on a standby, and on a server restored from a backup.
    pub(crate) identifier: u64,
    /// Grows with each promotion.
    pub(crate) timeline: u32,
    /// WAL is on disk up to here.
    pub(crate) flushed: Lsn,
}

/// The end of a timeline in a server's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Switch {
    /// The timeline that ended.
    pub(crate) timeline: u32,
    /// What it holds beyond this is not part of the server's history.
    pub(crate) at: Lsn,
}

impl Access {
    /// Logs in for replication.
    pub(crate) async fn replication(&self) -> Result<Replication, PgError> {
        Ok(Replication { wire: self.log_reader().await? })
    }
}

impl Replication {
    /// For SQL.
    pub(crate) fn sql(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Which server it is.
    pub(crate) async fn identify(&mut self) -> Result<System, PgError> {
        let rows = self.wire.query("IDENTIFY_SYSTEM").await?;
        let row = rows.first().ok_or_else(|| PgError::protocol("a server without identity"))?;
        Ok(System { identifier: field(row, 0)?, timeline: field(row, 1)?, flushed: field(row, 2)? })
    }

    /// The ends of all timelines that lead to this one, the oldest first.
    pub(crate) async fn history(&mut self, timeline: u32) -> Result<Vec<Switch>, PgError> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let rows = self.wire.query(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let content = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
        switches(content.unwrap_or_default())
    }

    /// Makes a slot that decodes by pgoutput; its consistent point, L0. Waits for every transaction that is open by now.
    pub(crate) async fn create_slot(&mut self, slot: &str) -> Result<Lsn, PgError> {
        let options = match self.wire.major()? {
            0..FAILOVER_SLOTS => "NOEXPORT_SNAPSHOT",
            _ => "(SNAPSHOT 'nothing', FAILOVER)",
        };
        let create = format!("CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL pgoutput {options}");
        let rows = self.wire.query(&create).await?;
        let row = rows.first().ok_or_else(|| PgError::protocol("a slot without a beginning"))?;
        field(row, 1)
    }

    /// Whether the server can send large transactions in blocks.
    pub(crate) fn can_send_blocks(&self) -> Result<bool, PgError> {
        Ok(self.wire.major()? >= STREAMING)
    }

    /// Begins to read what the slot still holds: every transaction whose end lies beyond `from`, or beyond what was confirmed,
    /// if that is more.
    pub(crate) async fn start(
        self,
        slot: &str,
        publication: &str,
        from: Lsn,
        large: Large,
    ) -> Result<CopyBoth, PgError> {
        let mut wire = self.wire;
        // Messages tell a marker from silence; before 14 there are none, and keepalives have to do.
        let options = match (wire.major()?, large) {
            (0..STREAMING, _) => "proto_version '1'",
            (_, Large::Whole) => "proto_version '2', streaming 'off', messages 'true'",
            (_, Large::InBlocks) => "proto_version '2', streaming 'on', messages 'true'",
        };
        let timeout = wire
            .value("select setting from pg_catalog.pg_settings where name = 'wal_sender_timeout'");
        let timeout_ms = timeout.await?;
        let timeout_ms: u64 = timeout_ms
            .parse()
            .map_err(|_| PgError::protocol(format!("wal_sender_timeout is {timeout_ms}")))?;
        let start = format!(
            "START_REPLICATION SLOT \"{slot}\" LOGICAL {from} ({options}, publication_names '\"{publication}\"')"
        );
        CopyBoth::begin(wire, &start, timeout_ms).await
    }

    /// Ends the session in good order.
    pub(crate) async fn close(self) {
        self.wire.close().await;
    }
}

/// Lines of a history file: timeline, position, reason.
fn switches(content: &str) -> Result<Vec<Switch>, PgError> {
    let bad = |line: &str| PgError::protocol(format!("a history of timelines with `{line}`"));
    let lines = content.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let mut words = line.split_whitespace();
            let (Some(timeline), Some(at)) = (words.next(), words.next()) else {
                return Err(bad(line));
            };
            Ok(Switch {
                timeline: timeline.parse().map_err(|_| bad(line))?,
                at: at.parse().map_err(|_| bad(line))?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_of_timelines_is_read() {
        let content = "1\t0/A000198\tno recovery target specified\n\n# by hand\n 2 1/0 promoted\n";
        let expected = [
            Switch { timeline: 1, at: Lsn(0x0A00_0198) },
            Switch { timeline: 2, at: Lsn(0x1_0000_0000) },
        ];
        assert_eq!(switches(content).unwrap(), expected);
        assert!(switches("one 0/0").is_err() && switches("1").is_err());
    }
}
