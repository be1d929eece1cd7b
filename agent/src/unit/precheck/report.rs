//! Findings, and how they are put.

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::precheck::{PrecheckItem, Severity};

/// Objects that are listed one by one for a code; of the rest only the number is told.
const OBJECTS_MAX: usize = 20;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    items: Vec<PrecheckItem>,
}

/// A finding in the making.
#[derive(Debug, Clone)]
pub(super) struct Finding(PrecheckItem);

impl Finding {
    fn new(code: &str, side: impl Into<Option<Side>>, severity: Severity) -> Self {
        Self(PrecheckItem {
            code: code.to_owned(),
            side: side.into(),
            object: String::new(),
            severity,
            observed: String::new(),
            required: String::new(),
            remedy: String::new(),
        })
    }

    /// The task cannot start.
    pub(super) fn error(code: &str, side: impl Into<Option<Side>>) -> Self {
        Self::new(code, side, Severity::Error)
    }

    /// The task waits until this is acknowledged.
    pub(super) fn warning(code: &str, side: impl Into<Option<Side>>) -> Self {
        Self::new(code, side, Severity::Warning)
    }

    /// Good to know.
    pub(super) fn info(code: &str, side: impl Into<Option<Side>>) -> Self {
        Self::new(code, side, Severity::Info)
    }

    /// What it is about.
    pub(super) fn object(mut self, object: impl ToString) -> Self {
        self.0.object = object.to_string();
        self
    }

    /// What is there.
    pub(super) fn observed(mut self, observed: impl ToString) -> Self {
        self.0.observed = observed.to_string();
        self
    }

    /// What would have to be there.
    pub(super) fn required(mut self, required: impl ToString) -> Self {
        self.0.required = required.to_string();
        self
    }

    /// What to do.
    pub(super) fn remedy(mut self, remedy: impl ToString) -> Self {
        self.0.remedy = remedy.to_string();
        self
    }
}

impl Report {
    pub(super) fn add(&mut self, finding: Finding) {
        self.items.push(finding.0);
    }

    /// The same finding for each of some objects.
    pub(super) fn add_each<O: ToString>(
        &mut self,
        finding: &Finding,
        objects: impl IntoIterator<Item = O>,
    ) {
        let each = |object: O| finding.clone().object(object.to_string());
        self.add_all(finding, objects.into_iter().map(each));
    }

    /// Findings that differ by their objects; `rest` is what all of them are.
    pub(super) fn add_all(&mut self, rest: &Finding, findings: impl IntoIterator<Item = Finding>) {
        let mut findings = findings.into_iter();
        for finding in findings.by_ref().take(OBJECTS_MAX) {
            self.add(finding);
        }
        let more = findings.count();
        if more > 0 {
            self.add(rest.clone().object(format!("and {more} more")));
        }
    }

    /// A database that cannot be looked at.
    pub(super) fn unreachable(&mut self, side: Side, failure: Failure) {
        let finding = Finding::error(&failure.code, side)
            .object(failure.subject)
            .observed(failure.message)
            .required("a session with the database")
            .remedy(failure.remedy);
        self.add(finding);
    }

    /// All findings: errors first, then by code.
    pub(super) fn into_items(mut self) -> Vec<PrecheckItem> {
        self.items.sort_by(|one, other| {
            (other.severity, &one.code, one.side).cmp(&(one.severity, &other.code, other.side))
        });
        self.items
    }
}
