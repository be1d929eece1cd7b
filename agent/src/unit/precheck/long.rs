//! Transactions that have been open for long: others wait for their locks, and the making of a slot for those that write.

use tokio_postgres::Error;

use crate::pg::Session;

/// Longer than that.
pub(super) const LONG_SECS: f64 = 3600.0;

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// All of this database.
    ThisDatabase,
    /// Those of other databases that write.
    OthersThatWrite,
}

/// Those that have been open for longer, the oldest first.
pub(super) async fn open_for(
    session: &Session,
    of: Of,
    longer_than_secs: f64,
) -> Result<Vec<String>, Error> {
    let (place, which) = match of {
        Of::ThisDatabase => ("", "datname = current_database() and pid <> pg_backend_pid()"),
        Of::OthersThatWrite => {
            (" in database %3$s", "datname <> current_database() and backend_xid is not null")
        }
    };
    let ask = format!(
        "select format('process %1$s of %2$s{place}, since %4$s', pid, usename, datname, xact_start::timestamptz(0))
         from pg_stat_activity
         where {which} and xact_start < now() - make_interval(secs => $1) order by xact_start"
    );
    let rows = session.query(&ask, &[&longer_than_secs]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use pgconvoy_integration_tests::postgres::{Options, Postgres};
    use pgconvoy_shared::endpoint::Side;

    use super::*;
    use crate::pg::tests::{access, endpoint};

    #[tokio::test]
    async fn a_transaction_that_is_open_for_long_is_told_and_elsewhere_only_if_it_writes() {
        let server = Postgres::start(Options::default()).await.unwrap();
        server.create_database("other").await.unwrap();
        let endpoint = endpoint(&server, "postgres");
        let session = access(Side::Source, &endpoint, "test").session().await.unwrap();
        let here = server.client("postgres").await.unwrap();
        let there = server.client("other").await.unwrap();
        let reader = server.client("other").await.unwrap();
        for (client, begin) in [
            (&here, "begin; select"),
            (&there, "begin; create table t ()"),
            (&reader, "begin; select"),
        ] {
            client.batch_execute(begin).await.unwrap();
        }
        let pid = async |client: &tokio_postgres::Client| -> i32 {
            client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0)
        };
        let begin = async |of, secs| open_for(&session, of, secs).await.unwrap();
        let told = begin(Of::ThisDatabase, 0.0).await;
        assert_eq!(told.len(), 1, "{told:?}");
        let expected = format!("process {} of postgres, since 2", pid(&here).await);
        assert!(told[0].starts_with(&expected), "{told:?}");
        let told = begin(Of::OthersThatWrite, 0.0).await;
        assert_eq!(told.len(), 1, "{told:?}");
        let expected =
            format!("process {} of postgres in database other, since 2", pid(&there).await);
        assert!(told[0].starts_with(&expected), "{told:?}");
        for of in [Of::ThisDatabase, Of::OthersThatWrite] {
            assert_eq!(
                begin(of, LONG_SECS).await,
                Vec::<String>::new(),
                "they have only just begun"
            );
        }
    }
}
