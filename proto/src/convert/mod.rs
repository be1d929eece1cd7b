//! Between the wire and the vocabulary: `From` out of the domain, `TryFrom` into it.
//!
//! What comes in may be from another version or a stranger: each missing message, unknown number and malformed id is an
//! error that names its field, and nothing panics. What goes out cannot fail. In the contracts an empty text, a zero or
//! an unspecified number stands for "none" or "the default", as each field's comment says.
//!
//! The conversion of a specification looks at its form only; whether it makes sense is
//! [`TaskSpec::check`](pgconvoy_shared::spec::TaskSpec::check)'s question, asked once, when a task is created.

mod cutover;
mod endpoint;
mod failure;
mod lease;
mod name;
mod neighbours;
mod plan;
mod precheck;
mod progress;
mod report;
mod result;
mod snapshot;
mod spec;
mod stream;
mod verify;
mod work;

use pgconvoy_shared::ids::{AgentId, BadId, TaskId, UnitId, UnitNo};
use pgconvoy_shared::verify::BadSample;

pub use lease::Leased;
pub use progress::RunningUnit;
pub use report::ReportBody;

/// A message that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct WireError {
    /// Path of the field: `table.name`.
    pub field: String,
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("it is missing")]
    Missing,
    #[error("{0} means nothing to this version")]
    UnknownNumber(i32),
    #[error(transparent)]
    Id(#[from] BadId),
    #[error(transparent)]
    Sample(BadSample),
}

impl WireError {
    fn new(field: impl Into<String>, problem: Problem) -> Self {
        Self { field: field.into(), problem }
    }

    fn missing(field: &str) -> Self {
        Self::new(field, Problem::Missing)
    }

    fn within(self, outer: &str) -> Self {
        Self { field: format!("{outer}.{}", self.field), problem: self.problem }
    }
}

/// A message that must be there.
fn required<W, D: TryFrom<W, Error = WireError>>(
    value: Option<W>,
    field: &str,
) -> Result<D, WireError> {
    let value = value.ok_or_else(|| WireError::missing(field))?;
    D::try_from(value).map_err(|error| error.within(field))
}

/// A message that may be left out.
fn optional<W, D: TryFrom<W, Error = WireError>>(
    value: Option<W>,
    field: &str,
) -> Result<Option<D>, WireError> {
    value.map(D::try_from).transpose().map_err(|error| error.within(field))
}

/// Each of some messages.
fn list<W, D: TryFrom<W, Error = WireError>>(
    values: Vec<W>,
    field: &str,
) -> Result<Vec<D>, WireError> {
    let read = |(nth, value)| {
        D::try_from(value).map_err(|error: WireError| error.within(&format!("{field}[{nth}]")))
    };
    values.into_iter().enumerate().map(read).collect()
}

/// Each of some values, on their way out.
fn wire_list<D, W: From<D>>(values: Vec<D>) -> Vec<W> {
    values.into_iter().map(W::from).collect()
}

/// A text in which empty means none.
fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn agent_id(text: &str, field: &str) -> Result<AgentId, WireError> {
    text.parse().map_err(|bad: BadId| WireError::new(field, bad.into()))
}

/// The unit that a message speaks of.
fn unit_id(task: &str, unit: u32) -> Result<UnitId, WireError> {
    let task: TaskId = task.parse().map_err(|bad: BadId| WireError::new("task_id", bad.into()))?;
    Ok(UnitId { task, no: UnitNo(unit) })
}

/// An enumeration that exists on both sides; on the wire, 0 is "unspecified".
trait WireEnum: Sized {
    type Wire: TryFrom<i32>;
    /// None for "unspecified".
    fn from_wire(wire: Self::Wire) -> Option<Self>;
}

/// A number that may be left unspecified.
fn optional_enum<D: WireEnum>(number: i32, field: &str) -> Result<Option<D>, WireError> {
    let wire = D::Wire::try_from(number)
        .map_err(|_| WireError::new(field, Problem::UnknownNumber(number)))?;
    Ok(D::from_wire(wire))
}

/// A number that must be specified.
fn required_enum<D: WireEnum>(number: i32, field: &str) -> Result<D, WireError> {
    optional_enum(number, field)?.ok_or_else(|| WireError::missing(field))
}

/// Maps an enumeration both ways; a variant that one side lacks does not compile.
macro_rules! wire_enum {
    ($domain:ident { $($variant:ident),+ $(,)? }) => {
        impl From<$domain> for v1::$domain {
            fn from(value: $domain) -> Self {
                match value {
                    $($domain::$variant => Self::$variant,)+
                }
            }
        }

        impl crate::convert::WireEnum for $domain {
            type Wire = v1::$domain;
            fn from_wire(wire: v1::$domain) -> Option<Self> {
                match wire {
                    v1::$domain::Unspecified => None,
                    $(v1::$domain::$variant => Some(Self::$variant),)+
                }
            }
        }
    };
}
use wire_enum;
