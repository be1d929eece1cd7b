//! Comparing the schemas of both ends: what one pg_dump says of each, statement by statement.
//!
//! ```text
//!  source half                         destination half
//!  the source's major   ────────────▶  chooses the pg_dump for both
//!  pg_dump ▶ statements ◀────────────  its major
//!                       ◀────────────  pg_dump ▶ statements
//! ```
//!
//! Objects are matched by kind, schema and name, and are the same if their statements are. Who owns an object and who has which
//! privileges is not compared: a migration cannot always keep it, and says so beforehand. A server writes views and
//! expressions out itself; so between two majors their texts may differ without a difference in meaning.

use std::collections::BTreeMap;

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::verify::{Difference, ObjectDifference, ObjectsCompared};

use super::dump::{Dump, archive};
use super::entry::without_owner;
use super::restore::Archive;
use super::select::select;
use super::toc::TocEntry;
use crate::pg::About;
use crate::unit::link::{Link, link, out_of_turn};
use crate::unit::{UnitContext, UnitEnd};

/// `INDEX public.orders_day_idx` → what creates it.
type Statements = BTreeMap<String, String>;

#[derive(Debug)]
enum FromDestination {
    /// The pg_dump to be used, by its major.
    Chosen(u32),
    Statements(Statements),
}

/// Compares the schemas.
pub(in crate::unit) async fn compare(ctx: &UnitContext) -> Result<ObjectsCompared, UnitEnd> {
    let (source, destination) = link(1);
    let (compared, ()) = tokio::try_join!(
        Box::pin(source_half(ctx, source)),
        Box::pin(destination_half(ctx, destination))
    )?;
    Ok(compared)
}

async fn source_half(
    ctx: &UnitContext,
    mut link: Link<u32, FromDestination>,
) -> Result<ObjectsCompared, UnitEnd> {
    let access = ctx.access(Side::Source);
    let session = access.session().await.about(&access)?;
    link.send(session.major()).await?;
    session.close().await;
    let FromDestination::Chosen(major) = link.expect().await? else {
        return Err(out_of_turn().into());
    };
    let ours = statements(ctx, Side::Source, major).await?;
    let FromDestination::Statements(theirs) = link.expect().await? else {
        return Err(out_of_turn().into());
    };
    Ok(differences(ours, theirs))
}

async fn destination_half(
    ctx: &UnitContext,
    mut link: Link<FromDestination, u32>,
) -> Result<(), UnitEnd> {
    let access = ctx.access(Side::Destination);
    let session = access.session().await.about(&access)?;
    let mine = session.major();
    session.close().await;
    let source = link.expect().await?;
    let major = ctx.means.tools.choose(source.max(mine), mine)?.major;
    link.send(FromDestination::Chosen(major)).await?;
    let statements = statements(ctx, Side::Destination, major).await?;
    link.send(FromDestination::Statements(statements)).await
}

async fn statements(ctx: &UnitContext, side: Side, major: u32) -> Result<Statements, UnitEnd> {
    let access = ctx.access(side);
    let session = access.session().await.about(&access)?;
    let row = session.query_one("select getdatabaseencoding()::text", &[]).await.about(&access)?;
    let tools = ctx.means.tools.choose(major, major)?;
    let mut dumped = Archive::new()?;
    let what = Dump { side, tools, snapshot: None, encoding: row.get(0) };
    let written = archive(ctx, &session, what, |piece| std::future::ready(dumped.write(&piece)));
    written.await?;
    session.close().await;
    let toc = dumped.entries(ctx, tools).await?;
    let chosen = select(&toc, &ctx.spec.objects);
    let mut statements = Statements::new();
    for entry in toc.iter().filter(|entry| chosen.contains(&entry.id) && is_compared(entry)) {
        let statement = without_owner(&entry.statement);
        let known = statements.entry(title(entry)).or_default();
        if !known.is_empty() {
            known.push_str("\n\n");
        }
        known.push_str(statement);
    }
    Ok(statements)
}

fn is_compared(entry: &TocEntry) -> bool {
    !matches!(entry.kind.as_str(), "ACL" | "DEFAULT ACL")
}

fn title(entry: &TocEntry) -> String {
    match &entry.schema {
        Some(schema) => format!("{} {schema}.{}", entry.kind, entry.name),
        None => format!("{} {}", entry.kind, entry.name),
    }
}

fn differences(ours: Statements, mut theirs: Statements) -> ObjectsCompared {
    let mut compared = ObjectsCompared { objects: ours.len() as u64, ..Default::default() };
    for (object, source) in ours {
        let (difference, destination) = match theirs.remove(&object) {
            Some(same) if same == source => continue,
            Some(other) => (Difference::Different, other),
            None => (Difference::Missing, String::new()),
        };
        compared.push(ObjectDifference { difference, object, source, destination });
    }
    for (object, destination) in theirs {
        let difference = Difference::Extra;
        compared.push(ObjectDifference { difference, object, source: String::new(), destination });
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_matched_by_what_they_are_called() {
        let of = |entries: &[(&str, &str)]| {
            entries.iter().map(|(title, text)| ((*title).to_owned(), (*text).to_owned())).collect()
        };
        let ours = of(&[("INDEX a", "1"), ("TABLE b", "2"), ("VIEW c", "3")]);
        let theirs = of(&[("INDEX d", "4"), ("TABLE b", "2"), ("VIEW c", "other")]);
        let compared = differences(ours, theirs);
        assert_eq!((compared.objects, compared.differences), (3, 3));
        let told: Vec<_> =
            compared.listed.iter().map(|d| (d.difference, d.object.as_str())).collect();
        let expected = [
            (Difference::Missing, "INDEX a"),
            (Difference::Different, "VIEW c"),
            (Difference::Extra, "INDEX d"),
        ];
        assert_eq!(told, expected);
    }
}
