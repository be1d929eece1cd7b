//! Takes passwords out of text.
//!
//! Three nets, because each has holes: what was registered as a secret is masked wherever it
//! stands; the password of a URL (`://user:password@`) and the value of a `password=` or
//! `"password":` are masked by their place, whether somebody registered them or not. Too much is
//! masked rather than too little.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

const MASK: &str = "***";

/// Shorter secrets would mask half of every line; the two nets by place still hold them.
const SECRET_BYTES_MIN: usize = 4;

/// All forms of all registered secrets, the longest first, so that one that contains another is
/// masked whole.
static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Masks `secret` from now on in all that is logged, also where it is percent-encoded or quoted.
pub fn register_secret(secret: &str) {
    if secret.len() < SECRET_BYTES_MIN {
        return;
    }
    let quoted = secret.escape_debug().to_string();
    // Quoted once more: a Debug text inside a JSON log line.
    let forms =
        [secret.to_owned(), percent_encoded(secret), quoted.escape_debug().to_string(), quoted];
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    for form in forms {
        if !secrets.contains(&form) {
            secrets.push(form);
        }
    }
    secrets.sort_by_key(|form| std::cmp::Reverse(form.len()));
}

/// `text` without what looks like, or is known to be, a password.
pub fn redact(text: &str) -> Cow<'_, str> {
    let text = mask_registered(Cow::Borrowed(text));
    let text = mask_places(text, url_password);
    mask_places(text, keyed_password)
}

fn mask_registered(mut text: Cow<'_, str>) -> Cow<'_, str> {
    // A panic elsewhere must not end the redaction: the list is whole after every push.
    for secret in SECRETS.read().unwrap_or_else(PoisonError::into_inner).iter() {
        if text.contains(secret.as_str()) {
            text = Cow::Owned(text.replace(secret.as_str(), MASK));
        }
    }
    text
}

/// Where the next password stands in a text, seen from its start.
type Find = fn(&str) -> Option<Range<usize>>;

fn mask_places(text: Cow<'_, str>, find: Find) -> Cow<'_, str> {
    let mut masked = String::new();
    let mut rest = text.as_ref();
    while let Some(place) = find(rest) {
        masked.push_str(&rest[..place.start]);
        masked.push_str(MASK);
        rest = &rest[place.end..];
    }
    if rest.len() == text.len() {
        return text;
    }
    masked.push_str(rest);
    Cow::Owned(masked)
}

/// The password in `scheme://user:password@host`. It reaches to the last `@` before a blank or a
/// quote: a password that should have been percent-encoded, and was not, is masked whole too.
fn url_password(text: &str) -> Option<Range<usize>> {
    let mut searched = 0;
    while let Some(found) = text[searched..].find("://") {
        let start = searched + found + "://".len();
        let url = &text[start..];
        let url = &url[..url.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(url.len())];
        if let (Some(colon), Some(at)) = (url.find(':'), url.rfind('@'))
            && colon + 1 < at
            && &url[colon + 1..at] != MASK
        {
            return Some(start + colon + 1..start + at);
        }
        searched = start;
    }
    None
}

/// The value of `password=`, `passwd=` or `pwd=`, bare or quoted; and after a colon if key or
/// value is quoted, for prose may say "password: " too.
fn keyed_password(text: &str) -> Option<Range<usize>> {
    const KEYS: [&str; 3] = ["password", "passwd", "pwd"];
    // Of the same length as the text: only ASCII letters change.
    let lower = text.to_ascii_lowercase();
    let mut ends: Vec<usize> = KEYS
        .iter()
        .flat_map(|key| lower.match_indices(key).map(|(at, key)| at + key.len()))
        .collect();
    ends.sort_unstable();
    ends.into_iter().find_map(|end| value_after_key(text, end))
}

fn value_after_key(text: &str, key_end: usize) -> Option<Range<usize>> {
    let is_quote = |c: char| matches!(c, '"' | '\'' | '\\');
    let skip = |at: usize, skipped: &dyn Fn(char) -> bool| {
        text[at..].find(|c| !skipped(c)).map_or(text.len(), |n| at + n)
    };
    let after_quote = skip(key_end, &is_quote);
    let sign_at = skip(after_quote, &|c| c == ' ');
    let sign = text[sign_at..].chars().next().filter(|c| matches!(c, '=' | ':'))?;
    let open_at = skip(sign_at + sign.len_utf8(), &|c| c == ' ');
    let start = skip(open_at, &is_quote);
    let key_quoted = after_quote > key_end;
    let value_quoted = start > open_at;
    if sign == ':' && !key_quoted && !value_quoted {
        return None;
    }
    let value = &text[start..];
    let length = if value_quoted {
        let quote = text[..start].chars().next_back()?;
        quoted_length(value, quote)
    } else {
        value
            .find(|c: char| {
                c.is_whitespace() || matches!(c, '&' | ',' | ';' | '"' | '\\' | '}' | ')')
            })
            .unwrap_or(value.len())
    };
    (length > 0 && &value[..length] != MASK).then_some(start..start + length)
}

/// Up to the closing quote; one behind a backslash, or doubled, belongs to the value. Quotes that
/// are themselves escaped (JSON in JSON) end at their own backslash, which is what is wanted.
fn quoted_length(value: &str, quote: char) -> usize {
    let mut characters = value.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        if c == '\\' && characters.peek().is_some_and(|(_, next)| *next != quote) {
            characters.next();
        } else if c == quote || c == '\\' {
            return at;
        }
    }
    value.len()
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes all that is written");
        }
    }
    encoded
}
