//! Reads a tree of YAML nodes by key, and notes what is wrong instead of stopping at it.

use std::collections::BTreeMap;

use super::measure::{BadMeasure, duration_ms, size_bytes};
use super::problem::SpecProblem;
use crate::yaml::{Node, Value};

/// Notes problems, and the line of each key for problems found later.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<SpecProblem>,
    pub(super) lines: BTreeMap<String, usize>,
}

/// The entries of a mapping that were known, by key.
pub(super) type Fields<'n> = BTreeMap<&'n str, &'n Node>;

/// `outer.inner`, or `inner` at the top.
pub(super) fn path(outer: &str, inner: &str) -> String {
    if outer.is_empty() { inner.to_owned() } else { format!("{outer}.{inner}") }
}

impl Reader {
    pub(super) fn note(&mut self, node: &Node, problem: SpecProblem) {
        self.problems.push(problem.on_line(Some(node.line)));
    }

    fn expected(&mut self, at: &str, node: &Node, remedy: impl Into<String>) {
        let message = format!("{} stands here", node.value.kind());
        self.note(node, SpecProblem::bad_value(at, message, remedy));
    }

    /// The entries of a mapping; whatever is not `known` is a problem.
    pub(super) fn fields<'n>(&mut self, at: &str, node: &'n Node, known: &[&str]) -> Fields<'n> {
        let entries = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => return Fields::new(),
            _ => {
                self.expected(at, node, format!("keys are expected: {}", known.join(", ")));
                return Fields::new();
            }
        };
        let mut fields = Fields::new();
        for (key, value) in entries {
            let full = path(at, &key.name);
            if known.contains(&key.name.as_str()) {
                self.lines.insert(full, key.line);
                fields.insert(key.name.as_str(), value);
                continue;
            }
            let remedy = match nearest(&key.name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            let problem = SpecProblem::new("unknown_key", full, "this key is not known", remedy);
            self.problems.push(problem.on_line(Some(key.line)));
        }
        fields
    }

    /// A scalar's text.
    pub(super) fn text<'n>(&mut self, at: &str, node: &'n Node, remedy: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.expected(at, node, remedy);
                None
            }
        }
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        at: &str,
        node: &Node,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let remedy = format!("write {}", words.join(" or "));
        let text = self.text(at, node, &remedy)?;
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        if chosen.is_none() {
            self.note(node, SpecProblem::bad_value(at, format!("`{text}` is not known"), remedy));
        }
        chosen
    }

    /// A whole number.
    pub(super) fn number(&mut self, at: &str, node: &Node) -> Option<u32> {
        let remedy = "write a whole number";
        let text = self.text(at, node, remedy)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.note(node, SpecProblem::bad_value(at, format!("`{text}` is no number"), remedy));
        }
        number
    }

    pub(super) fn size(&mut self, at: &str, node: &Node) -> Option<u64> {
        self.measure(at, node, "write a size, such as 256MiB", size_bytes)
    }

    pub(super) fn duration(&mut self, at: &str, node: &Node) -> Option<u64> {
        self.measure(at, node, "write a duration, such as 10m", duration_ms)
    }

    fn measure(
        &mut self,
        at: &str,
        node: &Node,
        remedy: &str,
        read: fn(&str) -> Result<u64, BadMeasure>,
    ) -> Option<u64> {
        let text = self.text(at, node, remedy)?;
        read(text)
            .map_err(|bad| self.note(node, SpecProblem::bad_value(at, bad.message, bad.remedy)))
            .ok()
    }

    /// The items of a list.
    pub(super) fn list<'n>(&mut self, at: &str, node: &'n Node, remedy: &str) -> &'n [Node] {
        match &node.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => {
                self.expected(at, node, remedy);
                &[]
            }
        }
    }

    /// A key whose meaning is not built yet: nothing but an empty value is taken.
    pub(super) fn not_yet(&mut self, at: &str, node: Option<&&Node>, what: &str) {
        if let Some(node) = node.filter(|node| !node.value.is_empty()) {
            self.note(node, SpecProblem::not_yet(at, what));
        }
    }
}

/// The known word that differs by at most two letters.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let distances = known.iter().map(|known| (distance(word, known), *known));
    distances.filter(|(distance, _)| *distance <= 2).min().map(|(_, known)| known)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_word() {
        let known = ["shard_size", "jobs", "index_jobs"];
        assert_eq!(nearest("shardsize", &known), Some("shard_size"));
        assert_eq!(nearest("job", &known), Some("jobs"));
        assert_eq!(nearest("colour", &known), None);
    }
}
