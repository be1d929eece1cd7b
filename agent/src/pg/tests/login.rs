use std::path::Path;

use pgconvoy_integration_tests::postgres::{Options, PASSWORD, Postgres, Tls};
use pgconvoy_shared::endpoint::{Endpoint, Side, SslMode};
use pgconvoy_shared::failure::FailureClass;
use pgconvoy_shared::secret::Secret;

use super::{access, endpoint};
use crate::pg::{Access, Attempt, PgError};
use crate::relay::tests::{Dialled, TwoSites};

/// Logs in with both clients; whether TLS is spoken, or the code of the failure, which must be the same for both.
async fn login(access: &Access) -> Result<bool, String> {
    const ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let code = |error: PgError| access.failure(&error).code;
    let ours = async {
        let mut wire = access.reader().await?;
        let encrypted = wire.value(ENCRYPTED).await? == "t";
        wire.close().await;
        Ok(encrypted)
    };
    let theirs = async {
        let session = access.session().await?;
        let encrypted = session.query_one(ENCRYPTED, &[]).await?.get(0);
        session.close().await;
        Ok(encrypted)
    };
    let (ours, theirs) = (ours.await.map_err(code), theirs.await.map_err(code));
    assert_eq!(ours, theirs, "both clients see the same");
    ours
}

async fn with(
    server: &Postgres,
    sslmode: SslMode,
    change: impl FnOnce(&mut Endpoint),
) -> Result<bool, String> {
    let mut endpoint = Endpoint { sslmode, ..endpoint(server, "postgres") };
    change(&mut endpoint);
    let outcome = login(&access(Side::Source, &endpoint, "test")).await;
    let sites = TwoSites::start(Dialled::Partner);
    let relayed = login(&sites.access(&endpoint, "test")).await;
    assert_eq!(relayed, outcome, "an agent of another site sees the same");
    outcome
}

fn text(path: &Path) -> Option<String> {
    Some(path.display().to_string())
}

fn refused(code: &str) -> Result<bool, String> {
    Err(code.to_owned())
}

#[tokio::test]
async fn a_server_without_tls() {
    let server = Postgres::start(Options::default()).await.unwrap();
    assert_eq!(with(&server, SslMode::Disable, |_| {}).await, Ok(false));
    assert_eq!(with(&server, SslMode::Allow, |_| {}).await, Ok(false));
    assert_eq!(with(&server, SslMode::Prefer, |_| {}).await, Ok(false));
    assert_eq!(with(&server, SslMode::Require, |_| {}).await, refused("tls_not_offered"));
    let socket = server.socket().display().to_string();
    let by_socket = with(&server, SslMode::VerifyFull, |endpoint| endpoint.host = socket).await;
    assert_eq!(by_socket, Ok(false), "there is no TLS on a socket, and none is asked for");
}

#[tokio::test]
async fn a_server_that_offers_tls() {
    let server = Postgres::start(Options::default().tls(Tls::Offered)).await.unwrap();
    let authority = &server.certificates().unwrap().authority;
    assert_eq!(with(&server, SslMode::Disable, |_| {}).await, Ok(false));
    assert_eq!(with(&server, SslMode::Allow, |_| {}).await, Ok(false));
    assert_eq!(with(&server, SslMode::Prefer, |_| {}).await, Ok(true));
    assert_eq!(with(&server, SslMode::Require, |_| {}).await, Ok(true));
    assert_eq!(with(&server, SslMode::VerifyFull, |_| {}).await, refused("tls_settings"));
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let trusted = with(&server, mode, |endpoint| endpoint.sslrootcert = text(authority)).await;
        assert_eq!(trusted, Ok(true), "{mode:?}");
    }
}

/// A door leads to the kind of connection that libpq would have logged in on.
#[tokio::test]
async fn where_several_kinds_of_connection_are_allowed_a_login_tells_which_one_works() {
    let starts = [Tls::Off, Tls::Offered, Tls::Required];
    let starts = starts.map(|tls| Postgres::start(Options::default().tls(tls)));
    let [off, offered, required] = &futures::future::try_join_all(starts).await.unwrap()[..] else {
        panic!("three servers");
    };
    let proven = async |server, sslmode| {
        let endpoint = Endpoint { sslmode, ..endpoint(server, "postgres") };
        access(Side::Source, &endpoint, "test").proven().await.unwrap()
    };
    assert_eq!(proven(off, SslMode::Prefer).await, Attempt::Plain);
    assert_eq!(proven(offered, SslMode::Prefer).await, Attempt::Tls);
    assert_eq!(proven(offered, SslMode::Allow).await, Attempt::Plain);
    assert_eq!(proven(required, SslMode::Allow).await, Attempt::Tls);
    assert_eq!(proven(required, SslMode::Require).await, Attempt::Tls);
}

#[tokio::test]
async fn certificates_are_checked_as_far_as_the_mode_says() {
    let server = Postgres::start(Options::default().tls(Tls::Required)).await.unwrap();
    let other = Postgres::start(Options::default().tls(Tls::Offered)).await.unwrap();
    assert_eq!(with(&server, SslMode::Disable, |_| {}).await, refused("login_refused"));
    assert_eq!(with(&server, SslMode::Allow, |_| {}).await, Ok(true), "the second attempt");
    let foreign = &other.certificates().unwrap().authority;
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let outcome = with(&server, mode, |endpoint| endpoint.sslrootcert = text(foreign)).await;
        assert_eq!(outcome, refused("server_certificate_refused"), "{mode:?}");
    }
    let authority = &server.certificates().unwrap().authority;
    let by_other_name = |endpoint: &mut Endpoint| {
        // The certificate is for 127.0.0.1 and localhost.
        endpoint.host = "127.0.0.2".to_owned();
        endpoint.sslrootcert = text(authority);
    };
    server.sql("postgres", "alter system set listen_addresses = '*'").await.unwrap();
    let wrong_name = with(&server, SslMode::VerifyFull, by_other_name).await;
    assert!(
        wrong_name == refused("server_certificate_refused")
            || wrong_name == refused("unreachable_host"),
        "{wrong_name:?}"
    );
}

#[tokio::test]
async fn a_client_certificate_logs_in() {
    let server = Postgres::start(Options::default().tls(Tls::ClientCertificate)).await.unwrap();
    let files = server.certificates().unwrap().clone();
    let without = with(&server, SslMode::Require, |_| {}).await;
    assert_eq!(without, refused("login_refused"));
    let with_it = with(&server, SslMode::VerifyFull, |endpoint| {
        endpoint.sslrootcert = text(&files.authority);
        endpoint.sslcert = text(&files.client);
        endpoint.sslkey = text(&files.client_key);
    });
    assert_eq!(with_it.await, Ok(true));
}

#[tokio::test]
async fn each_kind_of_password_and_what_is_wrong_with_it() {
    let server = Postgres::start(Options::default()).await.unwrap();
    server
        .sql(
            "postgres",
            "set password_encryption = md5; create role old login password 'md5 secret';
             set password_encryption = 'scram-sha-256'; create role young login password 'Pa''s\\s wörd';
             create role nobody nologin password 'x'",
        )
        .await
        .unwrap();
    // The access rules ask for SCRAM; md5 passwords want a rule of their own.
    let to = |user: &str, database: &str, password: Option<&str>| {
        let mut endpoint = endpoint(&server, database);
        endpoint.user = user.to_owned();
        let password = password.map(Secret::new);
        Access::new(Side::Source, &endpoint, password.as_ref(), "test".to_owned())
    };
    assert_eq!(login(&to("young", "postgres", Some("Pa's\\s wörd"))).await, Ok(false));
    assert_eq!(login(&to("young", "postgres", Some("wrong"))).await, refused("wrong_password"));
    assert_eq!(login(&to("missing", "postgres", Some("x"))).await, refused("wrong_password"));
    assert_eq!(login(&to("young", "postgres", None)).await, refused("password_missing"));
    assert_eq!(login(&to("nobody", "postgres", Some("x"))).await, refused("login_refused"));
    let nowhere = login(&to("young", "nowhere", Some("Pa's\\s wörd"))).await;
    assert_eq!(nowhere, refused("no_such_database"));
    assert_eq!(login(&to("old", "postgres", Some("md5 secret"))).await, refused("wrong_password"));
}

#[tokio::test]
async fn a_host_that_does_not_answer() {
    let server = Postgres::start(Options::default()).await.unwrap();
    let endpoint = endpoint(&server, "postgres");
    server.stop_immediate().unwrap();
    let access = access(Side::Source, &endpoint, "test");
    let error = access.session().await.unwrap_err();
    let failure = access.failure(&error);
    assert_eq!(failure.class, FailureClass::Transient);
    assert_eq!(failure.code, "unreachable_host");
    assert!(failure.message.contains("refused"), "{failure}");
    assert!(failure.subject.starts_with("source postgres@127.0.0.1:"), "{failure:?}");
    assert!(!format!("{failure:?} {access:?}").contains(PASSWORD));
}

#[tokio::test]
async fn every_session_fixes_what_changes_forms_and_hides_rows() {
    let server = Postgres::start(Options::default()).await.unwrap();
    if server.major().number() >= 14 {
        server
            .sql("postgres", "alter role postgres set idle_session_timeout = '5s'")
            .await
            .unwrap();
    }
    server
        .sql(
            "postgres",
            "alter role postgres set datestyle = 'German'; alter role postgres set statement_timeout = '1ms';
             alter database postgres set bytea_output = 'escape'; alter role postgres set row_security = on;
             alter role postgres set default_transaction_read_only = on",
        )
        .await
        .unwrap();
    let mut endpoint = endpoint(&server, "postgres");
    endpoint.settings.insert("work_mem".to_owned(), "5MB".to_owned());
    endpoint.settings.insert("search_path".to_owned(), "public, \"o d\"".to_owned());
    let access = access(Side::Destination, &endpoint, "pgconvoy/abcdefghijkl/copy/1.1");
    const SHOWN: &str = "select current_setting('datestyle') || '|' || current_setting('statement_timeout') \
         || '|' || current_setting('bytea_output') || '|' || current_setting('row_security') || '|' \
         || current_setting('search_path') || '|' || current_setting('work_mem') || '|' \
         || current_setting('synchronous_commit') || '|' || current_setting('default_transaction_read_only') || '|' \
         || coalesce(current_setting('idle_session_timeout', true), '0') || '|' || current_setting('client_encoding') || '|' \
         || current_setting('application_name') || '|' || current_setting('timezone') || '|' || current_setting('extra_float_digits')";
    let expected = "ISO, MDY|0|hex|off||5MB|on|off|0|UTF8|pgconvoy/abcdefghijkl/copy/1.1|UTC|3";
    assert_eq!(access.writer().await.unwrap().value(SHOWN).await.unwrap(), expected);
    let session = access.session().await.unwrap();
    assert_eq!(session.query_one(SHOWN, &[]).await.unwrap().get::<_, String>(0), expected);
    assert_eq!(session.major(), server.major().number());
}
