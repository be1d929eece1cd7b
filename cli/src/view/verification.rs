//! What came of comparing both ends.

use pgconvoy_proto::v1;
use pgconvoy_shared::verify::{
    NotCompared, ObjectDifference, ObjectsCompared, RowDifference, RowsCompared,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::non_empty;
use crate::output::human;
use crate::output::table::table;

/// Rows that differ shown of each table; all that are kept are in the JSON.
const KEYS_SHOWN: usize = 10;

/// The whole of a task's comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VerificationView {
    complete: bool,
    /// Of 100: the part of the rows that is compared; all are counted.
    sample_percent: String,
    pub(crate) differences: u64,
    tables_same: u32,
    tables_different: u32,
    tables_skipped: u32,
    tables_moving: u32,
    /// Of those that are different: not compared, because one end lacks the table or a column.
    tables_unlike: u32,
    /// Partitions whose rows are compared with those of a table that is counted: all under one root as one table.
    tables_with_root: u32,
    rows: RowsView,
    schema: Option<ObjectsCompared>,
    sequences: Option<ObjectsCompared>,
}

/// Rows that were compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct RowsView {
    source_rows: u64,
    destination_rows: u64,
    compared: u64,
    same: u64,
    missing: u64,
    extra: u64,
    different: u64,
    /// Changed again and again meanwhile: not known whether they are the same.
    moving: u64,
    /// The figures are lower bounds.
    at_least: bool,
    listed: Vec<RowDifference>,
    /// Where agents list all of them: `agent:path`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lists: Vec<String>,
    not_compared: Option<NotCompared>,
    /// The root of its partitions, where these are compared as one table: the figures stand with the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    through: Option<String>,
}

/// A table that was, or will be, compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TableVerificationView {
    /// same, different, skipped, with_root; none = not yet.
    status: Option<String>,
    #[serde(flatten)]
    rows: RowsView,
}

impl VerificationView {
    pub(crate) fn of(task: &v1::Task) -> Option<Self> {
        let found = task.verification.clone()?;
        let hundredths = found.settings.map_or(0, |settings| settings.sample_hundredths);
        let objects =
            |objects: Option<v1::ObjectsCompared>| objects.and_then(|found| found.try_into().ok());
        Some(Self {
            complete: found.complete,
            sample_percent: percent(hundredths),
            differences: found.differences,
            tables_same: found.tables_same,
            tables_different: found.tables_different,
            tables_skipped: found.tables_skipped,
            tables_moving: found.tables_moving,
            tables_unlike: found.tables_unlike,
            tables_with_root: found.tables_with_root,
            rows: found.rows.map(RowsView::of).unwrap_or_default(),
            schema: objects(found.schema),
            sequences: objects(found.sequences),
        })
    }

    /// For people: what was compared, and what differs.
    pub(crate) fn to_text<'t>(
        &self,
        tables: impl IntoIterator<Item = (&'t str, &'t TableVerificationView)>,
    ) -> String {
        let mut parts = vec![self.coverage()];
        let tells = |view: &TableVerificationView| {
            matches!(view.status.as_deref(), Some("different" | "skipped" | "moving"))
        };
        let telling: Vec<_> = tables.into_iter().filter(|(_, view)| tells(view)).collect();
        if !telling.is_empty() {
            let rows = telling.iter().map(|(name, view)| view.row(name));
            let head =
                ["table", "result", ">same", ">missing", ">extra", ">different", ">moving", ""];
            parts.push(table(&head, rows));
        }
        let keys: Vec<String> = telling.iter().flat_map(|(name, view)| view.keys(name)).collect();
        if !keys.is_empty() {
            parts.push(keys.join("\n"));
        }
        let differences = objects_of(self).flat_map(|found| &found.listed);
        let objects: Vec<String> = differences.map(object_text).collect();
        if !objects.is_empty() {
            parts.push(objects.join("\n"));
        }
        let skipped = objects_of(self).flat_map(|found| &found.skipped);
        let skipped: Vec<String> = skipped
            .map(|skipped| format!("not compared: {}: {}", skipped.object, skipped.reason))
            .collect();
        if !skipped.is_empty() {
            parts.push(skipped.join("\n"));
        }
        parts.join("\n\n")
    }

    fn coverage(&self) -> String {
        let mut lines = vec![self.verdict()];
        let differing = self.tables_different.saturating_sub(self.tables_unlike);
        let compared = self.tables_same + self.tables_moving + differing;
        if compared > 0 {
            let sample = match self.sample_percent.as_str() {
                "100" => String::new(),
                percent => format!(" ({percent} % of the rows; all were counted)"),
            };
            lines.push(format!(
                "  rows       {} compared in {}{sample}",
                human::count(self.rows.compared),
                human::counted(compared.into(), "table")
            ));
        }
        if self.tables_with_root > 0 {
            let more = human::counted(self.tables_with_root.into(), "more table");
            lines.push(format!(
                "  together   {more}: partitions whose key each server hashes in its own way, all under one root as one table"
            ));
        }
        if self.rows.moving > 0 {
            lines.push(format!(
                "  moving     {} did not rest long enough to be compared",
                human::counted(self.rows.moving, "row")
            ));
        }
        if self.tables_skipped > 0 {
            let skipped = human::counted(self.tables_skipped.into(), "table");
            lines.push(format!("  skipped    {skipped}: see below"));
        }
        for (what, found) in [("schema", &self.schema), ("sequences", &self.sequences)] {
            match found {
                Some(found) => {
                    let went_on = match found.went_on {
                        0 => String::new(),
                        some => {
                            format!(", {} went on at the source since then", human::count(some))
                        }
                    };
                    lines.push(format!(
                        "  {what:<10} {} compared, {} differ{went_on}",
                        human::counted(found.objects, "object"),
                        human::count(found.differences)
                    ));
                }
                None => lines.push(format!("  {what:<10} not compared")),
            }
        }
        lines.join("\n")
    }

    /// In one line, which stands for itself: nobody may take it for more than it is.
    fn verdict(&self) -> String {
        let found = match (self.differences, self.complete) {
            (0, true) => "no differences".to_owned(),
            (0, false) => "no differences so far".to_owned(),
            (found, _) => {
                let least = if self.rows.at_least { "at least " } else { "" };
                format!("{least}{}", human::counted(found, "difference"))
            }
        };
        let tables = u64::from(self.tables_skipped + self.tables_unlike);
        let objects: usize = objects_of(self).map(|objects| objects.skipped.len()).sum();
        let moving = self.rows.moving;
        let left_out = [(tables, "table"), (objects as u64, "object"), (moving, "moving row")];
        let left_out: Vec<String> = left_out
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| human::counted(count, what))
            .collect();
        match left_out.as_slice() {
            [] => format!("verification: {found}"),
            some => format!("verification: {found}; not compared: {}", some.join(", ")),
        }
    }
}

fn objects_of(found: &VerificationView) -> impl Iterator<Item = &ObjectsCompared> {
    [&found.schema, &found.sequences].into_iter().flatten()
}

/// `MISSING INDEX public.orders_day_idx`, with both texts where there are two.
fn object_text(found: &ObjectDifference) -> String {
    let ObjectDifference { difference, object, source, destination } = found;
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines = vec![format!("{}: {object}", difference.as_str())];
    for (end, text) in [("source", source), ("destination", destination)] {
        if !text.is_empty() {
            lines.push(format!("  {end}: {}", one_line(text)));
        }
    }
    lines.join("\n")
}

impl RowsView {
    fn of(found: v1::RowsCompared) -> Self {
        let Ok(found) = RowsCompared::try_from(found) else { return Self::default() };
        Self {
            same: found.same(),
            source_rows: found.source_rows,
            destination_rows: found.destination_rows,
            compared: found.compared,
            missing: found.missing,
            extra: found.extra,
            different: found.different,
            moving: found.moving,
            at_least: found.at_least,
            listed: found.listed,
            lists: found.lists,
            not_compared: found.not_compared,
            through: found.through.map(|root| root.to_string()),
        }
    }
}

impl TableVerificationView {
    pub(crate) fn of(table: &v1::TaskTable) -> Self {
        let rows = table.rows_compared.clone().map(RowsView::of).unwrap_or_default();
        Self { status: non_empty(&table.verification), rows }
    }

    /// Whose rows they are.
    fn subject<'v>(&'v self, table: &'v str) -> &'v str {
        self.rows.through.as_deref().unwrap_or(table)
    }

    fn row(&self, name: &str) -> [String; 8] {
        let rows = &self.rows;
        let least = if rows.at_least { "at least " } else { "" };
        let figure = |figure| format!("{least}{}", human::count(figure));
        [
            self.subject(name).to_owned(),
            self.status.clone().unwrap_or_default(),
            human::count(rows.same),
            figure(rows.missing),
            figure(rows.extra),
            figure(rows.different),
            figure(rows.moving),
            rows.not_compared.as_ref().map(|why| why.reason.clone()).unwrap_or_default(),
        ]
    }

    fn keys(&self, table: &str) -> Vec<String> {
        let table = self.subject(table);
        let listed = &self.rows.listed;
        let mut lines: Vec<String> = listed
            .iter()
            .take(KEYS_SHOWN)
            .map(|row| {
                let times =
                    if row.count > 1 { format!(" × {}", row.count) } else { String::new() };
                format!("{}: {table} {}{times}", row.difference.as_str(), row.key)
            })
            .collect();
        if listed.len() > KEYS_SHOWN {
            lines.push(format!("… more rows of {table} are in `-o json` and in a report"));
        }
        lines
    }
}

/// Objects that differ and what was not compared, as JSON lines.
pub(crate) fn object_lines(task: &v1::Task) -> Vec<Value> {
    let mut lines = Vec::new();
    let Some(found) = VerificationView::of(task) else { return lines };
    for objects in objects_of(&found) {
        lines.extend(objects.listed.iter().map(|object| json!(object)));
        let skipped = objects.skipped.iter();
        lines.extend(skipped.map(|o| json!({ "object": o.object, "not_compared": o.reason })));
    }
    for table in &task.tables {
        if let Some(why) = TableVerificationView::of(table).rows.not_compared {
            lines.push(json!({ "table": table.name, "not_compared": why.reason }));
        }
    }
    lines
}

/// Rows of a table that differ, as far as the task keeps them, as JSON lines.
pub(crate) fn row_lines(table: &v1::TaskTable) -> Vec<Value> {
    let view = TableVerificationView::of(table);
    let line = |row: &RowDifference| {
        json!({
            "table": view.subject(&table.name),
            "difference": row.difference,
            "key": row.key,
            "count": row.count,
        })
    };
    view.rows.listed.iter().map(line).collect()
}

/// Hundredths of a percent as a number without needless zeros; 0 stands for all.
pub(super) fn percent(hundredths: u32) -> String {
    match hundredths {
        0 => "100".to_owned(),
        all if all % 100 == 0 => (all / 100).to_string(),
        part => format!("{}.{:02}", part / 100, part % 100).trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(hundredths: u32) -> v1::Task {
        let row = v1::RowDifference {
            difference: v1::Difference::Missing.into(),
            key: "7".into(),
            count: 1,
        };
        let rows = v1::RowsCompared {
            source_rows: 10,
            compared: 10,
            missing: 1,
            listed: vec![row],
            ..Default::default()
        };
        v1::Task {
            verification: Some(v1::Verification {
                settings: Some(v1::VerifySettings { sample_hundredths: hundredths }),
                tables_same: 1,
                tables_different: 1,
                rows: Some(v1::RowsCompared { listed: vec![], ..rows.clone() }),
                differences: 1,
                complete: true,
                ..Default::default()
            }),
            tables: vec![v1::TaskTable {
                name: "public.orders".into(),
                verification: "different".into(),
                rows_compared: Some(rows),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn people_read_what_was_compared_and_what_differs() {
        let task = task(250);
        let orders = TableVerificationView::of(&task.tables[0]);
        let view = VerificationView::of(&task).expect("it was compared");
        let text = view.to_text([("public.orders", &orders)]);
        assert!(text.starts_with("verification: 1 difference\n"), "{text}");
        assert!(text.contains("10 compared in 2 tables (2.5 % of the rows"), "{text}");
        assert!(text.contains("missing: public.orders 7"), "{text}");
    }

    #[test]
    fn who_reads_the_first_line_alone_knows_what_was_not_compared() {
        let mut task = task(0);
        let skipped = v1::ObjectSkipped { object: "SCHEMA".into(), reason: "no pg_dump".into() };
        let schema = v1::ObjectsCompared { skipped: vec![skipped], ..Default::default() };
        let found = task.verification.as_mut().expect("it was compared");
        *found = v1::Verification { differences: 0, tables_different: 0, ..found.clone() };
        let first = |task: &v1::Task| {
            let text = VerificationView::of(task).expect("it was compared").to_text([]);
            text.lines().next().unwrap_or_default().to_owned()
        };
        assert_eq!(first(&task), "verification: no differences");
        let found = task.verification.as_mut().expect("it was compared");
        *found = v1::Verification { tables_skipped: 2, schema: Some(schema), ..found.clone() };
        let told = "verification: no differences; not compared: 2 tables, 1 object";
        assert_eq!(first(&task), told);
        // One end has no such table: that differs, and no row of it was compared.
        let found = task.verification.as_mut().expect("it was compared");
        *found = v1::Verification {
            differences: 1,
            tables_different: 1,
            tables_unlike: 1,
            ..found.clone()
        };
        let text = VerificationView::of(&task).expect("it was compared").to_text([]);
        assert!(text.starts_with("verification: 1 difference; not compared: 3 tables"), "{text}");
        assert!(text.contains("10 compared in 1 table\n"), "{text}");
    }
}
