//! What belongs to the server comes where it is asked for: roles, settings of the database, tablespaces.

use pgconvoy_integration_tests::postgres::Options;

use crate::world::{DATABASE, LIMIT, Pair, told};

const ROLES: &str = "
    create role everyone;
    create role app nologin noinherit;
    create role \"Ann B\" login password 'wren-1815-secret' valid until '2031-01-01 00:00:00+00' connection limit 3 in role app, pg_monitor;
    create role boss superuser createdb login;
    create role stranger login;
    grant everyone to \"Ann B\" with admin option;
    alter role \"Ann B\" set search_path = \"$user\", 'a b';
    alter role app set my.word = 'it''s';
    comment on role app is 'owns things';
    alter role app in database shop set work_mem = '7MB';
    alter database shop set statement_timeout = '1h';
    comment on database shop is 'a \\ b';";

const OBJECTS: &str = "
    create table kept (id int primary key, owner text) tablespace slow;
    create index on kept (owner) tablespace fast;
    create table usual (id int primary key using index tablespace fast);
    insert into kept select i, 'x' from generate_series(1, 30000) i;
    create materialized view ids tablespace slow as select id from kept;
    alter table kept owner to app;
    create schema owned authorization app; create table owned.t (id int); alter table owned.t owner to app;
    grant select on kept to everyone, boss;
    alter table kept enable row level security;
    create policy own on kept to \"Ann B\" using (owner = current_user);
    alter default privileges for role app grant select on tables to everyone;
    alter database shop set default_transaction_read_only = on;";

/// What is known of roles but for their passwords.
const KNOWN: &str = "
    select string_agg(t::text, e'\\n' order by t::text) from (
        select r.rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolconnlimit, rolvaliduntil,
            rolconfig, shobj_description(r.oid, 'pg_authid'),
            array(select g.rolname || m.admin_option::text from pg_auth_members m join pg_roles g on g.oid = m.roleid
                  where m.member = r.oid order by 1)
        from pg_roles r where r.oid >= 16384 and r.rolname not in ('stranger', 'mover')) t";

const SETTINGS: &str = "
    select string_agg(format('%s: %s', setrole::regrole, setting), e'\\n' order by setrole::regrole::text, setting)
        || shobj_description((select oid from pg_database where datname = 'shop'), 'pg_database')
    from pg_db_role_setting, unnest(setconfig) as setting where setdatabase <> 0";

async fn pair() -> Pair {
    let options = || Options::default().setting("allow_in_place_tablespaces", "on");
    let pair = Pair::of(options(), options(), "").await;
    for server in [&pair.source, &pair.destination] {
        for space in ["fast", "slow"] {
            let make = format!("create tablespace {space} location ''");
            server.client("postgres").await.unwrap().batch_execute(&make).await.unwrap();
        }
    }
    pair.source.sql("postgres", ROLES).await.unwrap();
    pair.source.sql(DATABASE, OBJECTS).await.unwrap();
    pair
}

const ALL: &str = "schema: { roles: true, database_settings: true, tablespaces: true }";

#[tokio::test]
async fn what_belongs_to_the_server_comes_where_it_is_asked_for() {
    let pair = pair().await;
    let file = pair.task_file("all", ALL);
    let migrate = || pair.command("migrate").args(["--yes", "--verify", "-f"]).arg(&file);
    pair.destination.sql("postgres", "alter tablespace fast rename to quick").await.unwrap();
    pair.refused(migrate(), 3, "tablespace_missing").await;
    pair.destination.sql("postgres", "alter tablespace quick rename to fast").await.unwrap();

    let check = pair.command_in("other", "precheck").arg("-f").arg(&file).run(LIMIT).await.unwrap();
    let words = told(&check);
    for code in ["role_missing", "database_settings_left_out", "tablespace_left_out"] {
        assert!(!words.contains(code), "{words}");
    }
    assert!(words.contains("role_without_password"), "{words}");

    let finished = migrate().run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    pair.same().await;
    for query in [KNOWN, SETTINGS] {
        let [source, destination] = [&pair.source, &pair.destination]
            .map(|server| async move { server.value(DATABASE, query).await.unwrap() });
        assert_eq!(source.await, destination.await);
    }
    let strangers = "select count(*) from pg_authid where rolname = 'stranger' or oid >= 16384 and rolpassword is not null";
    assert_eq!(pair.count(strangers).await, 0);
}

#[tokio::test]
async fn whoever_may_make_roles_gives_objects_to_them_and_leaves_out_what_only_a_superuser_can_give()
 {
    let pair = pair().await;
    let mover = "create role mover login createrole password 'kestrel-4711-unmistakable';
                 alter database shop owner to mover; grant all on schema public to mover";
    pair.destination.sql(DATABASE, mover).await.unwrap();
    let url = format!("postgres://mover@127.0.0.1:{}/{DATABASE}", pair.destination.port());
    let rest = "schema: { roles: true, database_settings: true }";
    let file = pair.task_file("some", rest);
    let command = pair.command("migrate").args(["--yes", "--destination", &url, "-f"]).arg(file);
    let finished = command.run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert_eq!(pair.count("select count(*) from kept").await, 30_000);
    // Also of `kept`, though it may make no tables in schema `public`: the source does not ask for that.
    let owned = "select count(*) from pg_tables where tableowner = 'app' and (schemaname = 'owned' or tablename = 'kept')";
    assert_eq!(pair.count(owned).await, 2);
    let more = "select has_schema_privilege('app', 'public', 'create')::int::bigint";
    assert_eq!(pair.count(more).await, 0);
    let made = "select count(*) from pg_roles where rolname in ('app', 'Ann B', 'everyone', 'boss') and not rolsuper";
    assert_eq!(pair.count(made).await, 4);
    pair.left_nothing().await;
}
