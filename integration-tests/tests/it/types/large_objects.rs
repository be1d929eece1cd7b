//! Large objects: bytes, owners, grants and comments arrive; what may not be read or is not named is told.

use pgconvoy_integration_tests::postgres::{Options, PASSWORD};

use crate::world::{DATABASE, LIMIT, Pair, major, told};

/// Empty, of one byte, around the size of a piece and of a page, with a hole, large, many; of others, with grants.
const OBJECTS: &str = r"
    create role lob_owner; create role lob_reader;
    create table pictures (id int primary key, picture oid, words text);
    select lo_from_bytea(70001, ''), lo_from_bytea(70002, '\x00'), lo_create(4000000000);
    select lo_from_bytea(70010 + n, decode(repeat('0f', 262143 + n), 'hex')) from generate_series(0, 2) n;
    select lo_from_bytea(70020 + n, decode(repeat('5c', 2047 + n), 'hex')) from generate_series(0, 2) n;
    select lo_from_bytea(70030, 'before the hole'), lo_put(70030, 1000000, 'behind it');
    select lo_from_bytea(70040, decode(repeat(md5('large'), 20 * 65536), 'hex'));
    insert into pictures select n, lo_from_bytea(80000 + n, decode(repeat(md5(n::text), n % 90), 'hex')), 'w'
        from generate_series(1, 1200) n;
    comment on large object 70001 is 'it''s \ empty';
    alter large object 70002 owner to lob_owner;
    alter large object 70010 owner to lob_owner;
    grant select on large object 70010 to lob_reader with grant option;
    grant select, update on large object 70011 to public;
    revoke all on large object 70012 from postgres;";

const ROLES: &str = "create role lob_owner; create role lob_reader;";

/// All that there is to say of them.
const SAID: &str = "select string_agg(format('%s %s %s %s %s', m.oid, md5(lo_get(m.oid)), m.lomowner::regrole, m.lomacl,
        obj_description(m.oid, 'pg_largeobject')), E'\n' order by m.oid) from pg_largeobject_metadata m";

async fn same_objects(pair: &Pair) {
    let [there, here] =
        [&pair.source, &pair.destination].map(|server| server.value(DATABASE, SAID));
    let (there, here) = tokio::try_join!(there, here).unwrap();
    let [there, here] = [&there, &here].map(|said| said.as_deref().unwrap_or_default());
    for (there, here) in there.lines().zip(here.lines()) {
        assert_eq!(there, here);
    }
    assert_eq!(there.lines().count(), here.lines().count());
}

async fn arrive(from: u32, to: u32, rest: &str) {
    let (Some(from), Some(to)) = (major(from), major(to)) else { return };
    let (source, destination) = (Options::default().major(from), Options::default().major(to));
    let pair = Pair::of(source, destination, OBJECTS).await;
    pair.destination.sql(DATABASE, ROLES).await.unwrap();
    let file = pair.task_file("lobs", rest);
    let finished =
        pair.command("migrate").args(["--yes", "-f"]).arg(file).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    pair.left_nothing().await;
    same_objects(&pair).await;
    assert_eq!(pair.count("select count(*) from pg_largeobject_metadata").await, 1211);
}

#[tokio::test]
async fn large_objects_arrive_under_one_moment() {
    arrive(15, 15, "copy: { jobs: 4, shard_size: 1MiB }").await;
}

#[tokio::test]
async fn large_objects_arrive_from_13_shard_by_shard() {
    arrive(13, 15, "copy: { jobs: 4, snapshot: shard }").await;
}

#[tokio::test]
async fn large_objects_that_differ_are_found() {
    let pair = Pair::new(OBJECTS).await;
    pair.destination.sql(DATABASE, ROLES).await.unwrap();
    let finished = pair.migrate().arg("--verify").run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    same_objects(&pair).await;

    let change = "select lo_put(70040, 10000000, 'x'), lo_unlink(70001), lo_from_bytea(5, 'more')";
    pair.destination.sql(DATABASE, change).await.unwrap();
    std::fs::remove_dir_all(pair.path("data")).unwrap();
    let finished = pair.between("verify").run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(4), "{}", told(&finished));
    let told = told(&finished);
    assert!(told.contains("pg_largeobject_metadata"), "{told}");
    for found in ["missing", "extra", "different"] {
        assert!(told.contains(found), "{found}: {told}");
    }
}

#[tokio::test]
async fn large_objects_that_cannot_come_are_told_before_anything_is_changed() {
    let pair = Pair::new(OBJECTS).await;
    pair.destination.sql(DATABASE, ROLES).await.unwrap();

    // Others would be in the way.
    pair.destination.sql(DATABASE, "select lo_create(99)").await.unwrap();
    pair.refused(pair.migrate(), 3, "destination_not_empty").await;
    pair.destination.sql(DATABASE, "select lo_unlink(99)").await.unwrap();

    // A role that may read some of them.
    let reader = format!("create role guest login password '{PASSWORD}' in role lob_reader");
    pair.source.sql(DATABASE, &reader).await.unwrap();
    pair.source.sql(DATABASE, "grant select on pictures to guest").await.unwrap();
    let by_guest = pair
        .command("migrate")
        .args(["--yes", "--source", &pair.source.url_of("guest", PASSWORD, DATABASE)])
        .args(["--destination", &pair.destination_url()]);
    let finished = pair.refused(by_guest, 3, "missing_privilege").await;
    assert!(finished.log.contains("large objects"), "{}", told(&finished));

    // Whoever names what is to come cannot name them.
    let file = pair.task_file("some", "objects: { include: [\"public.*\"] }");
    let named = || pair.command("migrate").arg("-f").arg(&file);
    std::fs::remove_dir_all(pair.path("data")).unwrap();
    pair.refused(named(), 3, "large_objects_left_out").await;
    let finished = named().arg("--yes").run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert_eq!(pair.count("select count(*) from pg_largeobject_metadata").await, 0);
    assert_eq!(pair.count("select count(*) from pictures").await, 1200);
}
