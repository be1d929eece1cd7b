use super::super::message::{CommitTime, RelationId};
use super::super::tuple::{Field, Tuple};
use super::*;

fn insert(value: &str) -> Change {
    let new = Tuple::from_fields([Field::Text(value.as_bytes())].into_iter());
    Change::Insert { relation: RelationId(1), new }
}

fn values(items: impl IntoIterator<Item = Item>) -> Vec<String> {
    let value = |item| match item {
        Item::Change(Change::Insert { new, .. }) => format!("{new:?}"),
        other => format!("{other:?}"),
    };
    items.into_iter().map(value).collect()
}

fn commit(at: u64) -> Commit {
    Commit { commit_lsn: Lsn(at), end_lsn: Lsn(at + 8), committed_at: CommitTime(0) }
}

fn begin(at: u64) -> Begin {
    Begin { commit_lsn: Lsn(at), committed_at: CommitTime(0), xid: Xid(1) }
}

/// A stream, message by message.
#[derive(Default)]
struct Stream(Assembler);

impl Stream {
    fn say(&mut self, message: Message) -> Result<Step, BadOrder> {
        self.0.take(Received { within: None, message })
    }

    /// A block of a transaction: its sub-transactions with the rows they insert.
    fn block(&mut self, xid: u32, rows: &[(u32, &str)]) {
        self.say(Message::StreamStart { xid: Xid(xid), first: false }).unwrap();
        for (sub, row) in rows {
            let message = Message::Change(insert(row));
            self.0.take(Received { within: Some(Xid(*sub)), message }).unwrap();
        }
        self.say(Message::StreamStop).unwrap();
    }

    fn abort(&mut self, xid: u32, aborted: u32) -> Step {
        self.say(Message::StreamAbort { xid: Xid(xid), aborted: Xid(aborted) }).unwrap()
    }

    fn commit(&mut self, xid: u32, at: u64) -> Streamed {
        match self.say(Message::StreamCommit { xid: Xid(xid), commit: commit(at) }) {
            Ok(Step::Streamed(streamed)) => streamed,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_committed_transaction_is_passed_on_as_it_comes() {
    let mut stream = Stream::default();
    assert!(matches!(stream.say(Message::Begin(begin(100))), Ok(Step::Begin(_))));
    assert!(!stream.0.at_boundary());
    let step = stream.say(Message::Change(insert("a")));
    assert!(matches!(step, Ok(Step::Item(Item::Change(_)))));
    assert_eq!(stream.0.held(), 0);
    assert!(matches!(stream.say(Message::Commit(commit(100))), Ok(Step::Commit(_))));
    assert!(stream.0.at_boundary());
}

#[test]
fn transactions_in_blocks_are_seen_at_their_commit_without_what_was_rolled_back() {
    let mut stream = Stream::default();
    stream.block(7, &[(7, "a"), (8, "b")]);
    stream.block(9, &[(9, "x")]);
    stream.block(7, &[(8, "c"), (10, "d")]);
    stream.abort(7, 8);
    stream.block(7, &[(7, "e")]);
    assert!(matches!(stream.abort(9, 9), Step::RolledBack(Xid(9))));
    let streamed = stream.commit(7, 100);
    assert_eq!(streamed.begin.xid, Xid(7));
    assert_eq!(values(streamed.into_items()), [r#"["a"]"#, r#"["d"]"#, r#"["e"]"#]);
    assert_eq!(stream.0.held(), 0);
}

#[test]
fn what_was_spilled_is_read_again_however_the_file_is_cut() {
    for cut in 1..20 {
        let mut stream = Stream::default();
        stream.block(7, &[(7, "a"), (8, "b"), (7, "long enough to be cut")]);
        stream.block(9, &[(9, "x")]);
        let spill = stream.0.spill().unwrap();
        assert_eq!(spill.xid, Xid(7), "the larger one");
        let mut file: Vec<u8> = spill.flatten().collect();
        stream.block(7, &[(10, "c")]);
        assert_eq!(stream.0.spill().unwrap().xid, Xid(9));
        file.extend(stream.0.spill().unwrap().flatten());
        assert!(stream.0.spill().is_none());
        assert_eq!(stream.0.held(), 0);
        stream.block(7, &[(7, "d")]);
        stream.abort(7, 8);

        let streamed = stream.commit(7, 100);
        let spooled = streamed.spooled.as_ref().unwrap();
        let mut items = Vec::new();
        let mut buffer = BytesMut::new();
        for chunk in file.chunks(cut) {
            buffer.extend_from_slice(chunk);
            while let Some(item) = spooled.next(&mut buffer).unwrap() {
                items.push(item);
            }
        }
        assert!(buffer.is_empty());
        items.extend(streamed.into_items());
        assert_eq!(
            values(items),
            [r#"["a"]"#, r#"["long enough to be cut"]"#, r#"["c"]"#, r#"["d"]"#]
        );
    }
}

#[test]
fn an_order_that_cannot_be_is_refused() {
    let mut stream = Stream::default();
    let change = || Message::Change(insert("a"));
    assert_eq!(stream.say(change()).unwrap_err(), BadOrder::NoTransaction);
    assert_eq!(stream.say(Message::Commit(commit(1))).unwrap_err(), BadOrder::NoTransaction);
    let unknown = Message::StreamCommit { xid: Xid(5), commit: commit(1) };
    assert_eq!(stream.say(unknown).unwrap_err(), BadOrder::NoBlocks(Xid(5)));
    stream.say(Message::Begin(begin(100))).unwrap();
    assert_eq!(stream.say(Message::Begin(begin(100))).unwrap_err(), BadOrder::Nested(Xid(1)));
    let start = Message::StreamStart { xid: Xid(5), first: true };
    assert_eq!(stream.say(start).unwrap_err(), BadOrder::Nested(Xid(5)));
    let other = BadOrder::OtherCommit { begun: Lsn(100), committed: Lsn(90) };
    assert_eq!(stream.say(Message::Commit(commit(90))).unwrap_err(), other);
    stream.say(Message::Begin(begin(100))).unwrap();
    stream.say(Message::Commit(commit(100))).unwrap();
    let backwards = BadOrder::Backwards { committed: Lsn(107), last: Lsn(108) };
    assert_eq!(stream.say(Message::Begin(begin(107))).unwrap_err(), backwards);
}
