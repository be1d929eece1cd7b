//! Reads the messages of `pgoutput`.
//!
//! Nothing is guessed: a message that is not known, cut short or longer than it should be is an error, and an error ends the
//! stream before anything of it is applied. Whatever the bytes are, no panic. Rows are not copied: they are slices of
//! what was read.

use std::fmt;

use bytes::Bytes;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;

use super::message::{
    Begin, Change, Commit, CommitTime, Logical, Message, OldRow, Received, Relation,
    RelationColumn, RelationId, ReplicaIdentity, Xid,
};
use super::tuple::Tuple;

/// Follows one stream, from `START_REPLICATION` on.
///
/// It remembers one thing: whether a block of a transaction in progress is open, for messages in such a block begin with
/// the id of their sub-transaction.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    in_block: bool,
}

/// Bytes that are no message of the protocol versions that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pgoutput message {tag}: {what}, at byte {at}")]
pub struct BadMessage {
    /// Its first byte.
    pub tag: Tag,
    /// What is wrong.
    pub what: &'static str,
    /// Where, from the beginning of the message.
    pub at: usize,
}

/// The first byte of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub u8);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0.escape_ascii())
    }
}

impl Decoder {
    /// For messages that were put by out of such blocks.
    pub(super) fn within_a_block() -> Self {
        Self { in_block: true }
    }

    /// Reads the payload of one `XLogData`.
    pub fn decode(&mut self, payload: Bytes) -> Result<Received, BadMessage> {
        let tag = Tag(payload.first().copied().unwrap_or_default());
        let length = payload.len();
        let mut rest = Cursor(payload);
        let received = self.read(&mut rest).and_then(|received| {
            if rest.0.is_empty() { Ok(received) } else { Err("longer than it should be") }
        });
        received.map_err(|what| BadMessage { tag, what, at: length - rest.0.len() })
    }

    fn read(&mut self, rest: &mut Cursor) -> Result<Received, Wrong> {
        let tag = rest.u8().map_err(|_| "empty")?;
        let within = match tag {
            b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' if self.in_block => Some(rest.xid()?),
            b'B' | b'C' | b'S' | b'c' | b'A' if self.in_block => {
                return Err("within a block of a transaction in progress");
            }
            // `O` too may come within a block, behind its start: of the whole transaction.
            b'E' if !self.in_block => return Err("no block of a transaction in progress is open"),
            _ => None,
        };
        let message = rest.message(tag)?;
        match message {
            Message::StreamStart { .. } => self.in_block = true,
            Message::StreamStop => self.in_block = false,
            _ => {}
        }
        Ok(Received { within, message })
    }
}

/// What is wrong with a message.
type Wrong = &'static str;

/// The bytes of a message that are not read yet.
struct Cursor(Bytes);

impl Cursor {
    fn message(&mut self, tag: u8) -> Result<Message, Wrong> {
        Ok(match tag {
            b'B' => Message::Begin(Begin {
                commit_lsn: self.lsn()?,
                committed_at: self.time()?,
                xid: self.xid()?,
            }),
            b'C' => Message::Commit(self.commit()?),
            b'O' => Message::Origin { commit_lsn: self.lsn()?, name: self.text()? },
            b'M' => Message::Logical(self.logical()?),
            b'R' => Message::Relation(self.relation()?),
            b'Y' => Message::Type { oid: self.u32()?, name: self.name()? },
            b'I' => Message::Change(self.insert()?),
            b'U' => Message::Change(self.update()?),
            b'D' => Message::Change(self.delete()?),
            b'T' => Message::Change(self.truncate()?),
            b'S' => Message::StreamStart { xid: self.xid()?, first: self.flag()? },
            b'E' => Message::StreamStop,
            b'c' => Message::StreamCommit { xid: self.xid()?, commit: self.commit()? },
            b'A' => Message::StreamAbort { xid: self.xid()?, aborted: self.xid()? },
            _ => return Err("not known"),
        })
    }

    fn commit(&mut self) -> Result<Commit, Wrong> {
        if self.u8()? != 0 {
            return Err("flags of a commit that are not known");
        }
        let commit =
            Commit { commit_lsn: self.lsn()?, end_lsn: self.lsn()?, committed_at: self.time()? };
        if commit.end_lsn <= commit.commit_lsn {
            return Err("a commit record that ends before it begins");
        }
        Ok(commit)
    }

    fn logical(&mut self) -> Result<Logical, Wrong> {
        let transactional = self.flag()?;
        let lsn = self.lsn()?;
        let prefix = self.text()?;
        let length = self.u32()?;
        let length = usize::try_from(length).map_err(|_| "content longer than its message")?;
        if length > self.0.len() {
            return Err("content longer than its message");
        }
        Ok(Logical { transactional, lsn, prefix, content: self.0.split_to(length) })
    }

    fn relation(&mut self) -> Result<Relation, Wrong> {
        let id = self.relation_id()?;
        let name = self.name()?;
        let replica_identity = match self.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            _ => return Err("a replica identity that is not known"),
        };
        let columns = self.u16()?;
        let columns = (0..columns).map(|_| self.column()).collect::<Result<_, _>>()?;
        Ok(Relation { id, name, replica_identity, columns })
    }

    fn column(&mut self) -> Result<RelationColumn, Wrong> {
        Ok(RelationColumn {
            in_identity: self.flag()?,
            name: self.text()?,
            type_oid: self.u32()?,
            // Signed on the wire as in the catalogue.
            type_modifier: self.u32()?.cast_signed(),
        })
    }

    fn insert(&mut self) -> Result<Change, Wrong> {
        let relation = self.relation_id()?;
        match self.u8()? {
            b'N' => Ok(Change::Insert { relation, new: self.tuple()? }),
            _ => Err("an insert without a new row"),
        }
    }

    fn update(&mut self) -> Result<Change, Wrong> {
        let relation = self.relation_id()?;
        let (old, next) = match self.u8()? {
            tag @ (b'K' | b'O') => (Some(self.old_row(tag)?), self.u8()?),
            next => (None, next),
        };
        match next {
            b'N' => Ok(Change::Update { relation, old, new: self.tuple()? }),
            _ => Err("an update without a new row"),
        }
    }

    fn delete(&mut self) -> Result<Change, Wrong> {
        let relation = self.relation_id()?;
        let tag = self.u8()?;
        Ok(Change::Delete { relation, old: self.old_row(tag)? })
    }

    fn old_row(&mut self, tag: u8) -> Result<OldRow, Wrong> {
        let row = match tag {
            b'K' => OldRow::Key(self.tuple()?),
            b'O' => OldRow::Full(self.tuple()?),
            _ => return Err("an old row that is neither a key nor whole"),
        };
        if row.tuple().is_whole() { Ok(row) } else { Err("an old row that leaves out values") }
    }

    fn truncate(&mut self) -> Result<Change, Wrong> {
        let count = self.u32()?;
        let flags = self.u8()?;
        if flags & !3 != 0 {
            return Err("flags of a truncate that are not known");
        }
        // Collected one by one, not in advance: the count is only what the message claims.
        let relations = (0..count).map(|_| self.relation_id()).collect::<Result<_, _>>()?;
        Ok(Change::Truncate {
            relations,
            cascade: flags & 1 != 0,
            restart_identity: flags & 2 != 0,
        })
    }

    fn tuple(&mut self) -> Result<Tuple, Wrong> {
        Tuple::split_from(&mut self.0)
    }

    /// An empty schema stands for `pg_catalog`.
    fn name(&mut self) -> Result<QualifiedName, Wrong> {
        let schema = self.text()?;
        let schema = if schema.is_empty() { "pg_catalog".into() } else { schema };
        Ok(QualifiedName { schema, name: self.text()? })
    }

    fn text(&mut self) -> Result<Box<str>, Wrong> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or("a text that does not end")?;
        let text = str::from_utf8(&self.0[..end]).map_err(|_| "a text that is no UTF-8")?.into();
        drop(self.0.split_to(end + 1));
        Ok(text)
    }

    fn flag(&mut self) -> Result<bool, Wrong> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("flags that are not known"),
        }
    }

    fn lsn(&mut self) -> Result<Lsn, Wrong> {
        self.take().map(u64::from_be_bytes).map(Lsn)
    }

    fn time(&mut self) -> Result<CommitTime, Wrong> {
        self.take().map(i64::from_be_bytes).map(CommitTime)
    }

    fn xid(&mut self) -> Result<Xid, Wrong> {
        self.u32().map(Xid)
    }

    fn relation_id(&mut self) -> Result<RelationId, Wrong> {
        self.u32().map(RelationId)
    }

    fn u32(&mut self) -> Result<u32, Wrong> {
        self.take().map(u32::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, Wrong> {
        self.take().map(u16::from_be_bytes)
    }

    fn u8(&mut self) -> Result<u8, Wrong> {
        self.take().map(|[byte]: [u8; 1]| byte)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let taken = *self.0.first_chunk().ok_or("cut short")?;
        drop(self.0.split_to(N));
        Ok(taken)
    }
}

#[cfg(test)]
mod tests;
