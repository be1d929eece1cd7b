//! What comes in part, or not as it was: it is told before anything is done.

use pgconvoy_integration_tests::postgres::PASSWORD;
use pgconvoy_integration_tests::process::Program;

use crate::world::{DATABASE, LIMIT, Pair, told};

const PUBLICATIONS: &str = "
    create role app; create table a (id int primary key); create table b (id int primary key);
    create publication of_two for table a, b; alter publication of_two owner to app;
    create publication of_b for table b; create publication pgconvoy_former for table b;
    create publication of_schema for tables in schema public; create publication of_all for all tables;";

/// Publications at the destination: whose they are, and of which tables.
async fn owned(pair: &Pair, which: &str) -> String {
    let query = format!("select string_agg(pubname || ' of ' || pg_get_userbyid(pubowner) || ' for ' ||
        array(select tablename from pg_publication_tables t where t.pubname = p.pubname order by 1)::text, '; ' order by pubname)
        from pg_publication p where {which}");
    pair.destination.value(DATABASE, &query).await.unwrap().unwrap_or_default()
}

async fn precheck(program: Program) -> String {
    told(&program.run(LIMIT).await.unwrap())
}

#[tokio::test]
async fn a_publication_comes_with_the_tables_that_come_and_the_others_are_told() {
    let pair = Pair::new(PUBLICATIONS).await;
    pair.destination.sql(DATABASE, "create role app").await.unwrap();
    let file = pair.task_file("some", "objects: { exclude: [public.b] }");
    let words = precheck(pair.command("precheck").arg("-f").arg(&file)).await;
    for publication in ["of_two", "of_b"] {
        assert!(words.contains(&format!("publication {publication}: table public.b")), "{words}");
    }
    assert!(!words.contains("pgconvoy_former"), "{words}");
    let command = pair.command("migrate").args(["--yes", "-f"]).arg(file);
    let finished = command.run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert_eq!(
        owned(&pair, "pubname ~ 'of_(two|b)'").await,
        "of_b of postgres for {}; of_two of app for {a}"
    );
}

#[tokio::test]
async fn a_publication_whose_owner_may_not_have_it_is_told() {
    let pair = Pair::new(PUBLICATIONS).await;
    let roles = format!(
        "create role app; create role mover login password '{PASSWORD}' in role app;
         grant create on database {DATABASE} to mover; grant all on schema public to mover, app;"
    );
    pair.destination.sql(DATABASE, &roles).await.unwrap();
    let url = pair.destination.url_of("mover", PASSWORD, DATABASE);
    let words = precheck(pair.command("precheck").args([
        "--source",
        &pair.source_url(),
        "--destination",
        &url,
    ]))
    .await;
    for part in ["superuser_needed", "of_schema", "of_all", "app, owner of publication of_two"] {
        assert!(words.contains(part), "{part}: {words}");
    }

    // What is of schemas, or of all tables, does not come where only some objects do.
    let file = pair.task_file("some", "objects: { include: [public.a] }");
    let words =
        precheck(pair.command("precheck").args(["--destination", &url, "-f"]).arg(&file)).await;
    for part in ["app, owner of publication of_two", "publication of_two: table public.b"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    for part in ["superuser_needed", "of_b", "of_schema", "of_all"] {
        assert!(!words.contains(part), "{part}: {words}");
    }
    let migrate = || {
        pair.command("migrate").args(["--yes", "--destination", &url, "-f"]).arg(&file).run(LIMIT)
    };
    let finished = migrate().await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert_eq!(owned(&pair, "true").await, "of_two of mover for {a}");

    let may = format!(
        "drop publication of_two; drop table a; grant create on database {DATABASE} to app"
    );
    pair.destination.sql(DATABASE, &may).await.unwrap();
    let command = pair.command_in("again", "migrate").args(["--yes", "--destination", &url, "-f"]);
    let finished = command.arg(&file).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert!(!told(&finished).contains("owner of publication"), "{}", told(&finished));
    assert_eq!(owned(&pair, "true").await, "of_two of app for {a}");
}

#[tokio::test]
async fn a_user_mapping_whose_options_are_not_shown_is_told_and_not_compared() {
    let pair = Pair::new("").await;
    let readers = format!("create role reader login password '{PASSWORD}'; create role other;");
    for server in [&pair.source, &pair.destination] {
        server.sql(DATABASE, &readers).await.unwrap();
    }
    let mapped = "
        create table t (id int primary key); grant select on t to reader;
        create foreign data wrapper w; create server s foreign data wrapper w; grant usage on foreign server s to reader;
        create user mapping for reader server s options (\"user\" 'a');
        create user mapping for other server s options (\"user\" 'b', password 'teal-1815-unmistakable');
        create user mapping for public server s options (\"user\" 'c');";
    pair.source.sql(DATABASE, mapped).await.unwrap();
    let ends = [pair.source.url_of("reader", PASSWORD, DATABASE), pair.destination_url()];
    let between = |command: &str| {
        pair.command(command).args(["--source", &ends[0], "--destination", &ends[1]])
    };
    let words = precheck(between("precheck")).await;
    for mapping in ["other, server s", "public, server s"] {
        assert!(words.contains(mapping), "{mapping}: {words}");
    }
    assert!(!words.contains("reader, server s"), "{words}");
    let all = precheck(pair.between("precheck")).await;
    assert!(!all.contains("user_mapping_without_options"), "{all}");

    let finished = between("migrate").args(["--yes", "--verify"]).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    let options = "select string_agg(usename || ' ' || coalesce(umoptions::text, '-'), '; ' order by usename) from pg_user_mappings";
    let there = pair.destination.value(DATABASE, options).await.unwrap();
    assert_eq!(there.as_deref(), Some("other -; public -; reader {user=a}"));

    let mend = "alter user mapping for other server s options (add \"user\" 'b', add password 'x')";
    pair.destination.sql(DATABASE, mend).await.unwrap();
    let finished = between("verify").args(["-o", "json"]).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert!(told(&finished).contains("USER MAPPING other SERVER s"), "{}", told(&finished));
}
