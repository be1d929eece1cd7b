//! The schema: from pg_dump's archive to statements that are run one by one at the destination.
//!
//! ```text
//!  source half          destination half
//!  pg_dump ──archive──▶ contents; pg_restore ──▶ script ──▶ toc ──▶ select, arrange ──▶ pgconvoy.schema_entry ──▶ run
//! ```
//!
//! Nobody knows PostgreSQL's objects better than pg_dump: what is done here is to choose, order and run what it wrote.
//! The statements stand at the destination before the first of them is run. From then on the units `schema_pre`,
//! `index` and `schema_post` are the same thing for different sections: run what is not done.

mod catalog;
mod compare;
mod contents;
mod dump;
mod entry;
mod live;
mod mappings;
mod privileges;
mod refresh;
mod restore;
mod roles;
mod run;
mod scan;
mod select;
mod settings;
mod store;
mod text;
mod toc;
mod wording;

use std::collections::BTreeSet;
use std::sync::Arc;

use pgconvoy_shared::spec::MigrationType;
use tracing::info;

use super::link::{Link, link};
use super::{UnitContext, UnitEnd};
use crate::pg::{About, Session};
use dump::{Ask, Dumped};
use entry::Filling;
use restore::{Archive, aside};
use roles::Maker;

pub(super) use compare::compare;
pub(super) use entry::Section;
pub(super) use live::go_live;
pub(super) use mappings::closed_mappings;
pub(super) use refresh::{keep_refreshes, not_refreshable};
pub(super) use restore::not_utf8;
pub(super) use roles::{Role, of_source as roles_that_come};
pub(super) use run::run;
pub(super) use scan::scan;
pub(super) use store::Pick;

/// Pieces of the archive on their way.
const LINK_CAPACITY: usize = 16;

/// Dumps the source's schema and keeps its statements, unless they are kept already. Says how many there are for after
/// the rows.
pub(super) async fn keep(ctx: &UnitContext, session: &mut Session) -> Result<u32, UnitEnd> {
    if store::count(ctx, session).await? == 0 {
        let (source, destination) = link(LINK_CAPACITY);
        tokio::try_join!(
            dump::source_half(ctx, source),
            destination_half(ctx, session, destination)
        )?;
    }
    let kept = store::kept(ctx, session).await?;
    Ok(u32::try_from(kept).expect("an archive numbers its entries with 31 bits"))
}

async fn destination_half(
    ctx: &UnitContext,
    session: &mut Session,
    mut link: Link<Ask, Dumped>,
) -> Result<(), UnitEnd> {
    let destination_major = session.major();
    link.send(Ask { destination_major }).await?;
    let mut catalog = None;
    let mut archive = Archive::new()?;
    loop {
        match link.expect().await? {
            Dumped::Catalog(told) => catalog = Some(told),
            Dumped::Archive(piece) => archive.write(&piece)?,
            Dumped::End => break,
        }
    }
    let catalog = catalog.expect("the source half sends the catalogue first");
    let tools = ctx.means.tools.choose(catalog.dump_major, destination_major)?;
    let toc = archive.entries(ctx, tools).await?;
    let filling = match ctx.spec.types.contains(&MigrationType::Full) {
        _ if ctx.spec.is_incremental() => Filling::Changes,
        true => Filling::Rows,
        false => Filling::Nothing,
    };
    let (mut owners, maker) = roles_there(session).await?;
    // Whoever makes a role may give objects to it.
    owners.extend(
        catalog.roles.iter().map(|role| role.name.clone()).filter(|r| !maker.known.contains(r)),
    );
    let (pg_dump, search_path) = (catalog.dump_major, catalog.search_path.clone());
    let spec = Arc::clone(&ctx.spec);
    let arranged = aside("the schema's statements", move || {
        let mut entries = roles::entries(&catalog.roles, &maker);
        let roles = maker.known.union(&owners).cloned().collect();
        entries.extend(entry::arrange(toc, &catalog, &spec.objects, &owners, filling));
        entries.extend(settings::entries(&catalog.settings, &spec.destination.database, &roles));
        entries
    });
    let entries = arranged.await?;
    info!(entries = entries.len(), pg_dump, "the schema was dumped");
    store::save(ctx, session, &entries, &search_path).await?;
    Ok(())
}

/// Roles that objects may be given to (the owner of everything else is whoever migrates it), and what there is for making
/// others.
async fn roles_there(session: &Session) -> Result<(BTreeSet<String>, Maker), UnitEnd> {
    let major = session.major();
    let query = format!(
        "select rolname::text, {}, rolname = current_user and rolsuper from pg_roles",
        assignable(major)
    );
    let rows = session.query(&query, &[]).await.about(session.access())?;
    let name = |row: &tokio_postgres::Row| row.get::<_, String>(0);
    let owners = rows.iter().filter(|row| row.get(1)).map(name).collect();
    let known = rows.iter().map(name).collect();
    let superuser = rows.iter().any(|row| row.get(2));
    Ok((owners, Maker { known, superuser, major }))
}

/// The condition on a row of pg_roles under which an object may be given to the role, and still be written to after that.
pub(super) fn assignable(major: u32) -> &'static str {
    // Since 16 membership alone does not allow the one, nor the other.
    if major >= 16 {
        "pg_has_role(oid, 'SET') and pg_has_role(oid, 'USAGE')"
    } else {
        "pg_has_role(oid, 'USAGE')"
    }
}
