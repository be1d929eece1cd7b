//! Rows without their schema: the destination's materialized views show nothing of them yet.
//!
//! Those that hold rows at the source, and are there, are refreshed after the rows: by entries like those of a migrated schema,
//! in the source's order, so that all that is true of entries is true of these.

use futures::try_join;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::QualifiedName;

use super::catalog::{PopulatedView, populated_views, search_path};
use super::{entry, store};
use crate::pg::{About, Session};
use crate::unit::{UnitContext, UnitEnd};

/// The condition on a row `c` of pg_class under which the role may refresh it.
fn refreshable(major: u32) -> &'static str {
    match major {
        0..=16 => "pg_has_role(c.relowner, 'USAGE')",
        _ => "has_table_privilege(c.oid, 'MAINTAIN')",
    }
}

/// Keeps the entries, unless they are kept already.
pub(in crate::unit) async fn keep_refreshes(
    ctx: &UnitContext,
    session: &mut Session,
) -> Result<(), UnitEnd> {
    if store::count(ctx, session).await? > 0 {
        return Ok(());
    }
    let source = ctx.session(Side::Source).await?;
    let looked = try_join!(populated_views(&source), search_path(&source));
    let (views, path) = looked.about(source.access())?;
    ctx.means.pool.give(source);
    let taking_part = |view: &PopulatedView| ctx.spec.objects.matches(&view.name);
    let views: Vec<_> = views.into_iter().filter(taking_part).collect();
    if views.is_empty() {
        return Ok(());
    }
    let there = present(session, &views).await.about(session.access())?;
    let entries: Vec<_> = views
        .iter()
        .zip(there)
        .filter(|(_, there)| *there)
        .map(|(view, _)| entry::refresh(&view.name, view.wave, true))
        .collect();
    Ok(store::save(ctx, session, &entries, &path).await?)
}

/// Which of them are there, and may be refreshed. (The precheck has warned of those that may not.)
async fn present(
    session: &Session,
    views: &[PopulatedView],
) -> Result<Vec<bool>, tokio_postgres::Error> {
    let names: Vec<String> = views.iter().map(|view| view.name.quoted()).collect();
    let ask = format!(
        "select exists (select from pg_class c
                        where c.oid = to_regclass(asked.name) and c.relkind = 'm' and {})
         from unnest($1::text[]) with ordinality as asked (name, no) order by no",
        refreshable(session.major())
    );
    Ok(session.query(&ask, &[&names]).await?.iter().map(|row| row.get(0)).collect())
}

/// Materialized views that the role may not refresh.
pub(in crate::unit) async fn not_refreshable(
    ctx: &UnitContext,
    session: &Session,
) -> Result<Vec<QualifiedName>, tokio_postgres::Error> {
    let ask = format!(
        "select n.nspname::text, c.relname::text
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind = 'm' and n.nspname !~ '^pg_' and not {}
         order by 1, 2",
        refreshable(session.major())
    );
    let rows = session.query(&ask, &[]).await?;
    let names =
        rows.iter().map(|row| QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)));
    Ok(names.filter(|name| ctx.spec.objects.matches(name)).collect())
}
