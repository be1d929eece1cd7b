//! YAML as a tree that knows its lines, with scalars as they were written.
//!
//! A settings file is answered with everything that is wrong in it at once, each with its line, and a password `0123`
//! is no number. Deriving the target type would give the first mistake only and read scalars by guess, so the files
//! are read into this tree and then by hand. Anchors, tags and a second document are refused: a settings file needs
//! none of them, and what is refused needs no bound on its size when expanded.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle};

/// Nesting beyond this is no settings file; keeps the stack of a careless caller safe.
const DEPTH_MAX: usize = 32;

/// A value and the line on which it begins, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub line: usize,
    pub value: Value,
}

/// What stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar, its text unquoted.
    Text(String),
    List(Vec<Node>),
    /// In the file's order; a key that stands twice is refused when it is read.
    Map(Vec<(Key, Node)>),
}

/// The key of an entry and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub line: usize,
    pub name: String,
}

/// Why a text is no settings file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    pub line: usize,
    pub message: String,
}

impl Value {
    /// For messages: what kind of value stands there.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping of keys to values",
        }
    }

    /// Nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Text(_) => false,
            Self::List(nodes) => nodes.is_empty(),
            Self::Map(entries) => entries.is_empty(),
        }
    }
}

/// Reads one document. An empty one is [`Value::Null`].
pub fn parse(text: &str) -> Result<Node, YamlError> {
    let mut events = Events { parser: Parser::new_from_str(text), line: 1 };
    let mut root = Node { line: 1, value: Value::Null };
    let mut documents = 0;
    loop {
        match events.next()? {
            Event::StreamStart | Event::DocumentEnd => {}
            Event::StreamEnd => return Ok(root),
            Event::DocumentStart(..) if documents == 0 => documents = 1,
            Event::DocumentStart(..) => return events.refuse("a second document begins here"),
            event => root = events.node(event, 0)?,
        }
    }
}

struct Events<'t> {
    parser: Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
    /// Of the last event.
    line: usize,
}

impl<'t> Events<'t> {
    /// The next event that is no comment.
    fn next(&mut self) -> Result<Event<'t>, YamlError> {
        loop {
            match self.parser.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => {
                    self.line = span.start.line();
                    return Ok(event);
                }
                Some(Err(error)) => {
                    return Err(YamlError {
                        line: error.marker().line(),
                        message: format!("this is not valid YAML: {}", error.info()),
                    });
                }
                None => return Ok(Event::StreamEnd),
            }
        }
    }

    fn refuse<T>(&self, message: impl Into<String>) -> Result<T, YamlError> {
        Err(YamlError { line: self.line, message: message.into() })
    }

    /// The node that begins with `event`.
    fn node(&mut self, event: Event<'t>, depth: usize) -> Result<Node, YamlError> {
        if depth > DEPTH_MAX {
            return self.refuse("values are nested too deeply");
        }
        let line = self.line;
        let value = match event {
            Event::Scalar(_, _, anchor, Some(_))
            | Event::SequenceStart(_, anchor, Some(_))
            | Event::MappingStart(_, anchor, Some(_))
                if anchor == 0 =>
            {
                return self.refuse("tags (`!name`) are not understood here");
            }
            Event::Scalar(text, ScalarStyle::Plain, 0, None) if is_null(&text) => Value::Null,
            Event::Scalar(text, _, 0, None) => Value::Text(text.into_owned()),
            Event::SequenceStart(_, 0, None) => Value::List(self.list(depth)?),
            Event::MappingStart(_, 0, None) => Value::Map(self.map(depth)?),
            _ => {
                return self
                    .refuse("anchors and aliases are not understood here: repeat the value");
            }
        };
        Ok(Node { line, value })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, YamlError> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(nodes),
                event => nodes.push(self.node(event, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, YamlError> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let key = match self.next()? {
                Event::MappingEnd => return Ok(entries),
                event => self.node(event, depth + 1)?,
            };
            let Value::Text(name) = key.value else {
                return self.refuse("a key must be a single value");
            };
            if let Some((first, _)) = entries.iter().find(|(known, _)| known.name == name) {
                return self.refuse(format!("`{name}` stands twice, first on line {}", first.line));
            }
            let event = self.next()?;
            let value = self.node(event, depth + 1)?;
            entries.push((Key { line: key.line, name }, value));
        }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: usize, text: &str) -> Node {
        Node { line, value: Value::Text(text.into()) }
    }

    #[test]
    fn scalars_stay_as_written_and_know_their_lines() {
        let root = parse("# settings\na: 0123\nb:\n  - \"x: y\" # why\n  - {c: ~}\n").unwrap();
        let Value::Map(entries) = root.value else { panic!("{root:?}") };
        assert_eq!(entries[0], (Key { line: 2, name: "a".into() }, text(2, "0123")));
        let Value::List(items) = &entries[1].1.value else { panic!("{entries:?}") };
        assert_eq!(items[0], text(4, "x: y"));
        let null = Node { line: 5, value: Value::Null };
        let entry = (Key { line: 5, name: "c".into() }, null);
        assert_eq!(items[1], Node { line: 5, value: Value::Map(vec![entry]) });
    }

    #[test]
    fn nothing_is_nothing() {
        for empty in ["", "# only a comment\n", "---\n", "~"] {
            assert_eq!(parse(empty).unwrap().value, Value::Null, "{empty:?}");
        }
    }

    #[test]
    fn what_no_settings_file_needs_is_refused_with_its_line() {
        for (bad, line) in [
            ("a: 1\na: 2\n", 2),
            ("a: &x 1\nb: *x\n", 1),
            ("a: !secret 1\n", 1),
            ("a: 1\n---\nb: 2\n", 2),
            ("a: [1\nb: 2\n", 2),
            ("? [a, b]\n: 1\n", 1),
            (&format!("{}{}", "[".repeat(60), "]".repeat(60)), 1),
        ] {
            let error = parse(bad).expect_err(bad);
            assert!(error.line.abs_diff(line) <= 1, "{bad:?}: {error:?}");
        }
    }
}
