//! Runs units: slots, one task a unit, cancellation, and what is reported of them.

mod lease;
mod reports;

pub(crate) use lease::LeaseClock;
pub(crate) use reports::PartSender;
