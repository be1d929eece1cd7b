//! The precheck: whether the migration can work, asked before anything is changed, and changing nothing itself.
//!
//! ```text
//!  source half                      destination half
//!  facts of the source ───────────▶ facts of the destination, findings
//! ```
//!
//! Of a task that only compares, what matters for writing is not judged.
//!
//! Each topic has a file with its queries and the rules that turn facts into findings. The queries of one end are all on their
//! way before the first of them is answered. A database that cannot be reached is
//! a finding too, an error with the code of the failure; the other database is then still looked at.

mod conflicts;
mod extensions;
mod large_objects;
mod long;
mod objects;
mod privileges;
mod reach;
mod report;
mod roles;
mod server;
mod streaming;
mod tables;
mod tablespaces;

use std::collections::BTreeSet;

use futures::{FutureExt, join, try_join};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::WorkResult;
use pgconvoy_shared::verify::Purpose;

use super::link::{Link, link};
use super::{UnitContext, UnitEnd, schema, sequences};
use crate::pg::{About, PgError, Session};
use report::Report;

pub(super) use large_objects::of_source as large_objects_of_source;

/// SQLSTATE: bytes that are no text in the encoding they should be in.
const NO_TEXT: &str = "22021";

/// What the source half found out.
#[derive(Debug)]
struct SourceFacts {
    server: server::ServerFacts,
    tables: Vec<tables::SourceTable>,
    privileges: privileges::SourceFacts,
    objects: objects::SourceFacts,
    large_objects: large_objects::SourceFacts,
    roles: roles::SourceFacts,
    /// Those that something stands in.
    tablespaces: Vec<String>,
    extensions: Vec<extensions::Extension>,
    extension_rows: Vec<QualifiedName>,
    named: conflicts::Named,
    /// Where changes are followed.
    streaming: Option<streaming::SourceFacts>,
    sequences: Vec<QualifiedName>,
}

/// What the destination half found out about the destination.
#[derive(Debug)]
struct DestinationFacts {
    server: server::ServerFacts,
    tables: tables::DestinationFacts,
    roles: roles::DestinationFacts,
    tablespaces: BTreeSet<String>,
    extensions: Vec<extensions::Available>,
    privileges: privileges::DestinationFacts,
    objects: objects::DestinationFacts,
    large_objects: i64,
    /// The task has begun here: what is there is its own work.
    begun: bool,
    /// Where changes are followed.
    streaming: Option<streaming::DestinationFacts>,
}

/// `verified`: both ends are to be compared.
pub(super) async fn run(ctx: &UnitContext, verified: bool) -> Result<WorkResult, UnitEnd> {
    let (source, destination) = link(1);
    let ((), report) =
        tokio::try_join!(source_half(ctx, source), destination_half(ctx, verified, destination))?;
    Ok(WorkResult::Precheck(report.into_items()))
}

type Seen = Result<Box<SourceFacts>, Failure>;

async fn source_half(ctx: &UnitContext, link: Link<Seen, ()>) -> Result<(), UnitEnd> {
    let session = match open(ctx, Side::Source).await {
        Ok(session) => session,
        Err(failure) => return link.send(Err(failure)).await,
    };
    let facts = source_facts(ctx, &session)
        .boxed()
        .await
        .map_err(|error| unreadable(error.into(), &session))?;
    ctx.means.pool.give(session);
    link.send(Ok(Box::new(facts))).await
}

/// The source's catalogue holds names, for the most part: bytes in them that are no text are possible without an encoding.
fn unreadable(error: PgError, session: &Session) -> Failure {
    match error.sqlstate() {
        Some(NO_TEXT) => schema::not_utf8().about(session.access().to_string()),
        _ => error.failure(session.access().to_string()),
    }
}

async fn destination_half(
    ctx: &UnitContext,
    verified: bool,
    mut link: Link<(), Seen>,
) -> Result<Report, UnitEnd> {
    let mut report = Report::default();
    // Both are tried at once: two wrong passwords are told together.
    let here = async {
        let session = open(ctx, Side::Destination).await?;
        let facts = destination_facts(ctx, &session).boxed().await;
        Ok((session, facts))
    };
    let (here, seen, reaches) = join!(here.boxed(), link.expect(), reach::look(ctx).boxed());
    reach::judge(&ctx.agent, &reaches, &mut report);
    let source = seen?.map_err(|failure| report.unreachable(Side::Source, failure)).ok();
    let here = here.map_err(|failure| report.unreachable(Side::Destination, failure)).ok();
    if let Some(source) = &source {
        of_source(ctx, source, &mut report);
    }
    let Some((session, destination)) = here else { return Ok(report) };
    let destination = destination.about(session.access())?;
    let conflicts = match destination.begun {
        true => None,
        false => {
            let looked = conflicts::of_destination(&session, ctx, source.as_deref()).await;
            Some(looked.about(session.access())?)
        }
    };
    ctx.means.pool.give(session);
    of_destination(ctx, &destination, &mut report);
    if let Some(source) = &source {
        of_both(ctx, source, &destination, conflicts.as_ref(), &mut report);
        tables::judge_both(ctx, verified, &source.tables, &destination.tables, &mut report);
        if verified {
            server::judge_comparison(ctx, &source.server, &destination.server, &mut report);
        }
    }
    Ok(report)
}

async fn open(ctx: &UnitContext, side: Side) -> Result<Session, Failure> {
    let session = ctx.session(side).await?;
    // Whatever is asked below, the server itself sees to it that nothing is changed.
    session.send_ahead("set default_transaction_read_only = on");
    Ok(session)
}

async fn source_facts(
    ctx: &UnitContext,
    session: &Session,
) -> Result<SourceFacts, tokio_postgres::Error> {
    let rules = &ctx.spec.objects;
    let (
        tables,
        server,
        privileges,
        objects,
        large_objects,
        roles,
        tablespaces,
        extensions,
        extension_rows,
        named,
        streaming,
        sequences,
    ) = try_join!(
        tables::of_source(session, rules),
        server::facts(session),
        privileges::of_source(session, rules),
        objects::of_source(session, rules),
        large_objects::of_source(session),
        roles::of_source(ctx, session),
        tablespaces::used(session),
        extensions::of_source(session),
        extensions::with_users_rows(session, rules),
        conflicts::named(session, rules),
        streaming::of_source(ctx, session),
        sequences::taking_part(session, rules),
    )?;
    Ok(SourceFacts {
        server,
        tables,
        privileges,
        objects,
        large_objects,
        roles,
        tablespaces,
        extensions,
        extension_rows,
        named,
        streaming,
        sequences,
    })
}

async fn destination_facts(
    ctx: &UnitContext,
    session: &Session,
) -> Result<DestinationFacts, tokio_postgres::Error> {
    let (
        server,
        tables,
        roles,
        tablespaces,
        extensions,
        privileges,
        objects,
        large_objects,
        streaming,
        begun,
    ) = try_join!(
        server::facts(session),
        tables::of_destination(session, &ctx.spec.objects),
        roles::of_destination(session),
        tablespaces::there(session),
        extensions::of_destination(session),
        privileges::of_destination(session),
        objects::of_destination(session),
        large_objects::of_destination(session),
        streaming::of_destination(ctx, session),
        conflicts::has_begun(session, ctx),
    )?;
    Ok(DestinationFacts {
        server,
        tables,
        roles,
        tablespaces,
        extensions,
        privileges,
        objects,
        large_objects,
        begun,
        streaming,
    })
}

fn of_source(ctx: &UnitContext, source: &SourceFacts, report: &mut Report) {
    server::judge_source(ctx, &source.server, source.tables.len(), report);
    tables::judge(ctx, &source.tables, report);
    privileges::judge_source(&source.privileges, &source.tables, report);
    objects::judge_patterns(&source.objects, report);
    if ctx.purpose != Purpose::Verify {
        objects::judge_source(ctx, &source.objects, report);
        if ctx.with_rows() {
            extensions::judge_users_rows(&source.extension_rows, report);
        }
    }
    large_objects::judge_source(ctx, &source.large_objects, report);
    if ctx.purpose != Purpose::Verify
        && let Some(facts) = &source.streaming
    {
        streaming::judge_source(facts, report);
    }
}

fn of_destination(ctx: &UnitContext, destination: &DestinationFacts, report: &mut Report) {
    server::judge_destination(ctx, &destination.server, report);
    if ctx.purpose == Purpose::Verify {
        return;
    }
    privileges::judge_destination(ctx, &destination.privileges, report);
    objects::judge_destination(&destination.objects, report);
    if let Some(facts) = &destination.streaming {
        streaming::judge_destination(facts, report);
    }
}

fn of_both(
    ctx: &UnitContext,
    source: &SourceFacts,
    destination: &DestinationFacts,
    conflicts: Option<&conflicts::DestinationFacts>,
    report: &mut Report,
) {
    server::judge_both(ctx, &source.server, &destination.server, report);
    if ctx.purpose == Purpose::Verify {
        return;
    }
    let DestinationFacts { begun, large_objects, .. } = *destination;
    if let Some(conflicts) = conflicts {
        conflicts::judge(ctx, source, conflicts, report);
    }
    large_objects::judge_both(ctx, &source.large_objects, large_objects, begun, report);
    if ctx.with_schema() {
        privileges::judge_schemas(&source.named, &destination.privileges, report);
        roles::judge(&source.roles, &destination.roles, report);
        if ctx.spec.schema.tablespaces {
            tablespaces::judge(&source.tablespaces, &destination.tablespaces, report);
        }
        extensions::judge(&source.extensions, &destination.extensions, report);
        objects::judge_both(&source.objects, &destination.privileges, report);
        if !destination.privileges.superuser {
            let publications = &source.objects.publications;
            roles::judge_publications(publications, &source.roles, &destination.roles, report);
        }
    }
}
