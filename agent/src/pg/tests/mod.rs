//! Both clients against real servers.

mod copy;
mod login;
mod pool;
mod replication;

use pgconvoy_integration_tests::postgres::{PASSWORD, Postgres, SUPERUSER};
use pgconvoy_shared::endpoint::{Endpoint, Side, SslMode};
use pgconvoy_shared::secret::Secret;

use super::Access;

/// The superuser's way to a database over TCP.
pub(crate) fn endpoint(server: &Postgres, database: &str) -> Endpoint {
    Endpoint {
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        database: database.to_owned(),
        user: SUPERUSER.to_owned(),
        sslmode: SslMode::Prefer,
        sslrootcert: None,
        sslcert: None,
        sslkey: None,
        connect_timeout_secs: 0,
        settings: Default::default(),
        site: None,
    }
}

/// As a unit would connect.
pub(crate) fn access(side: Side, endpoint: &Endpoint, name: &str) -> Access {
    Access::new(side, endpoint, Some(&Secret::new(PASSWORD)), name.to_owned())
}
