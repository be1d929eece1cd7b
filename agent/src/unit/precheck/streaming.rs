//! What following changes needs: decoding at the source, room for a slot, rights, and tables that tell which row is changed.

use futures::try_join;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::QualifiedName;

use super::long;
use super::report::{Finding, Report};
use crate::pg::Session;
use crate::unit::prepared::{self, Prepared, Within};
use crate::unit::{UnitContext, apply_key, survey};

/// What is copied in a minute, to be on the safe side: 50 MiB a second.
const COPY_MIB_A_MINUTE: i64 = 3_000;

/// So many times what is expected is ample: an average knows no rush hour.
const AMPLE: i64 = 10;

/// Less than that is never ample.
const AMPLE_MIB: i64 = 1_024;

/// At the source.
#[derive(Debug)]
pub(super) struct SourceFacts {
    wal_level: String,
    slots_left: i64,
    senders_left: i64,
    may_replicate: bool,
    may_create: bool,
    /// In MiB; negative = without limit.
    slot_keeps: i64,
    /// Log that is written in an hour, in MiB, on average since statistics were begun; none = this server does not count it.
    log_an_hour: Option<i64>,
    /// After which a slot that nobody reads is given up; `0` = never, as before PostgreSQL 18.
    idle_timeout: String,
    /// Of the database, in MiB.
    size: i64,
    /// In all databases, for the slot's making waits for them.
    prepared: Vec<String>,
    /// In other databases; those of this one are told anyway.
    long_transactions: Vec<String>,
    synchronous: String,
    /// Tables without a replica identity that would do.
    unidentified: Vec<Unidentified>,
    /// They are given one.
    set_identity: bool,
    unlogged: Vec<QualifiedName>,
    /// Tables that the role does not own, and so may not publish.
    foreign: Vec<QualifiedName>,
    /// There are some, and the rules let them come.
    large_objects: bool,
}

/// A table without a replica identity that would do.
#[derive(Debug)]
struct Unidentified {
    table: QualifiedName,
    /// What gives it one, the cheapest for the source's log.
    statement: String,
}

/// At the destination.
#[derive(Debug)]
pub(super) struct DestinationFacts {
    may_replay: bool,
}

pub(super) async fn of_source(
    ctx: &UnitContext,
    session: &Session,
) -> Result<Option<SourceFacts>, tokio_postgres::Error> {
    if !ctx.spec.is_incremental() {
        return Ok(None);
    }
    let log_an_hour = match session.major() {
        14.. => {
            "(select (wal_bytes / 1048576 / greatest(extract(epoch from now() - stats_reset), 1) * 3600)::bigint from pg_stat_wal)"
        }
        _ => "null::bigint",
    };
    let facts = format!(
            "select current_setting('wal_level'),
                    current_setting('max_replication_slots')::bigint - (select count(*) from pg_replication_slots),
                    current_setting('max_wal_senders')::bigint - (select count(*) from pg_stat_replication),
                    r.rolsuper or r.rolreplication,
                    has_database_privilege(current_database(), 'create'),
                    (select setting::bigint from pg_settings where name = 'max_slot_wal_keep_size'),
                    pg_database_size(current_database()) / 1048576,
                    current_setting('synchronous_standby_names'),
                    exists (select from pg_largeobject_metadata), {log_an_hour},
                    coalesce(current_setting('idle_replication_slot_timeout', true), '0')
             from pg_roles r where r.rolname = current_user"
    );
    let tables = format!(
        "select n.nspname::text, c.relname::text, c.relpersistence = 'u',
                c.relreplident = 'f' or {key} is not null, pg_has_role(c.relowner, 'usage'),
                (select format('ALTER TABLE %I.%I REPLICA IDENTITY %s', n.nspname, c.relname, coalesce(
                     (select case when i.indisprimary then 'DEFAULT' else format('USING INDEX %I', ic.relname) end
                      from pg_catalog.pg_index i join pg_catalog.pg_class ic on ic.oid = i.indexrelid
                      where i.indexrelid = {key}), 'FULL'))
                 from (select c.oid, c.relname, 'f' as relreplident) c)
         from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.relpersistence <> 't' and {taking_part} order by 1, 2",
        key = apply_key::INDEX,
        taking_part = survey::TAKING_PART,
    );
    let (row, tables, prepared, long_transactions) = try_join!(
        session.query_one(&facts, &[]),
        session.query(&tables, &[]),
        prepared::that_stay(session, Within::Server),
        long::open_for(session, long::Of::OthersThatWrite, long::LONG_SECS),
    )?;
    let described = |one: &Prepared| {
        let Prepared { gid, owner, database, since, .. } = one;
        format!("{gid} of {owner} in database {database}, since {since}")
    };
    let mut facts = SourceFacts {
        wal_level: row.get(0),
        slots_left: row.get(1),
        senders_left: row.get(2),
        may_replicate: row.get(3),
        may_create: row.get(4),
        slot_keeps: row.get(5),
        size: row.get(6),
        synchronous: row.get(7),
        large_objects: ctx.spec.objects.include.is_empty() && row.get(8),
        log_an_hour: row.get(9),
        idle_timeout: row.get(10),
        prepared: prepared.iter().map(described).collect(),
        long_transactions,
        unidentified: Vec::new(),
        set_identity: ctx.spec.incremental.set_replica_identity,
        unlogged: Vec::new(),
        foreign: Vec::new(),
    };
    for row in &tables {
        let name = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        if !ctx.spec.objects.matches(&name) {
            continue;
        }
        let (unlogged, identified, owned): (bool, bool, bool) =
            (row.get(2), row.get(3), row.get(4));
        if unlogged {
            facts.unlogged.push(name);
            continue;
        }
        if !identified {
            facts.unidentified.push(Unidentified { table: name.clone(), statement: row.get(5) });
        }
        if !owned {
            facts.foreign.push(name);
        }
    }
    Ok(Some(facts))
}

pub(super) async fn of_destination(
    ctx: &UnitContext,
    session: &Session,
) -> Result<Option<DestinationFacts>, tokio_postgres::Error> {
    if !ctx.spec.is_incremental() {
        return Ok(None);
    }
    // From 15 on it can be granted.
    let granted = match session.major() {
        15.. => "has_parameter_privilege('session_replication_role', 'set')",
        _ => "false",
    };
    let query = format!("select rolsuper or {granted} from pg_roles where rolname = current_user");
    let may_replay = session.query_one(&query, &[]).await?.get(0);
    Ok(Some(DestinationFacts { may_replay }))
}

pub(super) fn judge_source(facts: &SourceFacts, report: &mut Report) {
    let side = Side::Source;
    if facts.wal_level != "logical" {
        report.add(
            Finding::error("wal_level", side)
                .observed(format!("wal_level = {}", facts.wal_level))
                .required("wal_level = logical, without which the log does not tell rows")
                .remedy("ALTER SYSTEM SET wal_level = logical, and restart the server"),
        );
    }
    for (left, setting) in
        [(facts.slots_left, "max_replication_slots"), (facts.senders_left, "max_wal_senders")]
    {
        if left < 1 {
            report.add(
                Finding::error("no_replication_slot_left", side)
                    .object(setting)
                    .observed("all are in use")
                    .required("one for this task")
                    .remedy(format!("raise {setting} and restart the server, or drop what nobody uses (pg_replication_slots)")),
            );
        }
    }
    if !facts.may_replicate {
        report.add(
            Finding::error("no_replication_right", side)
                .observed("the role may not replicate")
                .required("a role with REPLICATION")
                .remedy("ALTER ROLE … REPLICATION"),
        );
    }
    if !facts.may_create {
        report.add(
            Finding::error("no_publication_right", side)
                .observed("the role may not make a publication in this database")
                .required("CREATE on the database")
                .remedy("GRANT CREATE ON DATABASE … TO …"),
        );
    }
    let foreign = Finding::error("no_publication_right", side)
        .observed("the role does not own it, and only owners may publish a table")
        .required("the owner, a member of it, or a superuser")
        .remedy("GRANT owner TO role, or leave the table out");
    report.add_each(&foreign, &facts.foreign);
    let unidentified = if facts.set_identity {
        Finding::info("replica_identity_set", side)
            .observed("nothing tells which row an update or delete changes")
            .required("ALTER TABLE … REPLICA IDENTITY FULL, which the task runs, and takes back at its end")
            .remedy("nothing; or add a primary key, which costs the source's log less")
    } else {
        Finding::error("replica_identity_missing", side)
            .observed("nothing tells which row an update or delete changes, and the source would refuse those of a published table")
            .required("a primary key, or another replica identity")
            .remedy("ALTER TABLE … REPLICA IDENTITY FULL (incremental.replica_identity: set_full lets the task do it), or add a primary key, or leave the table out")
    };
    let each = |Unidentified { table, statement }: &Unidentified| {
        let finding = unidentified.clone().object(table);
        match facts.set_identity {
            true => finding,
            false => finding.remedy(format!(
                "{statement} (incremental.replica_identity: set_full gives such tables FULL), or add a primary key, or leave the table out"
            )),
        }
    };
    report.add_all(&unidentified, facts.unidentified.iter().map(each));
    let unlogged = Finding::warning("changes_not_followed", side)
        .observed("it is unlogged: its rows are copied, and no change of it is in the log")
        .remedy("let the cutover copy it again (--copy-again); or ALTER TABLE … SET LOGGED, or let nobody write to it");
    report.add_each(&unlogged, &facts.unlogged);
    if facts.large_objects {
        report.add(
            Finding::warning("changes_not_followed", side)
                .object("large objects")
                .observed("no stream tells of them: they are left out")
                .remedy("let the cutover copy them (--copy-again); or move them with a task of their own when nobody writes to them any more"),
        );
    }
    judge_keeping(facts, report);
    let prepared = Finding::error("prepared_transaction", side)
        .observed("it is prepared, and the slot's making waits until it ends")
        .required("no prepared transaction, in no database of the server")
        .remedy("COMMIT PREPARED or ROLLBACK PREPARED");
    report.add_each(&prepared, &facts.prepared);
    let waits = Finding::warning("long_transaction", side)
        .required("no transaction that writes for long, in no database: the slot's making waits until it ends")
        .remedy("end it, or wait");
    report.add_each(&waits, &facts.long_transactions);
    if facts.synchronous.contains('*') {
        report.add(
            Finding::warning("synchronous_standby_by_any_name", side)
                .observed(format!("synchronous_standby_names = {}", facts.synchronous))
                .required("names: commits may wait for this task's stream as for a standby, and last as long as applying does")
                .remedy("name the standbys"),
        );
    }
}

/// Whether the slot is kept for as long as the copy takes, and pauses may.
fn judge_keeping(facts: &SourceFacts, report: &mut Report) {
    let side = Side::Source;
    if facts.slot_keeps >= 0 {
        let minutes = facts.size / COPY_MIB_A_MINUTE + 1;
        let written = facts.log_an_hour.map(|an_hour| an_hour.saturating_mul(minutes) / 60);
        let observed = match written {
            Some(written) => format!(
                "max_slot_wal_keep_size = {} MiB; some {written} MiB of log are written, as on average until now, while {} MiB are \
                 copied, which takes {minutes} min or so",
                facts.slot_keeps, facts.size
            ),
            None => format!(
                "max_slot_wal_keep_size = {} MiB: if more is written while {} MiB are copied, which takes {minutes} min or so, the \
                 source gives the slot up",
                facts.slot_keeps, facts.size
            ),
        };
        let ample = |written: i64| written.saturating_mul(AMPLE).max(AMPLE_MIB) < facts.slot_keeps;
        let ample = written.is_some_and(ample);
        let finding = if ample { Finding::info } else { Finding::warning };
        report.add(
            finding("slot_may_be_given_up", side)
                .object("max_slot_wal_keep_size")
                .observed(observed)
                .required("-1, or much more than is written meanwhile")
                .remedy("raise it while the migration runs: ALTER SYSTEM SET max_slot_wal_keep_size = -1, and reload"),
        );
    }
    if facts.idle_timeout != "0" {
        report.add(
            Finding::warning("slot_may_be_given_up", side)
                .object("idle_replication_slot_timeout")
                .observed(format!(
                    "{}: nobody reads the slot while rows are copied, or while the task is paused",
                    facts.idle_timeout
                ))
                .required("0, or longer than the copy takes")
                .remedy("ALTER SYSTEM SET idle_replication_slot_timeout = 0, and reload"),
        );
    }
}

pub(super) fn judge_destination(facts: &DestinationFacts, report: &mut Report) {
    if !facts.may_replay {
        report.add(
            Finding::error("no_replay_right", Side::Destination)
                .observed("the role may not set session_replication_role")
                .required("that triggers and foreign keys do not fire for changes that they fired for at the source")
                .remedy("a superuser; from PostgreSQL 15 on: GRANT SET ON PARAMETER session_replication_role TO …"),
        );
    }
}
