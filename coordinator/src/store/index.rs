//! What the log holds, in memory: which indexes, and how many bytes each.
//!
//! Four bytes an entry buy answers without reading: how much to send at once, when a snapshot is
//! due, how far back the log may be kept.

use std::collections::VecDeque;
use std::ops::Range;

/// The entries that are there: `first..first + sizes.len()`.
#[derive(Debug, Default)]
pub(super) struct LogIndex {
    first: u64,
    sizes: VecDeque<u32>,
    bytes: u64,
}

impl LogIndex {
    pub(super) fn range(&self) -> Range<u64> {
        self.first..self.first + self.sizes.len() as u64
    }

    pub(super) fn last(&self) -> Option<u64> {
        self.range().next_back()
    }

    /// Of an entry that is there.
    pub(super) fn size(&self, index: u64) -> u32 {
        self.sizes[self.at(index)]
    }

    fn at(&self, index: u64) -> usize {
        usize::try_from(index - self.first).expect("the index of an entry that is there")
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// An empty log may begin anywhere; otherwise there is one place to go on.
    pub(super) fn follows(&self, index: u64) -> bool {
        self.sizes.is_empty() || index == self.range().end
    }

    pub(super) fn push(&mut self, index: u64, bytes: u32) {
        if self.sizes.is_empty() {
            self.first = index;
        }
        self.sizes.push_back(bytes);
        self.bytes += u64::from(bytes);
    }

    /// Forgets `from` and all after it.
    pub(super) fn truncate(&mut self, from: u64) {
        while self.last().is_some_and(|last| last >= from) {
            let gone = self.sizes.pop_back().expect("there is a last entry");
            self.bytes -= u64::from(gone);
        }
    }

    /// Forgets `upto` and all before it.
    pub(super) fn purge(&mut self, upto: u64) {
        while self.first <= upto {
            let Some(gone) = self.sizes.pop_front() else { break };
            self.bytes -= u64::from(gone);
            self.first += 1;
        }
    }

    /// Bytes in the entries after `index`.
    pub(super) fn bytes_after(&self, index: Option<u64>) -> u64 {
        let skip = index.map_or(0, |index| (index + 1).saturating_sub(self.first));
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.sizes.len());
        self.sizes.range(skip..).map(|&size| u64::from(size)).sum()
    }

    /// The last index that may go if `keep_bytes` of the entries up to `upto` are to stay.
    pub(super) fn keeping(&self, upto: u64, keep_bytes: u64) -> Option<u64> {
        let range = self.range();
        let mut kept = 0;
        let mut index = (upto + 1).min(range.end);
        while index > range.start {
            kept += u64::from(self.size(index - 1));
            if kept > keep_bytes {
                return Some(index - 1);
            }
            index -= 1;
        }
        None
    }

    /// The longest beginning of `wanted` with at most `bytes_max`, but at least one entry.
    pub(super) fn cut(&self, wanted: Range<u64>, bytes_max: u64) -> Range<u64> {
        let have = self.range();
        let start = wanted.start.max(have.start);
        let end = wanted.end.min(have.end);
        let mut bytes = 0;
        for index in start..end {
            bytes += u64::from(self.size(index));
            if bytes > bytes_max && index > start {
                return start..index;
            }
        }
        start..end.max(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn five() -> LogIndex {
        let mut index = LogIndex::default();
        for i in 10..15 {
            index.push(i, 100);
        }
        index
    }

    #[test]
    fn it_counts_what_is_there() {
        let mut index = five();
        assert_eq!((index.range(), index.bytes()), (10..15, 500));
        assert!(index.follows(15) && !index.follows(14) && !index.follows(16));
        index.truncate(13);
        index.purge(10);
        assert_eq!((index.range(), index.bytes()), (11..13, 200));
        index.purge(99);
        assert_eq!((index.last(), index.bytes()), (None, 0));
        assert!(index.follows(100));
        index.push(100, 7);
        assert_eq!((index.range(), index.bytes()), (100..101, 7));
    }

    #[test]
    fn it_cuts_by_bytes_but_never_to_nothing() {
        let index = five();
        assert_eq!(index.cut(10..15, 250), 10..12);
        assert_eq!(index.cut(11..13, 1_000), 11..13);
        assert_eq!(index.cut(12..15, 1), 12..13);
        assert_eq!(index.cut(0..99, 1_000), 10..15);
        assert_eq!(index.cut(20..30, 1_000), 20..20);
    }

    #[test]
    fn it_says_what_may_go_and_what_came_since() {
        let index = five();
        assert_eq!(index.bytes_after(None), 500);
        assert_eq!(index.bytes_after(Some(11)), 300);
        assert_eq!(index.bytes_after(Some(99)), 0);
        assert_eq!(index.keeping(13, 200), Some(11));
        assert_eq!(index.keeping(13, 0), Some(13));
        assert_eq!(index.keeping(13, 10_000), None);
    }
}
