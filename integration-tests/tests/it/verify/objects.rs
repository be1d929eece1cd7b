//! Everything of a schema that can differ, one by one; and what cannot be compared.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{found, objects, verify};
use crate::world::{DATABASE, Pair};

const ROLES: &str =
    "create role owner_1; create role owner_2; create role reader; create role \"odd TO role\";";

const SCHEMA: &str = r#"
    create table public.parents (id int primary key);
    create table public.people (
        id int primary key, name text not null default 'nobody', score float8, parent int,
        constraint positive check (id > 0),
        constraint of_parent foreign key (parent) references public.parents);
    alter table public.people owner to owner_1;
    grant select on public.people to reader with grant option;
    grant update (name) on public.people to "odd TO role";
    grant insert on public.people to public;
    alter default privileges in schema public grant select on tables to reader;
    create index by_name on public.people (name);
    create function public.touch() returns trigger language plpgsql as $$ begin return new; end $$;
    create trigger touched before update on public.people for each row execute function public.touch();
    create policy own on public.people for select to reader using (id = 1);
    alter table public.people enable row level security;
    comment on table public.people is 'who';
    comment on column public.people.name is 'how they are called';
    create sequence public.numbers increment 2;
    create view public.names as select name from public.people;
    create type public.mood as enum ('good', 'bad');
    create domain public.short as text check (length(value) < 9);
    create statistics public.together on id, parent from public.people;"#;

/// What is done at the destination, and what is told of it.
const PLANTED: &[(&str, &str)] = &[
    (
        "alter table public.people alter name set default 'somebody'",
        "different TABLE public.people",
    ),
    ("alter table public.people owner to owner_2", "different OWNER OF TABLE public.people"),
    (
        "revoke grant option for select on public.people from reader",
        "different ACL public.TABLE people",
    ),
    (
        "revoke all (name) on public.people from \"odd TO role\"",
        "missing ACL public.COLUMN people.name",
    ),
    ("grant usage on sequence public.numbers to reader", "extra ACL public.SEQUENCE numbers"),
    (
        "alter default privileges in schema public grant update on tables to reader",
        "different DEFAULT ACL public.DEFAULT PRIVILEGES FOR TABLES",
    ),
    ("drop index public.by_name", "missing INDEX public.by_name"),
    ("create index by_id on public.people (id)", "extra INDEX public.by_id"),
    (
        "alter table public.people drop constraint of_parent",
        "missing FK CONSTRAINT public.people of_parent",
    ),
    (
        "create or replace function public.touch() returns trigger language plpgsql as $$ begin return null; end $$",
        "different FUNCTION public.touch()",
    ),
    (
        "alter table public.people disable trigger touched",
        "different TRIGGER public.people touched",
    ),
    ("alter policy own on public.people using (id = 2)", "different POLICY public.people own"),
    ("alter table public.people disable row level security", "missing ROW SECURITY public.people"),
    ("comment on table public.people is 'who?'", "different COMMENT public.TABLE people"),
    ("comment on column public.people.name is null", "missing COMMENT public.COLUMN people.name"),
    ("alter sequence public.numbers increment 3", "different SEQUENCE public.numbers"),
    (
        "create or replace view public.names as select upper(name) as name from public.people",
        "different VIEW public.names",
    ),
    ("alter type public.mood add value 'mixed'", "different TYPE public.mood"),
    ("alter domain public.short set not null", "different DOMAIN public.short"),
    ("drop statistics public.together", "missing STATISTICS public.together"),
    ("create table public.more (id int)", "extra TABLE public.more"),
];

async fn pair() -> Pair {
    let pair = Pair::new("").await;
    for server in [&pair.source, &pair.destination] {
        server.sql("postgres", ROLES).await.unwrap();
    }
    pair.source.sql(DATABASE, SCHEMA).await.unwrap();
    pair
}

/// Objects that were told to differ.
fn told(task: &Value) -> BTreeSet<String> {
    objects(task, "schema").into_iter().collect()
}

#[tokio::test]
async fn every_kind_of_difference_of_the_schema_is_found() {
    let pair = pair().await;
    pair.migrated().await;
    let file = pair.task_file("shop", "types: [schema]");
    let task = found(verify(&pair, &file), 0).await;
    assert_eq!(task["verification"]["differences"], 0, "{task:#}");
    assert_eq!(task["verification"]["schema"]["skipped"], Value::Array(vec![]), "{task:#}");

    for (planted, _) in PLANTED {
        pair.destination.sql(DATABASE, planted).await.unwrap();
    }
    let task = found(verify(&pair, &file), 4).await;
    let mut expected: BTreeSet<String> =
        PLANTED.iter().map(|(_, told)| (*told).to_owned()).collect();
    // The new table has the grants of the changed default.
    expected.insert("extra ACL public.TABLE more".to_owned());
    assert_eq!(told(&task), expected, "{task:#}");
}

#[tokio::test]
async fn owners_and_grants_of_roles_that_the_destination_lacks_are_no_difference() {
    let pair = pair().await;
    // The policy's role must be there.
    let lacking = r#"drop role owner_1; drop role "odd TO role""#;
    pair.destination.sql("postgres", lacking).await.unwrap();
    pair.migrated().await;
    let file = pair.task_file("shop", "types: [schema]");
    let task = found(verify(&pair, &file), 0).await;
    let skipped = task["verification"]["schema"]["skipped"].as_array().unwrap().clone();
    let roles: Vec<&str> = skipped.iter().map(|role| role["object"].as_str().unwrap()).collect();
    assert_eq!(roles, ["ROLE odd TO role", "ROLE owner_1"]);

    pair.destination.sql(DATABASE, "revoke insert on public.people from public").await.unwrap();
    let task = found(verify(&pair, &file), 4).await;
    assert_eq!(told(&task), ["different ACL public.TABLE people".to_owned()].into());
}
