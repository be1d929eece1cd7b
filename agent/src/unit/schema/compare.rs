//! Comparing the schemas of both ends: what one pg_dump says of each, statement by statement.
//!
//! ```text
//!  source half                         destination half
//!  the source's major   ────────────▶  chooses the pg_dump for both
//!  pg_dump ▶ statements ◀────────────  its major
//!                       ◀────────────  pg_dump ▶ statements
//! ```
//!
//! Objects are matched by kind, schema and name, and are the same if their statements are; so are owners and grants
//! ([`privileges`](super::privileges)), objects of their own here. What is only another wording of the same is no
//! difference ([`wording`]): above all between two majors, for a server writes views and expressions out itself.

use std::collections::BTreeMap;

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::verify::{Difference, ObjectDifference, ObjectsCompared};

use super::dump::{Dump, archive};
use super::entry::without_owner;
use super::live::yet_to_come;
use super::privileges::{Named, Privileges, Roles, is_grant};
use super::restore::Archive;
use super::run::USER_MAPPING;
use super::select::select;
use super::toc::TocEntry;
use super::{assignable, closed_mappings, wording};
use crate::pg::{About, Session};
use crate::unit::link::{Link, link, out_of_turn};
use crate::unit::{UnitContext, UnitEnd};

/// Why something is not compared.
const LATER: &str = "it comes with the cutover: it would fire for changes that are applied";
const CLOSED: &str = "its options may not be read by the role that compares";

/// `INDEX public.orders_day_idx` → what creates it.
type Statements = BTreeMap<String, String>;

/// The schema of one end.
#[derive(Debug, Default)]
struct Described {
    statements: Statements,
    privileges: Privileges,
}

#[derive(Debug)]
enum FromDestination {
    /// The pg_dump to be used, by its major; and the server's.
    Chosen { tool: u32, server: u32 },
    /// A migration may have done with an older one, which reads the source alone.
    NoTool(Failure),
    Described {
        schema: Described,
        roles: Roles,
        /// Titles of what is not made there before the last change is applied.
        later: Vec<String>,
        /// Titles of user mappings whose options are not shown there.
        closed: Vec<String>,
        /// Titles of tables whose replica identity is, for a while, not the one that they came with.
        identified: Vec<String>,
    },
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
    let session = ctx.session(Side::Source).await?;
    let mine = session.major();
    let mut closed = closed(&session).await.about(session.access())?;
    link.send(mine).await?;
    ctx.means.pool.give(session);
    let (tool, server) = match link.expect().await? {
        FromDestination::Chosen { tool, server } => (tool, server),
        FromDestination::NoTool(missing) => {
            let mut compared = ObjectsCompared::default();
            compared.skip("SCHEMA", format!("{}; {}", missing.message, missing.remedy));
            return Ok(compared);
        }
        FromDestination::Described { .. } => return Err(out_of_turn().into()),
    };
    let mut ours = described(ctx, Side::Source, tool).await?;
    let described_there = link.expect().await?;
    let FromDestination::Described { mut schema, roles, later, closed: there, identified } =
        described_there
    else {
        return Err(out_of_turn().into());
    };
    closed.extend(there);
    for title in &identified {
        forget_identity(&mut ours.statements, title);
        forget_identity(&mut schema.statements, title);
    }
    let same = if mine == server { wording::same } else { wording::same_between_majors };
    let later = later.iter().map(|title| (title, LATER));
    let skipped: Vec<_> = later.chain(closed.iter().map(|title| (title, CLOSED))).collect();
    Ok(compared(ours, schema, &roles, &skipped, same))
}

async fn destination_half(
    ctx: &UnitContext,
    mut link: Link<FromDestination, u32>,
) -> Result<(), UnitEnd> {
    let session = ctx.session(Side::Destination).await?;
    let access = session.access().clone();
    let mine = session.major();
    let roles = roles(&session).await.about(&access)?;
    let later = yet_to_come(&session).await.about(&access)?;
    let closed = closed(&session).await.about(&access)?;
    let identified = identified(&session).await.about(&access)?;
    ctx.means.pool.give(session);
    let source = link.expect().await?;
    let tool = match ctx.means.tools.choose(source.max(mine), mine) {
        Ok(tools) => tools.major,
        Err(missing) => return link.send(FromDestination::NoTool(missing)).await,
    };
    link.send(FromDestination::Chosen { tool, server: mine }).await?;
    let schema = described(ctx, Side::Destination, tool).await?;
    link.send(FromDestination::Described { schema, roles, later, closed, identified }).await
}

async fn roles(session: &Session) -> Result<Roles, tokio_postgres::Error> {
    let assignable = assignable(session.major());
    let query = format!("select rolname::text, {assignable}, rolname = current_user from pg_roles");
    let mut roles = Roles::default();
    for row in session.query(&query, &[]).await? {
        let name: String = row.get(0);
        if row.get(1) {
            roles.assignable.insert(name.clone());
        }
        if row.get(2) {
            roles.own.clone_from(&name);
        }
        roles.known.insert(name);
    }
    Ok(roles)
}

/// Titles of user mappings that an archive may have without their options.
async fn closed(session: &Session) -> Result<Vec<String>, tokio_postgres::Error> {
    let title = |(user, server): &(String, String)| {
        title_of("USER MAPPING", "", &format!("USER MAPPING {user} SERVER {server}"))
    };
    Ok(closed_mappings(session).await?.iter().map(title).collect())
}

/// Tables to which a task gave another replica identity for as long as it lasts, whichever task that is.
async fn identified(session: &Session) -> Result<Vec<String>, tokio_postgres::Error> {
    let noted = "select coalesce(has_table_privilege(to_regclass('pgconvoy.identity_set'), 'select'), false)
                        and has_schema_privilege('pgconvoy', 'usage')";
    if !session.query_one(noted, &[]).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let query = "select schema_name, table_name from pgconvoy.identity_set";
    let rows = session.query(query, &[]).await?;
    Ok(rows.iter().map(|row| title_of("TABLE", row.get(0), row.get(1))).collect())
}

/// Leaves out what says of a table how its rows are identified.
fn forget_identity(statements: &mut Statements, title: &str) {
    if let Some(statement) = statements.get_mut(title) {
        let says = |line: &str| {
            line.starts_with("ALTER TABLE ONLY ") && line.contains(" REPLICA IDENTITY ")
        };
        let rest: Vec<&str> = statement.lines().filter(|line| !says(line)).collect();
        *statement = rest.join("\n").trim_end().to_owned();
    }
}

async fn described(ctx: &UnitContext, side: Side, tool: u32) -> Result<Described, UnitEnd> {
    let session = ctx.session(side).await?;
    let access = session.access().clone();
    let row = session.query_one("select getdatabaseencoding()::text", &[]).await.about(&access)?;
    let tools = ctx.means.tools.choose(tool, tool)?;
    let mut dumped = Archive::new()?;
    let what = Dump { tools, snapshot: None, encoding: row.get(0) };
    let written = archive(ctx, &session, what, |piece| std::future::ready(dumped.write(&piece)));
    written.await?;
    ctx.means.pool.give(session);
    let toc = dumped.entries(ctx, tools).await?;
    let chosen = select(&toc, &ctx.spec.objects);
    let mut described = Described::default();
    for entry in toc.iter().filter(|entry| chosen.contains(&entry.id)) {
        let title = title(entry);
        described.privileges.add(&title, entry);
        if is_grant(entry) {
            continue;
        }
        let known = described.statements.entry(title).or_default();
        if !known.is_empty() {
            known.push_str("\n\n");
        }
        known.push_str(without_owner(&entry.statement));
    }
    Ok(described)
}

fn title(entry: &TocEntry) -> String {
    title_of(&entry.kind, entry.schema.as_deref().unwrap_or_default(), &entry.name)
}

/// For people, and the same at both ends: `TABLE public.t`.
pub(super) fn title_of(kind: &str, schema: &str, name: &str) -> String {
    match schema {
        "" => format!("{kind} {name}"),
        schema => format!("{kind} {schema}.{name}"),
    }
}

fn compared(
    mut ours: Described,
    mut theirs: Described,
    roles: &Roles,
    skipped: &[(&String, &str)],
    same: fn(&str, &str) -> bool,
) -> ObjectsCompared {
    let mut compared = ObjectsCompared::default();
    for (title, reason) in skipped {
        let (here, there) = (ours.statements.remove(*title), theirs.statements.remove(*title));
        if here.or(there).is_some() {
            compared.skip(title, (*reason).to_owned());
        }
    }
    compared.objects = ours.statements.len() as u64;
    differences(&mut compared, ours.statements, theirs.statements, same);
    let ([ours, theirs], left_out) = ours.privileges.comparable(theirs.privileges, roles);
    differences(&mut compared, ours, theirs, same);
    for (role, Named { owned, grants }) in left_out {
        let why = if roles.known.contains(&role) {
            "at the destination objects cannot be given to this role"
        } else {
            "the destination has no such role"
        };
        let reason = format!("{why}; not compared: the owner of {owned} objects, {grants} grants");
        compared.skip(&format!("ROLE {role}"), reason);
    }
    compared
}

fn differences(
    compared: &mut ObjectsCompared,
    ours: Statements,
    mut theirs: Statements,
    same: fn(&str, &str) -> bool,
) {
    for (object, source) in ours {
        let (difference, destination) = match theirs.remove(&object) {
            Some(there) if same(&source, &there) => continue,
            Some(other) => (Difference::Different, other),
            None => (Difference::Missing, String::new()),
        };
        let [source, destination] = [source, destination].map(|text| tellable(&object, text));
        compared.push(ObjectDifference { difference, object, source, destination });
    }
    for (object, destination) in theirs {
        let difference = Difference::Extra;
        let destination = tellable(&object, destination);
        compared.push(ObjectDifference { difference, object, source: String::new(), destination });
    }
}

/// The options of a user mapping hold its password.
fn tellable(object: &str, text: String) -> String {
    match text.split_once(" OPTIONS (") {
        Some((head, _)) if object.starts_with(USER_MAPPING) => format!("{head} …"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_user_mappings_are_not_told() {
        let mapping = "CREATE USER MAPPING FOR u SERVER s OPTIONS (\n    password 'secret'\n);";
        let title = format!("{USER_MAPPING} u SERVER s");
        let of = |text: &str| Statements::from([(title.clone(), text.to_owned())]);
        for (ours, theirs) in [
            (of(mapping), Statements::new()),
            (Statements::new(), of(mapping)),
            (of(mapping), of(&mapping.replace("secret", "secret too"))),
        ] {
            let mut compared = ObjectsCompared::default();
            differences(&mut compared, ours, theirs, str::eq);
            assert_eq!(compared.differences, 1);
            let [told] = compared.listed.as_slice() else { panic!("{compared:?}") };
            assert!(!format!("{told:?}").contains("secret"), "{told:?}");
        }
    }

    #[test]
    fn an_identity_that_a_task_set_is_no_difference() {
        let table = "CREATE TABLE public.t (\n    n integer\n);";
        let full = format!("{table}\n\nALTER TABLE ONLY public.t REPLICA IDENTITY FULL;\n");
        let mut statements: Statements = [("TABLE public.t".to_owned(), full)].into();
        forget_identity(&mut statements, "TABLE public.u");
        assert_ne!(statements["TABLE public.t"], table);
        forget_identity(&mut statements, "TABLE public.t");
        assert_eq!(statements["TABLE public.t"], table);
    }

    #[test]
    fn objects_are_matched_by_what_they_are_called() {
        let of = |entries: &[(&str, &str)]| {
            let texts =
                entries.iter().map(|(title, text)| ((*title).to_owned(), (*text).to_owned()));
            Described { statements: texts.collect(), ..Described::default() }
        };
        let ours = of(&[("INDEX a", "1"), ("TABLE b", "2"), ("VIEW c", "3"), ("TRIGGER e", "5")]);
        let later = ["TRIGGER e".to_owned(), "RULE f of another task".to_owned()];
        let theirs = of(&[("INDEX d", "4"), ("TABLE b", "2"), ("VIEW c", "other")]);
        let skipped: Vec<_> = later.iter().map(|title| (title, LATER)).collect();
        let compared = compared(ours, theirs, &Roles::default(), &skipped, str::eq);
        assert_eq!((compared.objects, compared.differences), (3, 3));
        let skipped: Vec<_> = compared.skipped.iter().map(|s| s.object.as_str()).collect();
        assert_eq!(skipped, ["TRIGGER e"]);
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
