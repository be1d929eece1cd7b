//! Which of the laws of ownership, of the stream and of the cutover are in force: all of them.
//!
//! A test that never fails proves nothing. So a build with the feature `lawless`, which no release build can have, leaves
//! out those that `PGCONVOY_WITHOUT` names, and the fault tests are expected to fail then (`cargo x teeth`).

#[cfg(all(feature = "lawless", not(debug_assertions)))]
compile_error!(
    "the feature `lawless` switches protection off: it is for tests, and release builds refuse it"
);

/// A law that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Law {
    /// A writing transaction proves that its plan is current (O1).
    Generation,
    /// Whoever holds no lease does nothing: an agent stops before its lease ends, and a new owner ends what the old one
    /// left (O5).
    Lease,
    /// A shard's transaction says in `shard_progress` that it is done, and who finds that does not do it again (O2, O6).
    Progress,
    /// The stream's transaction steps the destination on only from where its owner left it (O3).
    Step,
    /// A slot is confirmed only past what is applied and recorded (O7).
    Recorded,
    /// Every change is applied: one of many is left out.
    EveryChange,
    /// Nobody writes at the source while the destination takes over.
    Fence,
    /// The destination takes over only once it is seen that nothing was written behind the fence.
    Proof,
}

#[cfg(not(feature = "lawless"))]
impl Law {
    /// Never.
    pub(crate) const fn is_left_out(self) -> bool {
        false
    }
}

#[cfg(feature = "lawless")]
impl Law {
    /// Whether `PGCONVOY_WITHOUT` names it.
    pub(crate) fn is_left_out(self) -> bool {
        let word = match self {
            Self::Generation => "generation",
            Self::Lease => "lease",
            Self::Progress => "progress",
            Self::Step => "step",
            Self::Recorded => "recorded",
            Self::EveryChange => "change",
            Self::Fence => "fence",
            Self::Proof => "proof",
        };
        let without = std::env::var("PGCONVOY_WITHOUT").unwrap_or_default();
        without.split(',').any(|left_out| left_out == word)
    }
}
