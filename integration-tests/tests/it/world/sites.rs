//! Two sites: each database is reached by the agents of its own site only, and no way leads from one network to the other
//! but those between agents that the test makes.

use std::path::PathBuf;

use pgconvoy_integration_tests::convoy::{Builder, Convoy};
use pgconvoy_integration_tests::net::{Namespace, Proxy};
use pgconvoy_integration_tests::postgres::{Options, SUPERUSER};

use super::{DATABASE, Fleet, Pair};

/// Which agents can be dialled by those of the other site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialled {
    /// Those near the source.
    Source,
    /// Those near the destination.
    Destination,
}

/// Agents `s1` and `s2` at site `dc1` with the source, `c1` and `c2` at site `cloud` with the destination.
pub(crate) struct TwoSites {
    pub(crate) pair: Pair,
    pub(crate) fleet: Fleet,
    dialled: Dialled,
}

pub(crate) const AT_SOURCE: [&str; 2] = ["s1", "s2"];
pub(crate) const AT_DESTINATION: [&str; 2] = ["c1", "c2"];
pub(crate) const ASTRAY: &str = "astray";

impl TwoSites {
    /// The source's database is made by `schema`.
    pub(crate) async fn start(dialled: Dialled, schema: &str) -> TwoSites {
        TwoSites::start_with(dialled, schema, |builder, _| builder).await
    }

    /// With another agent of site `dc1`, [`ASTRAY`], which can be dialled and is in a network where no source is.
    pub(crate) async fn start_with_one_astray(schema: &str) -> TwoSites {
        let elsewhere = Namespace::make().unwrap();
        let astray = |builder: Builder, cloud: &Namespace| {
            builder.agent_inside(ASTRAY, "dc1", &elsewhere, Some(cloud))
        };
        TwoSites::start_with(Dialled::Source, schema, astray).await
    }

    async fn start_with(
        dialled: Dialled,
        schema: &str,
        more: impl FnOnce(Builder, &Namespace) -> Builder,
    ) -> TwoSites {
        let (dc1, cloud) = (Namespace::make().unwrap(), Namespace::make().unwrap());
        let inside = |network| Options::default().inside(network);
        let pair = Pair::of(inside(&dc1), inside(&cloud), schema).await;
        let (to_source, to_destination) = match dialled {
            Dialled::Source => (Some(&cloud), None),
            Dialled::Destination => (None, Some(&dc1)),
        };
        let mut builder = Convoy::builder().coordinators(1).tls();
        for name in AT_SOURCE {
            builder = builder.agent_inside(name, "dc1", &dc1, to_source);
        }
        for name in AT_DESTINATION {
            builder = builder.agent_inside(name, "cloud", &cloud, to_destination);
        }
        let fleet = Fleet { convoy: more(builder, &cloud).start().await.unwrap() };
        TwoSites { pair, fleet, dialled }
    }

    /// The ways between agents of the two sites.
    pub(crate) fn ways(&self) -> [&Proxy; 2] {
        let dialled = match self.dialled {
            Dialled::Source => AT_SOURCE,
            Dialled::Destination => AT_DESTINATION,
        };
        dialled.map(|agent| self.fleet.convoy.relay_link(agent))
    }

    /// Bytes that all agents near the source took from it so far, and what they sent to the other site for them.
    pub(crate) async fn relayed(&self) -> (u64, u64) {
        let mut sums = (0, 0);
        for agent in AT_SOURCE {
            let told = async |what| {
                let name = format!("pgconvoy_agent_relayed_{what}_bytes_total");
                self.fleet.convoy.metric(agent, &name).await.unwrap()
            };
            sums.0 += told("from_server").await;
            sums.1 += told("sent").await;
        }
        sums
    }

    /// A task file that says where the databases are; `rest` follows.
    pub(crate) fn task_file(&self, name: &str, rest: &str) -> PathBuf {
        let end = |port: u16, site: &str| {
            let url = format!("postgres://{SUPERUSER}@127.0.0.1:{port}/{DATABASE}");
            format!("{{ url: \"{url}\", password: {{ file: password }}, site: {site} }}")
        };
        let source = end(self.pair.source.port(), "dc1");
        let destination = end(self.pair.destination.port(), "cloud");
        let text = format!("name: {name}\nsource: {source}\ndestination: {destination}\n{rest}\n");
        self.pair.write(&format!("{name}.yaml"), &text)
    }
}
