//! Where SQL text is text, and where it is quoted.
//!
//! Enough of PostgreSQL's lexer to know what stands outside of strings, names and comments in what pg_dump writes (which
//! sets `standard_conforming_strings` on): nothing here understands a statement.

/// What stands at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// `-- …`, without its line end.
    LineComment,
    /// `/* … */`, a string, or a name in quotes.
    Quoted,
    /// A single character that means itself.
    Plain,
}

/// The pieces of a text: kind, start and end in bytes.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = (Piece, usize, usize)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let first = *text.as_bytes().get(start)?;
        let (piece, end) = piece_at(text, start, first);
        at = end;
        Some((piece, start, end))
    })
}

fn piece_at(text: &str, start: usize, first: u8) -> (Piece, usize) {
    let bytes = text.as_bytes();
    let rest = &text[start..];
    match first {
        b'-' if rest.starts_with("--") => {
            (Piece::LineComment, start + rest.find('\n').unwrap_or(rest.len()))
        }
        b'/' if rest.starts_with("/*") => (Piece::Quoted, block_comment_end(bytes, start)),
        b'"' => (Piece::Quoted, quote_end(bytes, start, b'"', false)),
        b'\'' => {
            let escapes = start > 0
                && bytes[start - 1].eq_ignore_ascii_case(&b'e')
                && !(start > 1 && is_name_byte(bytes[start - 2]));
            (Piece::Quoted, quote_end(bytes, start, b'\'', escapes))
        }
        b'$' if start == 0 || !is_name_byte(bytes[start - 1]) => match dollar_tag(rest) {
            Some(tag) => {
                let body = start + tag.len();
                let end = text[body..].find(tag).map_or(text.len(), |n| body + n + tag.len());
                (Piece::Quoted, end)
            }
            None => (Piece::Plain, start + 1),
        },
        _ => (Piece::Plain, start + rest.chars().next().map_or(1, char::len_utf8)),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// After the closing quote; a doubled one belongs to the text.
fn quote_end(bytes: &[u8], start: usize, quote: u8, escapes: bool) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        if escapes && byte == b'\\' {
            at += 2;
        } else if byte == quote {
            if bytes.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 2;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// PostgreSQL's block comments nest.
fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// `$$` or `$tag$` at the start of `text`.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = 1 + text[1..].find('$')?;
    let tag = &text[1..end];
    let sound = !tag.starts_with(|c: char| c.is_ascii_digit())
        && tag.bytes().all(|byte| is_name_byte(byte) && byte != b'$');
    sound.then(|| &text[..=end])
}

/// The statements of a text, cut at semicolons outside of quotes. Not for functions with a `BEGIN ATOMIC` body.
pub(super) fn statements(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    for (piece, at, end) in pieces(text) {
        if piece == Piece::Plain && text.as_bytes()[at] == b';' {
            found.push(text[start..at].trim());
            start = end;
        }
    }
    found.push(text[start..].trim());
    found.retain(|statement| !statement.is_empty());
    found
}

/// Where the last statement of a text begins; comments before it do not belong to it.
pub(super) fn last_statement(text: &str) -> usize {
    let (mut last, mut ended) = (0, true);
    for (piece, at, end) in pieces(text) {
        if piece == Piece::LineComment || text[at..end].trim().is_empty() {
            continue;
        }
        if ended {
            last = at;
        }
        ended = piece == Piece::Plain && text.as_bytes()[at] == b';';
    }
    last
}

/// The words of a text: names and numbers, what stands in quotes, and single signs. White space is none.
pub(super) fn tokens(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut found: Vec<&str> = Vec::new();
    // Where the name begins that the last piece belongs to.
    let mut name = None;
    for (piece, at, end) in pieces(text) {
        let in_name = piece == Piece::Plain && is_name_byte(bytes[at]);
        match name.filter(|_| in_name) {
            Some(start) => {
                found.pop();
                found.push(&text[start..end]);
            }
            None if text[at..end].trim().is_empty() => {}
            None => found.push(&text[at..end]),
        }
        name = in_name.then(|| name.unwrap_or(at));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_cut_outside_of_quotes_only() {
        let text = r#"a ';' b; c "x;""y" ; d $q$ ; $$ ; $q$; e E'\';' ; f$1; /* ; /* ; */ ; */ g -- ;
            ; 'never closed ;"#;
        let cut = statements(text);
        assert_eq!(
            cut,
            [
                "a ';' b",
                r#"c "x;""y""#,
                "d $q$ ; $$ ; $q$",
                r"e E'\';'",
                "f$1",
                "/* ; /* ; */ ; */ g -- ;",
                "'never closed ;"
            ]
        );
    }

    #[test]
    fn the_last_statement_begins_behind_comments() {
        let last = |text: &'static str| &text[last_statement(text)..];
        assert_eq!(last("a; -- ;\n b ';';\n"), "b ';';\n");
        assert_eq!(last("-- a;\nb"), "b");
        assert_eq!(last(" -- nothing"), " -- nothing");
    }

    #[test]
    fn words_are_names_quotes_and_signs() {
        let words = tokens("a1_b.\"c d\"::text >= 'x  y'||$$z$$ (ä)");
        let expected = [
            "a1_b", ".", "\"c d\"", ":", ":", "text", ">", "=", "'x  y'", "|", "|", "$$z$$", "(",
            "ä", ")",
        ];
        assert_eq!(words, expected);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_walked_to_its_end(text in "\\PC*|[$'\"e/*\\-;a\\\\\n]*") {
            let mut at = 0;
            for (_, start, end) in pieces(&text) {
                assert!(start == at && end > start && text.is_char_boundary(end.min(text.len())));
                at = end;
            }
            assert_eq!(at, text.len());
        }
    }
}
