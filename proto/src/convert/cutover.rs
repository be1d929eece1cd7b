//! Cutovers.

use pgconvoy_shared::cutover::{
    ComparedAgain, CopiedAgain, CutoverDone, CutoverOrder, CutoverSettings, CutoverStep,
    DEFAULT_CHECK_BUDGET_MS, DEFAULT_TIMEOUT_MS, Writers,
};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::verify::VerifySettings;

use super::{WireError, required, required_enum, wire_enum};
use crate::v1;
use crate::v1::cutover_done::Done as Wire;
use crate::v1::cutover_settings::Compare;

wire_enum!(Writers { Fenced, Stopped });
wire_enum!(CutoverStep { Check, Compare, Ready, Fence, Prove, Switch, Lift });

impl From<CutoverSettings> for v1::CutoverSettings {
    fn from(settings: CutoverSettings) -> Self {
        Self {
            writers: v1::Writers::from(settings.writers).into(),
            dry_run: settings.dry_run,
            timeout_ms: settings.timeout_ms,
            sequence_margin: settings.sequence_margin,
            by: settings.by,
            ignore: settings.ignore.into_iter().collect(),
            check_budget_ms: Some(settings.check_budget_ms),
            copy_again: settings.copy_again,
            leave_sessions_of: settings.leave_sessions_of.into_iter().collect(),
            compare: Some(match settings.compare {
                Some(settings) => Compare::Rows(settings.into()),
                None => Compare::Nothing(v1::CompareNothing {}),
            }),
        }
    }
}

impl TryFrom<v1::CutoverSettings> for CutoverSettings {
    type Error = WireError;
    fn try_from(wire: v1::CutoverSettings) -> Result<Self, WireError> {
        let compare = match wire.compare {
            None => Some(VerifySettings::default()),
            Some(Compare::Rows(settings)) => Some(settings.try_into()?),
            Some(Compare::Nothing(v1::CompareNothing {})) => None,
        };
        Ok(Self {
            writers: required_enum(wire.writers, "writers")?,
            compare,
            dry_run: wire.dry_run,
            timeout_ms: if wire.timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { wire.timeout_ms },
            sequence_margin: wire.sequence_margin,
            check_budget_ms: wire.check_budget_ms.unwrap_or(DEFAULT_CHECK_BUDGET_MS),
            copy_again: wire.copy_again,
            leave_sessions_of: wire.leave_sessions_of.into_iter().collect(),
            by: wire.by,
            ignore: wire.ignore.into_iter().collect(),
        })
    }
}

impl From<ComparedAgain> for v1::CutoverAgain {
    fn from(again: ComparedAgain) -> Self {
        let ComparedAgain { tables, tables_left_out, keys, keys_compared } = again;
        Self { tables, tables_left_out, keys, keys_compared }
    }
}

impl From<v1::CutoverAgain> for ComparedAgain {
    fn from(wire: v1::CutoverAgain) -> Self {
        let v1::CutoverAgain { tables, tables_left_out, keys, keys_compared } = wire;
        Self { tables, tables_left_out, keys, keys_compared }
    }
}

impl From<CopiedAgain> for v1::CutoverCopied {
    fn from(copied: CopiedAgain) -> Self {
        let CopiedAgain { tables, rows, large_objects } = copied;
        Self { tables, rows, large_objects }
    }
}

impl From<v1::CutoverCopied> for CopiedAgain {
    fn from(wire: v1::CutoverCopied) -> Self {
        let v1::CutoverCopied { tables, rows, large_objects } = wire;
        Self { tables, rows, large_objects }
    }
}

impl From<CutoverOrder> for v1::CutoverWork {
    fn from(order: CutoverOrder) -> Self {
        Self {
            step: v1::CutoverStep::from(order.step).into(),
            attempt: order.attempt,
            settings: Some(order.settings.into()),
            setting_before: order.setting_before,
            fence: order.fence.0,
            marker: order.marker.0,
            left_ms: order.left_ms,
        }
    }
}

impl TryFrom<v1::CutoverWork> for CutoverOrder {
    type Error = WireError;
    fn try_from(wire: v1::CutoverWork) -> Result<Self, WireError> {
        Ok(Self {
            step: required_enum(wire.step, "step")?,
            attempt: wire.attempt,
            settings: required(wire.settings, "settings")?,
            setting_before: wire.setting_before,
            fence: Lsn(wire.fence),
            marker: Lsn(wire.marker),
            left_ms: wire.left_ms,
        })
    }
}

impl From<CutoverDone> for v1::CutoverDone {
    fn from(done: CutoverDone) -> Self {
        let done = match done {
            CutoverDone::Checked { setting_before, lag_bytes } => {
                Wire::Checked(v1::CutoverChecked { setting_before, lag_bytes })
            }
            CutoverDone::Ready { lag_bytes, again } => {
                Wire::Ready(v1::CutoverReady { lag_bytes, again: again.map(Into::into) })
            }
            CutoverDone::Fenced { at, ended, left } => {
                Wire::Fenced(v1::CutoverFenced { at: at.0, ended, left })
            }
            CutoverDone::Proved { marker, sequences, again, copied } => {
                let (again, copied) = (again.map(Into::into), copied.map(Into::into));
                Wire::Proved(v1::CutoverProved { marker: marker.0, sequences, again, copied })
            }
            CutoverDone::Switched => Wire::Switched(v1::CutoverSwitched {}),
            CutoverDone::Lifted => Wire::Lifted(v1::CutoverLifted {}),
            CutoverDone::Refused(failure) => Wire::Refused(failure.into()),
        };
        Self { done: Some(done) }
    }
}

impl TryFrom<v1::CutoverDone> for CutoverDone {
    type Error = WireError;
    fn try_from(wire: v1::CutoverDone) -> Result<Self, WireError> {
        Ok(match wire.done.ok_or_else(|| WireError::missing("done"))? {
            Wire::Checked(v1::CutoverChecked { setting_before, lag_bytes }) => {
                Self::Checked { setting_before, lag_bytes }
            }
            Wire::Ready(v1::CutoverReady { lag_bytes, again }) => {
                Self::Ready { lag_bytes, again: again.map(Into::into) }
            }
            Wire::Fenced(v1::CutoverFenced { at, ended, left }) => {
                Self::Fenced { at: Lsn(at), ended, left }
            }
            Wire::Proved(v1::CutoverProved { marker, sequences, again, copied }) => {
                let (again, copied) = (again.map(Into::into), copied.map(Into::into));
                Self::Proved { marker: Lsn(marker), sequences, again, copied }
            }
            Wire::Switched(v1::CutoverSwitched {}) => Self::Switched,
            Wire::Lifted(v1::CutoverLifted {}) => Self::Lifted,
            Wire::Refused(failure) => Self::Refused(required(Some(failure), "refused")?),
        })
    }
}
