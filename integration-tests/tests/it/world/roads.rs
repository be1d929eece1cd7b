//! The ways from agents to the two databases, which can be cut, stalled and so on.

use std::path::PathBuf;

use pgconvoy_integration_tests::net::Proxy;
use pgconvoy_integration_tests::postgres::Postgres;

use super::Pair;

/// One proxy before each database. Servers that start again are found by the same ways.
pub(crate) struct Roads {
    pub(crate) source: Proxy,
    pub(crate) destination: Proxy,
}

impl Roads {
    /// Ways to both databases.
    pub(crate) async fn to(pair: &Pair) -> Roads {
        let (source, destination) = (&pair.source, &pair.destination);
        Roads { source: Roads::one(source).await, destination: Roads::one(destination).await }
    }

    /// One more way.
    pub(crate) async fn one(server: &Postgres) -> Proxy {
        Proxy::to(([127, 0, 0, 1], server.port()).into()).await.unwrap()
    }

    /// A task file by which agents take these ways.
    pub(crate) fn task_file(&self, pair: &Pair, name: &str, rest: &str) -> PathBuf {
        let ports = [&self.source, &self.destination].map(|road| road.address().port());
        pair.task_file_by(ports, name, rest)
    }
}
