//! Writes messages of `pgoutput`: the inverse of [`decode`](super::decode).
//!
//! Changes that do not fit into memory are put by in this form and read again by the one decoder; a model of a source
//! speaks it too.

use bytes::{BufMut, Bytes, BytesMut};
use pgconvoy_shared::name::QualifiedName;

use super::message::{
    Change, Commit, Logical, Message, OldRow, Received, Relation, ReplicaIdentity,
};

/// The message as a source would send it.
#[must_use]
pub fn encode(received: &Received) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(tag(&received.message));
    if let Some(xid) = received.within {
        out.put_u32(xid.0);
    }
    match &received.message {
        Message::Begin(begin) => {
            out.put_u64(begin.commit_lsn.0);
            out.put_i64(begin.committed_at.0);
            out.put_u32(begin.xid.0);
        }
        Message::Commit(commit) => put_commit(&mut out, commit),
        Message::Origin { commit_lsn, name } => {
            out.put_u64(commit_lsn.0);
            put_text(&mut out, name);
        }
        Message::Logical(logical) => put_logical(&mut out, logical),
        Message::Relation(relation) => put_relation(&mut out, relation),
        Message::Type { oid, name } => {
            out.put_u32(*oid);
            put_name(&mut out, name);
        }
        Message::Change(change) => put_change(&mut out, change),
        Message::StreamStart { xid, first } => {
            out.put_u32(xid.0);
            out.put_u8(u8::from(*first));
        }
        Message::StreamStop => {}
        Message::StreamCommit { xid, commit } => {
            out.put_u32(xid.0);
            put_commit(&mut out, commit);
        }
        Message::StreamAbort { xid, aborted } => {
            out.put_u32(xid.0);
            out.put_u32(aborted.0);
        }
    }
    out.freeze()
}

fn tag(message: &Message) -> u8 {
    match message {
        Message::Begin(_) => b'B',
        Message::Commit(_) => b'C',
        Message::Origin { .. } => b'O',
        Message::Logical(_) => b'M',
        Message::Relation(_) => b'R',
        Message::Type { .. } => b'Y',
        Message::Change(Change::Insert { .. }) => b'I',
        Message::Change(Change::Update { .. }) => b'U',
        Message::Change(Change::Delete { .. }) => b'D',
        Message::Change(Change::Truncate { .. }) => b'T',
        Message::StreamStart { .. } => b'S',
        Message::StreamStop => b'E',
        Message::StreamCommit { .. } => b'c',
        Message::StreamAbort { .. } => b'A',
    }
}

fn put_commit(out: &mut BytesMut, commit: &Commit) {
    out.put_u8(0);
    out.put_u64(commit.commit_lsn.0);
    out.put_u64(commit.end_lsn.0);
    out.put_i64(commit.committed_at.0);
}

fn put_logical(out: &mut BytesMut, logical: &Logical) {
    out.put_u8(u8::from(logical.transactional));
    out.put_u64(logical.lsn.0);
    put_text(out, &logical.prefix);
    out.put_u32(count(logical.content.len()));
    out.put_slice(&logical.content);
}

fn put_relation(out: &mut BytesMut, relation: &Relation) {
    out.put_u32(relation.id.0);
    put_name(out, &relation.name);
    out.put_u8(match relation.replica_identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.put_u16(u16::try_from(relation.columns.len()).expect("a table has at most 1,600 columns"));
    for column in &relation.columns {
        out.put_u8(u8::from(column.in_identity));
        put_text(out, &column.name);
        out.put_u32(column.type_oid);
        out.put_i32(column.type_modifier);
    }
}

fn put_change(out: &mut BytesMut, change: &Change) {
    match change {
        Change::Insert { relation, new } => {
            out.put_u32(relation.0);
            out.put_u8(b'N');
            out.put_slice(new.bytes());
        }
        Change::Update { relation, old, new } => {
            out.put_u32(relation.0);
            if let Some(old) = old {
                put_old_row(out, old);
            }
            out.put_u8(b'N');
            out.put_slice(new.bytes());
        }
        Change::Delete { relation, old } => {
            out.put_u32(relation.0);
            put_old_row(out, old);
        }
        Change::Truncate { relations, cascade, restart_identity } => {
            out.put_u32(count(relations.len()));
            out.put_u8(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            for relation in relations {
                out.put_u32(relation.0);
            }
        }
    }
}

fn put_old_row(out: &mut BytesMut, old: &OldRow) {
    out.put_u8(match old {
        OldRow::Key(_) => b'K',
        OldRow::Full(_) => b'O',
    });
    out.put_slice(old.tuple().bytes());
}

fn put_name(out: &mut BytesMut, name: &QualifiedName) {
    put_text(out, if &*name.schema == "pg_catalog" { "" } else { &name.schema });
    put_text(out, &name.name);
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("a message has less than 1 GiB")
}
