-- The rows. Each section is loaded by itself, several at a time; {name} is a count that grows with the scale.
-- No chance: every value follows from its number, so that two shops of one scale are equal.

-- section: order_lines
insert into shop.order_lines (ordered_on, order_id, line_no, product_id, quantity, price)
select date '2024-01-01' + (o * 760 / {orders})::int, o, l,
       1 + ((o * 7919 + l * 104729) % {products})::int, 1 + (o + l) % 4,
       ((o * 31 + l * 17) % 20000)::numeric / 100
  from generate_series(1::bigint, {orders}) o, generate_series(1, 1 + (o % 5)::int) l;

-- section: orders
insert into shop.orders (id, ordered_on, customer_id, status, ordered_at, took, note)
select o, date '2024-01-01' + (o * 760 / {orders})::int, 1 + (o * 6007) % {customers},
       (enum_range(null::shop.order_status))[1 + o % 6],
       timestamptz '2024-01-01 00:00Z' + (o * 760 / {orders})::int * interval '1 day' + (o % 86400) * interval '1 s',
       case when o % 3 = 0 then (o % 5000) * interval '1 minute' + (o % 3) * interval '1 month' end,
       case when o % 11 = 0 then E'leave at the\tdoor\nof no. ' || o || E' \\ Grüße' end
  from generate_series(1::bigint, {orders}) o;

-- section: customers
insert into shop.customers (email, name, born_on, tags, credit, settings, registered_at)
select 'c' || c || '@example.com', case when c % 97 = 0 then 'Zoë “' || c || '” Müller' else 'Customer ' || md5(c::text) end,
       case when c % 5 > 0 then date '1950-01-01' + (c * 13 % 20000)::int end,
       case when c % 4 = 0 then array['vip', null, 'with "quotes", {braces}', 't' || c % 10] else '{}' end,
       case when c % 7 = 0 then row((c % 100000)::numeric / 100, 'EUR')::shop.amount end,
       jsonb_build_object('theme', (array['dark', 'light', 'tea'])[1 + c % 3], 'n', c, 'deep', jsonb_build_array(c % 10, null, true)),
       timestamptz '2020-02-29 12:00Z' + (c % 2000000) * interval '67 s'
  from generate_series(1::bigint, {customers}) c;

-- section: payments
insert into shop.payments (method, order_id, ordered_on, paid_at, amount, reference)
select (array['card', 'card', 'cash', 'card', 'cheque', 'barter'])[1 + o % 6], o, date '2024-01-01' + (o * 760 / {orders})::int,
       timestamptz '2024-01-01 08:00Z' + (o * 760 / {orders})::int * interval '1 day',
       row((o % 30000)::numeric / 100, (array['EUR', 'USD', 'JPY'])[1 + o % 3])::shop.amount,
       case when o % 2 = 0 then decode(md5(o::text), 'hex') end
  from generate_series(1::bigint, {orders}) o;

-- section: page_views
insert into logs.page_views (seen_at, path, agent, took_ms, details)
select timestamptz '2025-01-01 00:00Z' + (v / 10) * interval '1.5 s', '/p/' || (v % {products}),
       case when v % 3 = 0 then 'Mozilla/5.0 (X11; Linux x86_64) like ' || v % 50 end,
       case v % 1000 when 0 then 'NaN' when 1 then '-Infinity' else (v % 3000) / 7.0::float8 end,
       case when v % 6 = 0 then jsonb_build_object('q', 'term ' || v % 500, 'hits', v % 90) end
  from generate_series(1::bigint, {views}) v;
insert into logs.page_views select timestamptz '2025-01-01 00:00Z', '/', 'twin' from generate_series(1, 500);

-- section: documents
insert into crm.documents (id, title, scan, body)
select md5('document ' || d)::uuid, 'Document ' || d,
       case when d % 10 > 0
            then decode((select string_agg(md5(d || '/' || part), '') from generate_series(1, 150 + d % 250) part), 'hex') end,
       case when d % 3 > 0 then repeat('All work and no play makes document ' || d || ' dull. ', 50 + (d % 400)::int) end
  from generate_series(1::bigint, {documents}) d;
insert into crm.documents
values (md5('largest')::uuid, 'A row of some MiB', decode(repeat('00ff5c0a', 1500000), 'hex'), repeat(E'\\N\t', 400000));

-- section: products
insert into shop.categories (parent, title)
select case when c > 1 then 1000 + 10 * (c / 2 - 1) end, 'Category ' || c from generate_series(1, 200) c;
insert into shop.products (sku, category_id, title, description, price, flags, on_sale)
select md5(p::text)::uuid, 1000 + 10 * (p % 200), initcap(md5((p * 3)::text)) || ' No. ' || p,
       (select string_agg((array['sturdy', 'little', 'oak', 'teapot', 'of', 'the', 'north', 'with', 'lid', 'and', 'handles'])[1 + (p * part * 7 + part) % 11], ' ')
          from generate_series(1, 20 + p % 40) part),
       (p % 50000)::numeric / 100, (p % 256)::bit(8),
       case p % 4 when 0 then daterange(date '2024-01-01' + p % 300, null) when 1 then 'empty' end
  from generate_series(1, {products}) p;

-- section: addresses
insert into shop.addresses (customer_id, street, city, country, location, last_seen)
select 1 + (a - 1) % {customers}, md5(a::text) || ' Street ' || a % 300,
       (array['Łódź', 'São Paulo', 'Kyiv', 'oslo', 'Oslo', '東京', 'Ærø', 'a b'])[1 + a % 8],
       (array['PL', 'BR', 'UA', 'NO', 'NO', 'JP', 'DK', 'XX'])[1 + a % 8],
       case when a % 3 > 0 then point((a % 360) - 180 + 0.1, (a % 180) - 90 + 1 / 3.0) end,
       case when a % 5 = 0 then ('10.' || a % 256 || '.' || a / 256 % 256 || '.1')::inet end
  from generate_series(1::bigint, {addresses}) a;

-- section: reviews
insert into shop.reviews (product_id, customer_id, stars, words, written_at)
select 1 + (r % {products})::int, 1 + r / {products}, 1 + r % 5,
       case when r % 3 > 0 then repeat('It ' || (array['works', 'leaks', 'sings'])[1 + r % 3] || '. ', 1 + (r % 60)::int) end,
       timestamp '2024-03-31 02:30:00.123456' + (r % 900000) * interval '61 s'
  from generate_series(0::bigint, {reviews} - 1) r;

-- section: office
insert into "Back Office"."Stock Moves"
select 'W' || m % 7, 1 + (m % {products})::int, timestamptz '2025-06-01 00:00Z' + m * interval '1 s', (m % 41)::int - 20
  from generate_series(1::bigint, {moves}) m;

-- section: small
insert into crm."Ticket" ("Opened At", "Customer", "select", extra)
select timestamptz '2025-01-01 00:00Z' + t * interval '1 h', 1 + t % {customers}, 'broken ' || t, json_build_object('b', t, 'a', 1)
  from generate_series(1, {tickets}) t;
insert into crm."Urgent Ticket" ("Id", "Opened At", "Customer", "select", "Due")
select -t, timestamptz '2025-01-01 00:00Z' + t * interval '1 h', null, null, 'infinity' from generate_series(1, 50) t;
insert into shop.campaigns
select daterange(date '2024-01-01' + 14 * c, date '2024-01-08' + 14 * c), 'Sale ' || c, array['NaN', c / 3.0, null, 'Infinity']::float8[]
  from generate_series(0, 50) c;
insert into logs.audit (at, what, subject)
select timestamptz '2025-01-01 00:00Z' + a * interval '1 s', 'looked at', (array['shop.customers', 'crm."Ticket"'])[1 + a % 2]::regclass
  from generate_series(1, {tickets}) a;
select setval('"Back Office"."Count Down"', -42, false);
select nextval('shop.invoice_numbers');
