//! Tables for people: plain columns, no frames, so that they can be cut and grepped.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table from its head and rows. Columns whose head begins with `>` are numbers, aligned to the right.
pub(crate) fn table<R>(head: &[&str], rows: impl IntoIterator<Item = R>) -> String
where
    R: IntoIterator<Item = String>,
{
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().map(|name| name.trim_start_matches('>').to_uppercase()));
    for row in rows {
        table.add_row(row.into_iter());
    }
    for (nth, name) in head.iter().enumerate() {
        if let Some(column) = table.column_mut(nth) {
            let alignment =
                if name.starts_with('>') { CellAlignment::Right } else { CellAlignment::Left };
            column.set_cell_alignment(alignment);
            column.set_padding((0, 2));
        }
    }
    trimmed(&table.to_string())
}

/// `name: value` lines, the values under each other; empty values are left out.
pub(crate) fn fields<'f>(pairs: impl IntoIterator<Item = (&'f str, String)>) -> String {
    let pairs: Vec<_> = pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = pairs.iter().map(|(name, value)| {
        let indented = value.replace('\n', &format!("\n{:width$}  ", "", width = width + 1));
        format!("{:width$}  {indented}", format!("{name}:"), width = width + 1)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn trimmed(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_heads() {
        let rows = [["a", "1"], ["long name", "1,000"]].map(|row| row.map(str::to_owned));
        let expected = "NAME        ROWS\na              1\nlong name  1,000";
        assert_eq!(table(&["name", ">rows"], rows), expected);
    }

    #[test]
    fn fields_are_aligned_and_empty_ones_left_out() {
        let pairs = [("id", "x".to_owned()), ("none", String::new()), ("cause", "a\nb".to_owned())];
        assert_eq!(fields(pairs), "id:     x\ncause:  a\n        b");
    }
}
