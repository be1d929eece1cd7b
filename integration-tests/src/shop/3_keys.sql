-- What follows the rows. Each section by itself, several at a time; sections of the next file need all of this one.

-- section: order_lines
alter table shop.order_lines add constraint order_lines_pkey primary key (ordered_on, order_id, line_no);
create index order_lines_product on shop.order_lines (product_id) include (quantity);

-- section: orders
alter table shop.orders add primary key (ordered_on, id);
create index orders_customer on shop.orders (customer_id, ordered_on desc);
create index orders_open on shop.orders (ordered_at) where status in ('new', 'paid');
alter table shop.orders alter column status set statistics 500;

-- section: customers
alter table shop.customers add primary key (id);
create unique index customers_email on shop.customers (lower(email));
create index customers_tags on shop.customers using gin (tags);
create index customers_settings on shop.customers using gin (settings jsonb_path_ops) where settings ->> 'theme' = 'tea';
alter table shop.customers add constraint customers_grown_up check (born_on < date '2020-01-01') not valid;

-- section: payments
alter table shop.payments add primary key (method, id);
create index payments_order on only shop.payments (ordered_on, order_id);
create index payments_cash_order on shop.payments_cash (ordered_on, order_id);
alter index shop.payments_order attach partition shop.payments_cash_order;

-- section: products
alter table shop.categories add primary key (id);
alter table shop.products add primary key (id), add constraint products_sku unique (sku);
create index products_search on shop.products using gin (search);
create index products_slug on shop.products (slug text_pattern_ops);
alter table shop.campaigns add constraint campaigns_do_not_overlap exclude using gist (period with &&);

-- section: addresses
alter table shop.addresses add primary key (id), add unique (customer_id, id);
create index addresses_city on shop.addresses (city collate "C", country);
create index addresses_location on shop.addresses using gist (location);

-- section: reviews
alter table shop.reviews add primary key (product_id, customer_id);
create index reviews_written on shop.reviews using brin (written_at);

-- section: office
alter table "Back Office"."Stock Moves" add constraint "Stock Moves key" primary key ("Warehouse", "Product", "Moved At");

-- section: small
alter table crm.documents add primary key (id);
alter table crm."Ticket" add primary key ("Id"), add constraint "Once" unique ("Opened At", "Customer") deferrable initially deferred;
alter table logs.audit add primary key (id);
alter table logs.audit replica identity full;
create index page_views_path on logs.page_views (path, seen_at);
create index page_views_details on logs.page_views using gin (details) where details is not null;
create statistics logs.page_views_kinds (dependencies, ndistinct) on path, agent from logs.page_views;
