//! What goes out comes back the same, through the bytes.

use std::fmt::Debug;

use pgconvoy_proto::convert::{Leased, Problem, ReportBody, WireError};
use pgconvoy_proto::v1;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::precheck::PrecheckItem;
use pgconvoy_shared::spec::{MigrationType, TaskSpec, limits};
use proptest::prelude::*;
use prost::Message;

use crate::any;

/// Out, through bytes, and back in.
fn there_and_back<W, D>(value: D) -> Result<D, WireError>
where
    W: Message + Default + From<D>,
    D: TryFrom<W, Error = WireError>,
{
    let bytes = W::from(value).encode_to_vec();
    W::decode(bytes.as_slice()).expect("what was just encoded").try_into()
}

fn same<W, D>(value: D) -> Result<(), TestCaseError>
where
    W: Message + Default + From<D>,
    D: TryFrom<W, Error = WireError> + Clone + PartialEq + Debug,
{
    prop_assert_eq!(there_and_back::<W, D>(value.clone()), Ok(value));
    Ok(())
}

proptest! {
    #[test]
    fn failures(value in any::failure()) {
        same::<v1::Failure, _>(value)?;
    }

    #[test]
    fn findings(value in any::precheck_item()) {
        same::<v1::PrecheckItem, PrecheckItem>(value)?;
    }

    #[test]
    fn specifications(value in any::spec()) {
        same::<v1::TaskSpec, _>(value)?;
    }

    #[test]
    fn work(value in any::work()) {
        same::<v1::Work, _>(value)?;
    }

    #[test]
    fn neighbours(value in any::neighbours()) {
        same::<v1::Neighbours, _>(value)?;
    }

    #[test]
    fn leases(value in any::leased()) {
        same::<v1::Lease, _>(value)?;
    }

    #[test]
    fn running_units(value in any::running()) {
        same::<v1::UnitProgress, _>(value)?;
    }

    #[test]
    fn reports(value in any::report_body()) {
        let body = Some(value.clone().into());
        let bytes = v1::UnitReport { body, ..Default::default() }.encode_to_vec();
        let read = v1::UnitReport::decode(bytes.as_slice()).expect("what was just encoded");
        prop_assert_eq!(ReportBody::try_from(read.body.expect("it was there")), Ok(value));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = v1::Lease::decode(bytes.as_slice()) {
            let _either = Leased::try_from(wire);
        }
        if let Ok(wire) = v1::UnitReport::decode(bytes.as_slice()) {
            let _either = wire.body.map(ReportBody::try_from);
        }
    }
}

#[test]
fn what_is_left_out_gets_its_default() {
    let ends = || Some(v1::Endpoint::default());
    let wire = v1::TaskSpec { source: ends(), destination: ends(), ..Default::default() };
    let spec = TaskSpec::try_from(wire).expect("all that must be there is there");
    assert_eq!(spec.types, MigrationType::usual());
    assert_eq!(spec.source.port, 5432);
    assert_eq!(
        (spec.copy.jobs, spec.copy.index_jobs),
        (limits::JOBS_DEFAULT, limits::JOBS_DEFAULT)
    );
    assert_eq!(spec.copy.shard_size_bytes, 256 << 20);
    assert_eq!(spec.retry.other_ms, limits::RETRY_OTHER_MS_DEFAULT);
}

#[test]
fn an_error_names_its_field() {
    let plan = v1::PlanTable { name: None, ..Default::default() };
    let named = v1::PlanTable {
        name: Some(v1::QualifiedName { schema: "a".into(), name: "b".into() }),
        ..Default::default()
    };
    let plan = v1::PlanWork { tables: vec![named, plan] };
    let wire = v1::Work { kind: Some(v1::work::Kind::Plan(plan)) };
    let error = pgconvoy_shared::unit::Work::try_from(wire).expect_err("a name is missing");
    assert_eq!(error.to_string(), "plan.tables[1].name: it is missing");

    let wire = v1::Failure { class: 77, ..Default::default() };
    let error = Failure::try_from(wire).expect_err("there is no class 77");
    let expected = WireError { field: "class".into(), problem: Problem::UnknownNumber(77) };
    assert_eq!(error, expected);
}

#[test]
fn messages_with_passwords_print_without_them() {
    let create = v1::CreateTaskRequest { source_password: "geheim".into(), ..Default::default() };
    let lease = v1::Lease { source_password: "geheim".into(), ..Default::default() };
    let message = v1::LeaderMessage { message: Some(v1::leader_message::Message::Lease(lease)) };
    for text in [format!("{create:?}"), format!("{message:?}")] {
        assert!(!text.contains("geheim"), "{text}");
    }
}
