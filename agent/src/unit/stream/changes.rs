//! Keeping in mind what is changed, while a cutover wants to know: its keys are written in the transaction that changes it.
//!
//! The cutover says so in `apply_progress`, whose row an applier holds from before its first change on. So it is looked at
//! with each transaction, costs no way of its own while nobody wants to know, and whoever takes the stream over keeps on.

use std::collections::BTreeSet;

use futures::{FutureExt, TryFutureExt};
use pgconvoy_flow::stream::changed::changed;
use pgconvoy_flow::stream::entry::Entry;
use pgconvoy_shared::ids::TaskId;
use tokio_postgres::Client;

use super::applying::Applier;
use super::sending::answers_in_order;
use crate::laws::Law;
use crate::pg::About;
use crate::unit::UnitEnd;

/// Keys of one table that are kept for one look. Of more, an even part.
const KEYS_MAX: i64 = 100_000;

const NOTE: &str = "select pgconvoy.note_changed($1, $2, $3, $4, $5)";

/// Holds the row of the stream, and tells whether anybody wants to know what is changed.
pub(super) fn wanted(task: &TaskId) -> String {
    // Whoever steps it on without proof does not hold it either.
    let hold = if Law::Step.is_left_out() { "" } else { "for no key update" };
    format!(
        "select changes_for is not null from pgconvoy.apply_progress where task = '{task}' {hold}"
    )
}

impl Applier<'_> {
    /// Writes down what these entries change, and makes the savepoint behind it.
    pub(super) async fn note_changes(&mut self, entries: &[Entry]) -> Result<(), UnitEnd> {
        let changed = changed(entries, &self.targets);
        if changed.is_empty() {
            return Ok(());
        }
        let (tables, keys): (Vec<i64>, Vec<&str>) =
            changed.keys.iter().map(|(table, key)| (i64::from(table.0), key.as_str())).unzip();
        let untold: BTreeSet<i64> = changed.untold.iter().map(|table| i64::from(table.0)).collect();
        let untold: Vec<i64> = untold.into_iter().collect();
        let note = match self.statements.get(NOTE) {
            Some(note) => note.clone(),
            None => {
                let note = self.session.prepare(NOTE).await.about(&self.access)?;
                self.statements.add(NOTE.to_owned(), None, note.clone());
                note
            }
        };
        let task = self.ctx.task.as_str();
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&task, &tables, &keys, &untold, &KEYS_MAX];
        let sent = vec![
            Client::query(&self.session, &note, &values).map_ok(drop).boxed(),
            self.session.batch_execute("release savepoint piece; savepoint piece").boxed(),
        ];
        let mut answers = answers_in_order(sent).await.into_iter();
        Ok(answers.try_for_each(|answer| answer).about(&self.access)?)
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_integration_tests::postgres::{Options, Postgres};
    use tokio_postgres::Client;

    /// Notes so many keys of table 1, of which 100 are kept at most, and one of table 2; and that table 3 has none.
    async fn note(client: &Client, keys: i32) {
        let note = "select pgconvoy.note_changed('t', array_agg(case i when 0 then 2 else 1 end), array_agg('k' || i), '{3}', 100)
            from generate_series(0, $1::int) i";
        client.query(note, &[&keys]).await.unwrap();
    }

    async fn kept(client: &Client, table: i64, look: i32) -> (i64, i64) {
        let kept = "select (select count(*) from pgconvoy.changed_key k where (k.table_no, k.look) = ($1, $2)),
            (select 1::bigint << level from pgconvoy.changed_table t where (t.table_no, t.look) = ($1, $2))";
        let row = client.query_one(kept, &[&table, &look]).await.unwrap();
        (row.get(0), row.get(1))
    }

    #[tokio::test]
    async fn of_a_table_that_changes_a_lot_an_even_part_is_kept() {
        let server = Postgres::start(Options::default()).await.unwrap();
        let client = server.client("postgres").await.unwrap();
        client.batch_execute(include_str!("../../pg/destination/schema.sql")).await.unwrap();
        let task = "insert into pgconvoy.task values ('t');
            insert into pgconvoy.table_state select 't', i, 1, 's', 'n' from generate_series(1, 3) i;
            insert into pgconvoy.apply_progress (task, epoch, lsn, seq) values ('t', 1, '0/0', 1)";
        client.batch_execute(task).await.unwrap();
        note(&client, 50).await;
        assert_eq!((kept(&client, 1, 0).await, kept(&client, 2, 0).await), ((50, 1), (1, 1)));
        note(&client, 5_000).await;
        let (keys, each_for) = kept(&client, 1, 0).await;
        assert!((20..=100).contains(&keys), "{keys}");
        assert!((3_000..8_000).contains(&(keys * each_for)), "{keys} * {each_for}");
        note(&client, 5_000).await;
        assert_eq!(kept(&client, 1, 0).await, (keys, each_for), "they are known");

        let next = "update pgconvoy.apply_progress set look = 1";
        client.batch_execute(next).await.unwrap();
        note(&client, 10).await;
        assert_eq!((kept(&client, 1, 1).await, kept(&client, 2, 1).await), ((10, 1), (1, 1)));
        assert_eq!(kept(&client, 2, 0).await.0, 0, "it was changed again since");
        let untold = "select count(*) from pgconvoy.changed_table where untold and table_no = 3";
        assert_eq!(client.query_one(untold, &[]).await.unwrap().get::<_, i64>(0), 2);

        // What differed at a look is looked at again, however much is changed besides.
        let differed =
            "update pgconvoy.changed_key set differed = true where table_no = 1 and look = 1";
        assert_eq!(client.execute(differed, &[]).await.unwrap(), 10);
        let others = "select pgconvoy.note_changed('t', array_agg(1::bigint), array_agg('other' || i), '{}', 100)
            from generate_series(1, 5000) i";
        client.query(others, &[]).await.unwrap();
        let kept = async |which: &str| -> i64 {
            let kept = format!(
                "select count(*) from pgconvoy.changed_key where (table_no, look) = (1, 1) and {which}"
            );
            client.query_one(&kept, &[]).await.unwrap().get(0)
        };
        assert_eq!(kept("differed").await, 10);
        assert!(kept("not differed").await < 100);
    }
}
