//! Failures.

use pgconvoy_shared::failure::{Failure, FailureClass};

use super::{WireError, non_empty, required_enum, wire_enum};
use crate::v1;

wire_enum!(FailureClass { Transient, Other, Definite });

impl From<Failure> for v1::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            class: v1::FailureClass::from(failure.class).into(),
            code: failure.code,
            subject: failure.subject,
            message: failure.message,
            remedy: failure.remedy,
            sqlstate: failure.sqlstate.unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::Failure> for Failure {
    type Error = WireError;
    fn try_from(wire: v1::Failure) -> Result<Self, WireError> {
        Ok(Self {
            class: required_enum(wire.class, "class")?,
            code: wire.code,
            subject: wire.subject,
            message: wire.message,
            remedy: wire.remedy,
            sqlstate: non_empty(wire.sqlstate),
        })
    }
}
