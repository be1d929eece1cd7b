//! Somebody who sells while the shop moves, and keeps account of it.
//!
//! Each order is one transaction over several tables: the order and its lines, a payment, an invoice number, what the
//! customer's settings say, a page that was looked at. It counts once the source acknowledged it. The clerk goes on until the
//! source takes no more orders, which is when the cutover keeps writers away; what was acknowledged by then must be at the
//! destination, each order once and whole. The order that was cut off is there whole or not at all: nobody was told.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::Client;

use super::servers::Servers;

/// Orders have numbers above this: the shop's own end far below.
const FIRST: u64 = 2_000_000_000;
/// What stands on each, before its number.
const NOTE: &str = "sold while it moved, no. ";
/// A shop of its size sells less.
const EVERY: Duration = Duration::from_millis(20);
/// A fence ends the clerk's session at once.
const CLOSING_LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Clerk {
    sold: Arc<AtomicU64>,
    work: JoinHandle<Sold>,
}

/// What a clerk did.
pub(super) struct Sold {
    /// Orders that the source acknowledged.
    pub(super) orders: u64,
    /// When it acknowledged the last one.
    pub(super) last: Instant,
    /// What the source said then.
    pub(super) refusal: String,
}

impl Clerk {
    pub(super) async fn begin(servers: &Servers) -> anyhow::Result<Clerk> {
        let client = servers.at_source().await?;
        let customers = "select count(*) from shop.customers";
        let customers: i64 = client.query_one(customers, &[]).await?.get(0);
        let sold = Arc::new(AtomicU64::new(0));
        let work = tokio::spawn(sell(client, customers, Arc::clone(&sold)));
        Ok(Clerk { sold, work })
    }

    /// Orders that were acknowledged so far; fails where the source takes none any more.
    pub(super) async fn sold(&mut self) -> anyhow::Result<u64> {
        if self.work.is_finished() {
            bail!("the source takes no orders any more: {}", (&mut self.work).await?.refusal);
        }
        Ok(self.sold.load(Ordering::Relaxed))
    }

    /// Waits until the source takes no orders any more.
    pub(super) async fn end(mut self) -> anyhow::Result<Sold> {
        let closed = timeout(CLOSING_LIMIT, &mut self.work).await;
        Ok(closed.context("orders are still taken at the source")??)
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        self.work.abort();
    }
}

async fn sell(client: Client, customers: i64, sold: Arc<AtomicU64>) -> Sold {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    for number in 1.. {
        ticks.tick().await;
        if let Err(error) = client.batch_execute(&order(number, customers)).await {
            let refusal = error.as_db_error().map_or(error.to_string(), |e| e.message().to_owned());
            return Sold { orders: number - 1, last, refusal };
        }
        last = Instant::now();
        sold.store(number, Ordering::Relaxed);
    }
    unreachable!("numbers do not end")
}

/// The statements of an order: one message, so one transaction.
fn order(number: u64, customers: i64) -> String {
    let id = FIRST + number;
    let customer = 1 + (number * 7919) % customers.unsigned_abs().max(1);
    let on = format!("date '2025-11-01' + {}", number % 90);
    let mut statements = format!(
        "insert into shop.orders (id, ordered_on, customer_id, ordered_at, note)
         values ({id}, {on}, {customer}, clock_timestamp(), '{NOTE}{number}');
         insert into shop.order_lines (ordered_on, order_id, line_no, product_id, quantity, price)
         select {on}, {id}, line, 1 + ({number} + line) % 300, line, 9.99 from generate_series(1, 2) line;
         insert into shop.payments (method, order_id, ordered_on, paid_at, amount, reference)
         values ('{}', {id}, {on}, clock_timestamp(), (19.98, 'EUR'),
                 convert_to(nextval('shop.invoice_numbers')::text, 'UTF8'));
         update shop.customers set settings = settings || '{{\"ordered\": {number}}}' where id = {customer};
         update shop.products set price = price + 0.01 where id = 1 + {number} % 300;
         insert into logs.page_views (seen_at, path) values (clock_timestamp(), '/thanks');",
        ["card", "cash", "barter"][(number % 3) as usize],
    );
    if number > 10 {
        let before = id - 10;
        let paid = "update shop.orders set status = 'paid' where ordered_on = ";
        write!(statements, "{paid} date '2025-11-01' + {} and id = {before};", (number - 10) % 90)
            .expect("a string takes all");
    }
    statements
}

impl Sold {
    /// Looks at the destination for each acknowledged order, by plain SQL.
    pub(super) async fn prove(&self, servers: &Servers) -> anyhow::Result<u64> {
        let client = servers.witness().await?;
        let found = client
            .query(
                "select o.id - $1, o.note = $2 || (o.id - $1)::text, l.lines, p.payments
                   from shop.orders o
                   left join (select order_id, count(*) from shop.order_lines where order_id > $1 group by 1)
                        l (id, lines) using (id)
                   left join (select order_id, count(*) from shop.payments where order_id > $1 group by 1)
                        p (id, payments) using (id)
                  where o.id > $1 order by 1",
                &[&FIRST.cast_signed(), &NOTE],
            )
            .await
            .context("look for the orders at the destination")?;
        let whole = (true, Some(2_i64), Some(1_i64));
        for (expected, row) in (1_i64..).zip(&found) {
            let number: i64 = row.get(0);
            ensure!(
                number == expected,
                "order {expected} is not at the destination: {number} is next"
            );
            let is = (row.get(1), row.get(2), row.get(3));
            ensure!(is == whole, "order {number} is not whole: note, lines, payments are {is:?}");
        }
        let arrived = found.len() as u64;
        ensure!(
            (self.orders..=self.orders + 1).contains(&arrived),
            "{arrived} orders are at the destination, {} were acknowledged",
            self.orders
        );
        Ok(arrived)
    }
}
