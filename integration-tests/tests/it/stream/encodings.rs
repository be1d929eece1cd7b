//! Sources whose text is not UTF-8.

use pgconvoy_integration_tests::postgres::Options;

use super::live::in_sync;
use super::meaning::{ends, same_rows, synced};
use super::parked::cause;
use crate::world::{DATABASE, LIMIT, Pair, told};

/// Two servers whose databases have these encodings.
async fn encoded(source: &str, destination: &str, schema: &str) -> Pair {
    let pair = Pair::bare(Options::default(), Options::default()).await;
    pair.destination.sql("postgres", &format!("drop database {DATABASE}")).await.unwrap();
    for (server, encoding) in [(&pair.source, source), (&pair.destination, destination)] {
        let create = format!(
            "create database {DATABASE} encoding '{encoding}' locale 'C' template template0"
        );
        server.sql("postgres", &create).await.unwrap();
    }
    pair.source.sql(DATABASE, schema).await.unwrap();
    pair
}

/// Keys and rows with and without a key, some of them with letters that are no ASCII.
const SCHEMA: &str = r"
    create table keyed (id text primary key, words text, long text);
    alter table keyed alter long set storage external;
    create table alike (words text, n int);
    alter table alike replica identity full;
    create table plain (id int primary key, words text);
    insert into keyed values ('plain', 'words', repeat('long', 2000)), (E'\xe9', E'\xe8\xe9', repeat(E'\xe9', 5000));
    insert into alike values (E'\xe9', 1), (E'\xe9', 1), (E'\xe8', 1);
    insert into plain values (1, 'words')";

const CHANGES: &[&str] = &[
    r"insert into keyed values (E'\xe8\xe9', E'\xfc', 'short'); update keyed set words = E'\xfc\xe9' where id = E'\xe9'",
    r"update keyed set id = E'\xea' where id = E'\xe9'; delete from keyed where id = E'\xe8\xe9'",
    r"delete from alike where ctid = (select min(ctid) from alike); update alike set words = E'\xfc' where words = E'\xe8'",
    r"update plain set words = E'\xe9\xe8'",
];

#[tokio::test]
async fn text_of_another_encoding_is_converted() {
    let pair = encoded("LATIN1", "UTF8", SCHEMA).await;
    synced(&pair).await;
    for change in CHANGES {
        pair.source.sql(DATABASE, change).await.unwrap();
    }
    synced(&pair).await;
    // What the server hands out is UTF-8, at both ends.
    let query = "select string_agg(id || ':' || words || length(long), ',' order by id) || (select string_agg(words || n, ',' order by words) from alike)
                    || (select words from plain) from keyed";
    let rows = pair.source.value(DATABASE, query).await.unwrap().unwrap();
    assert!(rows.contains("ê:üé"), "{rows}");
    assert_eq!(pair.destination.value(DATABASE, query).await.unwrap(), Some(rows));
    ends(pair).await;
}

#[tokio::test]
async fn bytes_of_no_encoding_stay_as_they_are() {
    let pair = encoded("SQL_ASCII", "SQL_ASCII", SCHEMA).await;
    synced(&pair).await;
    for change in CHANGES {
        pair.source.sql(DATABASE, change).await.unwrap();
    }
    synced(&pair).await;
    same_rows(&pair).await;
    ends(pair).await;
}

#[tokio::test]
async fn bytes_that_are_no_text_at_the_destination_park_their_table() {
    let tables = r"create table t (id int primary key, words text); create table other (id int primary key, words text);
        insert into t values (1, 'words'); insert into other values (1, E'\xc3\xa9')";
    let pair = encoded("SQL_ASCII", "UTF8", tables).await;
    synced(&pair).await;
    for change in [
        r"update t set words = E'\xe9' where id = 1",
        r"update other set words = E'\xc3\xa8\xc3\xa9' where id = 1",
        "insert into t values (2, 'kept')",
    ] {
        pair.source.sql(DATABASE, change).await.unwrap();
    }
    let finished = in_sync(&pair).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    let cause = cause(&pair, "public.t").await;
    assert_eq!(cause["failure"]["sqlstate"], "22021", "{cause}");
    assert_eq!(cause["key"], "(id)=(1)");
    let words = pair.destination.value(DATABASE, "select words from other").await.unwrap();
    assert_eq!(words.as_deref(), Some("èé"));
    ends(pair).await;
}
