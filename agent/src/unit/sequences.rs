//! Sequences: the destination's go on where the source's are.
//!
//! The source half reads the value of every sequence that takes part: those that the task's rules name, and those that
//! belong to a column of a table they name (`serial`, identity). The destination half sets them. A value is set as it
//! stands, with `is_called`, so cycles and descending sequences need no thought. Setting one again is harmless.
//!
//! `setval` is not undone by a rollback: the ownership is taken first in the same transaction. What was set is kept there too
//! (`pgconvoy.sequence_set`), for the comparison that may follow: by then the source's sequences may have gone on.

use std::collections::HashMap;

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::{QualifiedName, quote_literal};
use pgconvoy_shared::spec::{MigrationType, ObjectRules};
use pgconvoy_shared::unit::WorkResult;
use tokio_postgres::error::SqlState;
use tracing::warn;

use super::link::{Link, link};
use super::{UnitContext, UnitEnd, fence};
use crate::pg::{About, Session};

/// Sequences read by one statement and set by another. A few hundred: a statement with thousands is slow to plan.
pub(super) const BATCH: usize = 200;

/// A sequence, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) sequence: QualifiedName,
    pub(super) value: Value,
    course: Course,
    /// How far one value is from the next, and how far it may go.
    step: i64,
    bounds: (i64, i64),
}

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) last_value: i64,
    pub(super) is_called: bool,
}

/// Where a sequence goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Up,
    Down,
    /// Back to its beginning once it is at its end.
    Round,
}

impl Position {
    /// Stands so many values further on. One that would be at its end there stays where it is: whoever draws the next number would get
    /// none. So does one that begins anew at its end: nobody can say what would be further.
    fn further(mut self, values: u32) -> Self {
        let way = self.step.checked_mul(i64::from(values));
        let further = way.and_then(|way| self.value.last_value.checked_add(way));
        let next = further.and_then(|value| value.checked_add(self.step));
        let (least, most) = self.bounds;
        if let Some((last_value, next)) = further.zip(next)
            && values > 0
            && self.course != Course::Round
            && (least..=most).contains(&next)
        {
            self.value = Value { last_value, is_called: true };
        }
        self
    }

    /// Whether `nextval` can have brought it here from another value.
    pub(super) fn went_on_from(&self, before: Value) -> bool {
        let first_use = self.value == Value { is_called: true, ..before } && !before.is_called;
        let passed = match self.course {
            Course::Up => self.value.last_value > before.last_value,
            Course::Down => self.value.last_value < before.last_value,
            Course::Round => self.value.is_called && self.value != before,
        };
        first_use || passed
    }
}

pub(super) async fn run(ctx: &UnitContext) -> Result<WorkResult, UnitEnd> {
    Ok(WorkResult::Sequences { count: set_further(ctx, 0).await? })
}

/// Sets the destination's so many values further than the source's, in each one's own direction. How many there are.
pub(super) async fn set_further(ctx: &UnitContext, margin: u32) -> Result<u32, UnitEnd> {
    let (source, destination) = link(4);
    let ((), count) =
        tokio::try_join!(source_half(ctx, source), destination_half(ctx, margin, destination))?;
    Ok(count)
}

pub(super) async fn source_half(
    ctx: &UnitContext,
    link: Link<Vec<Position>, ()>,
) -> Result<(), UnitEnd> {
    let session = ctx.session(Side::Source).await?;
    let access = session.access().clone();
    let wanted = taking_part(&session, &ctx.spec.objects).await.about(&access)?;
    for batch in wanted.chunks(BATCH) {
        link.send(positions(&session, batch).await.about(&access)?).await?;
    }
    ctx.means.pool.give(session);
    Ok(())
}

/// Sequences of one end that take part.
pub(super) async fn taking_part(
    session: &Session,
    rules: &ObjectRules,
) -> Result<Vec<QualifiedName>, tokio_postgres::Error> {
    // Those of extensions are the extension's business, those of pgconvoy its own.
    let rows = session
        .query(
            "select n.nspname::text, s.relname::text, tn.nspname::text, t.relname::text
             from pg_class s
             join pg_namespace n on n.oid = s.relnamespace
             left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = s.oid
                  and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0 and d.deptype in ('a', 'i')
             left join pg_class t on t.oid = d.refobjid
             left join pg_namespace tn on tn.oid = t.relnamespace
             where s.relkind = 'S' and s.relpersistence <> 't' and n.nspname <> 'pgconvoy'
               and not exists (select from pg_depend e where e.classid = 'pg_class'::regclass
                               and e.objid = s.oid and e.deptype = 'e')
             order by 1, 2",
            &[],
        )
        .await?;
    let wanted = rows.iter().filter_map(|row| {
        let sequence = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        let table = row.get::<_, Option<&str>>(2).zip(row.get::<_, Option<&str>>(3));
        let by_table = |(schema, table)| rules.matches(&QualifiedName::new(schema, table));
        table.map_or_else(|| rules.matches(&sequence), by_table).then_some(sequence)
    });
    Ok(wanted.collect())
}

/// Where these sequences stand. One that is dropped meanwhile is left out: whoever asks had heard of it a moment before.
pub(super) async fn positions(
    session: &Session,
    batch: &[QualifiedName],
) -> Result<Vec<Position>, tokio_postgres::Error> {
    let mut batch = batch.to_vec();
    loop {
        match positions_of(session, &batch).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                let there = present(session, &batch).await?;
                let (there, gone): (Vec<_>, Vec<_>) =
                    batch.into_iter().zip(there).partition(|(_, there)| *there);
                // Dropped, and made again by now: whoever runs the unit next looks anew.
                if gone.is_empty() {
                    return Err(error);
                }
                for (sequence, _) in gone {
                    warn!("sequence {sequence} was dropped before it was read");
                }
                batch = there.into_iter().map(|(sequence, _)| sequence).collect();
            }
            read => return read,
        }
    }
}

async fn positions_of(
    session: &Session,
    batch: &[QualifiedName],
) -> Result<Vec<Position>, tokio_postgres::Error> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let query: Vec<String> = batch
        .iter()
        .enumerate()
        .map(|(nth, sequence)| {
            format!(
                "select {nth}, s.last_value, s.is_called, p.seqincrement > 0, p.seqcycle, p.seqincrement, p.seqmin, p.seqmax
                 from {} s join pg_sequence p on p.seqrelid = s.tableoid",
                sequence.quoted()
            )
        })
        .collect();
    let rows = session.query(&query.join(" union all "), &[]).await?;
    let position = |row: &tokio_postgres::Row| Position {
        sequence: batch[usize::try_from(row.get::<_, i32>(0)).expect("counted above")].clone(),
        value: Value { last_value: row.get(1), is_called: row.get(2) },
        course: match (row.get(3), row.get(4)) {
            (_, true) => Course::Round,
            (true, false) => Course::Up,
            (false, false) => Course::Down,
        },
        step: row.get(5),
        bounds: (row.get(6), row.get(7)),
    };
    Ok(rows.iter().map(position).collect())
}

/// Sequences of the destination that do not stand where [`set_further`] would set them now.
pub(super) async fn not_set(
    ctx: &UnitContext,
    source: &Session,
    destination: &Session,
    margin: u32,
) -> Result<Vec<String>, UnitEnd> {
    let with_schema = ctx.spec.types.contains(&MigrationType::Schema);
    let wanted = taking_part(source, &ctx.spec.objects).await.about(source.access())?;
    let mut not_set = Vec::new();
    for batch in wanted.chunks(BATCH) {
        let here = positions(source, batch).await.about(source.access())?;
        let there = present(destination, &names(&here)).await.about(destination.access())?;
        let (there, missing): (Vec<_>, Vec<_>) =
            here.into_iter().zip(there).partition(|(_, there)| *there);
        not_set.extend(
            missing.iter().filter(|_| with_schema).map(|(here, _)| here.sequence.to_string()),
        );
        let here: Vec<Position> = there.into_iter().map(|(here, _)| here.further(margin)).collect();
        let there = positions(destination, &names(&here)).await.about(destination.access())?;
        let there: HashMap<_, _> =
            there.into_iter().map(|there| (there.sequence, there.value)).collect();
        let differs = here.iter().filter(|here| there.get(&here.sequence) != Some(&here.value));
        not_set.extend(differs.map(|here| here.sequence.to_string()));
    }
    Ok(not_set)
}

/// Sequences of the source that are to be set at the destination, and are not there.
pub(super) async fn missing(
    ctx: &UnitContext,
    source: &Session,
    destination: &Session,
) -> Result<Vec<String>, UnitEnd> {
    if !ctx.spec.types.contains(&MigrationType::Schema) {
        return Ok(Vec::new());
    }
    let wanted = taking_part(source, &ctx.spec.objects).await.about(source.access())?;
    let there = present(destination, &wanted).await.about(destination.access())?;
    let missing = wanted.iter().zip(there).filter(|(_, there)| !there);
    Ok(missing.map(|(sequence, _)| sequence.to_string()).collect())
}

async fn destination_half(
    ctx: &UnitContext,
    margin: u32,
    mut link: Link<(), Vec<Position>>,
) -> Result<u32, UnitEnd> {
    let session = fence::writing_session(ctx).await?;
    let with_schema = ctx.spec.types.contains(&MigrationType::Schema);
    let mut count = 0;
    while let Some(positions) = link.next().await {
        ctx.still_mine()?;
        let positions: Vec<Position> =
            positions.into_iter().map(|position| position.further(margin)).collect();
        let mut script = format!("begin; {};\n", fence::hold(ctx));
        let present = present(&session, &names(&positions)).await.about(session.access())?;
        for (position, there) in positions.iter().zip(present) {
            // With the schema migrated a missing one is an error, which the server tells; without, the precheck has told it.
            if !there && !with_schema {
                warn!("sequence {} is not at the destination", position.sequence);
                continue;
            }
            script.push_str(&set(position));
            script.push_str(&keep(ctx.task.as_str(), position));
            count += 1;
        }
        script.push_str("commit");
        session.batch_execute(&script).await.about(session.access())?;
    }
    ctx.means.pool.give(session);
    Ok(count)
}

pub(super) fn names(positions: &[Position]) -> Vec<QualifiedName> {
    positions.iter().map(|position| position.sequence.clone()).collect()
}

/// Which of them are there.
pub(super) async fn present(
    session: &Session,
    sequences: &[QualifiedName],
) -> Result<Vec<bool>, tokio_postgres::Error> {
    let names: Vec<String> = sequences.iter().map(QualifiedName::quoted).collect();
    let query = "select to_regclass(name) is not null
                 from unnest($1::text[]) with ordinality as s (name, nth) order by nth";
    let rows = session.query(query, &[&names]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What the task set.
pub(super) async fn were_set(
    ctx: &UnitContext,
    session: &Session,
) -> Result<HashMap<QualifiedName, Value>, tokio_postgres::Error> {
    let query = "select schema_name, sequence_name, last_value, is_called
                 from pgconvoy.sequence_set where task = $1";
    let rows = session.query(query, &[&ctx.task.as_str()]).await?;
    let read = |row: &tokio_postgres::Row| {
        let sequence = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        (sequence, Value { last_value: row.get(2), is_called: row.get(3) })
    };
    Ok(rows.iter().map(read).collect())
}

/// The statement that keeps what was set.
fn keep(task: &str, position: &Position) -> String {
    let Position { sequence, value, .. } = position;
    format!(
        "insert into pgconvoy.sequence_set (task, schema_name, sequence_name, last_value, is_called)
         values ({}, {}, {}, {}, {}) on conflict (task, schema_name, sequence_name)
         do update set last_value = excluded.last_value, is_called = excluded.is_called;\n",
        quote_literal(task),
        quote_literal(&sequence.schema),
        quote_literal(&sequence.name),
        value.last_value,
        value.is_called
    )
}

fn set(position: &Position) -> String {
    format!(
        "select setval({}::regclass, {}, {});\n",
        quote_literal(&position.sequence.quoted()),
        position.value.last_value,
        position.value.is_called
    )
}

#[cfg(test)]
mod tests {
    use pgconvoy_integration_tests::postgres::{Options, Postgres};

    use super::*;
    use crate::pg::tests;

    #[test]
    fn a_position_is_set_as_it_stands() {
        let position = Position {
            sequence: QualifiedName::new("sa'les", "Odd \"seq"),
            value: Value { last_value: -7, is_called: false },
            course: Course::Down,
            step: -2,
            bounds: (-12, -1),
        };
        assert_eq!(
            set(&position),
            "select setval('\"sa''les\".\"Odd \"\"seq\"'::regclass, -7, false);\n"
        );
        let further = |values| position.clone().further(values).value;
        assert_eq!(further(0), position.value);
        assert_eq!(further(1), Value { last_value: -9, is_called: true });
        assert_eq!(further(2), position.value, "there would be no number left");
        assert_eq!(further(u32::MAX), position.value);
        let round = Position { course: Course::Round, ..position.clone() };
        assert_eq!(round.clone().further(7), round);
    }

    #[tokio::test]
    async fn a_sequence_that_is_dropped_before_it_is_read_is_left_out() {
        let server = Postgres::start(Options::default()).await.unwrap();
        server.sql("postgres", "create sequence stays; create sequence goes").await.unwrap();
        let access = tests::access(Side::Source, &tests::endpoint(&server, "postgres"), "test");
        let session = access.session().await.unwrap();
        let listed = taking_part(&session, &ObjectRules::default()).await.unwrap();
        assert_eq!(listed.len(), 2);
        server.sql("postgres", "drop sequence goes; create sequence later").await.unwrap();
        let read = names(&positions(&session, &listed).await.unwrap());
        assert_eq!(read, [QualifiedName::new("public", "stays")]);
        server.sql("postgres", "drop sequence stays").await.unwrap();
        assert_eq!(positions(&session, &listed).await.unwrap(), []);
    }

    #[test]
    fn a_sequence_goes_on_in_its_own_direction() {
        let went_on = |course, before: (i64, bool), now: (i64, bool)| {
            let value = |(last_value, is_called)| Value { last_value, is_called };
            let sequence = QualifiedName::new("public", "numbers");
            Position { sequence, value: value(now), course, step: 1, bounds: (1, 9) }
                .went_on_from(value(before))
        };
        for course in [Course::Up, Course::Down, Course::Round] {
            assert!(went_on(course, (1, false), (1, true)), "its first use: {course:?}");
            assert!(!went_on(course, (1, true), (1, false)), "set anew: {course:?}");
            assert!(!went_on(course, (1, true), (1, true)), "where it was: {course:?}");
        }
        assert!(went_on(Course::Up, (1, true), (2, true)));
        assert!(!went_on(Course::Up, (2, true), (1, true)));
        assert!(went_on(Course::Down, (-1, true), (-2, true)));
        assert!(!went_on(Course::Down, (-2, true), (-1, true)));
        assert!(went_on(Course::Round, (9, true), (1, true)));
    }
}
