use pgconvoy_proto::status::{FAILURE_TYPE, LEADER_KEY};
use prost::Message as _;
use prost_types::Any;
use tonic::metadata::MetadataMap;
use tonic_types::pb;

use super::*;

#[expect(clippy::disallowed_methods, reason = "stands for what a coordinator answers")]
fn answer(code: Code, failure: Option<Failure>, leader: Option<&str>) -> Status {
    let details = failure.map(|failure| Any {
        type_url: FAILURE_TYPE.to_owned(),
        value: v1::Failure::from(failure).encode_to_vec(),
    });
    let status = pb::Status { details: details.into_iter().collect(), ..Default::default() };
    let mut metadata = MetadataMap::new();
    if let Some(leader) = leader {
        metadata.insert(LEADER_KEY, leader.parse().expect("an address is ASCII"));
    }
    let details = status.encode_to_vec();
    Status::with_details_and_metadata(code, "message", details.into(), metadata)
}

#[test]
fn a_refusal_is_the_answer() {
    for (code, exit) in [
        (Code::InvalidArgument, Exit::Usage),
        (Code::NotFound, Exit::Usage),
        (Code::FailedPrecondition, Exit::Usage),
        (Code::Internal, Exit::Failed),
    ] {
        let status = answer(code, Some(Failure::definite("no_such_task", "x")), None);
        let Verdict::Final(problem) = judge(&status) else { panic!("{code:?} is final") };
        assert_eq!(problem.exit(), exit, "{code:?}");
    }
}

#[test]
fn who_does_not_lead_is_asked_no_further() {
    let failure = Failure::transient("not_leader", "node 2 leads");
    let status = answer(Code::Unavailable, Some(failure), Some("c2:7411"));
    match judge(&status) {
        Verdict::Elsewhere { leader, reached: true, problem } => {
            assert_eq!(leader.as_deref(), Some("c2:7411"));
            assert_eq!(problem.exit(), Exit::NoCoordinator);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_broken_connection_is_nobodys_answer() {
    for code in [Code::Unavailable, Code::Unknown, Code::Cancelled] {
        match judge(&answer(code, None, None)) {
            Verdict::Elsewhere { leader: None, reached: false, problem } => {
                assert_eq!(problem.exit(), Exit::NoCoordinator);
            }
            other => panic!("{code:?}: {other:?}"),
        }
    }
    assert!(matches!(judge(&answer(Code::Unimplemented, None, None)), Verdict::Final(_)));
}
