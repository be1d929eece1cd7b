//! Letting a parked table go on: what was kept of it is applied, in order, and then it follows the stream again.
//!
//! Before the stream is read any further, so that the table comes to the position where all others are.
//!
//! 1. The table has the columns that the last change has which was kept: so must the destination's by now.
//! 2. Kept changes are decided on and applied as those of the stream are, in transactions that step `apply_progress` on
//!    without moving its position (law O3), and that remove them from what is kept. So each is applied once, and whoever takes
//!    over in between finds there what is left.
//! 3. With the last of them goes the mark that the table is parked.
//!
//! A change that is refused again parks the table again, for that cause: those before it are applied, it and those behind it
//! stay kept.

use std::sync::Arc;

use bytes::Bytes;
use pgconvoy_flow::stream::assemble::Item;
use pgconvoy_flow::stream::decode::Decoder;
use pgconvoy_flow::stream::entry::{Batch, Place, Reread};
use pgconvoy_flow::stream::follow::Follower;
use pgconvoy_flow::stream::message::{Message, Relation};
use pgconvoy_flow::stream::snapshot::FullXid;
use pgconvoy_flow::stream::table::{Table, Target};
use pgconvoy_shared::failure::{Failure, FailureClass};
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::parking::Changes;
use tokio_postgres::Row;

use super::applying::Applier;
use super::catalog::Course;
use super::parking::not_as_planned;
use super::reading::{BATCH_BYTES, Noted, not_understood};
use super::takeover::{lsn, unsigned};
use super::{replaced, reread};
use crate::pg::wire::Wire;
use crate::pg::{About, PgError, Value};
use crate::unit::UnitEnd;
use crate::unit::apply_key::Followed;

/// So much of what is kept is read at once, and one change more.
const PAGE_BYTES: i64 = 8 << 20;
const PAGE_ROWS: i64 = 5_000;

/// The first byte of a relation among kept messages: `R`.
const RELATION: i32 = 0x52;

/// Lets parked tables go on. What is found not to be parked was let go on by somebody who could not say so any more.
pub(super) async fn resume(
    applier: &mut Applier<'_>,
    course: &mut Course,
    rereads: &mut Vec<Reread>,
    rereader: &mut Wire,
    tables: &[TableNo],
) -> Result<(), UnitEnd> {
    applier.tells_later(tables);
    for no in tables {
        let Some(at) = course.tables.iter().position(|table| table.no == *no) else {
            // Made again as unlogged, say.
            applier.is_not_followed(*no).await?;
            continue;
        };
        if !course.tables[at].parked {
            applier.shall_tell(*no, Changes::Applied);
            applier.tell();
            continue;
        }
        let shaped = match shape(applier, course, at).await {
            Err(UnitEnd::Failed(failure)) if failure.class == FailureClass::Definite => {
                if replaced::tells_its_remedy(&failure) {
                    course.lose(at);
                }
                applier.stays_parked(*no, failure).await?;
                continue;
            }
            shaped => shaped?,
        };
        go_on(applier, course, shaped, rereads, rereader).await?;
    }
    Ok(())
}

/// A table as what is kept of it has it in the end.
struct Shaped {
    /// Where it stands in the course.
    at: usize,
    table: Table,
    target: Target,
    followed: Followed,
}

async fn shape(applier: &Applier<'_>, course: &Course, at: usize) -> Result<Shaped, UnitEnd> {
    let mut table = course.tables[at].clone();
    // One that is copied anew has the shape that it was planned in, and what that does not show was changed in it, or later.
    let taken = &course.taken[at];
    if table.relation.0 != taken.followed.relation {
        let told = taken.cause.as_ref().filter(|cause| replaced::is_cause(cause));
        let failure = || replaced::failure(&applier.ctx.task, &table.name);
        return Err(told.map_or_else(failure, |cause| cause.failure.clone()).into());
    }
    let relations = match taken {
        taken if !taken.held => applier.kept_relations(table.no).await?,
        taken if taken.shards.is_empty() => return Err(not_copied().into()),
        _ => Vec::new(),
    };
    table.reshape(&relations).map_err(|mismatch| not_as_planned(&mismatch))?;
    Ok(course.shaped(&applier.session, at, &table).await.map(
        |(of_destination, target, followed)| Shaped {
            at,
            table: Table { dropped: table.dropped, ..of_destination },
            target,
            followed,
        },
    )?)
}

async fn go_on(
    applier: &mut Applier<'_>,
    course: &mut Course,
    shaped: Shaped,
    rereads: &mut Vec<Reread>,
    rereader: &mut Wire,
) -> Result<(), UnitEnd> {
    let Shaped { at, table, target, followed } = shaped;
    let no = table.no;
    let name = table.name.clone();
    let place_of_target = table.target;
    let mut targets = course.targets.to_vec();
    targets[place_of_target] = target;
    let targets: Arc<[Target]> = targets.into();
    let mut tables = course.tables.clone();
    tables[at] = table;
    let known: Vec<Reread> = rereads.iter().filter(|reread| reread.table == no).cloned().collect();
    let mut follower = Follower::new(Arc::clone(&targets), tables, known, Lsn(0), FullXid(0));
    applier.begin_kept(no, Arc::clone(&targets));

    let (mut after, mut last) = (0, None);
    loop {
        let page = applier.kept(no, after).await?;
        if page.is_empty() {
            break;
        }
        for kept in page {
            if follower.uncut().bytes >= BATCH_BYTES {
                if last != Some(kept.place.commit_lsn) {
                    follower.kept_ends();
                }
                let batch = follower.cut();
                rereads.extend(batch.rereads.iter().cloned());
                if applier.apply_kept(no, batch, Until::No(after)).await? == Outcome::ParkedAgain {
                    applier.end_kept(Arc::clone(&course.targets));
                    return Ok(());
                }
            }
            after = kept.no;
            last = Some(kept.place.commit_lsn);
            let place = kept.place;
            let item = match kept.decode()? {
                // Known by its number: what it was called meanwhile is of no matter.
                Message::Relation(relation) => {
                    Item::Relation(Arc::new(Relation { name: name.clone(), ..relation }))
                }
                Message::Change(change) => Item::Change(change),
                _ => return Err(not_kept().into()),
            };
            let wanted = follower.kept(place, item).map_err(|error| not_understood(&error))?;
            if let Some(wanted) = wanted {
                let target = &targets[place_of_target];
                reread::read_again(rereader, &name, target, &wanted, &mut follower).await?;
            }
        }
    }
    follower.kept_ends();
    let batch = follower.cut();
    rereads.extend(batch.rereads.iter().cloned());
    if applier.apply_kept(no, batch, Until::All(&followed)).await? == Outcome::ParkedAgain {
        applier.end_kept(Arc::clone(&course.targets));
        return Ok(());
    }
    if let Some(table) = follower.windows().find(|table| table.no == no) {
        course.tables[at] = Table { dropped: Box::default(), ..table.clone() };
    }
    course.targets = targets;
    Ok(())
}

/// A message that was kept.
struct Kept {
    no: i64,
    place: Place,
    message: Bytes,
}

impl Kept {
    fn read(row: &Row) -> Result<Self, PgError> {
        let place = Place {
            commit_lsn: lsn(row.get(1))?,
            ordinal: unsigned(row.get(2))?,
            xid: FullXid(
                row.get::<_, &str>(3)
                    .parse()
                    .map_err(|_| PgError::protocol("parked_change.xid is no transaction id"))?,
            ),
        };
        let message = Bytes::copy_from_slice(row.get(4));
        Ok(Self { no: row.get(0), place, message })
    }

    fn decode(self) -> Result<Message, UnitEnd> {
        let received = Decoder::default().decode(self.message);
        Ok(received.map_err(|bad| not_understood(&bad))?.message)
    }
}

fn not_copied() -> Failure {
    let message = "the destination has not the shard that was reported done";
    Failure::definite("shards_keep_missing", message)
}

fn not_kept() -> Failure {
    PgError::protocol("parked_change has a message that is neither relation nor change")
        .failure("pgconvoy.parked_change")
}

/// How far a batch goes through what is kept.
enum Until<'a> {
    /// Up to this one, with its own.
    No(i64),
    /// Up to the end: the table is followed again, as this says.
    All(&'a Followed),
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Applied,
    ParkedAgain,
}

impl Applier<'_> {
    async fn kept_relations(&self, table: TableNo) -> Result<Vec<Relation>, UnitEnd> {
        let query =
            "select no, commit_lsn::text, ordinal, xid::text, message from pgconvoy.parked_change
                     where task = $1 and table_no = $2 and get_byte(message, 0) = $3 order by no";
        let (task, no) = (self.ctx.task.as_str(), i64::from(table.0));
        let rows = self.session.query(query, &[&task, &no, &RELATION]).await.about(&self.access)?;
        let mut relations = Vec::with_capacity(rows.len());
        for row in &rows {
            match Kept::read(row).about(&self.access)?.decode()? {
                Message::Relation(relation) => relations.push(relation),
                _ => return Err(not_kept().into()),
            }
        }
        Ok(relations)
    }

    async fn kept(&self, table: TableNo, after: i64) -> Result<Vec<Kept>, UnitEnd> {
        let query = "
            select no, commit_lsn::text, ordinal, xid::text, message from (
                select *, sum(octet_length(message)) over (order by no) - octet_length(message) as before from (
                    select no, commit_lsn, ordinal, xid, message from pgconvoy.parked_change
                    where task = $1 and table_no = $2 and no > $3 order by no limit $4) as rest) as page
            where before < $5 order by no";
        let (task, no) = (self.ctx.task.as_str(), i64::from(table.0));
        let values: [&dyn Value; 5] = [&task, &no, &after, &PAGE_ROWS, &PAGE_BYTES];
        let rows = self.session.query(query, &values).await.about(&self.access)?;
        let kept: Result<_, PgError> = rows.iter().map(Kept::read).collect();
        Ok(kept.about(&self.access)?)
    }

    /// The table is not to be kept out of batches.
    fn begin_kept(&mut self, table: TableNo, targets: Arc<[Target]>) {
        self.parked.remove(&table);
        self.held.remove(&table);
        self.targets = targets;
    }

    fn end_kept(&mut self, targets: Arc<[Target]>) {
        self.targets = targets;
    }

    async fn apply_kept(
        &mut self,
        table: TableNo,
        mut batch: Batch,
        until: Until<'_>,
    ) -> Result<Outcome, UnitEnd> {
        self.ctx.still_mine()?;
        self.begin_piece([table].into(), &batch.entries).await?;
        let (rows, bytes) = (batch.entries.len() as u64, batch.bytes as u64);
        self.write(&mut batch, None, None).await?;
        // What is not applied is kept already.
        let stays = batch.parked.drain(..).map(|parked| parked.place).min();
        self.keep(&batch).await?;
        self.ctx.progress.add(rows, bytes);
        let outcome = match (stays, until) {
            (Some(from), _) => {
                self.forget_before(table, from).await?;
                batch.at_boundary = true;
                Outcome::ParkedAgain
            }
            (None, Until::No(no)) => {
                self.forget_up_to(table, no).await?;
                Outcome::Applied
            }
            (None, Until::All(followed)) => {
                self.unpark(table, followed).await?;
                Outcome::Applied
            }
        };
        if batch.at_boundary {
            self.step_to(self.position.lsn, &Noted::default()).await?;
        }
        Ok(outcome)
    }

    /// Relations stay until the end: what is still kept may be read by any of them.
    async fn forget_up_to(&self, table: TableNo, up_to: i64) -> Result<(), UnitEnd> {
        let forget =
            "delete from pgconvoy.parked_change where task = $1 and table_no = $2 and no <= $3
                      and get_byte(message, 0) <> $4";
        let (task, no) = (self.ctx.task.as_str(), i64::from(table.0));
        let values = self.session.execute(forget, &[&task, &no, &up_to, &RELATION]).await;
        values.about(&self.access)?;
        Ok(())
    }

    async fn forget_before(&self, table: TableNo, place: Place) -> Result<(), UnitEnd> {
        let forget = "delete from pgconvoy.parked_change where task = $1 and table_no = $2
                      and (commit_lsn, ordinal) < ($3::text::pg_lsn, $4::bigint) and get_byte(message, 0) <> $5";
        let (task, no) = (self.ctx.task.as_str(), i64::from(table.0));
        let (commit, ordinal) = (place.commit_lsn.to_string(), place.ordinal.cast_signed());
        let forgotten =
            self.session.execute(forget, &[&task, &no, &commit, &ordinal, &RELATION]).await;
        forgotten.about(&self.access)?;
        Ok(())
    }

    async fn unpark(&mut self, table: TableNo, followed: &Followed) -> Result<(), UnitEnd> {
        let unpark =
            "with kept as (delete from pgconvoy.parked_change where task = $1 and table_no = $2),
             copied as (delete from pgconvoy.copied_anew where task = $1 and table_no = $2)
                      update pgconvoy.table_state set parked = null, followed = $3::text::jsonb
                      where task = $1 and table_no = $2";
        let (task, no) = (self.ctx.task.as_str(), i64::from(table.0));
        let followed = serde_json::to_string(followed).expect("texts, numbers and lists are JSON");
        self.session.execute(unpark, &[&task, &no, &followed]).await.about(&self.access)?;
        self.shall_tell(table, Changes::Applied);
        Ok(())
    }

    /// It cannot even be tried: the new cause is told in place of the old one.
    pub(super) async fn stays_parked(
        &mut self,
        table: TableNo,
        failure: Failure,
    ) -> Result<(), UnitEnd> {
        let mut cause = self.cause_of(table).unwrap_or_else(|| self.cause_here(failure.clone()));
        cause.failure = failure;
        cause.statement.clear();
        self.held.remove(&table);
        self.parked.insert(table);
        self.ctx.still_mine()?;
        self.begin_piece([table].into(), &[]).await?;
        self.note_cause(table, cause).await?;
        self.step_to(self.position.lsn, &Noted::default()).await
    }
}
