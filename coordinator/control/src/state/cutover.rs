//! A task's latest cutover, as it is stored: what it needs to go on or to be taken back, and the record of it.

use serde::{Deserialize, Serialize};

use pgconvoy_shared::cutover::{ComparedAgain, CopiedAgain, CutoverSettings, CutoverStep};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::verify::VerifySettings;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cutover {
    /// Counts the task's cutovers from 1.
    pub attempt: u32,
    /// What was asked for.
    pub settings: CutoverSettings,
    /// Which step is being done, or was the last.
    pub step: CutoverStep,
    /// When each step began, in order.
    pub steps: Vec<(CutoverStep, Timestamp)>,
    /// It is undone if it is not switched by then; none = the source is not to be fenced yet.
    pub deadline: Option<Timestamp>,
    /// See [`pgconvoy_shared::cutover::CutoverOrder`], here and below.
    pub setting_before: Option<String>,
    /// Of the source's log, when it was looked whether anything stands in the way; and again just before the fence.
    pub lag_bytes: u64,
    /// What was compared before anything was stopped; none = nothing (yet).
    pub compared: Option<Coverage>,
    /// What was compared again while the source was in use, because it was changed since; none = nothing was (yet).
    pub again_before: Option<ComparedAgain>,
    /// The rest of that, behind the fence.
    pub again: Option<ComparedAgain>,
    /// What was copied again behind the fence; none = nothing was to be.
    pub copied: Option<CopiedAgain>,
    /// Where the source's log was when nobody could write any more.
    pub fence: Lsn,
    /// Sessions that were ended for it.
    pub ended_sessions: u32,
    /// Sessions that it left as they were, each in words.
    pub left_sessions: Vec<String>,
    /// The end of the marker behind which there is no change.
    pub marker: Lsn,
    /// Sequences that were set.
    pub sequences: u32,
    /// Why it is being undone.
    pub cause: Option<Failure>,
    /// Its user gave up lifting the fence: it may stand still.
    pub fence_left: bool,
    /// How it ended, and when; none = it is under way.
    pub ended: Option<(CutoverOutcome, Timestamp)>,
}

/// What was compared of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Tables that were compared.
    pub tables: u32,
    /// Tables that were not, each with its reason.
    pub tables_left_out: u32,
    /// Rows of the source.
    pub rows: u64,
    /// Those that were compared: all, or those of the sample.
    pub rows_compared: u64,
    /// Rows that were changed again and again: whether they are the same is not known.
    pub rows_moving: u64,
    /// Objects of the schema, statement by statement.
    pub schema_objects: u64,
}

/// How a cutover ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CutoverOutcome {
    /// The destination has taken over.
    Done,
    /// It could have been done.
    Rehearsed,
    /// It was taken back, for this cause; the source is followed as before.
    Undone(Failure),
}

impl CutoverOutcome {
    /// Stable, snake_case.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Rehearsed => "rehearsed",
            Self::Undone(_) => "undone",
        }
    }

    /// Why it was taken back.
    #[must_use]
    pub fn cause(&self) -> Option<&Failure> {
        match self {
            Self::Undone(cause) => Some(cause),
            Self::Done | Self::Rehearsed => None,
        }
    }
}

impl Cutover {
    pub(crate) fn new(attempt: u32, settings: CutoverSettings, at: Timestamp) -> Self {
        Self {
            attempt,
            settings,
            step: CutoverStep::Check,
            steps: vec![(CutoverStep::Check, at)],
            deadline: None,
            setting_before: None,
            lag_bytes: 0,
            compared: None,
            again_before: None,
            again: None,
            copied: None,
            fence: Lsn(0),
            ended_sessions: 0,
            left_sessions: Vec::new(),
            marker: Lsn(0),
            sequences: 0,
            cause: None,
            fence_left: false,
            ended: None,
        }
    }

    pub(crate) fn step_to(&mut self, step: CutoverStep, at: Timestamp) {
        self.step = step;
        self.steps.push((step, at));
    }

    pub(crate) fn end(&mut self, outcome: CutoverOutcome, at: Timestamp) {
        self.ended = Some((outcome, at));
    }

    /// How many of the task's cutovers are over.
    pub(crate) fn attempts_over(&self) -> u32 {
        if self.ended.is_some() { self.attempt } else { self.attempt.saturating_sub(1) }
    }

    /// What is changed is kept in mind by whoever follows the source: from the first step's end on.
    pub(crate) fn keeps_changes(&self) -> bool {
        self.settings.compares_again() && self.steps.len() > 1
    }

    /// It is under way, and both ends are being compared.
    pub(crate) fn is_comparing(&self) -> bool {
        self.ended.is_none() && self.step == CutoverStep::Compare
    }

    /// It compares, or did, whatever came of it.
    pub(crate) fn compares(&self) -> Option<VerifySettings> {
        let began = self.steps.iter().any(|(step, _)| *step == CutoverStep::Compare);
        self.settings.compare.filter(|_| began)
    }

    /// It is under way, and the source is fenced or about to be.
    pub(crate) fn holds_source(&self) -> bool {
        self.ended.is_none() && self.deadline.is_some()
    }

    /// How long writers were kept away; 0 = they were not, or still are.
    #[must_use]
    pub fn stopped_ms(&self) -> u64 {
        let fenced = self.steps.iter().find(|(step, _)| *step == CutoverStep::Fence);
        let ended = self.ended.as_ref().filter(|(outcome, _)| {
            // Another's fence stood there: none was set.
            outcome.cause().is_none_or(|cause| cause.code != "cutover_source_fenced")
        });
        fenced.zip(ended).map_or(0, |((_, from), (_, until))| until.since_ms(*from))
    }
}
