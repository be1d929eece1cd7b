//! Which coordinator to speak with.
//!
//! All that are named are asked at once who leads, and the first that knows is spoken with from then on: a node that is
//! dead, cut off or removed from the cluster costs nothing as long as another one answers. A node that stops answering is
//! left, and all are asked again.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::cluster_service_client::ClusterServiceClient;
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_runtime::tls::Dialer;
use pgconvoy_shared::failure::Failure;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::{Verdict, judge};
use crate::exit::Exit;
use crate::problem::Problem;

/// Connecting and one small answer. Waited for only where no other node knows who leads.
const LIMIT: Duration = Duration::from_secs(2);
/// The role of a node that is none of its cluster's any more.
const REMOVED: &str = "removed";

/// Coordinators at addresses. Clones share what was found out.
#[derive(Debug, Clone)]
pub(crate) struct Nodes {
    dialer: Dialer,
    addresses: Vec<String>,
    /// Who answered last.
    found: Arc<Mutex<Option<Channel>>>,
}

/// What one node said.
struct Seen {
    /// As the addresses were given: the order of preference among equals.
    place: usize,
    channel: Channel,
    said: Result<v1::GetStatusResponse, Verdict>,
}

impl Nodes {
    /// Refuses an address that is none.
    pub(crate) fn new(dialer: Dialer, addresses: Vec<String>) -> Result<Self, Problem> {
        let nodes = Self { dialer, addresses, found: Arc::default() };
        for address in &nodes.addresses {
            nodes.dial(address)?;
        }
        Ok(nodes)
    }

    /// A node that most likely answers.
    pub(super) async fn channel(&self) -> Result<Channel, Verdict> {
        if let Some(found) = self.found().clone() {
            return Ok(found);
        }
        let best = self.ask_all(knows_the_leader).await?;
        if best.said?.role == REMOVED {
            return Err(Verdict::Final(removed()));
        }
        *self.found() = Some(best.channel.clone());
        Ok(best.channel)
    }

    /// The node found last did not do; `leader`: the one that it named.
    pub(super) fn leave(&self, leader: Option<&str>) -> Result<(), Problem> {
        let leader = leader.map(|leader| self.dial(leader)).transpose()?;
        *self.found() = leader;
        Ok(())
    }

    /// What is known of the cluster: by its leader if that can be had.
    pub(super) async fn status(&self) -> Result<v1::GetStatusResponse, Verdict> {
        let best = self.ask_all(|status| status.leader_id == status.node_id).await?;
        let status = best.said?;
        if status.leader_id == 0 || status.leader_id == status.node_id {
            return Ok(status);
        }
        // Not among those that are named, or slow. What its follower said is better than nothing.
        let leader = self.dial(&status.leader_address).map_err(Verdict::Final)?;
        Ok(self.ask(0, &status.leader_address, leader).await.said.unwrap_or(status))
    }

    /// Asks all, until one says what is wanted. Else the best there is once all have answered.
    async fn ask_all(
        &self,
        wanted: impl Fn(&v1::GetStatusResponse) -> bool,
    ) -> Result<Seen, Verdict> {
        let mut asked = FuturesUnordered::new();
        for (place, address) in self.addresses.iter().enumerate() {
            let channel = self.dial(address).map_err(Verdict::Final)?;
            asked.push(self.ask(place, address, channel));
        }
        let mut seen = Vec::with_capacity(self.addresses.len());
        while let Some(one) = asked.next().await {
            if one.said.as_ref().is_ok_and(&wanted) {
                return Ok(one);
            }
            seen.push(one);
        }
        let best = seen.into_iter().min_by_key(|one| (one.rank(), one.place));
        Ok(best.expect("at least one address is named"))
    }

    async fn ask(&self, place: usize, address: &str, channel: Channel) -> Seen {
        let mut client = ClusterServiceClient::new(channel.clone());
        let said = match timeout(LIMIT, client.get_status(v1::GetStatusRequest {})).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(judge(&status)),
            Err(_) => Err(super::unreached(&format!(
                "{address} did not answer within {} s",
                LIMIT.as_secs()
            ))),
        };
        Seen { place, channel, said }
    }

    fn dial(&self, address: &str) -> Result<Channel, Problem> {
        self.dialer.channel(address).map_err(|error| {
            Problem::usage("bad_address", chain(&error), "see `pgconvoy errors bad_address`")
        })
    }

    fn found(&self) -> MutexGuard<'_, Option<Channel>> {
        self.found.lock().expect("nothing panics while it holds this lock")
    }
}

impl Seen {
    /// The lower, the better.
    fn rank(&self) -> u8 {
        match &self.said {
            Ok(status) if knows_the_leader(status) => 0,
            Ok(status) if status.role != REMOVED => 1,
            // A refusal tells more than silence does.
            Err(Verdict::Final(_)) => 2,
            Ok(_) => 3,
            Err(Verdict::Elsewhere { .. }) => 4,
        }
    }
}

fn removed() -> Problem {
    let message = "each coordinator that answers was removed from its cluster";
    let failure = Failure::definite("node_removed", message)
        .remedy("name those that are left with --coordinators (PGCONVOY_COORDINATORS)");
    Problem::new(Exit::NoCoordinator, failure)
}

fn knows_the_leader(status: &v1::GetStatusResponse) -> bool {
    status.leader_id != 0 && status.role != REMOVED
}
