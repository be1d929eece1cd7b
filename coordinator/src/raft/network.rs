//! openraft's messages over gRPC.
//!
//! What openraft leaves to us: a message has to arrive within one heartbeat interval, or it is given
//! up and sent again, so a payload that is too large for the link would never arrive. The budget is
//! halved when a message was late and grows again with each that arrives; what was cut off is
//! reported as a partial success, and openraft sends it next.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RaftLogId, StorageIOError};
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::raft_append_response::Answer;
use pgconvoy_proto::v1::raft_snapshot_piece::Piece;
use tokio::time::Instant;

use super::encoding;
use super::peers::{CallError, Peers};
use super::types::{Member, NodeNo, Snapshot, TypeConfig, Vote};
use super::wire;
use crate::store::snapshots::SnapshotFile;

/// A message carries at least this much: with one entry more it stays far below gRPC's 4 MiB.
const BUDGET_MIN: usize = 32 * 1024;
const BUDGET_MAX: usize = 1024 * 1024;
/// Of a snapshot, in one frame of the stream.
const PIECE_BYTES: usize = 256 * 1024;

type RpcError = RPCError<NodeNo, Member, RaftError<NodeNo>>;
type SnapshotError = StreamingError<TypeConfig, Fatal<NodeNo>>;

/// Makes the links to the other nodes.
pub(super) struct Network {
    peers: Arc<Peers>,
    retry: Duration,
}

impl Network {
    /// `retry`: how long a node that did not answer is left alone.
    pub(super) fn new(peers: Arc<Peers>, retry: Duration) -> Self {
        Self { peers, retry }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeNo, member: &Member) -> Link {
        let peers = Arc::clone(&self.peers);
        Link { peers, retry: self.retry, target, member: member.clone(), budget: BUDGET_MAX }
    }
}

/// The link to one node.
pub(super) struct Link {
    peers: Arc<Peers>,
    retry: Duration,
    target: NodeNo,
    member: Member,
    budget: usize,
}

impl Link {
    /// Just below the time after which openraft drops the call unseen.
    fn within(option: &RPCOption) -> Duration {
        option.hard_ttl() * 15 / 16
    }
}

fn rpc_error(error: CallError) -> RpcError {
    match error {
        CallError::Late { .. } | CallError::Malformed { .. } => {
            RPCError::Network(NetworkError::new(&error))
        }
        CallError::Connect { .. }
        | CallError::Rpc { .. }
        | CallError::Refused { .. }
        | CallError::NoCluster => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeNo>, RpcError> {
        let mut entries = Vec::with_capacity(request.entries.len());
        let mut bytes = 0;
        let mut last = request.prev_log_id;
        for entry in &request.entries {
            let encoded = encoding::encode_entry(entry);
            bytes += encoded.len();
            if bytes > self.budget && !entries.is_empty() {
                break;
            }
            entries.push(Bytes::from(encoded));
            last = Some(*entry.get_log_id());
        }
        let cut = entries.len() < request.entries.len();
        let heartbeat = entries.is_empty();

        let envelope = self.peers.envelope(self.target, &self.member).await.map_err(rpc_error)?;
        let message = v1::RaftAppendRequest {
            envelope: Some(envelope),
            vote: Some(wire::ballot(&request.vote)),
            previous: request.prev_log_id.as_ref().map(wire::raft_log_id),
            committed: request.leader_commit.as_ref().map(wire::raft_log_id),
            entries,
        };
        let address = &self.member.address;
        let mut client = self.peers.client(address).map_err(rpc_error)?;
        let call = client.append_entries(message);
        let answer = self.peers.answer(self.target, address, Self::within(&option), call).await;
        match &answer {
            Err(CallError::Late { .. }) if !heartbeat => {
                self.budget = (self.budget / 2).max(BUDGET_MIN)
            }
            Ok(_) if !heartbeat => self.budget = (self.budget * 2).min(BUDGET_MAX),
            _ => {}
        }
        match answer.map_err(rpc_error)?.answer {
            Some(Answer::Success(_)) if cut => Ok(AppendEntriesResponse::PartialSuccess(last)),
            Some(Answer::Success(_)) => Ok(AppendEntriesResponse::Success),
            Some(Answer::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
            Some(Answer::HigherVote(ballot)) => {
                Ok(AppendEntriesResponse::HigherVote(wire::vote(&ballot)))
            }
            None => Err(rpc_error(CallError::Malformed { address: address.clone() })),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeNo>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeNo>, RpcError> {
        let envelope = self.peers.envelope(self.target, &self.member).await.map_err(rpc_error)?;
        let message = v1::RaftVoteRequest {
            envelope: Some(envelope),
            vote: Some(wire::ballot(&request.vote)),
            last: request.last_log_id.as_ref().map(wire::raft_log_id),
        };
        let address = &self.member.address;
        let mut client = self.peers.client(address).map_err(rpc_error)?;
        let call = client.vote(message);
        let answer = self.peers.answer(self.target, address, Self::within(&option), call).await;
        let answer = answer.map_err(rpc_error)?;
        let malformed = || rpc_error(CallError::Malformed { address: address.clone() });
        let vote = wire::vote(&answer.vote.ok_or_else(malformed)?);
        Ok(VoteResponse::new(vote, answer.last.as_ref().map(wire::log_id), answer.granted))
    }

    /// Sends the file as one stream. There is no limit for the whole: a large one takes its time.
    /// It is given up when nothing was taken for `install_snapshot_timeout`, which also bounds the
    /// wait for its installation.
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancelled: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<NodeNo>, SnapshotError> {
        let unreachable = |error: CallError| SnapshotError::Unreachable(Unreachable::new(&error));
        let envelope = self.peers.envelope(self.target, &self.member).await.map_err(unreachable)?;
        let head = v1::RaftSnapshotHead {
            envelope: Some(envelope),
            vote: Some(wire::ballot(&vote)),
            size_bytes: snapshot.snapshot.size_bytes(),
        };
        let address = &self.member.address;
        let mut client = self.peers.client(address).map_err(unreachable)?;
        let (progress, taken) = tokio::sync::watch::channel(Ok(Instant::now()));
        let pieces = pieces(head, snapshot.snapshot, progress);
        // The time limit is `stalled`, not one for the whole call.
        let call = self.peers.answer(
            self.target,
            address,
            Duration::from_secs(24 * 3600),
            client.install_snapshot(pieces),
        );
        tokio::select! {
            answer = call => {
                let answer = answer.map_err(unreachable)?;
                let malformed = || unreachable(CallError::Malformed { address: address.clone() });
                Ok(SnapshotResponse::new(wire::vote(&answer.vote.ok_or_else(malformed)?)))
            }
            closed = cancelled => Err(closed.into()),
            error = stalled(taken, option.hard_ttl(), address) => Err(error),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.retry))
    }
}

/// When a piece was last taken, or why there is no next one.
type Progress = Result<Instant, String>;

/// The head, and the file. A file that cannot be read ends the stream, and is told to `progress`.
fn pieces(
    head: v1::RaftSnapshotHead,
    snapshot: Box<SnapshotFile>,
    progress: tokio::sync::watch::Sender<Progress>,
) -> impl futures::Stream<Item = v1::RaftSnapshotPiece> + Send + 'static {
    let head = v1::RaftSnapshotPiece { piece: Some(Piece::Head(head)) };
    let file =
        futures::stream::unfold((snapshot, progress, 0), |(snapshot, progress, at)| async move {
            let piece = match snapshot.piece(at, PIECE_BYTES) {
                Ok(piece) => piece,
                Err(error) => {
                    progress.send_modify(|last| *last = Err(error.to_string()));
                    return None;
                }
            };
            progress.send_modify(|last| *last = Ok(Instant::now()));
            if piece.is_empty() {
                return None;
            }
            let at = at + piece.len() as u64;
            let message = v1::RaftSnapshotPiece { piece: Some(Piece::Data(piece.into())) };
            Some((message, (snapshot, progress, at)))
        });
    futures::stream::once(async { head }).chain(file)
}

/// Returns when the stream did not move for `limit`, or cannot go on.
async fn stalled(
    mut taken: tokio::sync::watch::Receiver<Progress>,
    limit: Duration,
    address: &str,
) -> SnapshotError {
    loop {
        let deadline = match &*taken.borrow_and_update() {
            Ok(last) => *last + limit,
            Err(reason) => {
                let error = StorageIOError::read_snapshot(None, AnyError::error(reason));
                return SnapshotError::StorageError(error.into());
            }
        };
        let moved = async {
            // A closed channel means that all was taken: then only the answer is missing.
            if taken.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        if tokio::time::timeout_at(deadline, moved).await.is_err() {
            let error = CallError::Late { address: address.to_owned(), within: limit };
            return SnapshotError::Unreachable(Unreachable::new(&error));
        }
    }
}
