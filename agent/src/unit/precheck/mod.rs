//! The precheck: whether the migration can work, asked before anything is changed, and changing nothing itself.
//!
//! ```text
//!  source half                      destination half
//!  facts of the source ───────────▶ facts of the destination, findings
//! ```
//!
//! Of a task that only compares, what matters for writing is not judged.
//!
//! Each topic has a file with its queries and the rules that turn facts into findings. A database that cannot be reached is
//! a finding too, an error with the code of the failure; the other database is then still looked at.

mod conflicts;
mod extensions;
mod large_objects;
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

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::WorkResult;
use pgconvoy_shared::verify::Purpose;

use super::link::{Link, link};
use super::{UnitContext, UnitEnd, schema, sequences};
use crate::pg::{About, PgError, Session};
use report::Report;

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
    roles: roles::DestinationFacts,
    tablespaces: BTreeSet<String>,
    extensions: Vec<extensions::Available>,
    privileges: privileges::DestinationFacts,
    objects: objects::DestinationFacts,
    large_objects: i64,
    conflicts: conflicts::DestinationFacts,
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
    let facts =
        source_facts(ctx, &session).await.map_err(|error| unreadable(error.into(), &session))?;
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
    let (session, seen, reaches) =
        tokio::join!(open(ctx, Side::Destination), link.expect(), reach::look(ctx));
    reach::judge(&ctx.agent, &reaches, &mut report);
    let source = seen?.map_err(|failure| report.unreachable(Side::Source, failure)).ok();
    let session = session.map_err(|failure| report.unreachable(Side::Destination, failure)).ok();
    if let Some(source) = &source {
        of_source(ctx, source, &mut report);
    }
    let Some(session) = session else { return Ok(report) };
    let destination =
        destination_facts(ctx, &session, source.as_deref()).await.about(session.access())?;
    ctx.means.pool.give(session);
    of_destination(ctx, &destination, &mut report);
    if let Some(source) = &source {
        of_both(ctx, source, &destination, &mut report);
        if verified {
            server::judge_comparison(ctx, &source.server, &destination.server, &mut report);
        }
    }
    Ok(report)
}

async fn open(ctx: &UnitContext, side: Side) -> Result<Session, Failure> {
    let session = ctx.session(side).await?;
    let access = session.access().clone();
    // Whatever is asked below, the server itself sees to it that nothing is changed.
    session.batch_execute("set default_transaction_read_only = on").await.about(&access)?;
    Ok(session)
}

async fn source_facts(
    ctx: &UnitContext,
    session: &Session,
) -> Result<SourceFacts, tokio_postgres::Error> {
    let tables = tables::of_source(session, &ctx.spec.objects).await?;
    Ok(SourceFacts {
        server: server::facts(session).await?,
        privileges: privileges::of_source(session, &ctx.spec.objects).await?,
        objects: objects::of_source(session, &ctx.spec.objects).await?,
        large_objects: large_objects::of_source(session).await?,
        roles: roles::of_source(ctx, session).await?,
        tablespaces: tablespaces::used(session).await?,
        extensions: extensions::of_source(session).await?,
        extension_rows: extensions::with_users_rows(session, &ctx.spec.objects).await?,
        named: conflicts::named(session, &ctx.spec.objects).await?,
        streaming: streaming::of_source(ctx, session).await?,
        sequences: sequences::taking_part(session, &ctx.spec.objects).await?,
        tables,
    })
}

async fn destination_facts(
    ctx: &UnitContext,
    session: &Session,
    source: Option<&SourceFacts>,
) -> Result<DestinationFacts, tokio_postgres::Error> {
    Ok(DestinationFacts {
        server: server::facts(session).await?,
        roles: roles::of_destination(session).await?,
        tablespaces: tablespaces::there(session).await?,
        extensions: extensions::of_destination(session).await?,
        privileges: privileges::of_destination(session).await?,
        objects: objects::of_destination(session).await?,
        large_objects: large_objects::of_destination(session).await?,
        conflicts: conflicts::of_destination(session, ctx, source).await?,
        streaming: streaming::of_destination(ctx, session).await?,
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
    report: &mut Report,
) {
    server::judge_both(ctx, &source.server, &destination.server, report);
    if ctx.purpose == Purpose::Verify {
        return;
    }
    conflicts::judge(ctx, source, &destination.conflicts, report);
    let begun = destination.conflicts.begun();
    large_objects::judge_both(ctx, &source.large_objects, destination.large_objects, begun, report);
    if ctx.with_schema() {
        privileges::judge_schemas(&source.named, &destination.privileges, report);
        roles::judge(&source.roles, &destination.roles, report);
        if ctx.spec.schema.tablespaces {
            tablespaces::judge(&source.tablespaces, &destination.tablespaces, report);
        }
        extensions::judge(&source.extensions, &destination.extensions, report);
        objects::judge_both(&source.objects, &destination.privileges, report);
    }
}
