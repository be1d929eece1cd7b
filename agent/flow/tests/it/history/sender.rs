//! The source's end of a replication connection: sends the log as `pgoutput`, from a confirmed position on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use pgconvoy_flow::stream::encode::encode;
use pgconvoy_flow::stream::message::{
    Begin, Change, CommitTime, Message, OldRow, Received, Relation, RelationColumn, RelationId,
    ReplicaIdentity, Xid,
};
use pgconvoy_flow::stream::tuple::{Field, Tuple};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;

use super::source::{Done, Event, Kind, LONG, Row, Source, is_stored_apart};

pub(super) struct Sender {
    confirmed: Lsn,
    /// Events of the log so far.
    place: usize,
    unsent: VecDeque<Bytes>,
    /// Tables whose columns were told for good.
    told: BTreeSet<usize>,
    /// And by transactions in progress: told for good with their commit.
    told_by: BTreeMap<u64, BTreeSet<usize>>,
}

impl Sender {
    pub(super) fn new(confirmed: Lsn) -> Self {
        let (place, unsent) = (0, VecDeque::new());
        Self { confirmed, place, unsent, told: BTreeSet::new(), told_by: BTreeMap::new() }
    }

    pub(super) fn next(&mut self, source: &Source) -> Option<Bytes> {
        while self.unsent.is_empty() {
            let event = source.log.get(self.place)?.clone();
            self.place += 1;
            self.event(source, event);
        }
        self.unsent.pop_front()
    }

    fn event(&mut self, source: &Source, event: Event) {
        match event {
            Event::Block { top, changes } => {
                if !self.was_confirmed(source, top) {
                    self.block(source, top, &changes);
                }
            }
            Event::RolledBack { top, aborted } => {
                if !self.was_confirmed(source, top) {
                    // What the rolled back part told of columns is forgotten with it.
                    self.told_by.remove(&top);
                    let (xid, aborted) = (short(top), short(aborted));
                    self.say(None, Message::StreamAbort { xid, aborted });
                }
            }
            Event::Commit { top, commit, in_blocks, changes } => {
                if commit.end_lsn <= self.confirmed {
                    return;
                }
                if in_blocks {
                    if !changes.is_empty() {
                        self.block(source, top, &changes);
                    }
                    self.say(None, Message::StreamCommit { xid: short(top), commit });
                    self.told.extend(self.told_by.remove(&top).into_iter().flatten());
                    return;
                }
                let (commit_lsn, committed_at) = (commit.commit_lsn, CommitTime(0));
                self.say(None, Message::Begin(Begin { commit_lsn, committed_at, xid: short(top) }));
                for (_, change) in &changes {
                    for table in change.tables() {
                        if self.told.insert(*table) {
                            self.say(None, relation(source, *table));
                        }
                    }
                    self.say(None, message(source, change));
                }
                self.say(None, Message::Commit(commit));
            }
        }
    }

    /// Whether all of it was confirmed before this connection.
    fn was_confirmed(&self, source: &Source, wanted: u64) -> bool {
        source.log.iter().any(|event| match event {
            Event::Commit { top, commit, .. } => *top == wanted && commit.end_lsn <= self.confirmed,
            Event::Block { .. } | Event::RolledBack { .. } => false,
        })
    }

    fn block(&mut self, source: &Source, top: u64, changes: &[(u64, Done)]) {
        let first = !self.told_by.contains_key(&top);
        self.say(None, Message::StreamStart { xid: short(top), first });
        for (sub, change) in changes {
            let within = Some(short(*sub));
            for table in change.tables() {
                if self.told_by.entry(top).or_default().insert(*table) {
                    self.say(within, relation(source, *table));
                }
            }
            self.say(within, message(source, change));
        }
        self.say(None, Message::StreamStop);
    }

    fn say(&mut self, within: Option<Xid>, message: Message) {
        self.unsent.push_back(encode(&Received { within, message }));
    }
}

fn short(xid: u64) -> Xid {
    Xid(xid as u32)
}

pub(super) fn relation_id(table: usize) -> RelationId {
    RelationId(1_000 + table as u32)
}

pub(super) fn name(table: usize) -> QualifiedName {
    QualifiedName::new("public", format!("t{table}"))
}

pub(super) const COLUMNS: [&str; 3] = ["key", "short", "long"];
pub(super) const TEXT_OID: u32 = 25;

fn relation(source: &Source, table: usize) -> Message {
    let kind = source.shapes[table].kind;
    let full = kind.tells_whole_rows();
    let column = |(place, name): (usize, &&str)| RelationColumn {
        in_identity: full || kind.key().contains(&place),
        name: (*name).into(),
        type_oid: TEXT_OID,
        type_modifier: -1,
    };
    Message::Relation(Relation {
        id: relation_id(table),
        name: name(table),
        replica_identity: if full { ReplicaIdentity::Full } else { ReplicaIdentity::Default },
        columns: COLUMNS.iter().enumerate().map(column).collect(),
    })
}

/// A row as it is told.
pub(super) fn tuple(row: &Row) -> Tuple {
    Tuple::from_fields(row.iter().map(|value| Field::Text(value.as_bytes())))
}

fn message(source: &Source, done: &Done) -> Message {
    let told = |table: &usize| (source.shapes[*table].kind, relation_id(*table));
    Message::Change(match done {
        Done::Insert { table, new } => {
            Change::Insert { relation: relation_id(*table), new: tuple(new) }
        }
        Done::Delete { table, old } => {
            let (kind, relation) = told(table);
            Change::Delete { relation, old: old_row(kind, old) }
        }
        Done::Update { table, old, new } => {
            let (kind, relation) = told(table);
            let key_changed = kind.key().iter().any(|column| old[*column] != new[*column]);
            let told = kind.tells_whole_rows() || key_changed;
            let unchanged = old[LONG] == new[LONG] && is_stored_apart(&new[LONG]);
            let field = |(place, value): (usize, &'_ String)| {
                if place == LONG && unchanged { None } else { Some(value.clone()) }
            };
            let values: Vec<Option<String>> = new.iter().enumerate().map(field).collect();
            let fields = values.iter().map(|value| match value {
                Some(value) => Field::Text(value.as_bytes()),
                None => Field::Unchanged,
            });
            let new = Tuple::from_fields(fields);
            Change::Update { relation, old: told.then(|| old_row(kind, old)), new }
        }
        Done::Truncate { tables } => Change::Truncate {
            relations: tables.iter().copied().map(relation_id).collect(),
            cascade: false,
            // Of no consequence here, but for the statements that come of it.
            restart_identity: tables.len() > 1,
        },
    })
}

fn old_row(kind: Kind, old: &Row) -> OldRow {
    if kind.tells_whole_rows() {
        return OldRow::Full(tuple(old));
    }
    let fields = old.iter().enumerate().map(|(place, value)| {
        if kind.key().contains(&place) { Field::Text(value.as_bytes()) } else { Field::Null }
    });
    OldRow::Key(Tuple::from_fields(fields))
}
