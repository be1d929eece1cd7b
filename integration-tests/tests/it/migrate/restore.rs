//! Where restoring a schema goes wrong elsewhere: rows that keep no constraint, functions that look names up, rules; and what
//! is done side by side.

use pgconvoy_integration_tests::postgres::Options;

use crate::world::{DATABASE, LIMIT, Pair, told};

#[tokio::test]
async fn rows_that_keep_no_constraint_arrive_where_it_was_never_validated() {
    let pair = Pair::new(
        "create table parent (id int primary key); create table child (parent int);
         insert into parent values (1); insert into child values (1), (2);
         alter table child add constraint known foreign key (parent) references parent not valid;
         alter table child add constraint low check (parent < 2) not valid;
         create domain positive as int; create table holds (n positive, list positive[]);
         insert into holds values (-1, '{-1,1}'), (1, null);
         alter domain positive add constraint above_zero check (value > 0) not valid;
         create table root (n int) partition by range (n); create table leaf partition of root for values from (0) to (9);
         insert into root values (5);
         alter table leaf add constraint small check (n < 3) not valid;",
    )
    .await;
    // A change of such a row would be refused at the destination only.
    let following = pair.between("precheck").args(["--types", "schema,full,incremental"]);
    pair.refused(following, 3, "domain_check_not_valid").await;
    pair.migrated().await;
    assert_eq!(pair.same().await.rows, 6);
}

#[tokio::test]
async fn rules_and_triggers_see_no_row_of_the_copy() {
    let pair = Pair::new(
        "create table t (id int primary key, s text); create table log (what text);
         create function note() returns trigger language plpgsql as $$
             begin insert into public.log values (tg_op); return null; end $$;
         create function reject() returns event_trigger language plpgsql as $$
             begin raise exception 'no more changes'; end $$;
         insert into t select i, 'x' from generate_series(1, 20) i;
         create rule nothing as on insert to t do instead nothing;
         create rule noted as on insert to log do also delete from public.t;
         create trigger first before insert on t for each row execute function note();
         alter table t enable always trigger first;
         create publication everything for all tables;
         create event trigger closed on ddl_command_end execute function reject();",
    )
    .await;
    pair.migrated().await;
    assert_eq!(pair.same().await.rows, 20);
}

/// In an index, a check, a generated column and a materialized view: `tax` finds `rate` by the path of the database alone.
const NAMES_LOOKED_UP: &str = "
    create schema app;
    create function app.rate() returns int immutable language sql as 'select 2';
    create function app.tax(x int) returns int immutable language plpgsql as 'begin return rate() * x; end';
    create table app.orders (
        id int primary key, total int constraint taxed check (app.tax(total) > 0),
        tax int generated always as (app.tax(total)) stored);
    insert into app.orders select i, i from generate_series(1, 100) i;
    create index by_tax on app.orders (app.tax(total));
    create unique index once on app.orders (app.tax(total), id);
    create materialized view app.taxes as select app.tax(total) as tax from app.orders;";

#[tokio::test]
async fn functions_that_look_names_up_find_them_as_at_the_source() {
    let pair = Pair::new("").await;
    let path = format!("alter database {DATABASE} set search_path = app, public");
    pair.source.sql(DATABASE, &path).await.unwrap();
    pair.source.sql(DATABASE, NAMES_LOOKED_UP).await.unwrap();
    pair.migrated().await;
    pair.source.sql(DATABASE, &format!("alter database {DATABASE} reset all")).await.unwrap();
    // The judge reads with an empty path, and needs no function for that.
    assert_eq!(pair.same().await.rows, 200);
}

/// A table large enough for its key to be made of an index, and what is validated or filled once it is there. The views'
/// names are in another order than that in which they read each other.
const LARGE: &str = "
    create table parent (id int primary key);
    insert into parent select generate_series(1, 1000);
    create table large (
        id int not null, parent int not null references parent, next int not null, pad text default repeat('x', 400),
        constraint \"The key\" primary key (id) include (parent) deferrable initially deferred,
        constraint \"Unique, too\" unique (next, id) with (fillfactor = 70));
    alter table large cluster on \"Unique, too\";
    alter table large replica identity using index \"Unique, too\";
    insert into large select i, 1 + i % 1000, i from generate_series(1, 50000) i;
    create index on large (parent);
    create table other (id int references parent, again int references parent);
    insert into other select i, i from generate_series(1, 1000) i;
    alter table parent add constraint loop foreign key (id) references parent;
    comment on constraint \"The key\" on large is 'made of an index';
    create materialized view z as select count(*) as n from large;
    create view y as select n from z;
    create materialized view x as select n + 1 as n from y;
    create materialized view w as select n + 1 as n from x;
    create unique index on w (n);
    create materialized view never as select 1 as one with no data;";

#[tokio::test]
async fn keys_are_made_of_indexes_and_constraints_validated_beside_each_other() {
    let logged = Options::default().setting("log_statement", "ddl");
    let pair = Pair::of(Options::default(), logged, LARGE).await;
    pair.migrated().await;
    pair.same().await;
    let log = pair.destination.log();
    for part in [
        "CREATE UNIQUE INDEX \"The key\"",
        "PRIMARY KEY USING INDEX \"The key\" DEFERRABLE INITIALLY DEFERRED",
        "UNIQUE USING INDEX \"Unique, too\"",
        "REFERENCES public.parent(id) NOT VALID;",
        "VALIDATE CONSTRAINT \"large_parent_fkey\"",
    ] {
        assert!(log.contains(part), "no statement has {part}");
    }
}

/// What `a` reads no catalogue knows; `c` reads it, and is of a later wave. The last one's name is of two lines.
const READ_BY_FUNCTIONS: &str = "
    create table t (n int); insert into t values (1), (2);
    create materialized view z as select count(*) as n from t;
    create view y as select n from z;
    create materialized view x as select n from y;
    create function read() returns bigint language sql as 'select n from public.x';
    create materialized view a as select read() as n;
    create materialized view b as select n from a;
    create materialized view c as select n from b;
    create materialized view \"two\nlines\" as select count(*) as n from t;";

#[tokio::test]
async fn views_are_filled_that_are_read_by_functions_or_have_odd_names() {
    let pair = Pair::new(READ_BY_FUNCTIONS).await;
    let file = pair.task_file("views", "copy: { index_jobs: 1 }\nretry: { other: 5s }");
    let finished =
        pair.command("migrate").args(["--yes", "-f"]).arg(file).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert_eq!(pair.same().await.rows, 2 + 6);
}

#[tokio::test]
async fn a_view_shows_what_policies_let_its_owner_see() {
    let pair = Pair::new("").await;
    let role = "create role app; grant create on schema public to app";
    for server in [&pair.source, &pair.destination] {
        server.sql(DATABASE, role).await.unwrap();
    }
    let made = "create table t (n int, owner text); insert into t values (1, 'app'), (2, 'else'), (3, 'app');
         create policy own on t using (owner = current_user); alter table t enable row level security;
         grant select on t to app; set role app; create materialized view own as select n from t;";
    pair.source.sql(DATABASE, made).await.unwrap();
    pair.migrated().await;
    assert_eq!(pair.count("select sum(n) from own").await, 4);
    assert_eq!(pair.same().await.rows, 3 + 2);
}

#[tokio::test]
async fn a_view_that_cannot_be_filled_is_told_once_all_others_are() {
    let pair = Pair::new(
        "create table t (n int); insert into t values (1);
         create materialized view empty as select n from t with no data;
         create function read() returns int language sql as 'select 1';
         create materialized view a as select read() as n;
         create materialized view b as select n from t;
         create or replace function read() returns int language sql as 'select n from public.empty';",
    )
    .await;
    let file = pair.task_file("views", "retry: { other: 1s }");
    let command = pair.command("migrate").args(["--yes", "-f"]).arg(file);
    let refused = command.run(LIMIT).await.unwrap();
    assert_eq!(refused.code(), Some(1), "{}", told(&refused));
    assert!(told(&refused).contains("\"empty\" has not been populated"), "{}", told(&refused));
    assert_eq!(pair.count("select count(*) from b").await, 1);
}

#[tokio::test]
async fn a_mapping_of_a_user_that_is_not_there_is_left_out_and_no_password_told() {
    let pair = Pair::new(
        "create role ghost; create foreign data wrapper w; create server s foreign data wrapper w;
         create user mapping for ghost server s options (\"user\" 'a', password 'teal-1815-unmistakable');
         create user mapping for public server s options (\"user\" 'b');
         create table t (id int primary key); insert into t values (1);",
    )
    .await;
    let finished = pair.migrated().await;
    assert!(!told(&finished).contains("unmistakable"), "{}", told(&finished));
    assert_eq!(pair.count("select count(*) from pg_user_mappings").await, 1);
    assert_eq!(pair.count("select count(*) from t").await, 1);
}

/// Somebody else owns schema `public` there, so its comment is not theirs to make; and policies hold for owners, too.
#[tokio::test]
async fn a_role_that_is_no_superuser_makes_what_it_may() {
    let pair = Pair::new(
        "comment on schema public is 'ours';
         create table parent (id int primary key); create table child (parent int references parent);
         insert into parent values (1); insert into child values (1);
         create policy all_rows on parent using (true);
         alter table parent enable row level security, force row level security;",
    )
    .await;
    let mover = format!(
        "create role mover login password 'kestrel-4711-unmistakable'; grant create on database {DATABASE} to mover;
         grant all on schema public to mover"
    );
    pair.destination.sql(DATABASE, &mover).await.unwrap();
    let url = format!("postgres://mover@127.0.0.1:{}/{DATABASE}", pair.destination.port());
    let file = pair.task_file("some", "");
    let command = pair.command("migrate").args(["--yes", "--destination", &url, "-f"]).arg(file);
    let finished = command.run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    let proven = "select count(*) from pg_constraint where contype = 'f' and convalidated";
    assert_eq!(pair.count(proven).await, 1);
}

/// Names that look like what stands around names in lists and scripts, and names of several lines; some differ in nothing else.
const ODD_NAMES: &str = r#"
    create role ghost;
    create schema "a; Schema: public; Owner: x"; create schema "two
lines" authorization ghost;
    create table "a; Schema: public; Owner: x"."; Type: VIEW; Schema: -; Owner: y" (id int primary key, "
--
-- TOC entry 1 (class 2 OID 3)" text default '
-- TOC entry 4 (class 5 OID 6)
');
    insert into "a; Schema: public; Owner: x"."; Type: VIEW; Schema: -; Owner: y" values (1);
    create table "two
lines"."a b" (id int primary key); insert into "two
lines"."a b" values (1), (2);
    create table "two
lines"."a
b" (id int primary key); insert into "two
lines"."a
b" values (1), (2), (3);
    alter table "two
lines"."a
b" owner to ghost;
    create table "EVENT TRIGGER t" (id int primary key); insert into "EVENT TRIGGER t" values (1);
    comment on table "EVENT TRIGGER t" is 'a table';
    create table "t(1)" (id int primary key);
    create function "f

ALTER FUNCTION f() OWNER TO ghost;"() returns int language sql as 'select 1';
    alter function "f

ALTER FUNCTION f() OWNER TO ghost;"() owner to ghost;
    create materialized view "m
1" as select 1 as n with no data;
    create materialized view "m 1" as select 2 as n;
    alter materialized view "m
1" owner to ghost;
    create view "v
1" as select id, count(*) from "EVENT TRIGGER t" group by id; alter view "v
1" owner to ghost;"#;

#[tokio::test]
async fn objects_are_known_whatever_they_are_called() {
    let pair = Pair::new(ODD_NAMES).await;
    pair.destination.sql(DATABASE, "create role ghost").await.unwrap();
    pair.migrated().await;
    assert_eq!(pair.same().await.rows, 1 + 2 + 3 + 1 + 1);
}

#[tokio::test]
async fn owners_that_are_missing_are_left_out_whatever_their_objects_are_called() {
    let pair = Pair::new(ODD_NAMES).await;
    let finished = pair.migrate().arg("--verify").run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    let objects = "select count(*) from pg_class c join pg_namespace n on n.oid = relnamespace
                   where relkind in ('r', 'v', 'm') and (nspname = 'public' or nspname ~ 'two|Owner')";
    assert_eq!(pair.count(objects).await, 8);
}

#[tokio::test]
async fn what_needs_a_table_that_does_not_come_is_told_beforehand() {
    let pair = Pair::new(
        "create table a (id serial primary key);
         create table b (id int default nextval('a_id_seq')); create table holds (one a, more a[]);
         create table kept (id int primary key); create policy looks on kept using (exists (select from a));
         create function takes(a) returns int language sql as 'select 1';
         create function counts() returns bigint language sql begin atomic; select count(*) from a; end;",
    )
    .await;
    let file = pair.task_file("some", "objects: { exclude: [public.a] }");
    let check = pair.command("precheck").arg("-f").arg(file).run(LIMIT).await.unwrap();
    let words = told(&check);
    for object in
        ["table public.b", "table public.holds", "function public.takes", "function public.counts"]
    {
        assert!(words.contains(&format!("{object}, which needs public.a")), "{object}: {words}");
    }
    assert!(words.contains("policy looks of public.kept, which needs public.a"), "{words}");
    assert!(!words.contains("table public.kept"), "{words}");
}

#[tokio::test]
async fn a_refused_constraint_is_told_and_the_task_goes_on_once_it_is_mended() {
    let pair = Pair::new(
        "create table parent (id int primary key); create table child (parent int references parent);
         insert into parent values (1); insert into child values (1);
         set session_replication_role = replica; insert into child values (4711);",
    )
    .await;
    let refused = pair.migrate().run(LIMIT).await.unwrap();
    assert_eq!(refused.code(), Some(1), "{}", told(&refused));
    let words = told(&refused);
    for part in [
        "constraint_violation",
        "FK CONSTRAINT public.child child_parent_fkey",
        "VALIDATE CONSTRAINT",
        "violates foreign key constraint",
        "(4711)",
    ] {
        assert!(words.contains(part), "{part} is not told: {words}");
    }
    let mend = "delete from child where parent = 4711";
    for server in [&pair.source, &pair.destination] {
        server.sql(DATABASE, mend).await.unwrap();
    }
    pair.migrated().await;
    assert_eq!(pair.same().await.rows, 2);
}
