//! Following the source: every change that it commits is applied at the destination, once and in order, for as long as the
//! task runs.
//!
//! ```text
//!  source ── pgoutput ──▶ reading ── batches ──▶ applying ──▶ destination
//!    ▲                      │  ▲                     │
//!    │      rows read again ┘  └──── parked ─────────┤ applied, durably
//!    └──── confirmed ◀── recording ◀─────────────────┘
//!                            └─▶ Raft
//! ```
//!
//! 1. Take over (laws O3, O5): sessions of older owners are ended, the epoch at the destination is raised, and from the same
//!    transaction comes all that is gone on from: position, number of the batch, plans with their snapshots, N of each table.
//! 2. Look whether the source is the one that was left, its slot still holds what comes next (law O7), and its publication names the
//!    same tables as ever ([`published`], law S1). A slot that is lost is told, and never made again: that would be a gap.
//! 3. Tables that the destination has not any more, or not as they were planned ([`catalog`]), are [parked](parking). Those that were
//!    parked and are mended, or copied anew, go on: what was kept of them is applied ([`resume`]). Of those that
//!    are to be copied anew changes are kept from here on ([`hold`]).
//! 4. [`reading`]: transactions are put together, decided on change by change, and cut into batches, which are [folded](folding).
//! 5. [`applying`]: a batch is one transaction at the destination, which steps it from one state of the source to a later one,
//!    and its position with it; while a cutover wants to know, what it changes is written down too ([`changes`]). A table whose changes cannot be applied is parked ([`parking`]), the others go on.
//! 6. [`recording`]: what is applied is recorded in Raft, and only then confirmed at the source (law O7).
//! 7. [`looking`]: how far the source is meanwhile, and what it keeps for the slot.
//!
//! Each of the last four, and the stream itself, goes at its own pace, and whoever is behind is waited for. A failure ends the
//! unit; whoever gets it next begins with 1. So does a unit that is told to stop: what was open at the destination is rolled back.

mod applying;
mod catalog;
mod changes;
mod figures;
mod folding;
mod hold;
mod looking;
mod parking;
mod published;
mod reading;
mod recording;
mod replaced;
mod reread;
mod resume;
mod sending;
mod source;
mod spool;
mod statements;
mod takeover;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::unit::{StreamOrder, WorkResult};

use super::copy_shard::Encoding;
use super::{UnitContext, UnitEnd, marker};
use crate::pg::About;
use applying::{Applier, Reports};
use catalog::Course;
use figures::Figures;
use looking::Looker;
use published::Published;
use reading::{Behind, Outlet, Reader};
use source::Streaming;
use takeover::TakenOver;

/// Buffers of the stream that wait to be read: each of some 256 KiB.
const BUFFERS: usize = 4;

/// How far the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    /// Every transaction that ends at or before it is applied.
    lsn: Lsn,
    /// Number of the last applying transaction.
    seq: u64,
}

/// What is applied, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Applied {
    lsn: Lsn,
    /// The largest N of all tables: beyond it, they show one state of the source after another.
    consistent_at: Lsn,
    /// How many tables are parked.
    parked: u32,
}

impl Applied {
    fn is_consistent(self) -> bool {
        self.lsn >= self.consistent_at
    }
}

fn count(tables: usize) -> u32 {
    u32::try_from(tables).expect("tables are numbered by u32")
}

/// Follows the source until it is told to stop.
pub(super) async fn run(ctx: &UnitContext, order: StreamOrder) -> Result<WorkResult, UnitEnd> {
    let taken = takeover::take_over(ctx, &order).await?;
    let mut source = source::reach(ctx, &order, &taken).await?;
    let TakenOver { session, position, tables, mut rereads, consistent_at } = taken;
    let published = Published::of(&ctx.task, &tables, &order);
    published.check(&source.looker).await?;
    let (mut course, unfit) = Course::of(&session, tables).await?;
    if source.encoding == Encoding::Unknown {
        let as_they_are = "set client_encoding = 'SQL_ASCII'";
        session.batch_execute(as_they_are).await.about(session.access())?;
    }

    let (applied, watched) =
        watch::channel(Applied { lsn: position.lsn, consistent_at, parked: 0 });
    let (park, to_park) = mpsc::unbounded_channel();
    let (notes, to_tell) = mpsc::unbounded_channel();
    let figures = Arc::new(Figures::default());
    let reports = Reports { applied, park, figures: Arc::clone(&figures) };
    let mut applier = Applier::new(ctx, session, position, consistent_at, &course, reports);
    applier.park_from_here(unfit).await?;
    applier.tell_apart(&mut course).await?;
    let to_resume = &order.resume;
    resume::resume(&mut applier, &mut course, &mut rereads, &mut source.rereader, to_resume)
        .await?;
    hold::hold(&mut applier, &mut course, &source.looker, &order.hold).await?;
    applier.begin();

    let Streaming { feed, behind, looker, rereader, newest } =
        source.start(ctx, position.lsn).await?;
    let (may_begin_anew, is_over) = watch::channel(false);
    let behind = behind.map(|anew| Behind { is_over, anew });
    let (to_reader, events) = mpsc::channel(BUFFERS);
    let (to_applier, cuts) = mpsc::channel(1);
    let (finished, finishes) = watch::channel(0);
    // Of what is applied, only what is recorded may be confirmed.
    let (safe, confirmed) = watch::channel(order.checkpoint.applied.min(position.lsn));

    let names = course.tables.iter().map(|table| (table.no, table.name.clone())).collect();
    let figured = Arc::clone(&figures);
    let looker = Looker::new(ctx, looker, (names, published), figured, notes, may_begin_anew);
    let source = (rereader, newest);
    let to_applier = Outlet::new(to_applier, finishes);
    let markers = marker::table(&ctx.task);
    let reader = Reader::new(position.lsn, course, rereads, source, to_applier, figures, markers);
    // None of them ends by itself but with a failure, and the first one ends all.
    tokio::try_join!(
        Box::pin(feed.pass_on(to_reader, confirmed)),
        Box::pin(reader.run(events, behind, to_park)),
        Box::pin(applier.run(cuts, finished)),
        Box::pin(looker.run(watched.clone(), safe.subscribe())),
        Box::pin(recording::run(ctx, order.checkpoint, watched, safe)),
        Box::pin(recording::tell(ctx, to_tell)),
    )?;
    Err(UnitEnd::Released)
}
