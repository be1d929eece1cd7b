//! What a precheck found.

use pgconvoy_proto::v1;
use pgconvoy_shared::precheck::{PrecheckItem, Severity};
use serde::Serialize;

use crate::output::{human, table};

/// Objects named in one paragraph; a database with a thousand such tables still fits on a screen.
const OBJECTS_SHOWN: usize = 10;

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
        items.sort_by(|a, b| {
            let key = |item: &PrecheckItem| {
                let PrecheckItem { code, side, observed, remedy, object, .. } = item;
                (code.clone(), *side, observed.clone(), remedy.clone(), object.clone())
            };
            b.severity.cmp(&a.severity).then_with(|| key(a).cmp(&key(b)))
        });
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

    /// For people: one paragraph for what is the same but for its object, the worst first.
    pub(crate) fn to_text(&self) -> String {
        let groups = self.items.chunk_by(|a, b| {
            let but_object =
                |item: &PrecheckItem| PrecheckItem { object: String::new(), ..item.clone() };
            but_object(a) == but_object(b)
        });
        let mut paragraphs: Vec<String> = groups.map(|group| self.paragraph(group)).collect();
        let count = |severity, what: &str| {
            let count = self.items.iter().filter(|item| item.severity == severity).count();
            human::counted(count as u64, what)
        };
        paragraphs.push(format!(
            "{}, {}, {}",
            count(Severity::Error, "error"),
            count(Severity::Warning, "warning"),
            count(Severity::Info, "remark")
        ));
        paragraphs.join("\n")
    }

    fn paragraph(&self, group: &[PrecheckItem]) -> String {
        let Some(item) = group.first() else { return String::new() };
        let severity = match item.severity {
            Severity::Error => "ERROR",
            Severity::Warning if self.acknowledged.contains(&item.code) => "acknowledged warning",
            Severity::Warning => "WARNING",
            Severity::Info => "info",
        };
        let side = item.side.map(|side| format!(" at the {side}")).unwrap_or_default();
        let mut objects: Vec<&str> = group.iter().map(|item| item.object.as_str()).collect();
        objects.retain(|object| !object.is_empty());
        let more = objects.len().saturating_sub(OBJECTS_SHOWN);
        objects.truncate(OBJECTS_SHOWN);
        let objects = match (objects.join(", "), more) {
            (none, _) if none.is_empty() => none,
            (some, 0) => format!(": {some}"),
            (some, more) => format!(": {some} and {more} more (-o json lists all)"),
        };
        let details = table::fields([
            ("  observed", item.observed.clone()),
            ("  required", item.required.clone()),
            ("  remedy", item.remedy.clone()),
        ]);
        format!("{severity} {}{side}{objects}\n{details}", item.code).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::endpoint::Side;

    use super::*;

    #[test]
    fn what_differs_in_its_object_alone_is_told_once() {
        let item = |code: &str, severity, object: &str| PrecheckItem {
            code: code.into(),
            side: Some(Side::Destination),
            object: object.into(),
            severity,
            observed: "there".into(),
            required: "not there".into(),
            remedy: String::new(),
        };
        let mut items = vec![item("quiet", Severity::Info, "")];
        items.extend((0..12).map(|n| item("object_exists", Severity::Error, &format!("t{n}"))));
        items.push(item("slow", Severity::Warning, "t1"));
        items.push(item("old", Severity::Warning, ""));
        let wire = items.into_iter().map(Into::into).collect();
        let task =
            v1::Task { precheck: wire, acknowledged: vec!["slow".into()], ..Default::default() };
        let report = PrecheckView::of(&task);
        assert!(report.has_errors() && report.has_warnings());
        assert_eq!(report.open_warnings(), ["old"]);
        let expected = "\
ERROR object_exists at the destination: t0, t1, t10, t11, t2, t3, t4, t5, t6, t7 and 2 more (-o json lists all)
  observed:  there
  required:  not there
WARNING old at the destination
  observed:  there
  required:  not there
acknowledged warning slow at the destination: t1
  observed:  there
  required:  not there
info quiet at the destination
  observed:  there
  required:  not there
12 errors, 2 warnings, 1 remark";
        assert_eq!(report.to_text(), expected);
    }
}
