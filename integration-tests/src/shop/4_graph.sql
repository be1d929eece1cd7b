-- References, views and code, once every key is there. In one session, in this order.

alter table shop.categories add foreign key (parent) references shop.categories deferrable initially deferred;
alter table shop.products add foreign key (category_id) references shop.categories;
alter table shop.addresses add foreign key (customer_id) references shop.customers on delete cascade;
alter table shop.orders add foreign key (customer_id) references shop.customers;
alter table shop.order_lines
    add constraint lines_of_order foreign key (ordered_on, order_id) references shop.orders (ordered_on, id) on update cascade,
    add foreign key (product_id) references shop.products;
alter table shop.payments add foreign key (ordered_on, order_id) references shop.orders (ordered_on, id);
alter table shop.reviews
    add foreign key (product_id) references shop.products on delete cascade,
    add foreign key (customer_id) references shop.customers not valid;
alter table "Back Office"."Stock Moves" add foreign key ("Product") references shop.products;

-- A circle: customers point at addresses, which point at customers.
update shop.customers set default_address = id where id % 50 = 0;
alter table shop.customers
    add foreign key (id, default_address) references shop.addresses (customer_id, id) deferrable initially deferred;

-- Tables without a key say all of a row when it is changed, so that changes can be followed.
alter table shop.campaigns replica identity full;
alter table crm."Urgent Ticket" replica identity full;
alter table logs.page_views replica identity full;
alter table logs.nothing replica identity full;
alter table logs.empty replica identity full;

create view shop.order_totals as
    select o.ordered_on, o.id, o.customer_id, o.status, sum(l.total) as total, count(*) as lines
      from shop.orders o join shop.order_lines l on (l.ordered_on, l.order_id) = (o.ordered_on, o.id)
     group by o.ordered_on, o.id;
comment on view shop.order_totals is 'What an order is worth';

create view shop.good_customers with (security_barrier) as
    select id, name, (credit).value as credit from shop.customers where (credit).value > 500
      with local check option;

create materialized view shop.sales_by_month as
    select date_trunc('month', ordered_on)::date as month, p.category_id, sum(l.total) as total
      from shop.order_lines l join shop.products p on p.id = l.product_id
     group by 1, 2;
create unique index sales_by_month_key on shop.sales_by_month (month, category_id);

create materialized view shop.best_months as
    select month, sum(total) as total from shop.sales_by_month group by month order by 2 desc limit 5;

create materialized view shop.not_filled_yet as select 1 as one with no data;

create recursive view shop.category_paths (id, path) as
    select id, title from shop.categories where parent is null
    union all
    select c.id, p.path || ' / ' || c.title from shop.categories c join category_paths p on p.id = c.parent;

create function shop.touch() returns trigger language plpgsql as $$
begin
    -- a comment with -- Name: words that look like; Type: AN ENTRY; of a dump
    new.updated_at := clock_timestamp();
    return new;
end $$;
create trigger touch before update on shop.customers
    for each row when (old.* is distinct from new.*) execute function shop.touch();

create function logs.note() returns trigger language plpgsql security definer set search_path = pg_catalog as $$
begin
    insert into logs.audit (at, what, subject) values (clock_timestamp(), tg_op, tg_relid::regclass);
    return null;
end $$;
create trigger note after insert or delete on shop.orders for each statement execute function logs.note();
alter table shop.orders disable trigger note;
create constraint trigger late after update on shop.products deferrable initially deferred
    for each row execute function logs.note();
alter table shop.products enable always trigger late;

create function shop.revenue(since date default '2024-01-01', variadic categories int[] default '{}') returns numeric
    language sql stable as $$
    select sum(total) from shop.sales_by_month where month >= since and (categories = '{}' or category_id = any(categories))
$$;
comment on function shop.revenue is 'From a materialized view; may be old';

create procedure "Back Office".restock(product int, amount int default 1) language plpgsql as $body$
begin
    insert into "Back Office"."Stock Moves" values ('W0', product, clock_timestamp(), amount);
end $body$;

create aggregate shop.product(numeric) (sfunc = numeric_mul, stype = numeric, initcond = '1');

create rule no_delete as on delete to crm.documents do instead nothing;

alter table shop.customers enable row level security;
create policy everybody on shop.customers for select using (true);
alter table shop.customers disable row level security;

alter default privileges in schema shop grant select on tables to public;
grant usage on schema shop to public;
grant select (id, title, price) on shop.products to public;

alter table shop.addresses cluster on addresses_pkey;
alter table shop.reviews set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

-- A column that was dropped leaves a hole.
alter table shop.reviews add column gone int;
alter table shop.reviews drop column gone;
alter table logs.empty drop column words;
