//! Which of the laws of the stream are in force: all of them.
//!
//! A test that never fails proves nothing. So a build with the feature `lawless`, which no release build can have, lets one
//! of them be left out, and the model of histories is expected to lose or double a row then.

#[cfg(all(feature = "lawless", not(debug_assertions)))]
compile_error!(
    "the feature `lawless` switches protection off: it is for tests, and release builds refuse it"
);

/// A law that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// Up to N, changes find rows that are younger than they are (S7).
    Window,
    /// A row that moved is taken from the destination only where the copy had not seen it moved (S8).
    MoveUnseen,
    /// Nor where a row that was read again had (S8).
    MoveNotReread,
    /// A row that is read again raises N (S8).
    RereadRaises,
    /// What was copied under one snapshot takes no change that the snapshot shows (S10).
    KeylessSnapshot,
    /// Ids are those of top-level transactions (S12).
    TopLevel,
    /// What ends at or before the applied position is skipped (S12).
    AppliedSkipped,
    /// What was rolled back within a transaction is left out.
    RolledBack,
}

/// What is in force.
#[derive(Debug, Clone, Copy, Default)]
pub struct Laws {
    #[cfg(feature = "lawless")]
    left_out: Option<Law>,
}

impl Laws {
    /// All but one.
    #[cfg(feature = "lawless")]
    #[must_use]
    pub fn without(law: Law) -> Self {
        Self { left_out: Some(law) }
    }

    #[cfg(feature = "lawless")]
    pub(super) fn hold(self, law: Law) -> bool {
        self.left_out != Some(law)
    }

    #[cfg(not(feature = "lawless"))]
    #[expect(clippy::unused_self, reason = "the feature gives it something to look at")]
    pub(super) const fn hold(self, _law: Law) -> bool {
        true
    }
}
