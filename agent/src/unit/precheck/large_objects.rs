//! Large objects: whether they come, may be read, and find their numbers free.

use pgconvoy_shared::endpoint::Side;

use super::report::{Finding, Report};
use crate::pg::Session;
use crate::unit::{UnitContext, large_objects};

/// At the source.
#[derive(Debug, Clone, Copy)]
pub(in crate::unit) struct SourceFacts {
    count: i64,
    /// Those that the role may not read.
    pub(in crate::unit) closed: i64,
}

pub(in crate::unit) async fn of_source(
    session: &Session,
) -> Result<SourceFacts, tokio_postgres::Error> {
    let query = "
        select count(*), count(*) filter (where not (
            current_setting('lo_compat_privileges')::boolean or pg_has_role(m.lomowner, 'usage')
            or exists (select from aclexplode(m.lomacl) a
                       where a.privilege_type = 'SELECT' and (a.grantee = 0 or pg_has_role(a.grantee, 'usage')))))
        from pg_largeobject_metadata m";
    let row = session.query_one(query, &[]).await?;
    Ok(SourceFacts { count: row.get(0), closed: row.get(1) })
}

/// How many there are.
pub(super) async fn of_destination(session: &Session) -> Result<i64, tokio_postgres::Error> {
    Ok(session.query_one("select count(*) from pg_largeobject_metadata", &[]).await?.get(0))
}

pub(super) fn judge_source(ctx: &UnitContext, facts: &SourceFacts, report: &mut Report) {
    if facts.count == 0 || !ctx.with_rows() {
        return;
    }
    let side = Side::Source;
    if !ctx.spec.objects.include.is_empty() {
        report.add(
            Finding::warning("large_objects_left_out", side)
                .observed(format!(
                    "{} large objects, and rules that name what is to come",
                    facts.count
                ))
                .required("no `objects.include`: they belong to no schema that could be named")
                .remedy("say by `objects.exclude` what stays, or move them by other means"),
        );
    } else if large_objects::take_part(ctx) && facts.closed > 0 {
        report.add(
            Finding::error("missing_privilege", side)
                .observed(format!(
                    "the role may not read {} of {} large objects",
                    facts.closed, facts.count
                ))
                .required("SELECT on each of them, or their owners' roles")
                .remedy("GRANT the owners' roles to the role, or migrate as a superuser"),
        );
    }
}

/// `begun`: what is there is the task's own work.
pub(super) fn judge_both(
    ctx: &UnitContext,
    source: &SourceFacts,
    there: i64,
    begun: bool,
    report: &mut Report,
) {
    if source.count > 0 && there > 0 && !begun && large_objects::take_part(ctx) {
        report.add(
            Finding::error("destination_not_empty", Side::Destination)
                .observed(format!("it holds {there} large objects"))
                .required("none: theirs and the source's are known by number alone")
                .remedy("remove them (lo_unlink), or name by `objects.include` what is to come without large objects"),
        );
    }
}
