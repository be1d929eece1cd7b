//! The other nodes: how to reach them, and when they last answered.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pgconvoy_proto::v1;
use pgconvoy_proto::v1::raft_service_client::RaftServiceClient;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::identity::Identity;
use super::types::{Member, NodeNo};

/// Gives a channel to the node at an address; connects when it is first used.
pub type Connector =
    Arc<dyn Fn(&str) -> Result<Channel, Box<dyn Error + Send + Sync>> + Send + Sync>;

/// A call to another node got no answer that counts.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("no connection to {address} can be set up")]
    Connect {
        address: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("the node at {address} does not answer")]
    Rpc {
        address: String,
        #[source]
        source: Box<tonic::Status>,
    },
    #[error("the node at {address} did not answer within {within:?}")]
    Late { address: String, within: Duration },
    #[error("the node at {address} refuses: {}", refusal.message)]
    Refused { address: String, refusal: v1::RaftRefusal },
    #[error("this node belongs to no cluster")]
    NoCluster,
    #[error("the node at {address} answered what makes no sense")]
    Malformed { address: String },
}

/// An answer that may be a refusal.
pub(super) trait Answer {
    fn refusal(&mut self) -> Option<v1::RaftRefusal>;
}

macro_rules! answers {
    ($($name:ident),*) => {
        $(impl Answer for v1::$name {
            fn refusal(&mut self) -> Option<v1::RaftRefusal> {
                self.refusal.take()
            }
        })*
    };
}

answers!(
    RaftAdoptResponse,
    RaftAppendResponse,
    RaftPreVoteResponse,
    RaftVoteResponse,
    RaftSnapshotResponse,
    RaftCampaignResponse
);

impl Answer for v1::RaftIdentifyResponse {
    fn refusal(&mut self) -> Option<v1::RaftRefusal> {
        None
    }
}

pub(super) struct Peers {
    identity: Arc<Identity>,
    connector: Connector,
    channels: Mutex<BTreeMap<String, Channel>>,
    heard: Mutex<BTreeMap<NodeNo, Heard>>,
}

/// What was last heard of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    pub(super) answered: Option<Instant>,
    /// Its last refusal, until it answers properly again.
    pub(super) refusal: Option<String>,
}

pub(super) type Client = RaftServiceClient<Channel>;

impl Peers {
    pub(super) fn new(identity: Arc<Identity>, connector: Connector) -> Self {
        Self { identity, connector, channels: Mutex::default(), heard: Mutex::default() }
    }

    pub(super) fn client(&self, address: &str) -> Result<Client, CallError> {
        let mut channels = self.channels.lock().expect("nothing panics while it holds this lock");
        if let Some(channel) = channels.get(address) {
            return Ok(RaftServiceClient::new(channel.clone()));
        }
        let channel = (self.connector)(address)
            .map_err(|source| CallError::Connect { address: address.to_owned(), source })?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(RaftServiceClient::new(channel))
    }

    /// An envelope for a member.
    pub(super) async fn envelope(
        &self,
        to: NodeNo,
        member: &Member,
    ) -> Result<v1::RaftEnvelope, CallError> {
        self.identity.envelope(to, member.store).await.ok_or(CallError::NoCluster)
    }

    /// Waits for an answer, and takes note of it.
    pub(super) async fn answer<T: Answer>(
        &self,
        from: NodeNo,
        address: &str,
        within: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CallError> {
        let address = || address.to_owned();
        let answered = tokio::time::timeout(within, call).await;
        let answered = answered.map_err(|_| CallError::Late { address: address(), within })?;
        let rpc = |source| CallError::Rpc { address: address(), source: Box::new(source) };
        let mut answer = answered.map_err(rpc)?.into_inner();
        let refusal = answer.refusal();
        let mut heard = self.heard();
        let heard = heard.entry(from).or_default();
        if let Some(refusal) = refusal {
            if heard.refusal.as_ref() != Some(&refusal.message) {
                tracing::warn!("node {from} at {} refuses: {}", address(), refusal.message);
                heard.refusal = Some(refusal.message.clone());
            }
            return Err(CallError::Refused { address: address(), refusal });
        }
        *heard = Heard { answered: Some(Instant::now()), refusal: None };
        Ok(answer)
    }

    /// What was last heard of a node.
    pub(super) fn last_heard(&self, of: NodeNo) -> Heard {
        self.heard().get(&of).cloned().unwrap_or_default()
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeNo, Heard>> {
        self.heard.lock().expect("nothing panics while it holds this lock")
    }
}
