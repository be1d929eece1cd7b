//! The files of the project, and Rust text with what is not code blanked out.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

/// A text file of the project.
pub(super) struct Source {
    /// From the workspace's folder on.
    pub(super) path: String,
    pub(super) text: String,
}

impl Source {
    /// Whether this is Rust that is part of a product: no tests, benches or build scripts.
    pub(super) fn is_product_rust(&self) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        let file = parts.last().copied().unwrap_or_default();
        file.ends_with(".rs")
            && !parts.iter().any(|part| ["tests", "benches", "examples", "fuzz"].contains(part))
            && file != "build.rs"
            && file != "tests.rs"
            && !self.path.starts_with("integration-tests/")
    }

    /// The code outside tests, line by line as in the file: comments, texts and test modules are blank.
    pub(super) fn code(&self) -> String {
        without_tests(&code_only(&self.text))
    }
}

/// Every text file that git tracks, or would if it were added.
pub(super) fn all(root: &Path) -> anyhow::Result<Vec<Source>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output()
        .context("start git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let mut sources = Vec::new();
    for path in names.split('\0').filter(|name| !name.is_empty()) {
        // A file may be listed and deleted; one that is not text holds nothing to judge.
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        sources.push(Source { path: path.to_owned(), text });
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources.dedup_by(|one, other| one.path == other.path);
    Ok(sources)
}

/// Blanks comments and the inside of texts, keeping every line where it is.
pub(super) fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, kept) = match first {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            '/' if rest.starts_with("/*") => (block_comment(rest), false),
            '"' => (quoted(rest), false),
            'r' | 'b' | 'c'
                if !code.ends_with(|last: char| last.is_alphanumeric() || last == '_') =>
            {
                prefixed_text(rest).map_or((1, true), |length| (length, false))
            }
            '\'' => character(rest).map_or((1, true), |length| (length, false)),
            other => (other.len_utf8(), true),
        };
        let (token, after) = rest.split_at(length);
        if kept {
            code.push_str(token);
        } else {
            // A text stays a text, so that what follows is not read as part of what came before.
            code.push(' ');
            code.extend(token.chars().filter(|&each| each == '\n'));
        }
        rest = after;
    }
    code
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, each) in text.char_indices().skip(1) {
        match each {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `c"…"`; not a raw identifier or an ordinary name.
fn prefixed_text(text: &str) -> Option<usize> {
    let prefix = text.find(['"', '#', '\''])?;
    match &text[..prefix] {
        "r" | "br" | "cr" => {
            let hashes = text[prefix..].bytes().take_while(|&each| each == b'#').count();
            let opening = prefix + hashes;
            text[opening..].starts_with('"').then(|| {
                let closing = format!("\"{}", "#".repeat(hashes));
                let inside = &text[opening + 1..];
                inside.find(&closing).map_or(text.len(), |at| opening + 1 + at + closing.len())
            })
        }
        "b" | "c" if text[prefix..].starts_with('"') => Some(prefix + quoted(&text[prefix..])),
        "b" if text[prefix..].starts_with('\'') => {
            character(&text[prefix..]).map(|length| prefix + length)
        }
        _ => None,
    }
}

/// A character literal; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let inside = &text[1..];
    if let Some(escape) = inside.strip_prefix('\\') {
        // The escaped character may be a quote, which ends nothing.
        let escaped = escape.chars().next()?.len_utf8();
        return escape[escaped..].find('\'').map(|at| "'\\".len() + escaped + at + 1);
    }
    let first = inside.chars().next()?;
    inside[first.len_utf8()..].starts_with('\'').then(|| 1 + first.len_utf8() + 1)
}

/// Blanks what follows `#[cfg(test)]`: an item with braces, or one that ends with a semicolon.
pub(super) fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, test) = rest.split_at(at);
        kept.push_str(before);
        let end = item(test);
        kept.extend(test[..end].chars().filter(|&each| each == '\n'));
        rest = &test[end..];
    }
    kept.push_str(rest);
    kept
}

fn item(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, each) in code.char_indices() {
        match each {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_no_code_and_lines_stay() {
        let text = "a(); // b()\n/* c() /* d() */ \n e() */ f(\"g() \\\" h()\");\ni(r#\"j() \" k()\"#, 'l', b'\\'', '\\'');\n";
        let code = code_only(text);
        for gone in ["b()", "c()", "d()", "e()", "g()", "h()", "j()", "k()", "'l'"] {
            assert!(!code.contains(gone), "{gone} in {code}");
        }
        for kept in ["a()", "f(", "i("] {
            assert!(code.contains(kept), "{kept} not in {code}");
        }
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        let code = code_only("fn f<'a>(x: &'a str, r#type: u8) { g::<'_>(rows, bytes) }");
        assert_eq!(code, "fn f<'a>(x: &'a str, r#type: u8) { g::<'_>(rows, bytes) }");
    }

    #[test]
    fn test_modules_and_test_items_are_left_out() {
        let code = "a();\n#[cfg(test)]\nmod tests {\n fn f() { b() }\n}\nc();\n#[cfg(test)]\nmod more;\nd();";
        let kept = without_tests(code);
        assert!(!kept.contains("b()") && !kept.contains("more"));
        assert!(kept.contains("a();") && kept.contains("c();") && kept.contains("d();"));
        assert_eq!(kept.lines().count(), code.lines().count());
    }
}
