//! Snapshots, and which transactions they show.
//!
//! Whatever is skipped or read again on the strength of a snapshot is decided here, by transaction id and never by position
//! or time: the order of the log is not the order in which commits become visible. Ids are those of top-level transactions,
//! widened to 64 bits (law S12).

use std::fmt;
use std::str::FromStr;

use super::message::Xid;

/// A transaction id that never comes round again, as `pg_current_xact_id()` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FullXid(pub u64);

impl fmt::Display for FullXid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Widens the ids of a stream.
///
/// What a slot has not sent yet is less than 2^31 transactions old, for the source would sooner refuse to give out ids.
/// So an id is the one of its kind that is nearest to one that was given out lately.
#[derive(Debug, Clone)]
pub struct Widener {
    near: FullXid,
}

impl Widener {
    /// `near`: the source's newest id when the stream begins.
    #[must_use]
    pub fn new(near: FullXid) -> Self {
        Self { near }
    }

    /// The whole of an id that the stream just told.
    pub fn widen(&mut self, xid: Xid) -> FullXid {
        let ahead = xid.0.wrapping_sub(self.near.0 as u32);
        let nearest = self.near.0.checked_add_signed(ahead.cast_signed().into());
        let full = FullXid(nearest.unwrap_or(self.near.0 + u64::from(ahead)));
        self.near = self.near.max(full);
        full
    }
}

/// What `pg_current_snapshot()` answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Snapshot {
    /// All before it have ended.
    xmin: FullXid,
    /// It and all after it have not begun.
    xmax: FullXid,
    /// In between, and not ended; ascending.
    in_progress: Box<[FullXid]>,
}

/// A text that is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no snapshot: xmin:xmax:xip,xip,… in ascending order")]
pub struct BadSnapshot(pub String);

impl Snapshot {
    /// A snapshot from its parts: `in_progress` between the two others, ascending.
    #[must_use]
    pub fn new(xmin: FullXid, xmax: FullXid, in_progress: Box<[FullXid]>) -> Option<Self> {
        let mut last = None;
        let in_order = in_progress.iter().all(|xid| {
            let after = last.replace(*xid).is_none_or(|last| last < *xid);
            after && (xmin..xmax).contains(xid)
        });
        (xmin <= xmax && in_order).then_some(Self { xmin, xmax, in_progress })
    }

    /// The one that shows nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { xmin: FullXid(0), xmax: FullXid(0), in_progress: Box::default() }
    }

    /// Whether it shows what this committed top-level transaction did.
    #[must_use]
    pub fn shows(&self, xid: FullXid) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// All transactions before this one have ended when it was taken (law S2 compares it with the barrier).
    #[must_use]
    pub fn xmin(&self) -> FullXid {
        self.xmin
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (index, xid) in self.in_progress.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{xid}")?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = BadSnapshot;
    fn from_str(text: &str) -> Result<Self, BadSnapshot> {
        let number = |text: &str| text.parse().map(FullXid).ok();
        let parse = || {
            let (xmin, rest) = text.split_once(':')?;
            let (xmax, list) = rest.split_once(':')?;
            let in_progress = match list {
                "" => Box::default(),
                list => list.split(',').map(number).collect::<Option<_>>()?,
            };
            Self::new(number(xmin)?, number(xmax)?, in_progress)
        };
        parse().ok_or_else(|| BadSnapshot(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_shows_what_had_ended() {
        let snapshot: Snapshot = "10:20:10,14".parse().unwrap();
        let shown: Vec<u64> = (8..22).filter(|xid| snapshot.shows(FullXid(*xid))).collect();
        assert_eq!(shown, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
        assert_eq!(snapshot.to_string(), "10:20:10,14");
        assert_eq!("7:7:".parse::<Snapshot>().unwrap().to_string(), "7:7:");
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for bad in ["", "1:2", "2:1:", "1:5:5", "1:5:0", "1:5:3,2", "1:5:2,2", "1:5:2,", "a:b:"] {
            assert_eq!(bad.parse::<Snapshot>(), Err(BadSnapshot(bad.to_owned())));
        }
    }

    #[test]
    fn ids_are_widened_to_the_nearest() {
        const ROUND: u64 = 1 << 32;
        let mut widener = Widener::new(FullXid(ROUND + 5));
        assert_eq!(widener.widen(Xid(3)), FullXid(ROUND + 3));
        assert_eq!(widener.widen(Xid(u32::MAX)), FullXid(ROUND - 1), "from before the turn");
        assert_eq!(widener.widen(Xid(0x7000_0000)), FullXid(ROUND + 0x7000_0000));
        assert_eq!(widener.widen(Xid(0xE000_0000)), FullXid(ROUND + 0xE000_0000), "it went along");
        assert_eq!(widener.widen(Xid(7)), FullXid(2 * ROUND + 7));
        assert_eq!(Widener::new(FullXid(700)).widen(Xid(800)), FullXid(800));
    }
}
