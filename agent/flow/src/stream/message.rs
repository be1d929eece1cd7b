//! What a source says by `pgoutput`: the vocabulary of protocol versions 1 and 2.
//!
//! Prepared transactions are not asked for, so they arrive as usual ones when they are committed.

use std::fmt;

use bytes::Bytes;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;

use super::tuple::Tuple;

/// A transaction id as the log has it: 32 bits, which come round again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(pub u32);

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The object id of a table of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationId(pub u32);

impl RelationId {
    /// No table has this one, so nothing comes of it.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for RelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A moment as the source's log has it: microseconds since 2000-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitTime(pub i64);

/// One message, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Within a block of a transaction in progress: the sub-transaction that did it, or the transaction itself.
    pub within: Option<Xid>,
    /// What it says.
    pub message: Message,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A committed transaction begins; its changes follow, and nobody else's in between.
    Begin(Begin),
    /// It ends.
    Commit(Commit),
    /// The transaction came from elsewhere: it was replicated to the source.
    Origin {
        /// Where it was committed first.
        commit_lsn: Lsn,
        /// The name of the origin.
        name: Box<str>,
    },
    /// Something that was written into the log by `pg_logical_emit_message`.
    Logical(Logical),
    /// A table's name and columns; comes before its first change, and again when they may have changed.
    Relation(Relation),
    /// A type that is not built in; comes before the relation that uses it.
    Type {
        /// Its object id.
        oid: u32,
        /// Its name.
        name: QualifiedName,
    },
    /// A change of rows.
    Change(Change),
    /// A block of changes of a transaction in progress begins.
    StreamStart {
        /// The top-level transaction.
        xid: Xid,
        /// Whether it is the transaction's first block.
        first: bool,
    },
    /// The block ends.
    StreamStop,
    /// A transaction that came in blocks is committed.
    StreamCommit {
        /// The top-level transaction.
        xid: Xid,
        /// Where and when.
        commit: Commit,
    },
    /// A transaction that came in blocks, or a part of it, was rolled back.
    StreamAbort {
        /// The top-level transaction.
        xid: Xid,
        /// What was rolled back: the transaction itself, or one of its sub-transactions.
        aborted: Xid,
    },
}

/// The head of a committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Where its commit record begins.
    pub commit_lsn: Lsn,
    /// When it was committed.
    pub committed_at: CommitTime,
    /// Its top-level transaction id.
    pub xid: Xid,
}

/// The end of a committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Where its commit record begins.
    pub commit_lsn: Lsn,
    /// Where its commit record ends: this is what is confirmed, and where a stream starts again.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub committed_at: CommitTime,
}

/// A message that was written into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logical {
    /// Whether it is part of a transaction; otherwise it comes at once, between transactions.
    pub transactional: bool,
    /// Where it stands.
    pub lsn: Lsn,
    /// Who it is for.
    pub prefix: Box<str>,
    /// What it says.
    pub content: Bytes,
}

/// A table as the changes that follow have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its object id at the source.
    pub id: RelationId,
    /// Its name at the source.
    pub name: QualifiedName,
    /// What is told of old rows.
    pub replica_identity: ReplicaIdentity,
    /// Its columns, in the order of the tuples. Generated ones are left out.
    pub columns: Box<[RelationColumn]>,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether it is part of the replica identity.
    pub in_identity: bool,
    /// Its name.
    pub name: Box<str>,
    /// Object id of its type.
    pub type_oid: u32,
    /// Length, precision and the like of its type.
    pub type_modifier: i32,
}

/// What a table tells of the old row of an update or delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// Its primary key.
    Default,
    /// Nothing: it takes no updates and deletes while it is published.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of an index.
    Index,
}

/// As `alter table … replica identity` has it.
impl fmt::Display for ReplicaIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Nothing => "nothing",
            Self::Full => "full",
            Self::Index => "index",
        })
    }
}

/// A change of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new row.
    Insert {
        /// Its table.
        relation: RelationId,
        /// The row.
        new: Tuple,
    },
    /// A row that was changed.
    Update {
        /// Its table.
        relation: RelationId,
        /// What is told of the row before; nothing where its identity is unchanged and not `full`.
        old: Option<OldRow>,
        /// The row after.
        new: Tuple,
    },
    /// A row that is gone.
    Delete {
        /// Its table.
        relation: RelationId,
        /// What is told of it.
        old: OldRow,
    },
    /// Tables that were emptied by one statement.
    Truncate {
        /// The tables, those included that `cascade` added.
        relations: Box<[RelationId]>,
        /// Whether it was said with `cascade`.
        cascade: bool,
        /// Whether it was said with `restart identity`.
        restart_identity: bool,
    },
}

/// What is told of a row before its change. Either tuple has all columns of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldRow {
    /// The columns of the replica identity; the others are null.
    Key(Tuple),
    /// The whole row, nothing left out.
    Full(Tuple),
}

impl OldRow {
    /// The tuple, whichever it is.
    #[must_use]
    pub fn tuple(&self) -> &Tuple {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

impl Change {
    /// The tables it changes.
    #[must_use]
    pub fn relations(&self) -> &[RelationId] {
        match self {
            Self::Insert { relation, .. }
            | Self::Update { relation, .. }
            | Self::Delete { relation, .. } => std::slice::from_ref(relation),
            Self::Truncate { relations, .. } => relations,
        }
    }

    /// Bytes of its rows: what it costs to hold it, nearly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Insert { new, .. } => new.bytes().len(),
            Self::Update { old, new, .. } => {
                old.as_ref().map_or(0, |old| old.tuple().bytes().len()) + new.bytes().len()
            }
            Self::Delete { old, .. } => old.tuple().bytes().len(),
            Self::Truncate { relations, .. } => size_of_val(&**relations),
        }
    }
}
