//! What no stream brings: unlogged tables and large objects.

use pgconvoy_integration_tests::postgres::Postgres;
use pgconvoy_proto::v1::{CutoverCopied, TaskStatus};

use super::{cutover_held_at, following, is_followed, read_only_by_default};
use crate::world::{DATABASE, Fleet, LIMIT, Pair};

const SCHEMA: &str = "
    create table kept (id int primary key);
    create unlogged table parent (id int primary key, twice int generated always as (id * 2) stored);
    create unlogged table child (id int generated always as identity, of int references parent, words text);
    create function shout() returns trigger language plpgsql as $$ begin new.words := upper(new.words); return new; end $$;
    create trigger shout before insert on child for each row execute function shout();
    insert into parent select i from generate_series(1, 50) i;
    insert into child (of, words) select i, 'as it was' from generate_series(1, 50) i;
    select lo_from_bytea(20000 + i, convert_to('object ' || i, 'UTF8')) from generate_series(1, 600) i;";

/// Each large object: its bytes and its comment.
async fn large_objects(server: &Postgres) -> String {
    let all = "select string_agg(concat(oid, md5(lo_get(oid)), obj_description(oid, 'pg_largeobject')), ' ' order by oid)
        from pg_largeobject_metadata";
    server.value(DATABASE, all).await.unwrap().unwrap_or_default()
}

/// They are left behind only by who says so, and come, as they are behind the fence, to who asks for it.
#[tokio::test]
async fn cluster_what_no_stream_brings_is_copied_again_behind_the_fence() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let changed = "delete from child where id <= 20; delete from parent where id <= 10; insert into parent values (77);
        alter table child disable trigger shout; insert into child (of, words) values (77, 'in small letters');
        alter table child enable trigger shout;
        select lo_unlink(20001); select lo_put(20002, 600000, 'far behind'); comment on large object 20003 is 'told';
        insert into kept values (1)";
    pair.source.sql(DATABASE, changed).await.unwrap();

    let cutover = ["task", "cutover", "shop", "--fence"];
    for code in ["cutover_unlogged_tables", "cutover_large_objects"] {
        fleet.refused(&cutover, 1, code).await;
    }
    // Somebody else's large object would be lost.
    let theirs = pair.destination.value(DATABASE, "select lo_create(20500)::text").await.unwrap();
    let copies = [&cutover[..], &["--copy-again"]].concat();
    fleet.refused(&copies, 1, "cutover_large_objects").await;
    let gone = format!("select lo_unlink({})", theirs.unwrap());
    pair.destination.sql(DATABASE, &gone).await.unwrap();

    // What the destination refuses undoes it.
    let refuse = "alter table child add constraint short check (words <> 'in small letters')";
    pair.destination.sql(DATABASE, refuse).await.unwrap();
    let copies = [&copies[..], &["--ignore", "cutover_schema_differs"]].concat();
    fleet.refused(&copies, 1, "short").await;
    assert!(!read_only_by_default(&pair.source).await);
    assert_eq!(pair.count("select count(*) from child where words = 'AS IT WAS'").await, 50);
    assert_eq!(large_objects(&pair.destination).await, large_objects(&pair.source).await);

    let mended = "alter table child drop constraint short";
    pair.destination.sql(DATABASE, mended).await.unwrap();
    let since = "insert into parent values (78); select lo_unlink(20004); select lo_from_bytea(30000, '\\x0102')";
    pair.source.sql(DATABASE, since).await.unwrap();
    fleet.ok(&copies).await;
    let task =
        job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    let copied = CutoverCopied { tables: 2, rows: 42 + 31, large_objects: 599 };
    assert_eq!(task.cutover.unwrap().copied, Some(copied));
    assert_eq!(large_objects(&pair.destination).await, large_objects(&pair.source).await);
    pair.same().await;
    let next = "insert into child (of, words) values (78, 'next') returning id";
    assert!(pair.count(next).await > 51, "its identity goes on");
}

/// What came up when all had been looked at is found behind the fence.
#[tokio::test]
async fn cluster_an_unlogged_table_that_is_made_after_the_check_undoes_the_cutover() {
    let schema = "create table kept (id int primary key); create unlogged table draft (words text);
        create unlogged table apart (words text)";
    let pair = Pair::new(schema).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let cutover = ["task", "cutover", "shop", "--fence", "--compare", "none"];
    for (option, new) in [
        (&["--copy-again"][..], "create unlogged table late (id int); insert into late values (1)"),
        // Nor is there anything that anybody would have said something about.
        (&[], "create unlogged table late (id int)"),
    ] {
        if option.is_empty() {
            pair.source.sql(DATABASE, "drop table draft, apart").await.unwrap();
        }
        let (lock, client) =
            cutover_held_at(&fleet, &pair, "fence", &[&cutover[..], option].concat()).await;
        pair.source.sql(DATABASE, new).await.unwrap();
        lock.batch_execute("rollback").await.unwrap();
        assert_eq!(client.wait(LIMIT).await.unwrap().code(), Some(1), "{}", client.log());
        assert!(client.log().contains("cutover_unlogged_tables"), "{}", client.log());
        assert!(client.log().contains("public.late"), "{}", client.log());
        assert!(!read_only_by_default(&pair.source).await);
        pair.source.sql(DATABASE, "drop table late").await.unwrap();
        job.until("it to follow", is_followed).await;
    }
    fleet.ok(&cutover).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
}

/// Those that an undone cutover copied go again, where the source has removed all of its own since.
#[tokio::test]
async fn cluster_large_objects_that_the_source_has_no_more_go_at_the_destination_too() {
    let schema = "create table kept (id int primary key); create unlogged table draft (words text);
        insert into draft values ('one'); select lo_from_bytea(20001, 'one')";
    let pair = Pair::new(schema).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let refuse = "truncate draft; alter table draft add constraint other check (words <> 'one')";
    pair.destination.sql(DATABASE, refuse).await.unwrap();
    let cutover = ["task", "cutover", "shop", "--fence", "--compare", "none"];
    let copies = [&cutover[..], &["--copy-again"]].concat();
    fleet.refused(&copies, 1, "other").await;
    assert_ne!(large_objects(&pair.destination).await, "");

    pair.source.sql(DATABASE, "select lo_unlink(20001)").await.unwrap();
    pair.destination.sql(DATABASE, "alter table draft drop constraint other").await.unwrap();
    let left = [&cutover[..], &["--ignore", "cutover_unlogged_tables"]].concat();
    fleet.refused(&left, 1, "cutover_large_objects").await;
    fleet.ok(&copies).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    assert_eq!(large_objects(&pair.destination).await, "");
    pair.same().await;
}
