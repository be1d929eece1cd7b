use proptest::prelude::*;

use super::super::encode::encode;
use super::super::tuple::Field;
use super::*;

fn decode(bytes: &[u8]) -> Result<Received, BadMessage> {
    Decoder::default().decode(Bytes::copy_from_slice(bytes))
}

/// `update t set id = 2 where id = 1`, a long value unchanged.
#[test]
fn an_update_of_a_key_is_read() {
    let bytes = b"U\0\0\x40\x01K\0\x02t\0\0\0\x011nN\0\x02t\0\0\0\x012u";
    let old = Tuple::from_fields([Field::Text(b"1"), Field::Null].into_iter());
    let new = Tuple::from_fields([Field::Text(b"2"), Field::Unchanged].into_iter());
    let relation = RelationId(0x4001);
    let change = Change::Update { relation, old: Some(OldRow::Key(old)), new };
    assert_eq!(decode(bytes), Ok(Received { within: None, message: Message::Change(change) }));
}

#[test]
fn within_a_block_messages_name_their_sub_transaction() {
    let mut decoder = Decoder::default();
    let mut next = |bytes: &'static [u8]| decoder.decode(Bytes::from_static(bytes));
    next(b"S\0\0\0\x07\x01").unwrap();
    let origin = next(b"O\0\0\0\0\0\0\0\x01elsewhere\0").unwrap();
    assert_eq!(origin.within, None, "that is of the whole transaction");
    let insert = next(b"I\0\0\0\x08\0\0\0\x01N\0\x01n").unwrap();
    assert_eq!(insert.within, Some(Xid(8)));
    assert!(next(b"B").is_err(), "no transaction begins within a block");
    next(b"E").unwrap();
    let insert = next(b"I\0\0\0\x01N\0\x01n").unwrap();
    assert_eq!(insert.within, None);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let told = |bytes| decode(bytes).unwrap_err().to_string();
    assert_eq!(told(b""), r"pgoutput message `\x00`: empty, at byte 0");
    assert_eq!(told(b"P"), "pgoutput message `P`: not known, at byte 1");
    assert_eq!(
        told(b"E"),
        "pgoutput message `E`: no block of a transaction in progress is open, at byte 1"
    );
    assert_eq!(
        told(b"I\0\0\0\x01N\0\x01nn"),
        "pgoutput message `I`: longer than it should be, at byte 9"
    );
    assert_eq!(
        told(b"D\0\0\0\x01K\0\x01u"),
        "pgoutput message `D`: an old row that leaves out values, at byte 9"
    );
    assert_eq!(
        told(b"T\xff\xff\xff\xff\0\0\0\0\x01"),
        "pgoutput message `T`: cut short, at byte 10"
    );
}

fn text() -> impl Strategy<Value = Box<str>> {
    "[a-zé \"]{1,8}".prop_map(Box::from)
}

fn name() -> impl Strategy<Value = QualifiedName> {
    (text(), text()).prop_map(|(schema, name)| QualifiedName { schema, name })
}

fn tuple(whole: bool) -> impl Strategy<Value = Tuple> {
    let value = prop::collection::vec(any::<u8>(), 0..9);
    let field = (0..if whole { 3u8 } else { 4 }, value);
    prop::collection::vec(field, 0..5).prop_map(|fields| {
        Tuple::from_fields(fields.iter().map(|(kind, value)| match kind {
            0 => Field::Null,
            1 => Field::Text(value),
            2 => Field::Binary(value),
            _ => Field::Unchanged,
        }))
    })
}

fn old_row() -> impl Strategy<Value = OldRow> {
    (any::<bool>(), tuple(true)).prop_map(
        |(key, row)| {
            if key { OldRow::Key(row) } else { OldRow::Full(row) }
        },
    )
}

fn commit() -> impl Strategy<Value = Commit> {
    (any::<u32>(), 1..9u64, any::<i64>()).prop_map(|(at, length, time)| Commit {
        commit_lsn: Lsn(at.into()),
        end_lsn: Lsn(u64::from(at) + length),
        committed_at: CommitTime(time),
    })
}

fn relation() -> impl Strategy<Value = Message> {
    let identity = prop::sample::select(vec![
        ReplicaIdentity::Default,
        ReplicaIdentity::Nothing,
        ReplicaIdentity::Full,
        ReplicaIdentity::Index,
    ]);
    let column = (any::<bool>(), text(), any::<u32>(), any::<i32>()).prop_map(
        |(in_identity, name, type_oid, type_modifier)| RelationColumn {
            in_identity,
            name,
            type_oid,
            type_modifier,
        },
    );
    (any::<u32>(), name(), identity, prop::collection::vec(column, 0..4)).prop_map(
        |(id, name, replica_identity, columns)| {
            let columns = columns.into();
            Message::Relation(Relation { id: RelationId(id), name, replica_identity, columns })
        },
    )
}

fn change() -> impl Strategy<Value = Message> {
    let id = || any::<u32>().prop_map(RelationId);
    prop_oneof![
        (id(), tuple(false)).prop_map(|(relation, new)| Change::Insert { relation, new }),
        (id(), prop::option::of(old_row()), tuple(false))
            .prop_map(|(relation, old, new)| Change::Update { relation, old, new }),
        (id(), old_row()).prop_map(|(relation, old)| Change::Delete { relation, old }),
        (prop::collection::vec(id(), 0..3), any::<bool>(), any::<bool>()).prop_map(
            |(relations, cascade, restart_identity)| Change::Truncate {
                relations: relations.into(),
                cascade,
                restart_identity
            }
        ),
    ]
    .prop_map(Message::Change)
}

fn logical() -> impl Strategy<Value = Message> {
    (any::<bool>(), any::<u64>(), text(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(
        |(transactional, lsn, prefix, content)| {
            let content = content.into();
            Message::Logical(Logical { transactional, lsn: Lsn(lsn), prefix, content })
        },
    )
}

fn origin() -> impl Strategy<Value = Message> {
    let origin = |(lsn, name)| Message::Origin { commit_lsn: Lsn(lsn), name };
    (any::<u64>(), text()).prop_map(origin)
}

/// What may stand within a block as well as outside.
fn anywhere() -> impl Strategy<Value = Message> {
    prop_oneof![
        4 => change(),
        1 => relation(),
        1 => logical(),
        1 => (any::<u32>(), name()).prop_map(|(oid, name)| Message::Type { oid, name }),
    ]
}

fn outside() -> impl Strategy<Value = Message> {
    let xid = || any::<u32>().prop_map(Xid);
    prop_oneof![
        (any::<u64>(), any::<i64>(), xid()).prop_map(|(lsn, time, xid)| Message::Begin(Begin {
            commit_lsn: Lsn(lsn),
            committed_at: CommitTime(time),
            xid
        })),
        commit().prop_map(Message::Commit),
        origin(),
        (xid(), commit()).prop_map(|(xid, commit)| Message::StreamCommit { xid, commit }),
        (xid(), xid()).prop_map(|(xid, aborted)| Message::StreamAbort { xid, aborted }),
        anywhere(),
    ]
}

/// Messages in an order that a decoder can follow: some of them in blocks.
fn stream() -> impl Strategy<Value = Vec<Received>> {
    let origin = prop::option::of(origin());
    let block = (any::<u32>(), any::<bool>(), origin, prop::collection::vec(anywhere(), 0..4));
    let block = block.prop_map(|(xid, first, origin, messages)| {
        let start = Message::StreamStart { xid: Xid(xid), first };
        let origin = origin.into_iter().map(|origin| (None, origin));
        let within = messages.into_iter().map(|message| (Some(Xid(xid)), message));
        let block = [(None, start)]
            .into_iter()
            .chain(origin)
            .chain(within)
            .chain([(None, Message::StreamStop)]);
        block.map(|(within, message)| Received { within, message }).collect::<Vec<_>>()
    });
    let plain = outside().prop_map(|message| vec![Received { within: None, message }]);
    let stream = prop::collection::vec(prop_oneof![plain, block], 1..6);
    stream.prop_map(|parts| parts.into_iter().flatten().collect())
}

proptest! {
    /// What was written is read again, to the last field.
    #[test]
    fn messages_come_back_as_they_were_written(stream in stream()) {
        let mut decoder = Decoder::default();
        for received in stream {
            prop_assert_eq!(decoder.decode(encode(&received)), Ok(received));
        }
    }

    /// A valid stream that was damaged, cut or lengthened: an answer, never a panic; and what is read as a message is
    /// written as the same bytes.
    #[test]
    fn damaged_messages_are_survived(
        stream in stream(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(),
    ) {
        let mut decoder = Decoder::default();
        for received in stream {
            let mut bytes = encode(&received).to_vec();
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes.truncate(length.index(2 * bytes.len() + 1));
            let bytes = Bytes::from(bytes);
            if let Ok(read) = decoder.decode(bytes.clone()) {
                prop_assert_eq!(encode(&read), bytes);
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..5)) {
        let mut decoder = Decoder::default();
        for bytes in messages {
            let _answer = decoder.decode(Bytes::from(bytes));
        }
    }
}
