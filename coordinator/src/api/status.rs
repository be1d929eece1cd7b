//! The only door from our errors to gRPC.
//!
//! A status carries `google.rpc.Status` details: an `ErrorInfo` (reason = our stable code; metadata
//! `subject` and `remedy`) for clients that know only gRPC, and a `pgconvoy.v1.Failure` for ours.
//! Where another node can answer, metadata `pgconvoy-leader` says which.

use std::collections::HashMap;

use pgconvoy_proto::status::{FAILURE_TYPE, LEADER_KEY};
use pgconvoy_proto::v1;
use pgconvoy_shared::failure::Failure;
use prost::Message;
use prost_types::Any;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::pb;

use super::error::{ApiError, LeaderHint};

const DOMAIN: &str = "pgconvoy";
const ERROR_INFO_TYPE: &str = "type.googleapis.com/google.rpc.ErrorInfo";

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        let message = error.to_string();
        match error {
            ApiError::Invalid(failure) => status(Code::InvalidArgument, *failure, None),
            ApiError::NotFound(failure) => status(Code::NotFound, *failure, None),
            ApiError::Exists(failure) => status(Code::AlreadyExists, *failure, None),
            ApiError::Refused(failure) => status(Code::FailedPrecondition, *failure, None),
            ApiError::Unavailable(failure) => status(Code::Unavailable, *failure, None),
            ApiError::Forbidden(failure) => status(Code::PermissionDenied, *failure, None),
            ApiError::Internal(failure) => status(Code::Internal, *failure, None),
            ApiError::NotLeader(leader) => {
                let failure = match &leader {
                    Some(leader) => Failure::transient("not_leader", message)
                        .about(leader.address.clone())
                        .remedy("ask the leader, whose address is in the answer's metadata"),
                    None => Failure::transient("no_leader", "no node leads the cluster now")
                        .remedy(
                            "wait for an election; if none comes, see whether a majority of the \
                             coordinators is up (`pgconvoy cluster status`)",
                        ),
                };
                status(Code::Unavailable, failure, leader)
            }
            ApiError::LeaderSilent { address, .. } => {
                let failure = Failure::transient("leader_silent", message)
                    .about(address)
                    .remedy("look whether it was done before asking again");
                status(Code::Unavailable, failure, None)
            }
            ApiError::FateUnknown { .. } => {
                let failure = Failure::transient("fate_unknown", message)
                    .remedy("look whether it was done before asking again");
                status(Code::Unknown, failure, None)
            }
            ApiError::Overloaded { what } => {
                let failure = Failure::transient("overloaded", message)
                    .about(what)
                    .remedy("ask again a little later");
                status(Code::ResourceExhausted, failure, None)
            }
            ApiError::Stopping => {
                let failure =
                    Failure::transient("stopping", message).remedy("ask another coordinator");
                status(Code::Unavailable, failure, None)
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the place that makes them")]
fn status(code: Code, failure: Failure, leader: Option<LeaderHint>) -> Status {
    let mut metadata = MetadataMap::new();
    if let Some(leader) = leader
        && let Ok(address) = MetadataValue::try_from(leader.address)
    {
        metadata.insert(LEADER_KEY, address);
    }
    let details = details(code, &failure);
    Status::with_details_and_metadata(code, failure.message, details.into(), metadata)
}

fn details(code: Code, failure: &Failure) -> Vec<u8> {
    let place = [("subject", &failure.subject), ("remedy", &failure.remedy)];
    let info = pb::ErrorInfo {
        reason: failure.code.clone(),
        domain: DOMAIN.to_owned(),
        metadata: place
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect::<HashMap<_, _>>(),
    };
    let details = vec![
        Any { type_url: ERROR_INFO_TYPE.to_owned(), value: info.encode_to_vec() },
        Any {
            type_url: FAILURE_TYPE.to_owned(),
            value: v1::Failure::from(failure.clone()).encode_to_vec(),
        },
    ];
    pb::Status { code: code.into(), message: failure.message.clone(), details }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::ids::NodeId;
    use tonic_types::StatusExt;

    use super::*;

    #[test]
    fn every_error_has_a_code_a_place_and_a_remedy() {
        let error = ApiError::invalid("bad_task", "task", "`x y` is no task", "give an id");
        let status = Status::from(error);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "`x y` is no task");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("bad_task", "pgconvoy"));
        assert_eq!(info.metadata["subject"], "task");
        assert_eq!(info.metadata["remedy"], "give an id");
        let all = pb::Status::decode(status.details()).unwrap().details;
        let ours = all.iter().find(|detail| detail.type_url == FAILURE_TYPE).unwrap();
        let failure = v1::Failure::decode(ours.value.as_slice()).unwrap();
        assert_eq!(failure.code, "bad_task");
    }

    #[test]
    fn who_does_not_lead_says_who_does() {
        let leader = LeaderHint { id: NodeId(2), address: "c2:7411".to_owned() };
        let status = Status::from(ApiError::NotLeader(Some(leader)));
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.metadata().get(LEADER_KEY).unwrap(), "c2:7411");
        let status = Status::from(ApiError::NotLeader(None));
        assert_eq!(status.get_details_error_info().unwrap().reason, "no_leader");
    }

    #[test]
    fn what_may_have_been_done_is_told_apart_from_what_was_not() {
        let code = |error| Status::from(error).code();
        assert_eq!(code(ApiError::FateUnknown { cause: "x".to_owned() }), Code::Unknown);
        assert_eq!(code(ApiError::Overloaded { what: "the queue" }), Code::ResourceExhausted);
        assert_eq!(code(ApiError::Stopping), Code::Unavailable);
    }
}
