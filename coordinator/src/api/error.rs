//! Why a call was not answered, in our words; `status.rs` puts it into gRPC's.

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::NodeId;

use crate::proposer::ProposeError;

/// What a node says that belongs to its cluster no more.
pub(crate) const REMOVED: &str = "this node was removed from the cluster";

/// Where the leader is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaderHint {
    pub(crate) id: NodeId,
    pub(crate) address: String,
}

/// Why a call failed. Whatever a variant carries is for the caller to read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum ApiError {
    /// The request makes no sense, whatever the state.
    #[error("{0}")]
    Invalid(Box<Failure>),
    /// What it is about does not exist.
    #[error("{0}")]
    NotFound(Box<Failure>),
    /// The name is in use.
    #[error("{0}")]
    Exists(Box<Failure>),
    /// Understood, and not possible in the present state.
    #[error("{0}")]
    Refused(Box<Failure>),
    /// The caller's certificate does not allow it.
    #[error("{0}")]
    Forbidden(Box<Failure>),
    /// Another node leads, or none does. Nothing was done.
    #[error("this node does not lead the cluster")]
    NotLeader(Option<LeaderHint>),
    /// The leader was asked and did not answer. It may have done it, or not.
    #[error("the leader at {address} did not answer: {cause}")]
    LeaderSilent { address: String, cause: String },
    /// Proposed; whether it was committed is not known.
    #[error("it is not known whether the request was carried out: {cause}")]
    FateUnknown { cause: String },
    /// More is waiting than can be taken in. Nothing was done.
    #[error("{what} is full")]
    Overloaded { what: &'static str },
    /// Not now; the same may be asked a little later. Nothing was done.
    #[error("{0}")]
    Unavailable(Box<Failure>),
    /// The process is ending. Nothing was done.
    #[error("this node is shutting down")]
    Stopping,
    /// A bug, or a broken machine.
    #[error("{0}")]
    Internal(Box<Failure>),
}

impl ApiError {
    /// A request that makes no sense: `field` is where, `remedy` what would be right.
    pub(crate) fn invalid(
        code: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ApiError {
        ApiError::Invalid(Failure::definite(code, message).about(field).remedy(remedy).into())
    }

    /// This node was removed from the cluster; the others can answer.
    pub(crate) fn removed() -> ApiError {
        let failure = Failure::transient("node_removed", REMOVED).remedy(
            "take its address out of --coordinators (PGCONVOY_COORDINATORS) and stop it; to use it again, empty its data \
             directory and add it with `pgconvoy cluster add-node`",
        );
        ApiError::Unavailable(failure.into())
    }

    pub(crate) fn internal(message: impl Into<String>) -> ApiError {
        let failure = Failure::other("internal_error", message)
            .remedy("this is a bug in pgconvoy; the coordinator's log tells more");
        ApiError::Internal(failure.into())
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> ApiError {
        match error {
            ProposeError::NotLeader(leader) => ApiError::NotLeader(leader),
            ProposeError::FateUnknown { cause } => ApiError::FateUnknown { cause },
            ProposeError::TooLarge { .. } => ApiError::invalid(
                "request_too_large",
                "",
                error.to_string(),
                "make it smaller: fewer or shorter patterns, names and settings",
            ),
            ProposeError::Overloaded => ApiError::Overloaded { what: "the queue of commands" },
            ProposeError::Stopping => ApiError::Stopping,
        }
    }
}
