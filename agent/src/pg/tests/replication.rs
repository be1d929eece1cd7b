use std::time::Duration;

use pgconvoy_integration_tests::postgres::{Major, Options, Postgres, Tls};
use pgconvoy_integration_tests::wait;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::FailureClass;
use pgconvoy_shared::lsn::Lsn;
use tokio::sync::{mpsc, watch};

use super::{access, endpoint};
use crate::pg::wire::replication::{CopyBoth, Event, Large, Replication};
use crate::pg::{Access, PgError};

const LIMIT: Duration = Duration::from_secs(60);

/// A server with a table `t`, a publication `p` and a slot `s`.
struct Source {
    server: Postgres,
    access: Access,
    begin: Lsn,
}

impl Source {
    async fn start(options: Options) -> Self {
        let server = Postgres::start(options).await.unwrap();
        let access = access(Side::Source, &endpoint(&server, "postgres"), "test replication");
        let setup = "create table t (id int primary key, v text); \
                     alter table t alter v set storage external; create publication p for table t";
        server.sql("postgres", setup).await.unwrap();
        let mut session = access.replication().await.unwrap();
        let begin = session.create_slot("s").await.unwrap();
        session.close().await;
        Self { server, access, begin }
    }

    async fn value(&self, sql: &str) -> String {
        self.server.value("postgres", sql).await.unwrap().unwrap_or_default()
    }

    async fn now(&self) -> Lsn {
        self.value("select pg_current_wal_flush_lsn()::text").await.parse().unwrap()
    }
}

#[tokio::test]
async fn a_slot_is_kept_for_standbys_where_the_server_can_do_that() {
    let Ok(major) = Major::numbered(17) else {
        eprintln!("not tested: PostgreSQL 17 is not on this machine");
        return;
    };
    let source = Source::start(Options::default().major(major)).await;
    assert_eq!(source.value("select failover::text from pg_replication_slots").await, "true");
}

/// A stream in the hands of a test.
struct Stream {
    events: mpsc::Receiver<Vec<Event>>,
    safe: watch::Sender<Lsn>,
    end: tokio::task::JoinHandle<Result<CopyBoth, PgError>>,
    pending: std::collections::VecDeque<Event>,
}

impl Stream {
    async fn start(session: Replication, from: Lsn) -> Self {
        Self::start_with(session, from, from).await
    }

    async fn start_with(session: Replication, from: Lsn, safe: Lsn) -> Self {
        let stream = session.start("s", "p", from, Large::InBlocks).await.unwrap();
        let (taker, events) = mpsc::channel(1);
        let (safe, watched) = watch::channel(safe);
        #[expect(clippy::disallowed_methods, reason = "a test ends with its tasks")]
        let end = tokio::spawn(stream.pass_on(taker, watched));
        Self { events, safe, end, pending: Default::default() }
    }

    async fn next(&mut self) -> Event {
        while self.pending.is_empty() {
            let events = tokio::time::timeout(LIMIT, self.events.recv()).await.unwrap();
            self.pending.extend(events.expect("the stream goes on"));
        }
        self.pending.pop_front().expect("there is one")
    }

    /// Tags of the messages up to the next commit, and the lengths of the changes.
    async fn transaction(&mut self) -> (String, Vec<usize>) {
        let (mut tags, mut lengths) = (String::new(), Vec::new());
        loop {
            let Event::Change { message, .. } = self.next().await else { continue };
            tags.push(char::from(message[0]));
            lengths.push(message.len());
            // One that was sent while it was in progress ends by a message of its own.
            if tags.ends_with(['C', 'c']) {
                return (tags, lengths);
            }
        }
    }

    /// Until everything before this position was sent.
    async fn reach(&mut self, lsn: Lsn) {
        loop {
            if let Event::Reached { at } = self.next().await
                && at >= lsn
            {
                return;
            }
        }
    }
}

#[tokio::test]
async fn changes_come_and_what_is_safe_moves_the_slot() {
    for major in [13, 15, 18] {
        let Some(major) = Major::fetched(major) else { continue };
        let source = Source::start(Options::default().major(major)).await;
        let mut session = source.access.replication().await.unwrap();
        let system = session.identify().await.unwrap();
        let ask = "select system_identifier::text from pg_control_system()";
        assert_eq!(system.identifier.to_string(), source.value(ask).await);
        assert!(system.timeline == 1 && system.flushed >= source.begin);
        assert_eq!(session.history(1).await.unwrap(), []);
        assert_eq!(session.sql().value("select 1").await.unwrap(), "1");

        source.server.sql("postgres", "insert into t values (1, 'one')").await.unwrap();
        let mut stream = Stream::start(session, source.begin).await;
        assert_eq!(stream.transaction().await.0, "BRIC");
        // The log goes on without a change, and the stream says so.
        source.server.sql("postgres", "create table other (id int)").await.unwrap();
        let reached = source.now().await;
        stream.reach(reached).await;

        let confirmed = "select confirmed_flush_lsn::text from pg_replication_slots";
        assert_eq!(source.value(confirmed).await, source.begin.to_string(), "nothing is safe yet");
        stream.safe.send(reached).unwrap();
        wait::until(LIMIT, "the slot's place", async || match source.value(confirmed).await {
            place if place == reached.to_string() => Ok(()),
            place => Err(place),
        })
        .await
        .unwrap();
        drop(stream.events);
        assert!(stream.end.await.unwrap().is_ok());
    }
}

/// What the destination has applied is gone on from, and confirmed only once it is recorded (law O7).
#[tokio::test]
async fn where_a_stream_begins_is_not_what_is_safe() {
    let source = Source::start(Options::default().setting("wal_sender_timeout", "1s")).await;
    source.server.sql("postgres", "insert into t values (1, 'one')").await.unwrap();
    let applied = source.now().await;
    let session = source.access.replication().await.unwrap();
    let stream = Stream::start_with(session, applied, source.begin).await;
    let heard = "select coalesce(max(reply_time) > min(backend_start), false)::text from pg_stat_replication";
    wait::until(LIMIT, "what is told", async || match source.value(heard).await {
        yes if yes == "true" => Ok(()),
        other => Err(other),
    })
    .await
    .unwrap();
    let confirmed = "select confirmed_flush_lsn::text from pg_replication_slots";
    assert_eq!(source.value(confirmed).await, source.begin.to_string());
    assert!(!stream.end.is_finished());
}

#[tokio::test]
async fn a_slow_taker_does_not_cost_the_connection_its_life() {
    let options = Options::default().setting("wal_sender_timeout", "1s");
    let source = Source::start(options).await;
    let fill = "insert into t select i, repeat('x', 1000) from generate_series(1, 50000) i";
    source.server.sql("postgres", fill).await.unwrap();
    let session = source.access.replication().await.unwrap();
    let mut stream = Stream::start(session, source.begin).await;
    // Nobody takes anything. Heard of for four times its patience, the server is content.
    let alive = "select coalesce(max(reply_time) - min(backend_start) > '4 s', false)::text from pg_stat_replication";
    wait::until(LIMIT, "signs of life", async || match source.value(alive).await {
        yes if yes == "true" => Ok(()),
        other => Err(other),
    })
    .await
    .unwrap();
    assert!(!stream.end.is_finished());
    let mut changes = 0;
    while changes < 50_000 {
        if let Event::Change { message, .. } = stream.next().await {
            changes += usize::from(message[0] == b'I');
        }
    }
}

/// In the middle of a transaction though it be.
#[tokio::test]
async fn a_stream_that_is_ended_leaves_its_slot_to_the_next() {
    let source = Source::start(Options::default()).await;
    let fill = "insert into t select i, repeat('x', 1000) from generate_series(1, 20000) i";
    source.server.sql("postgres", fill).await.unwrap();
    let session = source.access.replication().await.unwrap();
    let mut stream = Stream::start(session, source.begin).await;
    stream.next().await;
    drop(stream.events);
    stream.end.await.unwrap().unwrap().end().await.unwrap();
    assert_eq!(source.value("select active::text from pg_replication_slots").await, "false");

    let session = source.access.replication().await.unwrap();
    let mut stream = Stream::start(session, source.begin).await;
    let (tags, _) = stream.transaction().await;
    assert_eq!(tags.matches('I').count(), 20_000);
}

#[tokio::test]
async fn a_large_value_passes() {
    let source = Source::start(Options::default()).await;
    let large = "insert into t values (1, repeat('0123456789abcdef', 12 * 1024 * 1024)); insert into t values (2, 'small')";
    source.server.sql("postgres", large).await.unwrap();
    let session = source.access.replication().await.unwrap();
    let mut stream = Stream::start(session, source.begin).await;
    let (tags, lengths) = stream.transaction().await;
    assert_eq!(tags.matches('I').count(), 2, "{tags}");
    assert!(lengths.iter().any(|length| *length > 192 << 20), "{lengths:?}");
}

#[tokio::test]
async fn login_is_that_of_every_session_and_a_slot_has_one_reader() {
    let source = Source::start(Options::default().tls(Tls::Required)).await;
    let session = source.access.replication().await.unwrap();
    let stream = Stream::start(session, source.begin).await;
    let session = source.access.replication().await.unwrap();
    let refused = session.start("s", "p", source.begin, Large::InBlocks).await.unwrap_err();
    assert_eq!(refused.sqlstate(), Some("55006"), "{refused}");
    let session = source.access.replication().await.unwrap();
    let refused = session.start("other", "p", source.begin, Large::InBlocks).await.unwrap_err();
    assert_eq!(refused.sqlstate(), Some("42704"), "{refused}");
    // A new owner ends what an old one left (law O5).
    let end =
        "select pg_terminate_backend(active_pid)::text from pg_replication_slots where active";
    assert_eq!(source.value(end).await, "true");
    let error = stream.end.await.unwrap().unwrap_err();
    // A socket that is closed before all that came was read takes the server's last words with it.
    assert_eq!(source.access.failure(&error).class, FailureClass::Transient, "{error}");
}
