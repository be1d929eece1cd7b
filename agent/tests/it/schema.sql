-- One of most kinds of object, with names and bodies that look like something else.

create schema "Odd ""name; Type: x";
create schema sales authorization app;
comment on schema sales is 'sales
-- TOC entry 1 (class 2 OID 3)';
create extension hstore schema sales;
create extension citext;

create type sales.mood as enum ('low', 'it''s; high');
create domain sales.positive as int constraint above_zero check (value > 0);
create type sales.pair as (a int, b sales.mood);
create type sales.numbers as range (subtype = numeric);

create function public.touch() returns trigger language plpgsql as $body$
begin
--
-- TOC entry 3245 (class 1259 OID 16386)
-- Name: people; Type: TABLE; Schema: public; Owner: postgres
--

-- ALTER TABLE people OWNER TO nobody;
/*
\! this is no command
*/
    new.v := coalesce(new.v, 'x') || $$;$$;
    return new;
end $body$;
create procedure sales.nothing(a int) language sql as 'select 1; select ''--''';
create aggregate sales.total(int) (sfunc = int4pl, stype = int);
create operator sales.=== (leftarg = int, rightarg = int, function = int4eq);
create collation sales.c_again from "C";
create text search configuration sales.words (copy = simple);

create table public.people (
    id serial primary key,
    no bigint generated always as identity (start 100 increment 5),
    v text default 'a' unique,
    twice int generated always as (length(v) * 2) stored,
    mood sales.mood,
    size sales.positive,
    attributes sales.hstore,
    name citext collate "C",
    dropped int
);
alter table public.people drop column dropped;
comment on table public.people is 'people
\unrestrict x
--
-- TOC entry 5 (class 6 OID 7)
';
comment on column public.people.v is 'a; column';
create table sales.orders (
    id int,
    at date,
    person int references public.people (id) on delete cascade,
    primary key (id, at)
) partition by range (at);
create table sales.orders_2020 partition of sales.orders for values from ('2020-01-01') to ('2021-01-01');
create table sales.orders_rest partition of sales.orders default;
create index on sales.orders (person);
create table sales.items (
    id int primary key,
    span int4range,
    person int references public.people (id),
    constraint id_above_zero check (id > 0),
    exclude using gist (span with &&)
) with (fillfactor = 70);
create index "we;ird -- name" on sales.items (person) where person > 0;
create index on sales.items ((id + 1));
alter index sales.items_expr_idx alter column 1 set statistics 77;
alter table sales.items replica identity using index items_pkey;
alter table sales.items cluster on items_pkey;
alter table sales.items alter column person set statistics 77;
create statistics sales.together on id, person from sales.items;
create table sales.special () inherits (sales.items);
create table "Odd ""name; Type: x"."Tab; Schema: y" ("col""umn" int);
create index on "Odd ""name; Type: x"."Tab; Schema: y" ("col""umn");
create unlogged table public.scratch (x int primary key);

create view sales.everybody as select * from public.people;
create view sales.counted as select id, v, count(*) from public.people group by id;
create materialized view sales.z_first as select id, v from public.people;
create unique index on sales.z_first (id);
create materialized view sales.a_second as select count(*) from sales.z_first;
create materialized view sales.empty as select 1 as one with no data;
create rule ignored as on insert to sales.everybody do instead nothing;
create trigger touch before insert on public.people for each row execute function public.touch();
alter table public.people disable trigger touch;
alter table sales.items enable row level security;
create policy mine on sales.items to app using (person > 0);
create sequence sales.down increment -3 maxvalue 10 start 10 cycle;
create sequence sales.unused;
create publication pub for table public.people;

alter table sales.items owner to app;
alter function public.touch() owner to app;
grant select on sales.items to app with grant option;
grant select (id) on public.people to public;
revoke usage on schema sales from public;
grant usage on schema sales to app;
alter default privileges in schema sales grant select on tables to app;
alter default privileges for role app revoke execute on functions from public;

create function public.watch() returns event_trigger language plpgsql as $$ begin end $$;
create event trigger watcher on ddl_command_end execute function public.watch();
comment on event trigger watcher is 'last';

insert into public.people (v) values ('one'), ('two');
insert into sales.items values (1, '[1,2)', 1);
alter table sales.items add constraint late check (person is not null) not valid;
refresh materialized view sales.z_first;
refresh materialized view sales.a_second;
select nextval('sales.down'), nextval('sales.down');
