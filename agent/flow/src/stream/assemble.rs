//! Puts transactions together.
//!
//! A source sends a transaction whole when it has been committed, or, from version 14 on, a large one in blocks while it is
//! in progress, between others. Blocks are kept by transaction until it ends, and none of it is seen before: a transaction
//! that is rolled back leaves nothing, nor does a sub-transaction that is.
//!
//! What is kept is bounded by whoever calls: while more than enough is [`held`](Assembler::held), [`spill`](Assembler::spill)
//! gives the largest transaction's changes away, to be appended to a file of its own; [`Spooled`] reads them again. Such a
//! file lives no longer than the connection: a slot sends again all that was not confirmed.
//!
//! A transaction that comes whole is passed on change by change. So it is never held, however large it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pgconvoy_shared::lsn::Lsn;

use super::decode::{BadMessage, Decoder};
use super::encode::encode;
use super::laws::{Law, Laws};
use super::message::{Begin, Change, Commit, Logical, Message, Received, Relation, Xid};

/// Follows one stream, from `START_REPLICATION` on.
#[derive(Debug, Default)]
pub struct Assembler {
    /// What is open just now.
    open: Open,
    /// Transactions that come in blocks and have not ended.
    in_progress: BTreeMap<Xid, Blocks>,
    /// Bytes of their changes in memory.
    held: usize,
    /// The end of the last commit.
    last: Lsn,
    laws: Laws,
}

#[derive(Debug, Default)]
enum Open {
    #[default]
    Nothing,
    /// A committed transaction, between its begin and its commit.
    Transaction(Begin),
    /// A block of a transaction in progress.
    Block(Xid),
}

/// What is kept of a transaction in progress.
#[derive(Debug, Default)]
struct Blocks {
    items: Vec<(Xid, Item)>,
    bytes: usize,
    spilled: bool,
    aborted: BTreeSet<Xid>,
}

/// What a transaction consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// How a table looks from here on.
    Relation(Arc<Relation>),
    /// A change of rows.
    Change(Change),
    /// A message that was written within it.
    Logical(Logical),
}

/// What a message led to.
#[derive(Debug)]
pub enum Step {
    /// Nothing yet.
    Kept,
    /// A committed transaction begins: its items come next, then its commit.
    Begin(Begin),
    /// A part of it.
    Item(Item),
    /// It is complete.
    Commit(Commit),
    /// A transaction that came in blocks is complete.
    Streamed(Streamed),
    /// A transaction that came in blocks was rolled back: what was spilled of it may go.
    RolledBack(Xid),
    /// A message that is part of no transaction.
    Logical(Logical),
}

/// A committed transaction that came in blocks.
#[derive(Debug)]
pub struct Streamed {
    /// Its head.
    pub begin: Begin,
    /// Its end.
    pub commit: Commit,
    /// Reads what was spilled of it, if anything was: that comes first.
    pub spooled: Option<Spooled>,
    aborted: BTreeSet<Xid>,
    items: Vec<(Xid, Item)>,
}

impl Streamed {
    /// What was not spilled, in order.
    pub fn into_items(self) -> impl Iterator<Item = Item> {
        let Self { items, aborted, .. } = self;
        items.into_iter().filter(move |(xid, _)| !aborted.contains(xid)).map(|(_, item)| item)
    }
}

/// Messages in an order that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOrder {
    /// Part of a transaction where none is open.
    #[error("a change or a commit comes where no transaction is open")]
    NoTransaction,
    /// The begin of a transaction within another.
    #[error("transaction {0} begins within another")]
    Nested(Xid),
    /// A commit that is not the one its begin told of.
    #[error("the transaction that is to be committed at {begun} is committed at {committed}")]
    OtherCommit {
        /// What its begin said.
        begun: Lsn,
        /// What its commit says.
        committed: Lsn,
    },
    /// The commit of a transaction of which no block came.
    #[error("transaction {0} is committed, but none of its blocks came")]
    NoBlocks(Xid),
    /// A commit before one that came earlier.
    #[error("a commit at {committed} comes after one that ends at {last}")]
    Backwards {
        /// Where it begins.
        committed: Lsn,
        /// Where the last one ends.
        last: Lsn,
    },
}

impl Assembler {
    /// The same without a law.
    #[cfg(feature = "lawless")]
    #[must_use]
    pub fn under(mut self, laws: Laws) -> Self {
        self.laws = laws;
        self
    }

    /// Takes the next message.
    pub fn take(&mut self, received: Received) -> Result<Step, BadOrder> {
        let Received { within, message } = received;
        match message {
            Message::Begin(begin) => self.begin(begin),
            Message::Commit(commit) => self.commit(commit),
            Message::Relation(relation) => self.item(within, Item::Relation(Arc::new(relation))),
            Message::Change(change) => self.item(within, Item::Change(change)),
            Message::Logical(logical) if logical.transactional => {
                self.item(within, Item::Logical(logical))
            }
            Message::Logical(logical) => Ok(Step::Logical(logical)),
            // Nothing is decided by where a change came from, nor by the names of types.
            Message::Origin { .. } | Message::Type { .. } => Ok(Step::Kept),
            Message::StreamStart { xid, .. } => {
                if !matches!(self.open, Open::Nothing) {
                    return Err(BadOrder::Nested(xid));
                }
                self.open = Open::Block(xid);
                self.in_progress.entry(xid).or_default();
                Ok(Step::Kept)
            }
            Message::StreamStop => {
                self.open = Open::Nothing;
                Ok(Step::Kept)
            }
            Message::StreamCommit { xid, commit } => self.streamed(xid, commit),
            Message::StreamAbort { xid, aborted } => Ok(self.aborted(xid, aborted)),
        }
    }

    /// Bytes of changes that are kept in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether no committed transaction is half received: all that the source committed before a position that it tells now
    /// has been passed on.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        !matches!(self.open, Open::Transaction(_))
    }

    /// Gives away what is held of the transaction that holds most.
    pub fn spill(&mut self) -> Option<Spill> {
        let (xid, blocks) = self.in_progress.iter_mut().max_by_key(|(_, blocks)| blocks.bytes)?;
        if blocks.items.is_empty() {
            return None;
        }
        self.held -= std::mem::take(&mut blocks.bytes);
        blocks.spilled = true;
        Some(Spill { xid: *xid, items: std::mem::take(&mut blocks.items).into_iter() })
    }

    fn begin(&mut self, begin: Begin) -> Result<Step, BadOrder> {
        if !matches!(self.open, Open::Nothing) {
            return Err(BadOrder::Nested(begin.xid));
        }
        self.forward(begin.commit_lsn)?;
        self.open = Open::Transaction(begin);
        Ok(Step::Begin(begin))
    }

    fn commit(&mut self, commit: Commit) -> Result<Step, BadOrder> {
        let Open::Transaction(begin) = std::mem::take(&mut self.open) else {
            return Err(BadOrder::NoTransaction);
        };
        if begin.commit_lsn != commit.commit_lsn {
            let (begun, committed) = (begin.commit_lsn, commit.commit_lsn);
            return Err(BadOrder::OtherCommit { begun, committed });
        }
        self.last = commit.end_lsn;
        Ok(Step::Commit(commit))
    }

    fn item(&mut self, within: Option<Xid>, item: Item) -> Result<Step, BadOrder> {
        match (&self.open, within) {
            (Open::Transaction(_), None) => Ok(Step::Item(item)),
            (Open::Block(top), Some(xid)) => {
                let bytes = item.bytes();
                let blocks = self.in_progress.entry(*top).or_default();
                blocks.items.push((xid, item));
                blocks.bytes += bytes;
                self.held += bytes;
                Ok(Step::Kept)
            }
            _ => Err(BadOrder::NoTransaction),
        }
    }

    fn streamed(&mut self, xid: Xid, commit: Commit) -> Result<Step, BadOrder> {
        let blocks = self.remove(xid).ok_or(BadOrder::NoBlocks(xid))?;
        self.forward(commit.commit_lsn)?;
        self.last = commit.end_lsn;
        let Commit { commit_lsn, committed_at, .. } = commit;
        let Blocks { items, spilled, aborted, .. } = blocks;
        // The one that tells which snapshots show it: that of the whole transaction.
        let lower = items.last().map_or(xid, |(lower, _)| *lower);
        let xid = if self.laws.hold(Law::TopLevel) { xid } else { lower };
        Ok(Step::Streamed(Streamed {
            begin: Begin { commit_lsn, committed_at, xid },
            commit,
            spooled: spilled.then(|| Spooled { aborted: aborted.clone() }),
            aborted,
            items,
        }))
    }

    /// A transaction of which no block came has nothing to roll back.
    fn aborted(&mut self, xid: Xid, aborted: Xid) -> Step {
        if aborted == xid {
            return self.remove(xid).map_or(Step::Kept, |_| Step::RolledBack(xid));
        }
        if let Some(blocks) = self.in_progress.get_mut(&xid)
            && self.laws.hold(Law::RolledBack)
        {
            blocks.aborted.insert(aborted);
        }
        Step::Kept
    }

    fn remove(&mut self, xid: Xid) -> Option<Blocks> {
        let blocks = self.in_progress.remove(&xid)?;
        self.held -= blocks.bytes;
        Some(blocks)
    }

    fn forward(&self, committed: Lsn) -> Result<(), BadOrder> {
        let last = self.last;
        if committed < last { Err(BadOrder::Backwards { committed, last }) } else { Ok(()) }
    }
}

impl Item {
    /// What it costs to hold it, nearly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let own = size_of::<(Xid, Self)>();
        own + match self {
            Self::Relation(relation) => size_of_val(&*relation.columns),
            Self::Change(change) => change.bytes(),
            Self::Logical(logical) => logical.content.len(),
        }
    }

    fn from_message(message: Message) -> Option<Self> {
        match message {
            Message::Relation(relation) => Some(Self::Relation(Arc::new(relation))),
            Message::Change(change) => Some(Self::Change(change)),
            Message::Logical(logical) => Some(Self::Logical(logical)),
            _ => None,
        }
    }

    fn into_message(self) -> Message {
        match self {
            Self::Relation(relation) => Message::Relation(Arc::unwrap_or_clone(relation)),
            Self::Change(change) => Message::Change(change),
            Self::Logical(logical) => Message::Logical(logical),
        }
    }
}

/// What is to be appended to the file of a transaction: records, in order, each made when it is asked for.
#[derive(Debug)]
pub struct Spill {
    /// The transaction.
    pub xid: Xid,
    items: std::vec::IntoIter<(Xid, Item)>,
}

impl Iterator for Spill {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let (xid, item) = self.items.next()?;
        let message = encode(&Received { within: Some(xid), message: item.into_message() });
        let mut record = BytesMut::with_capacity(LENGTH_BYTES + message.len());
        record.put_u32(u32::try_from(message.len()).expect("a message has less than 1 GiB"));
        record.put_slice(&message);
        Some(record.freeze())
    }
}

/// A record is a message, after its length.
const LENGTH_BYTES: usize = 4;

/// No server sends a longer message.
const MESSAGE_MAX: usize = 1 << 30;

/// Reads the records of a [`Spill`] again, and leaves out what was rolled back.
#[derive(Debug)]
pub struct Spooled {
    aborted: BTreeSet<Xid>,
}

/// A file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSpool {
    /// A record cannot be read.
    #[error("a change that was put by cannot be read again")]
    Message(#[source] BadMessage),
    /// A record says that it is longer than any message.
    #[error("what was put by says that it is {length} bytes long")]
    Length {
        /// What it says.
        length: usize,
    },
    /// A record holds what is never put by.
    #[error("what was put by is no part of a transaction")]
    NoItem,
}

impl Spooled {
    /// The next item, taken from the front of `buffer`; none = more of the file has to be read. At the end of the file an
    /// empty buffer is left.
    pub fn next(&self, buffer: &mut BytesMut) -> Result<Option<Item>, BadSpool> {
        loop {
            let Some(length) = buffer.first_chunk() else { return Ok(None) };
            let length = u32::from_be_bytes(*length) as usize;
            if length > MESSAGE_MAX {
                return Err(BadSpool::Length { length });
            }
            if buffer.len() - LENGTH_BYTES < length {
                buffer.reserve(LENGTH_BYTES + length - buffer.len());
                return Ok(None);
            }
            buffer.advance(LENGTH_BYTES);
            let message = buffer.split_to(length).freeze();
            let received = Decoder::within_a_block().decode(message).map_err(BadSpool::Message)?;
            if received.within.is_some_and(|xid| self.aborted.contains(&xid)) {
                continue;
            }
            return Item::from_message(received.message).map(Some).ok_or(BadSpool::NoItem);
        }
    }
}

#[cfg(test)]
mod tests;
