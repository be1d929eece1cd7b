//! Taking a stream over at the destination (law O3).

use pgconvoy_flow::stream::entry::Reread;
use pgconvoy_flow::stream::message::RelationId;
use pgconvoy_flow::stream::snapshot::{BadSnapshot, Snapshot};
use pgconvoy_flow::stream::tuple::{Field, Tuple};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::parking::Cause;
use pgconvoy_shared::unit::StreamOrder;
use tokio_postgres::{Row, Transaction};

use super::{Position, replaced};
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::{About, PgError, Session};
use crate::unit::apply_key::Followed;
use crate::unit::{UnitContext, UnitEnd};

/// What a stream goes on from: all of one transaction at the destination, which raised the epoch.
#[derive(Debug)]
pub(super) struct TakenOver {
    /// The session that will apply.
    pub(super) session: Session,
    pub(super) position: Position,
    pub(super) tables: Vec<TakenTable>,
    pub(super) rereads: Vec<Reread>,
    /// See [`super::Applied::consistent_at`].
    pub(super) consistent_at: Lsn,
}

/// A table whose changes are followed.
#[derive(Debug, Clone)]
pub(super) struct TakenTable {
    pub(super) no: TableNo,
    pub(super) generation: Generation,
    pub(super) write_to: QualifiedName,
    pub(super) followed: Followed,
    /// The source's table whose changes are applied or kept; none where nothing can be made of them any more.
    pub(super) relation: RelationId,
    pub(super) plan: Snapshot,
    /// Of its shards.
    pub(super) shards: Vec<Snapshot>,
    /// N.
    pub(super) until: Lsn,
    /// Why it is parked; none = its changes are applied.
    pub(super) cause: Option<Cause>,
    /// It is copied anew: its changes are kept until it is.
    pub(super) held: bool,
}

impl TakenTable {
    /// Its changes are kept.
    pub(super) fn is_aside(&self) -> bool {
        self.held || self.cause.is_some()
    }
}

const TABLES: &str = "
    select s.table_no, s.generation, s.write_schema, s.write_table, s.followed::text, s.parked::text,
        greatest(max(p.noted_lsn), s.read_again_at)::text,
        (select relation from pgconvoy.copied_anew a where (a.task, a.table_no) = (s.task, s.table_no)),
        coalesce(array_agg(distinct p.snapshot) filter (where p.snapshot is not null), '{}')
    from pgconvoy.table_state s
    left join pgconvoy.shard_progress p on (p.task, p.table_no, p.generation) = (s.task, s.table_no, s.generation)
    where s.task = $1 and s.followed is not null
    group by s.task, s.table_no order by s.table_no";

/// Of tables that the source has no more, nothing is kept. Their plans stay, and fence whoever wrote for older ones.
const FOLLOW_NO_MORE: &str = "
    with kept as (delete from pgconvoy.parked_change where task = $1 and table_no = any ($2)),
        copied as (delete from pgconvoy.copied_anew where task = $1 and table_no = any ($2))
    update pgconvoy.table_state set parked = null, followed = null where task = $1 and table_no = any ($2)";

/// Triggers, rules and foreign keys did their work at the source. And a statement is run with the plan for few rows, each of
/// which is found by its key, however many come with it: one made for just these rows is planned each time, and where they are
/// many it reads the whole table. The server would come to the same after five runs. (How long a plan is kept:
/// [`super::statements`].)
const SETTINGS: &str =
    "set session_replication_role = replica; set plan_cache_mode = force_generic_plan";

/// Ends what older owners left, and makes this epoch the one that applies.
pub(super) async fn take_over(
    ctx: &UnitContext,
    order: &StreamOrder,
) -> Result<TakenOver, UnitEnd> {
    let access = ctx.access(Side::Destination);
    let mut session = access.session().await.about(&access)?;
    ctx.still_mine()?;
    end_old_sessions(&mut session).await?;
    ctx.still_mine()?;
    session.batch_execute(SETTINGS).await.about(&access)?;

    let transaction = session.transaction().await.about(&access)?;
    let position = position(&transaction, ctx, order).await.about(&access)?;
    let task = ctx.task.as_str();
    forget_changes(&transaction, task, order.cutovers_over).await.about(&access)?;
    let gone: Vec<i64> = order.gone.iter().map(|table| i64::from(table.0)).collect();
    transaction.execute(FOLLOW_NO_MORE, &[&task, &gone]).await.about(&access)?;
    let rows = transaction.query(TABLES, &[&task]).await.about(&access)?;
    let tables: Result<Vec<_>, PgError> = rows.iter().map(table).collect();
    let tables = tables.about(&access)?;
    let rereads = rereads(&transaction, task).await.about(&access)?;
    transaction.commit().await.about(&access)?;

    let consistent_at = tables.iter().map(|table| table.until).max().unwrap_or_default();
    Ok(TakenOver { session, position, tables, rereads, consistent_at })
}

async fn position(
    transaction: &Transaction<'_>,
    ctx: &UnitContext,
    order: &StreamOrder,
) -> Result<Position, PgError> {
    let call = format!(
        "select lsn::text, seq from pgconvoy.take_over_stream($1, {}, '{}')",
        ctx.epoch, order.opened.start
    );
    let row = transaction.query_one(&call, &[&ctx.task.as_str()]).await?;
    Ok(Position { lsn: lsn(row.get(0))?, seq: unsigned(row.get(1))? })
}

/// What was changed is kept in mind no longer, where the cutover that wanted to know is over.
async fn forget_changes(
    transaction: &Transaction<'_>,
    task: &str,
    cutovers_over: u32,
) -> Result<(), PgError> {
    let over = "update pgconvoy.apply_progress set changes_for = null where task = $1 and changes_for <= $2::bigint";
    if transaction.execute(over, &[&task, &i64::from(cutovers_over)]).await? > 0 {
        for table in ["changed_key", "changed_table"] {
            let forget = format!("delete from pgconvoy.{table} where task = $1");
            transaction.execute(&forget, &[&task]).await?;
        }
    }
    Ok(())
}

fn table(row: &Row) -> Result<TakenTable, PgError> {
    let followed: Followed = serde_json::from_str(row.get(4))
        .map_err(|error| PgError::protocol(format!("table_state.followed: {error}")))?;
    let cause = row.get::<_, Option<&str>>(5).map(serde_json::from_str).transpose();
    let cause: Option<Cause> =
        cause.map_err(|error| PgError::protocol(format!("table_state.parked: {error}")))?;
    let held: Option<i64> = row.get(7);
    let relation = match (held, &cause) {
        (Some(kept), _) => RelationId(number(kept)?),
        (None, Some(cause)) if replaced::is_cause(cause) => RelationId::NONE,
        (None, _) => RelationId(followed.relation),
    };
    let shards: Vec<&str> = row.get(8);
    let until: Option<&str> = row.get(6);
    Ok(TakenTable {
        no: TableNo(number(row.get(0))?),
        generation: Generation(number(row.get(1))?),
        write_to: QualifiedName::new(row.get::<_, &str>(2), row.get::<_, &str>(3)),
        plan: snapshot(&followed.snapshot)?,
        followed,
        relation,
        shards: shards.into_iter().map(snapshot).collect::<Result<_, _>>()?,
        until: until.map(lsn).transpose()?.unwrap_or_default(),
        cause,
        held: held.is_some(),
    })
}

async fn rereads(transaction: &Transaction<'_>, task: &str) -> Result<Vec<Reread>, PgError> {
    let query =
        "select table_no, key, snapshot, noted_lsn::text from pgconvoy.reread where task = $1";
    let rows = transaction.query(query, &[&task]).await?;
    let reread = |row: &Row| {
        let key: Vec<Option<&str>> = row.get(1);
        let fields = key.iter().map(|value| match value {
            Some(value) => Field::Text(value.as_bytes()),
            None => Field::Null,
        });
        Ok(Reread {
            table: TableNo(number(row.get(0))?),
            keys: [Tuple::from_fields(fields)].into(),
            snapshot: snapshot(row.get(2))?,
            noted: lsn(row.get(3))?,
        })
    };
    rows.iter().map(reread).collect()
}

pub(super) fn snapshot(text: &str) -> Result<Snapshot, PgError> {
    text.parse().map_err(|bad: BadSnapshot| PgError::protocol(bad.to_string()))
}

pub(super) fn lsn(text: &str) -> Result<Lsn, PgError> {
    text.parse().map_err(|_| PgError::protocol(format!("`{text}` where a position must be")))
}

pub(super) fn number(number: i64) -> Result<u32, PgError> {
    u32::try_from(number).map_err(|_| PgError::protocol(format!("number {number}")))
}

pub(super) fn unsigned(number: i64) -> Result<u64, PgError> {
    u64::try_from(number).map_err(|_| PgError::protocol(format!("number {number}")))
}
