//! What an error of a coordinator carries besides gRPC's code and message: a [`Failure`] among its `google.rpc.Status`
//! details, and where another node can answer, that node's address in the metadata [`LEADER_KEY`].

use pgconvoy_shared::failure::Failure;
use prost::Message;
use tonic::Status;
use tonic_types::pb;

use crate::v1;

/// Metadata key: the leader's address, in answers of nodes that do not lead.
pub const LEADER_KEY: &str = "pgconvoy-leader";

/// The type of the detail that holds the failure.
pub const FAILURE_TYPE: &str = "type.googleapis.com/pgconvoy.v1.Failure";

/// The failure that a coordinator attached; none where the error was made on the way.
pub fn failure_of(status: &Status) -> Option<Failure> {
    let details = pb::Status::decode(status.details()).ok()?.details;
    let ours = details.iter().find(|detail| detail.type_url == FAILURE_TYPE)?;
    v1::Failure::decode(ours.value.as_slice()).ok()?.try_into().ok()
}

/// The leader's address, where the answer names it.
pub fn leader_of(status: &Status) -> Option<&str> {
    status.metadata().get(LEADER_KEY)?.to_str().ok()
}
