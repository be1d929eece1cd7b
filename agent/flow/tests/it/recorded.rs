//! A stream that PostgreSQL 15 sent, as `pg_logical_slot_peek_binary_changes` gave it: protocol version 2, with streaming and
//! messages. Of the inserts within a block the first two are kept.

use std::fmt::Write;

use bytes::Bytes;
use pgconvoy_flow::stream::assemble::{Assembler, Item, Step};
use pgconvoy_flow::stream::decode::Decoder;
use pgconvoy_flow::stream::encode::encode;
use pgconvoy_flow::stream::message::{Change, Message};

pub(crate) fn messages() -> impl Iterator<Item = Bytes> {
    let byte = |hex: &str| u8::from_str_radix(hex, 16).unwrap();
    let bytes =
        move |line: &str| (0..line.len()).step_by(2).map(|at| byte(&line[at..at + 2])).collect();
    include_str!("recorded/pgoutput-15.hex").lines().map(bytes)
}

#[test]
fn what_a_server_sent_is_read_and_written_as_it_was() {
    let mut decoder = Decoder::default();
    for bytes in messages() {
        let received = decoder.decode(bytes.clone()).unwrap();
        assert_eq!(encode(&received), bytes, "{received:?}");
    }
}

#[test]
fn what_a_server_sent_are_the_transactions_that_were_committed() {
    let mut decoder = Decoder::default();
    let mut assembler = Assembler::default();
    let mut told = String::new();
    for bytes in messages() {
        match assembler.take(decoder.decode(bytes).unwrap()).unwrap() {
            Step::Item(item) => tell(&mut told, &item),
            Step::Commit(_) => told.push('\n'),
            Step::Logical(logical) => writeln!(told, "message {}", logical.prefix).unwrap(),
            Step::Streamed(streamed) => {
                told.push_str("in blocks: ");
                streamed.into_items().for_each(|item| tell(&mut told, &item));
                told.push('\n');
            }
            Step::Kept | Step::Begin(_) | Step::RolledBack(_) => {}
        }
    }
    let told = told.replace("; \n", ";\n");
    // Of the rows that were rolled back to a savepoint none is told; nor is the transaction that has not ended.
    assert_eq!(told, include_str!("recorded/transactions.txt"));
    let kinds = |bytes: Bytes| decoder.decode(bytes).map(|received| received.message);
    assert!(
        messages().map(kinds).any(|message| matches!(message, Ok(Message::StreamAbort { .. })))
    );
}

/// One word for each part of a transaction; values are cut to be read.
fn tell(told: &mut String, item: &Item) {
    let short = |row: &dyn std::fmt::Debug| format!("{row:?}").replace(&"x".repeat(3_000), "x…");
    match item {
        Item::Relation(relation) => {
            let columns: Vec<&str> = relation.columns.iter().map(|column| &*column.name).collect();
            write!(told, "{} {} {columns:?}; ", relation.name, relation.replica_identity)
        }
        Item::Logical(logical) => write!(told, "message {}; ", logical.prefix),
        Item::Change(Change::Insert { new, .. }) => write!(told, "insert {}; ", short(new)),
        Item::Change(Change::Update { old, new, .. }) => {
            write!(told, "update {} to {}; ", short(old), short(new))
        }
        Item::Change(Change::Delete { old, .. }) => write!(told, "delete {}; ", short(old)),
        Item::Change(Change::Truncate { relations, cascade, restart_identity }) => {
            write!(told, "truncate {} {cascade} {restart_identity}; ", relations.len())
        }
    }
    .unwrap();
}
