//! What a precheck found.

use pgconvoy_proto::v1;
use pgconvoy_shared::precheck::{PrecheckItem, Severity};
use serde::Serialize;

use crate::output::table;

/// A precheck's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PrecheckView {
    pub(crate) items: Vec<PrecheckItem>,
    /// Warnings that were acknowledged, by code.
    pub(crate) acknowledged: Vec<String>,
}

impl PrecheckView {
    pub(crate) fn of(task: &v1::Task) -> Self {
        // An item of a severity that this version does not know is shown by the version that made it.
        let items = task.precheck.iter().cloned().filter_map(|item| item.try_into().ok());
        let mut items: Vec<PrecheckItem> = items.collect();
        items.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.code.cmp(&b.code)));
        Self { items, acknowledged: task.acknowledged.clone() }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Error)
    }

    pub(crate) fn has_warnings(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Warning)
    }

    /// Codes of the warnings that nobody acknowledged, each once.
    pub(crate) fn open_warnings(&self) -> Vec<String> {
        let open = self.items.iter().filter(|item| {
            item.severity == Severity::Warning && !self.acknowledged.contains(&item.code)
        });
        let mut codes: Vec<String> = open.map(|item| item.code.clone()).collect();
        codes.dedup();
        codes
    }

    /// For people: one paragraph a finding, the worst first.
    pub(crate) fn to_text(&self) -> String {
        let mut paragraphs: Vec<String> =
            self.items.iter().map(|item| self.paragraph(item)).collect();
        let count = |severity| self.items.iter().filter(|item| item.severity == severity).count();
        paragraphs.push(format!(
            "{} errors, {} warnings, {} remarks",
            count(Severity::Error),
            count(Severity::Warning),
            count(Severity::Info)
        ));
        paragraphs.join("\n")
    }

    fn paragraph(&self, item: &PrecheckItem) -> String {
        let severity = match item.severity {
            Severity::Error => "ERROR  ",
            Severity::Warning if self.acknowledged.contains(&item.code) => "warning (acknowledged)",
            Severity::Warning => "WARNING",
            Severity::Info => "info   ",
        };
        let side = item.side.map(|side| format!(" at the {side}")).unwrap_or_default();
        let object =
            if item.object.is_empty() { String::new() } else { format!(": {}", item.object) };
        let details = table::fields([
            ("  observed", item.observed.clone()),
            ("  required", item.required.clone()),
            ("  remedy", item.remedy.clone()),
        ]);
        format!("{severity} {}{side}{object}\n{details}", item.code).trim_end().to_owned()
    }
}
