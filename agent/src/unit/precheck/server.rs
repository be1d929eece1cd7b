//! The two servers: which versions, in which state, with room for how many.

use futures::{FutureExt, try_join};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::unit::SnapshotMode;
use pgconvoy_shared::verify::Purpose;

use super::long;
use super::report::{Finding, Report};
use crate::pg::Session;
use crate::tools::Tools;
use crate::unit::UnitContext;
use crate::unit::prepared::{self, Prepared, Within};

/// Versions that this release was tested with.
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;
/// Sessions beside those of the copy units: planning, keeping the snapshot, looking.
const SESSIONS_BESIDE: i64 = 4;
/// Half of what there is: from here on a long snapshot can bring a busy server near its end.
const XID_AGE_MAX: i64 = 1_000_000_000;

/// What a server says of itself.
#[derive(Debug)]
pub(super) struct ServerFacts {
    major: u32,
    version: String,
    in_recovery: bool,
    system_identifier: Option<String>,
    started: String,
    database_oid: u32,
    database: String,
    encoding: String,
    collate: String,
    ctype: String,
    provider: String,
    collation_version: Option<String>,
    collation_version_now: Option<String>,
    connections_left: i64,
    lock_slots: i64,
    xid_age: i64,
    size: i64,
    settings: Vec<String>,
    long_transactions: Vec<String>,
    prepared_transactions: Vec<String>,
}

pub(super) async fn facts(session: &Session) -> Result<ServerFacts, tokio_postgres::Error> {
    // Columns that younger versions have.
    let (provider, collation_version, version_now) = if session.major() >= 15 {
        ("datlocprovider::text", "datcollversion", "pg_database_collation_actual_version(oid)")
    } else {
        ("'c'", "null::text", "null::text")
    };
    let facts = format!(
        "select version(), pg_is_in_recovery(), oid, datname::text,
                pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text,
                {provider}, {collation_version}, {version_now},
                current_setting('max_connections')::bigint
                    - current_setting('superuser_reserved_connections')::bigint
                    - (select count(*) from pg_stat_activity where backend_type = 'client backend'),
                current_setting('max_locks_per_transaction')::bigint
                    * (current_setting('max_connections')::bigint
                       + current_setting('max_prepared_transactions')::bigint),
                age(datfrozenxid)::bigint, pg_database_size(oid), pg_postmaster_start_time()::text
         from pg_database where datname = current_database()"
    );
    let texts = async |query: &str| -> Result<Vec<String>, tokio_postgres::Error> {
        Ok(session.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
    };
    let identifier = "select system_identifier::text from pg_control_system()";
    let (row, identifier, prepared, settings, long_transactions) = try_join!(
        session.query_one(&facts, &[]),
        // Some services do not let it be seen.
        session.query_one(identifier, &[]).map(|row| Ok(row.ok().map(|row| row.get(0)))),
        prepared::that_stay(session, Within::Database),
        texts(
            "select setting from pg_db_role_setting s, unnest(s.setconfig) as setting
             where s.setdatabase = (select oid from pg_database where datname = current_database())
             order by 1",
        ),
        long::open_for(session, long::Of::ThisDatabase, long::LONG_SECS),
    )?;
    let described = |one: &Prepared| format!("{} of {}, since {}", one.gid, one.owner, one.since);
    Ok(ServerFacts {
        major: session.major(),
        version: row.get(0),
        in_recovery: row.get(1),
        database_oid: row.get(2),
        database: row.get(3),
        encoding: row.get(4),
        collate: row.get(5),
        ctype: row.get(6),
        provider: row.get(7),
        collation_version: row.get(8),
        collation_version_now: row.get(9),
        connections_left: row.get(10),
        lock_slots: row.get(11),
        xid_age: row.get(12),
        size: row.get(13),
        started: row.get(14),
        system_identifier: identifier,
        settings,
        long_transactions,
        prepared_transactions: prepared.iter().map(described).collect(),
    })
}

pub(super) fn judge_source(
    ctx: &UnitContext,
    facts: &ServerFacts,
    tables: usize,
    report: &mut Report,
) {
    let side = Side::Source;
    judge_each(ctx, facts, side, report);
    if facts.in_recovery && ctx.purpose != Purpose::Verify {
        report.add(
            Finding::error("source_in_recovery", side)
                .observed("the server is a standby")
                .required("a primary: only there it is known that what was read will last")
                .remedy("give the primary's address as the source"),
        );
    }
    let locks = i64::try_from(tables).unwrap_or(i64::MAX);
    if locks > facts.lock_slots {
        report.add(
            Finding::warning("locks_short", side)
                .observed(format!("room for {} locks", facts.lock_slots))
                .required(format!("{tables} tables are locked while the schema is dumped"))
                .remedy("raise max_locks_per_transaction and restart the server"),
        );
    }
    if facts.xid_age > XID_AGE_MAX {
        report.add(
            Finding::warning("transaction_id_age", side)
                .object(&facts.database)
                .observed(format!("{} transactions since rows were frozen", facts.xid_age))
                .required(format!("at most {XID_AGE_MAX}: a snapshot that is kept stops vacuum"))
                .remedy("run VACUUM (FREEZE) first, or use copy.snapshot: shard"),
        );
    }
    report.add(Finding::info("source_size", side).object(&facts.database).observed(format!(
        "{} bytes in the database; {tables} tables, partitioned ones among them",
        facts.size
    )));
    if !facts.settings.is_empty() && ctx.with_schema() && !ctx.spec.schema.database_settings {
        report.add(
            Finding::info("database_settings_left_out", side)
                .object(&facts.database)
                .observed(facts.settings.join(", "))
                .remedy("set them at the destination with ALTER DATABASE … SET, or ask for schema.database_settings"),
        );
    }
    if ctx.with_rows()
        && ctx.spec.copy.snapshot == SnapshotMode::Shard
        && !ctx.spec.is_incremental()
    {
        report.add(
            Finding::warning("snapshot_per_shard", side)
                .observed("copy.snapshot: shard: each shard shows a moment of its own")
                .required("a source that is not written to while it is copied")
                .remedy("stop the writers, or use copy.snapshot: task"),
        );
    }
    let waits = Finding::warning("long_transaction", side)
        .required("no transaction that may hold locks for long: a dump or a copy waits for them")
        .remedy("end it, or wait");
    report.add_each(&waits, &facts.long_transactions);
    let prepared = Finding::warning("prepared_transaction", side)
        .required("no transaction that was prepared and forgotten: its locks stay, and its rows are not seen")
        .remedy("COMMIT PREPARED or ROLLBACK PREPARED");
    // Where changes are followed, nothing goes on before it ends.
    if !ctx.spec.is_incremental() {
        report.add_each(&prepared, &facts.prepared_transactions);
    }
}

pub(super) fn judge_destination(ctx: &UnitContext, facts: &ServerFacts, report: &mut Report) {
    judge_each(ctx, facts, Side::Destination, report);
    if facts.in_recovery && ctx.purpose != Purpose::Verify {
        report.add(
            Finding::error("destination_in_recovery", Side::Destination)
                .observed("the server is a standby")
                .required("a server that can be written to")
                .remedy("give the primary's address as the destination"),
        );
    }
}

fn judge_each(ctx: &UnitContext, facts: &ServerFacts, side: Side, report: &mut Report) {
    let versions = format!("{} to {}", MAJORS.start(), MAJORS.end());
    let version = |finding: Finding| {
        finding.observed(&facts.version).required(format!("PostgreSQL {versions}"))
    };
    if facts.major < *MAJORS.start() {
        report.add(
            version(Finding::error("version_not_supported", side))
                .remedy("upgrade the server first"),
        );
    } else if facts.major > *MAJORS.end() {
        report.add(
            version(Finding::warning("version_not_supported", side))
                .remedy("look for a newer release of pgconvoy; nothing is known of this version"),
        );
    }
    judge_variant(facts, side, report);
    let wanted = i64::from(ctx.spec.copy.jobs.max(ctx.spec.copy.index_jobs)) + SESSIONS_BESIDE;
    if facts.connections_left < wanted {
        let short = if facts.connections_left < SESSIONS_BESIDE {
            Finding::error("connections_short", side)
        } else {
            Finding::warning("connections_short", side)
        };
        report.add(
            short
                .observed(format!("{} connections are free", facts.connections_left))
                .required(format!("{wanted} for {} copy jobs", ctx.spec.copy.jobs))
                .remedy("lower copy.jobs, or raise max_connections"),
        );
    }
}

/// Servers that speak PostgreSQL's protocol and are not PostgreSQL.
fn judge_variant(facts: &ServerFacts, side: Side, report: &mut Report) {
    let version = facts.version.to_ascii_lowercase();
    let names = |names: &[&str]| names.iter().any(|name| version.contains(name));
    let variant = if names(&["cockroach", "-yb-", "yugabyte", "redshift", "materialize", "questdb"])
    {
        Finding::error("server_variant", side).remedy(
            "migrate it by the means of its maker; what is done here relies on PostgreSQL itself",
        )
    } else if names(&["aurora", "alloydb", "polardb", "greenplum", "edb"]) {
        Finding::warning("server_variant", side)
            .remedy("try it with a copy first: nothing is known of this variant")
    } else {
        return;
    };
    report.add(variant.observed(&facts.version).required("PostgreSQL"));
}

pub(super) fn judge_both(
    ctx: &UnitContext,
    source: &ServerFacts,
    destination: &ServerFacts,
    report: &mut Report,
) {
    if destination.major < source.major {
        report.add(
            Finding::error("destination_older", Side::Destination)
                .observed(format!("PostgreSQL {}", destination.major))
                .required(format!("PostgreSQL {} or newer, as the source", source.major))
                .remedy("upgrade the destination, or choose another one"),
        );
    }
    // What compares reads both ends with one pg_dump.
    let oldest = match ctx.purpose {
        Purpose::Verify => source.major.max(destination.major),
        Purpose::Migrate | Purpose::Precheck => source.major,
    };
    if ctx.with_schema()
        && let Err(missing) = ctx.means.tools.choose(oldest, destination.major)
    {
        report.add(
            Finding::error(&missing.code, None)
                .object(missing.subject)
                .observed(missing.message)
                .remedy(missing.remedy),
        );
    }
    // A server and its physical copy have one identifier; they did not start in the same microsecond.
    if source.started == destination.started
        && source.database_oid == destination.database_oid
        && source.system_identifier == destination.system_identifier
    {
        report.add(
            Finding::error("same_database", None)
                .object(&source.database)
                .observed("source and destination are one database of one server")
                .required("two databases")
                .remedy("correct one of the two URLs"),
        );
    }
    judge_text(source, destination, report);
}

/// What compares both ends after a migration is found missing only then: rows are compared all the same. (Where nothing but the
/// comparison is asked for, it is an error, see above.)
pub(super) fn judge_comparison(
    ctx: &UnitContext,
    source: &ServerFacts,
    destination: &ServerFacts,
    report: &mut Report,
) {
    if ctx.purpose != Purpose::Verify && ctx.with_schema() {
        let found = schema_not_compared(&ctx.means.tools, source.major, destination.major);
        found.into_iter().for_each(|finding| report.add(finding));
    }
}

fn schema_not_compared(tools: &Tools, source: u32, destination: u32) -> Option<Finding> {
    // Without any that moves the schema, that is told.
    tools.choose(source, destination).ok()?;
    let missing = tools.choose(source.max(destination), destination).err()?;
    let finding = Finding::warning("schema_not_compared", None)
        .object(missing.subject)
        .observed(missing.message)
        .required("one pg_dump that reads both ends, to compare the schema")
        .remedy(missing.remedy);
    Some(finding)
}

/// Encodings and collations.
fn judge_text(source: &ServerFacts, destination: &ServerFacts, report: &mut Report) {
    if source.encoding != destination.encoding {
        let differs = if source.encoding == "SQL_ASCII" || destination.encoding == "UTF8" {
            Finding::warning("encoding_differs", Side::Destination)
                .remedy("values that are not valid in the destination's encoding stop their table")
        } else {
            Finding::error("encoding_differs", Side::Destination)
                .remedy("create the destination with the source's encoding, or with UTF8")
        };
        report.add(
            differs
                .object(&destination.database)
                .observed(&destination.encoding)
                .required(&source.encoding),
        );
    }
    let text = |facts: &ServerFacts| {
        let provider = match facts.provider.as_str() {
            "i" => "ICU",
            "b" => "builtin",
            _ => "libc",
        };
        format!("{} / {} ({provider})", facts.collate, facts.ctype)
    };
    if text(source) != text(destination) {
        report.add(
            Finding::warning("collation_differs", Side::Destination)
                .object(&destination.database)
                .observed(text(destination))
                .required(text(source))
                .remedy("texts sort and compare differently there; create the destination with the source's locale"),
        );
    } else if let (Some(one), Some(other)) =
        (&source.collation_version, &destination.collation_version)
        && one != other
    {
        report.add(
            Finding::info("collation_version_differs", Side::Destination)
                .object(&destination.database)
                .observed(other)
                .required(one)
                .remedy("indexes are built anew, so they are sound; the order of texts may differ a little"),
        );
    }
    let stale = [(Side::Source, source), (Side::Destination, destination)];
    for (side, facts) in stale {
        if let (Some(made), Some(now)) = (&facts.collation_version, &facts.collation_version_now)
            && made != now
        {
            report.add(
                Finding::warning("collation_stale", side)
                    .object(&facts.database)
                    .observed(format!("made with version {made} of its collation, runs with {now}"))
                    .required(
                        "indexes that agree with the collation: a shard's range is read by them",
                    )
                    .remedy("REINDEX DATABASE and ALTER DATABASE … REFRESH COLLATION VERSION"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::precheck::{PrecheckItem, Severity};

    use super::*;

    #[test]
    fn a_pg_dump_that_moves_the_schema_and_cannot_read_the_destination_does_not_compare_it() {
        let warned = |majors: &[u32], source, destination| {
            let mut report = Report::default();
            let found = schema_not_compared(&Tools::of(majors), source, destination);
            found.into_iter().for_each(|finding| report.add(finding));
            let told =
                |item: &PrecheckItem| (item.severity, item.code.clone(), item.object.clone());
            report.into_items().iter().map(told).collect::<Vec<_>>()
        };
        let warning =
            (Severity::Warning, "schema_not_compared".to_owned(), "pg_dump 17".to_owned());
        assert_eq!(warned(&[15], 15, 17), [warning]);
        assert_eq!(warned(&[15, 17], 15, 17), []);
        assert_eq!(warned(&[18], 15, 17), [], "it reads both");
        assert_eq!(warned(&[15], 15, 15), []);
        assert_eq!(
            warned(&[13], 15, 17),
            [],
            "nothing moves the schema, which is told as an error"
        );
    }
}
