//! The other nodes' messages, as they arrive.
//!
//! Each is first checked against who this node is ([`super::identity`]). A refusal is a proper answer
//! with a cause, never a gRPC error: the sender shows it to its operator.

use std::sync::Arc;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::raft_append_response::Answer;
use pgconvoy_proto::v1::raft_refusal::Cause;
use pgconvoy_proto::v1::raft_service_server::RaftService;
use pgconvoy_proto::v1::raft_snapshot_piece::Piece;
use pgconvoy_runtime::tasks;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use super::election::would_vote;
use super::encoding;
use super::identity::{AdoptError, refusal};
use super::node::Core;
use super::removal::check_sender;
use super::types::{Entry, Snapshot, Vote};
use super::wire;
use crate::store::StoreError;
use crate::store::snapshots::SnapshotFile;

/// The gRPC service of a node. Only coordinators of the same cluster may be let in to it.
#[derive(Clone)]
pub struct Service {
    core: Arc<Core>,
}

type Refused<T> = Result<T, v1::RaftRefusal>;

fn malformed(what: impl std::fmt::Display) -> v1::RaftRefusal {
    refusal(Cause::Malformed, format!("the message cannot be read: {what}"))
}

fn stopped(error: &dyn std::error::Error) -> v1::RaftRefusal {
    refusal(Cause::Stopped, format!("the node has stopped: {error}"))
}

fn required_vote(ballot: Option<&v1::RaftBallot>) -> Refused<Vote> {
    ballot.map(wire::vote).ok_or_else(|| malformed("it has no vote"))
}

impl Service {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    async fn append(&self, message: v1::RaftAppendRequest) -> Refused<Answer> {
        self.core.identity.admit(message.envelope.as_ref()).await?;
        let vote = required_vote(message.vote.as_ref())?;
        self.heard_leader(&vote);
        let entries: Result<Vec<Entry>, _> =
            message.entries.iter().map(|bytes| encoding::decode_entry(bytes)).collect();
        let request = AppendEntriesRequest {
            vote,
            prev_log_id: message.previous.as_ref().map(wire::log_id),
            entries: entries.map_err(malformed)?,
            leader_commit: message.committed.as_ref().map(wire::log_id),
        };
        match self.core.raft.append_entries(request).await.map_err(|error| stopped(&error))? {
            AppendEntriesResponse::Success => Ok(Answer::Success(true)),
            AppendEntriesResponse::Conflict => Ok(Answer::Conflict(true)),
            AppendEntriesResponse::HigherVote(vote) => Ok(Answer::HigherVote(wire::ballot(&vote))),
            AppendEntriesResponse::PartialSuccess(_) => {
                unreachable!("openraft's own node takes all entries or none")
            }
        }
    }

    /// A message of a leader whom this node still follows, or will.
    fn heard_leader(&self, vote: &Vote) {
        if vote.is_committed() && *vote >= self.core.raft.metrics().borrow().vote {
            self.core.contact.touch();
            self.core.belongs();
        }
    }

    async fn ballot(&self, message: &v1::RaftVoteRequest) -> Refused<v1::RaftVoteResponse> {
        self.core.identity.admit(message.envelope.as_ref()).await?;
        let vote = required_vote(message.vote.as_ref())?;
        let request = VoteRequest::new(vote, message.last.as_ref().map(wire::log_id));
        let answer = self.core.raft.vote(request).await.map_err(|error| stopped(&error))?;
        Ok(v1::RaftVoteResponse {
            refusal: None,
            vote: Some(wire::ballot(&answer.vote)),
            granted: answer.vote_granted,
            last: answer.last_log_id.as_ref().map(wire::raft_log_id),
        })
    }

    async fn receive(&self, mut pieces: Streaming<v1::RaftSnapshotPiece>) -> Refused<Vote> {
        let Some(v1::RaftSnapshotPiece { piece: Some(Piece::Head(head)) }) =
            pieces.message().await.map_err(malformed)?
        else {
            return Err(malformed("its first piece is no head"));
        };
        self.core.identity.admit(head.envelope.as_ref()).await?;
        let vote = required_vote(head.vote.as_ref())?;
        let own = self.core.raft.metrics().borrow().vote;
        if own > vote {
            // An old leader: it need not send the rest to learn that.
            return Ok(own);
        }
        let _slot = self.core.receiving.try_acquire().map_err(|_| {
            refusal(Cause::Busy, "the node is receiving other snapshots; it will take the next one")
        })?;
        let unstored = |error: StoreError| stopped(&error);
        let mut incoming = self.core.snapshots.receive().map_err(unstored)?;
        while let Some(piece) = pieces.message().await.map_err(malformed)? {
            let Some(Piece::Data(data)) = piece.piece else {
                return Err(malformed("a later piece is no data"));
            };
            self.heard_leader(&vote);
            incoming.push(&data).map_err(unstored)?;
        }
        let file = incoming.finish().map_err(unstored)?;
        if file.size_bytes() != head.size_bytes {
            return Err(malformed("the snapshot was cut short"));
        }
        self.install(vote, file).await
    }

    /// What arrived damaged is refused here. From there on it is our own, and an error stops the node.
    async fn install(&self, vote: Vote, file: SnapshotFile) -> Refused<Vote> {
        let check = move || file.check().map(|label| (label, file));
        let checked =
            tasks::blocking("check snapshot", check).await.map_err(|died| stopped(&died))?;
        let (label, file) = checked.map_err(malformed)?;
        let meta = encoding::decode_label(&label).map_err(malformed)?;
        let last = meta.last_log_id.ok_or_else(|| malformed("the snapshot holds nothing"))?;

        // The sender may give up, which ends this call. The order between snapshot and purge must
        // hold all the same, so the rest runs on its own.
        let (told, answer) = oneshot::channel();
        let core = Arc::clone(&self.core);
        let snapshot = Snapshot { meta, snapshot: Box::new(file) };
        let hand_over = async move {
            core.installs.begin(last.index);
            let answer = core.raft.install_full_snapshot(vote, snapshot).await;
            core.installs.settled();
            // Nobody listens if the sender gave up.
            drop(told.send(answer));
        };
        tasks::spawn(tasks::Kind::Worker, "install snapshot", hand_over);
        let answer = answer.await.map_err(|error| stopped(&error))?;
        Ok(answer.map_err(|error| stopped(&error))?.vote)
    }
}

#[tonic::async_trait]
impl RaftService for Service {
    async fn identify(
        &self,
        _request: Request<v1::RaftIdentifyRequest>,
    ) -> Result<Response<v1::RaftIdentifyResponse>, Status> {
        let identity = &self.core.identity;
        let cluster = identity.cluster().await;
        Ok(Response::new(v1::RaftIdentifyResponse {
            node: identity.node().0,
            store: identity.store().0.to_vec().into(),
            cluster: cluster.map_or_else(Vec::new, |id| id.0.to_vec()).into(),
            pristine: identity.pristine().await,
        }))
    }

    async fn adopt(
        &self,
        request: Request<v1::RaftAdoptRequest>,
    ) -> Result<Response<v1::RaftAdoptResponse>, Status> {
        let adopted = self.core.identity.adopt(request.get_ref().envelope.as_ref()).await;
        let refusal = adopted.err().map(|error| match error {
            AdoptError::Refused(refusal) => refusal,
            AdoptError::Write(_) | AdoptError::Closed => stopped(&error),
        });
        Ok(Response::new(v1::RaftAdoptResponse { refusal }))
    }

    async fn append_entries(
        &self,
        request: Request<v1::RaftAppendRequest>,
    ) -> Result<Response<v1::RaftAppendResponse>, Status> {
        Ok(Response::new(match self.append(request.into_inner()).await {
            Ok(answer) => v1::RaftAppendResponse { refusal: None, answer: Some(answer) },
            Err(refusal) => v1::RaftAppendResponse { refusal: Some(refusal), answer: None },
        }))
    }

    async fn pre_vote(
        &self,
        request: Request<v1::RaftVoteRequest>,
    ) -> Result<Response<v1::RaftPreVoteResponse>, Status> {
        let message = request.get_ref();
        let admitted = self.core.identity.admit(message.envelope.as_ref()).await.and_then(|()| {
            let metrics = self.core.raft.metrics();
            check_sender(&metrics.borrow(), message.envelope.as_ref())
        });
        let granted = || would_vote(&self.core, message.last.as_ref().map(wire::log_id));
        Ok(Response::new(match admitted {
            Ok(()) => v1::RaftPreVoteResponse { refusal: None, granted: granted() },
            Err(refusal) => v1::RaftPreVoteResponse { refusal: Some(refusal), granted: false },
        }))
    }

    async fn vote(
        &self,
        request: Request<v1::RaftVoteRequest>,
    ) -> Result<Response<v1::RaftVoteResponse>, Status> {
        Ok(Response::new(self.ballot(request.get_ref()).await.unwrap_or_else(|refusal| {
            v1::RaftVoteResponse { refusal: Some(refusal), ..Default::default() }
        })))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::RaftSnapshotPiece>>,
    ) -> Result<Response<v1::RaftSnapshotResponse>, Status> {
        Ok(Response::new(match self.receive(request.into_inner()).await {
            Ok(vote) => v1::RaftSnapshotResponse { refusal: None, vote: Some(wire::ballot(&vote)) },
            Err(refusal) => v1::RaftSnapshotResponse { refusal: Some(refusal), vote: None },
        }))
    }

    async fn campaign(
        &self,
        request: Request<v1::RaftCampaignRequest>,
    ) -> Result<Response<v1::RaftCampaignResponse>, Status> {
        let message = request.get_ref();
        let admitted = self.core.identity.admit(message.envelope.as_ref()).await;
        let campaigned = match admitted {
            Ok(()) if message.candidate == self.core.identity.node().0 => {
                let started = self.core.raft.trigger().elect().await;
                started.map_err(|error| stopped(&error))
            }
            // As if the leader had been heard: this node's own election can wait.
            Ok(()) => {
                self.core.contact.touch();
                Ok(())
            }
            Err(refusal) => Err(refusal),
        };
        Ok(Response::new(v1::RaftCampaignResponse { refusal: campaigned.err() }))
    }
}
