//! What a source does that a stream tells of in an odd way, or not at all.

use pgconvoy_integration_tests::postgres::Options;
use pgconvoy_integration_tests::types;

use super::meaning::{ends, follows, same_rows, synced};
use crate::world::{DATABASE, Pair};

/// For each type a table whose key it is, where it can be one, and one that has no key and every row twice.
const OF_EVERY_TYPE: &str = "
    create schema keyed; create schema alike;
    do $$ declare t record; begin
        for t in select c.relname as name, format_type(a.atttypid, a.atttypmod) as type
                 from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'v'
                 where c.relkind = 'r' and c.relnamespace = 'plain'::regnamespace loop
            execute format('create table alike.%1$I as table plain.%1$I', t.name);
            execute format('alter table alike.%I drop column id, replica identity full', t.name);
            execute format('insert into alike.%1$I table alike.%1$I', t.name);
            begin
                execute format('create table keyed.%I (v %s primary key, n int, words text)', t.name, t.type);
                execute format('insert into keyed.%1$I select v, row_number() over (order by v), ''words'' from
                    (select distinct v from plain.%1$I where v is not null and pg_column_size(v) < 2000) as v', t.name);
            exception when undefined_object or undefined_function then null; -- It has no order.
            end;
        end loop; end $$;";

/// Does something to each table of a schema: `%1$s`.
fn to_each(schema: &str, change: &str) -> String {
    format!(
        "do $each$ declare t regclass; begin
            for t in select oid::regclass from pg_class where relkind = 'r' and relnamespace = '{schema}'::regnamespace loop
                execute format($change${change}$change$, t);
            end loop; end $each$"
    )
}

/// As keys and as whole rows, under settings of both databases by which values look otherwise.
#[tokio::test]
async fn rows_of_every_type_are_found_by_their_key_and_without_one() {
    let pair = Pair::of(Options::default(), Options::default(), "").await;
    types::build(&pair.source, DATABASE).await.unwrap();
    pair.source.sql(DATABASE, OF_EVERY_TYPE).await.unwrap();
    for server in [&pair.source, &pair.destination] {
        for setting in [
            "datestyle = 'German'",
            "intervalstyle = 'sql_standard'",
            "timezone = 'Asia/Kathmandu'",
            "extra_float_digits = -15",
            "bytea_output = 'escape'",
            "xmloption = 'document'",
            "array_nulls = off",
            "transform_null_equals = on",
            "default_transaction_isolation = 'serializable'",
        ] {
            let set = format!("alter database {DATABASE} set {setting}");
            server.sql("postgres", &set).await.unwrap();
        }
    }
    synced(&pair).await;
    for change in [
        to_each("keyed", "update %1$s set n = -n, words = 'found'"),
        to_each("keyed", "delete from %1$s where n % 3 = 0"),
        // A row takes the key of another one that goes, and one comes again under its old key.
        to_each(
            "keyed",
            "create temp table gone as table %1$s;
             delete from %1$s where n = -1; update %1$s set v = (select v from gone where n = -1) where n = -2
                 and exists (select from gone where n = -1);
             delete from %1$s where n = -4; insert into %1$s select * from gone where n = -4; drop table gone",
        ),
        to_each("keyed", "update %1$s set words = 'found again'"),
        to_each("alike", "delete from %1$s where ctid in (select min(ctid) from %1$s)"),
        to_each(
            "alike",
            "update %1$s set v = (select v from %1$s where v is not null limit 1)
             where ctid in (select max(ctid) from %1$s)",
        ),
        to_each(
            "alike",
            "delete from %1$s as t where ctid in (select ctid from %1$s order by ctid offset 1 limit 3)",
        ),
    ] {
        pair.source.sql(DATABASE, &change.replace(" % 3", " %% 3")).await.unwrap();
    }
    synced(&pair).await;
    for server in [&pair.source, &pair.destination] {
        server.sql("postgres", &format!("alter database {DATABASE} reset all")).await.unwrap();
    }
    same_rows(&pair).await;
    for (schema, tables) in [("keyed", 70), ("alike", 100)] {
        let count = format!(
            "select count(*) from pg_class where relkind = 'r' and relnamespace = '{schema}'::regnamespace"
        );
        assert!(pair.count(&count).await > tables, "{schema}");
    }
    ends(pair).await;
}

#[tokio::test]
async fn what_triggers_rules_and_foreign_keys_did_at_the_source_is_not_done_again() {
    let pair = follows(
        Options::default(),
        "create table told (no int generated always as identity primary key, words text);
         create table owner (id int primary key, n int);
         create table pet (id int primary key, owner int references owner on update cascade on delete cascade,
             lender int references owner on update cascade on delete set null);
         create function twice() returns trigger language plpgsql as $$ begin new.n = new.n * 2; return new; end $$;
         create function tell() returns trigger language plpgsql as $$ begin insert into told (words) values (tg_op); return null; end $$;
         create trigger twice before insert or update on owner for each row execute function twice();
         create trigger tell after insert or update or delete on owner for each row execute function tell();
         create trigger tell_all after truncate on pet execute function tell();
         create table ruled (id int primary key, words text, long text);
         alter table ruled alter long set storage external;
         create rule added as on insert to ruled do also insert into told (words) values ('added');
         create rule changed as on update to ruled do also insert into told (words) values ('changed');
         create rule removed as on delete to ruled do also insert into told (words) values ('removed');
         create table frozen (id int primary key, words text);
         insert into frozen values (1, 'words');
         create rule frozen as on update to frozen do instead nothing;
         insert into owner select i, i from generate_series(1, 20) i;
         insert into pet select i, i, 21 - i from generate_series(1, 20) i;
         insert into ruled select i, 'words', repeat(md5(i::text), 200) from generate_series(1, 20) i",
        &[
            "insert into owner values (30, 30); insert into pet values (30, 30, 1); update owner set n = 1 where id < 5",
            "delete from owner where id in (3, 7); update owner set id = -id where id > 10",
            "insert into ruled values (30, 'new', 'short'); update ruled set words = 'changed' where id < 5; delete from ruled where id = 5",
            "update ruled set id = -id where id > 10",
            // The same rule is at the destination.
            "alter table frozen disable rule frozen; update frozen set words = 'thawed'; alter table frozen enable rule frozen",
            "truncate pet; insert into pet values (1, 1, 2)",
        ],
    )
    .await;
    let left = "select count(*) from pg_rules where tablename in ('ruled', 'frozen')";
    assert_eq!(pair.count(left).await, 4);
    ends(pair).await;
}

#[tokio::test]
async fn values_change_hands_under_every_kind_of_unique_index() {
    let swap = |table: &str, column: &str, aside: &str| {
        format!(
            "begin; create temp table was on commit drop as table {table};
             update {table} set {column} = {aside} where id = 1;
             update {table} set {column} = (select {column} from was where id = 1) where id = 2;
             update {table} set {column} = (select {column} from was where id = 2) where id = 1; commit"
        )
    };
    let pair = follows(
        Options::default(),
        "create extension btree_gist;
         create table late (id int primary key, n int unique deferrable initially deferred);
         create table later (id int primary key deferrable initially deferred, n int);
         alter table later replica identity full;
         create table span (id int primary key, r int4range, floor int default 1, exclude using gist (floor with =, r with &&));
         create table folded (id int primary key, words text);
         create unique index on folded (lower(words)); create unique index on folded (words) where id > 0;
         create table sparse (id int primary key, a int, b int, unique nulls not distinct (a, b));
         insert into late select i, i from generate_series(1, 20) i;
         insert into later select i, i from generate_series(1, 20) i;
         insert into span select i, int4range(i * 10, i * 10 + 10) from generate_series(1, 20) i;
         insert into folded select i, 'Words ' || i from generate_series(1, 20) i;
         insert into sparse select i, i, null from generate_series(1, 20) i",
        &[
            "update late set n = 21 - n",
            "begin; insert into late values (30, 5); update late set n = 500 where id = 16; commit",
            "update later set id = 21 - id",
            "update later set id = id + 1, n = -n; delete from later where id = 3",
            &swap("span", "r", "'empty'"),
            "update span set r = int4range(lower(r) + 1000, upper(r) + 1000) where lower(r) > 50; delete from span where id = 10;
             insert into span values (10, '[1100,1110)')",
            &swap("folded", "words", "'aside'"),
            "update folded set words = upper(words)",
            &swap("sparse", "a", "null"),
            "begin; update sparse set a = null where id = 5; update sparse set a = 5, b = 1 where id = 5;
             update sparse set a = null where id = 6; commit",
        ],
    )
    .await;
    ends(pair).await;
}

/// Rows that differ only in what comparing might not see: their change hits just them.
#[tokio::test]
async fn rows_without_a_key_are_told_apart_by_their_bytes() {
    let pair = follows(
        Options::default(),
        "create collation folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create type pair as (a int, b text);
         create table worded (words text collate folded, code text collate \"C\", n int);
         create table composed (p pair, ps pair[], n int);
         alter table worded replica identity full; alter table composed replica identity full;
         insert into worded select w, w, n from unnest(array['word', 'Word', 'WORD', 'word ']) w, generate_series(1, 2) n;
         insert into worded values (null, null, 1), ('', '', 1), (null, '', 1);
         insert into composed values (null, null, 1), ('(,)', null, 1), ('(,\"\")', null, 1), (null, '{}', 1),
             ('(,)', '{NULL}', 1), (null, '{NULL}', 1), (null, '{\"(,)\"}', 1)",
        &[
            "update worded set n = 3 where words = 'Word' collate \"C\" and n = 1; delete from worded where words = 'WORD' collate \"C\"",
            "delete from worded where words is null and code is null; update worded set n = 5 where words is null",
            "delete from composed where p is not distinct from null and ps is null",
            "update composed set n = 2 where p is distinct from null and p::text = '(,)' and ps is null",
            "delete from composed where ps::text = '{NULL}' and p is not distinct from null; update composed set n = 7 where ps::text = '{\"(,)\"}'",
        ],
    )
    .await;
    ends(pair).await;
}

#[tokio::test]
async fn tables_that_inherit_are_followed_each_by_itself() {
    let pair = follows(
        Options::default(),
        "create table base (id int primary key, words text);
         create table heir (extra int, primary key (id)) inherits (base);
         create table keyless () inherits (heir);
         alter table keyless replica identity full;
         insert into base select i, 'words' from generate_series(1, 20) i;
         insert into heir select i, 'words', i from generate_series(1, 20) i;
         insert into keyless select i % 3, 'words', 1 from generate_series(1, 20) i",
        &[
            "update base set words = 'all' where id < 5; delete from only base where id = 7; delete from heir where id = 8",
            "update base set id = -id where id > 10; delete from keyless where ctid = (select min(ctid) from keyless)",
            "truncate only base; insert into base values (1, 'again')",
            "truncate heir; insert into heir values (1, 'again', 1)",
            "insert into keyless values (1, 'again', 1), (1, 'again', 1); update base set words = 'last'",
        ],
    )
    .await;
    assert_eq!(pair.count("select count(*) from base where words = 'last'").await, 4);
    ends(pair).await;
}

#[tokio::test]
async fn what_came_from_elsewhere_and_what_others_say_in_the_log_is_taken_as_it_is() {
    let elsewhere = |at: u32, change: &str| {
        format!(
            "select pg_replication_origin_session_setup('elsewhere');
             begin; select pg_replication_origin_xact_setup('0/{at}', now()); {change}; commit;
             select pg_replication_origin_session_reset()"
        )
    };
    // So little memory that whatever is of any size is too large for it.
    let pair = follows(
        Options::default().setting("logical_decoding_work_mem", "64kB"),
        "create table t (id int primary key, words text); insert into t values (1, 'words')",
        &[
            "select pg_replication_origin_create('elsewhere')",
            &elsewhere(1, "insert into t values (2, 'of elsewhere')"),
            &elsewhere(2, "insert into t select i, repeat('x', 100) from generate_series(100, 3000) i"),
            "begin; select pg_logical_emit_message(true, 'others', repeat('x', 1000)); insert into t values (3, 'said');
             select pg_logical_emit_message(false, 'pgconvoy', 'not for us'); commit",
            "begin; insert into t select i, repeat('y', 100) from generate_series(4000, 7000) i;
             select pg_logical_emit_message(true, 'others', repeat('x', 100000)); savepoint one;
             select pg_logical_emit_message(true, 'others', 'never'); rollback to one; commit",
            "select pg_logical_emit_message(true, '', '')",
        ],
    )
    .await;
    pair.source.sql(DATABASE, "select pg_replication_origin_drop('elsewhere')").await.unwrap();
    ends(pair).await;
}

/// Rewritten, described otherwise, told of more than is needed: the rows are the same.
#[tokio::test]
async fn what_is_done_to_a_table_and_not_to_its_rows_disturbs_nothing() {
    let pair = follows(
        Options::default(),
        "create table t (id int primary key, words text, long text);
         alter table t alter long set storage external;
         insert into t select i, 'words', repeat(md5(i::text), 200) from generate_series(1, 50) i",
        &[
            "vacuum full t",
            "update t set words = 'moved' where id < 10",
            "cluster t using t_pkey",
            "alter table t replica identity full; update t set words = 'full', id = id + 100 where id < 5;
             delete from t where id = 5",
            "alter table t replica identity default; update t set words = 'default', id = id + 100 where id between 6 and 8",
            "alter table t alter words set default 'x', alter words set not null, add check (id > 0), alter long set storage extended",
            "update t set id = id + 1000 where id < 20; insert into t (id) values (1)",
            "alter table t drop constraint t_pkey; alter table t add constraint other primary key (id)",
            "update t set long = 'short' where id = 20; delete from t where id = 21",
            "reindex table t; analyze t; update t set words = 'last'",
        ],
    )
    .await;
    ends(pair).await;
}
