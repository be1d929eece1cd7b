//! Reading everything once, when a store is opened: does each value match its checksum, is the log
//! without a hole, does it reach what was committed?

use std::path::Path;

use super::error::{Damage, StoreError};
use super::header::Header;
use super::index::LogIndex;
use super::keys::Key;
use super::log::Mark;
use super::value::{self, Assembler};

/// What an opened log holds.
#[derive(Default)]
pub(super) struct Scan {
    pub(super) header: Option<Header>,
    pub(super) marks: Marks,
    pub(super) index: LogIndex,
    /// Keys of entries before the purged mark.
    pub(super) leftovers: Vec<Vec<u8>>,
}

/// What stands beside the entries.
#[derive(Default)]
pub(super) struct Marks {
    pub(super) vote: Option<Vec<u8>>,
    pub(super) committed: Option<Mark>,
    pub(super) purged: Option<Mark>,
}

/// Why it cannot be told what a log holds.
pub(super) enum ScanError {
    Damage(Damage),
    Sled(sled::Error),
}

impl From<Damage> for ScanError {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

impl ScanError {
    pub(super) fn at(self, dir: &Path) -> StoreError {
        match self {
            Self::Damage(damage) => StoreError::Damaged { dir: dir.to_owned(), damage },
            Self::Sled(source) => StoreError::Sled { action: "read the log", source },
        }
    }
}

/// Reads and checks every value. Marks and header sort around the entries, so they are looked at last.
pub(super) fn scan(db: &sled::Db) -> Result<Scan, ScanError> {
    let mut scan = Scan::default();
    let mut sizes = Vec::new();
    let mut assembler = Assembler::default();
    for item in db.iter() {
        let (key, stored) = item.map_err(ScanError::Sled)?;
        let Some((key, bytes)) = assembler.push(&key, &stored)? else { continue };
        let mark = || Mark::decode(&bytes).ok_or_else(|| unreadable(key, "too short"));
        match key {
            Key::Header => {
                let header =
                    postcard::from_bytes(&bytes).map_err(|error| unreadable(key, error))?;
                scan.header = Some(header);
            }
            Key::Committed => scan.marks.committed = Some(mark()?),
            Key::Purged => scan.marks.purged = Some(mark()?),
            Key::Vote => scan.marks.vote = Some(bytes),
            Key::Entry(index) => sizes.push((index, bytes.len())),
        }
    }
    assembler.finish()?;

    let purged = scan.marks.purged.as_ref().map(|mark| mark.index);
    let mut expected = purged.map_or(0, |index| index + 1);
    for (index, bytes) in sizes {
        let bytes = u32::try_from(bytes).expect("a value has at most 65535 parts of 8 KiB");
        if purged.is_some_and(|purged| index <= purged) {
            let parts = 0..value::part_count(bytes);
            scan.leftovers.extend(parts.map(|part| Key::Entry(index).part(part)));
            continue;
        }
        if index != expected {
            return Err(Damage::Hole { expected, found: index }.into());
        }
        scan.index.push(index, bytes);
        expected += 1;
    }
    let last = scan.index.last().or(purged);
    if let Some(committed) = scan.marks.committed.as_ref().map(|mark| mark.index)
        && last.is_none_or(|last| last < committed)
    {
        return Err(Damage::Short { last, committed }.into());
    }
    if scan.header.is_none() && (last.is_some() || scan.marks.vote.is_some()) {
        return Err(Damage::NoHeader.into());
    }
    Ok(scan)
}

pub(super) fn unreadable(key: Key, reason: impl ToString) -> Damage {
    Damage::Unreadable { key: key.to_string(), reason: reason.to_string() }
}
