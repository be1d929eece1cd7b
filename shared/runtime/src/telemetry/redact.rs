//! Takes passwords out of text.
//!
//! Three nets, because each has holes: what was registered as a secret is masked wherever it
//! stands; the password of a URL (`://user:password@`) and the value of a `password=` or
//! `"password":` are masked by their place, whether somebody registered them or not. Too much is
//! masked rather than too little; but stable codes and names must stay readable under the password
//! `wrong`, too, so a short secret is masked only where it is a word of its own.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

const MASK: &str = "***";

/// Shorter secrets would mask half of every line; the two nets by place still hold them.
const SECRET_BYTES_MIN: usize = 4;

/// A secret of so many bytes is part of no other word by chance.
const UNMISTAKABLE_BYTES: usize = 8;

/// Words behind which a password stands.
const KEYS: [&str; 3] = ["password", "passwd", "pwd"];

/// The scheme of every URL, and the usual role and database.
const EVERYWHERE: &str = "postgres";

/// All forms of all registered secrets, the longest first, so that one that contains another is
/// masked whole.
static SECRETS: RwLock<Vec<Form>> = RwLock::new(Vec::new());

/// How a secret may stand in a text.
#[derive(Debug, PartialEq, Eq)]
struct Form {
    text: String,
    /// Not where it is part of a longer word.
    alone: bool,
}

/// Masks `secret` from now on in all that is logged, also where it is percent-encoded or quoted.
///
/// Not what is too short, nor the words that stand in every other line: to mask them there would
/// say what the password is. The nets by place hold them.
pub fn register_secret(secret: &str) {
    if secret.len() < SECRET_BYTES_MIN || KEYS.contains(&secret) || secret == EVERYWHERE {
        return;
    }
    let alone = secret.len() < UNMISTAKABLE_BYTES;
    let quoted = secret.escape_debug().to_string();
    // Quoted once more: a Debug text inside a JSON log line.
    let forms =
        [secret.to_owned(), percent_encoded(secret), quoted.escape_debug().to_string(), quoted];
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    for form in forms.map(|text| Form { text, alone }) {
        if !secrets.contains(&form) {
            secrets.push(form);
        }
    }
    secrets.sort_by_key(|form| std::cmp::Reverse(form.text.len()));
}

/// `text` without what looks like, or is known to be, a password.
pub fn redact(text: &str) -> Cow<'_, str> {
    let text = mask_registered(Cow::Borrowed(text));
    let text = mask_places(text, url_password);
    mask_places(text, keyed_password)
}

fn mask_registered(mut text: Cow<'_, str>) -> Cow<'_, str> {
    // A panic elsewhere must not end the redaction: the list is whole after every push.
    for Form { text: secret, alone } in
        SECRETS.read().unwrap_or_else(PoisonError::into_inner).iter()
    {
        if !text.contains(secret.as_str()) {
            continue;
        }
        let mut masked = String::with_capacity(text.len());
        let mut copied = 0;
        for (start, _) in text.match_indices(secret.as_str()) {
            let end = start + secret.len();
            if *alone && is_part_of_a_word(&text, start..end) {
                continue;
            }
            masked.push_str(&text[copied..start]);
            masked.push_str(MASK);
            copied = end;
        }
        masked.push_str(&text[copied..]);
        text = Cow::Owned(masked);
    }
    text
}

fn is_part_of_a_word(text: &str, place: Range<usize>) -> bool {
    let of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let inside = &text[place.clone()];
    let before = &text[..place.start];
    let joined_before = of_word(before.chars().next_back()) && of_word(inside.chars().next());
    let joined_after =
        of_word(inside.chars().next_back()) && of_word(text[place.end..].chars().next());
    joined_before && !ends_with_escape(before) || joined_after
}

/// Whether it ends with a colour or a quoted blank (`\n`), whose last letter is part of no word.
fn ends_with_escape(text: &str) -> bool {
    let colour = text.rfind("\x1b[").is_some_and(|at| skip_colours(text, at) == text.len());
    colour || ["\\n", "\\r", "\\t"].iter().any(|blank| text.ends_with(blank))
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
    let after_key = skip_colours(text, key_end);
    let after_quote = skip_quote(text, after_key);
    let sign_at = skip_colours(text, skip(text, after_quote, |c| c == ' '));
    let sign = text[sign_at..].chars().next().filter(|c| matches!(c, '=' | ':'))?;
    let after_sign = skip_colours(text, sign_at + sign.len_utf8());
    let open_at = skip(text, after_sign, |c| c == ' ');
    let start = skip_quote(text, open_at);
    let key_quoted = after_quote > after_key;
    let value_quoted = start > open_at;
    if sign == ':' && !key_quoted && !value_quoted {
        return None;
    }
    let value = &text[start..];
    let length = if value_quoted {
        quoted_length(value, &text[open_at..start])
    } else {
        value.find(ends_bare_value).unwrap_or(value.len())
    };
    (length > 0 && &value[..length] != MASK).then_some(start..start + length)
}

fn skip(text: &str, from: usize, skipped: impl Fn(char) -> bool) -> usize {
    text[from..].find(|c| !skipped(c)).map_or(text.len(), |length| from + length)
}

/// Past the escape sequences that colour a field's name and its sign on a terminal.
fn skip_colours(text: &str, mut from: usize) -> usize {
    while text[from..].starts_with("\x1b[")
        && let Some(end) = text[from..].find('m')
    {
        from += end + 1;
    }
    from
}

/// Past one quote and the backslashes in front of it; nowhere if there is none.
fn skip_quote(text: &str, from: usize) -> usize {
    let quote_at = skip(text, from, |c| c == '\\');
    if text[quote_at..].starts_with(['"', '\'']) { quote_at + 1 } else { from }
}

fn ends_bare_value(c: char) -> bool {
    c.is_whitespace() || matches!(c, '&' | ',' | ';' | '"' | '\\' | '}' | ')' | '\x1b')
}

/// Up to the closing quote, which stands behind as many backslashes as the opening one: none, one
/// where the text was itself quoted, three where that was quoted again. Each level doubles the
/// backslashes of the value, so more of them in front of a quote tell that it belongs to the value.
fn quoted_length(value: &str, opening: &str) -> usize {
    let Some(quote) = opening.chars().next_back() else { return value.len() };
    let backslashes_before = |text: &str| text.len() - text.trim_end_matches('\\').len();
    let level = backslashes_before(&opening[..opening.len() - quote.len_utf8()]);
    let closing = value.match_indices(quote).find_map(|(at, _)| {
        let backslashes = backslashes_before(&value[..at]);
        (backslashes % (2 * level + 2) == level).then(|| at - level)
    });
    closing.unwrap_or(value.len())
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(redact(text), expected);
    }

    #[test]
    fn the_password_of_a_url_is_masked() {
        check("to postgres://u:pw@h:5432/d now", "to postgres://u:***@h:5432/d now");
        check("postgres://u:p@w/x@h/d", "postgres://u:***@h/d");
        check("\"postgres://u:pw@h\",\"b@c\"", "\"postgres://u:***@h\",\"b@c\"");
        check("a://u:one@h b://v:two@i", "a://u:***@h b://v:***@i");
    }

    #[test]
    fn a_url_without_a_password_stays() {
        for text in ["postgres://u@h:5432/d", "http://h:80/path", "mail a@b: yes", "a://:@b"] {
            check(text, text);
        }
    }

    #[test]
    fn the_value_of_a_password_key_is_masked() {
        check("host=h password=pw user=u", "host=h password=*** user=u");
        check("password = 'p w\\'s' user=u", "password = '***' user=u");
        check("?sslmode=require&password=pw&x=1", "?sslmode=require&password=***&x=1");
        check("Config { password: \"p\\\"w\", n: 1 }", "Config { password: \"***\", n: 1 }");
        check("{\"password\":\"pw\"}", "{\"password\":\"***\"}");
        check(r#"{"m":"{\"password\":\"pw\"}"}"#, r#"{"m":"{\"password\":\"***\"}"}"#);
        check(
            r#"{"m":"{\"password\":\"p\\\"w\",\"n\":1}"}"#,
            r#"{"m":"{\"password\":\"***\",\"n\":1}"}"#,
        );
        check("PGPASSWORD=pw psql", "PGPASSWORD=*** psql");
        check("Password=one password=two", "Password=*** password=***");
    }

    #[test]
    fn a_coloured_field_is_masked() {
        check(
            "\x1b[3mpassword\x1b[0m\x1b[2m=\x1b[0mpw \x1b[3mn\x1b[0m",
            "\x1b[3mpassword\x1b[0m\x1b[2m=\x1b[0m*** \x1b[3mn\x1b[0m",
        );
    }

    #[test]
    fn prose_about_passwords_stays() {
        for text in [
            "password authentication failed for user \"u\"",
            "wrong password: ask the owner",
            "give a password, or PGPASSFILE",
            "password=\"\" user=\"u\"",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn a_registered_secret_is_masked_in_each_of_its_forms() {
        register_secret("s\"cr/t ü");
        for text in [
            "it is s\"cr/t ü!".to_owned(),
            format!("it is {:?}", "s\"cr/t ü"),
            format!("{:?}", format!("it is {:?}", "s\"cr/t ü")),
            "it is s%22cr%2Ft%20%C3%BC".to_owned(),
        ] {
            let redacted = redact(&text);
            assert!(redacted.contains(MASK) && !redacted.contains("cr"), "{text} → {redacted}");
        }
    }

    #[test]
    fn what_is_too_short_to_be_a_secret_is_not_registered() {
        register_secret("the");
        check("the rest", "the rest");
    }

    #[test]
    fn a_short_secret_is_masked_as_a_word_of_its_own() {
        register_secret("wr0ng");
        check("wr0ng_password wr0ngly un_wr0ng", "wr0ng_password wr0ngly un_wr0ng");
        check("\"wr0ng\",wr0ng: (wr0ng) wr0ng", "\"***\",***: (***) ***");
        check("\x1b[3mwhy\x1b[0m\x1b[2m=\x1b[0mwr0ng", "\x1b[3mwhy\x1b[0m\x1b[2m=\x1b[0m***");
        check(r#""it is\nwr0ng\tor""#, r#""it is\n***\tor""#);
        check("a://u:wr0ng@h password=wr0ng", "a://u:***@h password=***");
        register_secret("#pw!x");
        check("a#pw!x b#pw!xy", "a*** b#pw!xy");
    }

    #[test]
    fn a_long_secret_is_masked_inside_words_too() {
        register_secret("l0ngs3cret");
        check("xl0ngs3cret_y", "x***_y");
    }

    #[test]
    fn words_that_stand_everywhere_are_masked_by_their_place_alone() {
        register_secret("password");
        register_secret("postgres");
        check("wrong_password: password=pw", "wrong_password: password=***");
        check("postgres://postgres:postgres@h/d", "postgres://postgres:***@h/d");
    }

    proptest! {
        #[test]
        fn redaction_never_panics(text in "(password|://|[:=@'\"\\\\ ]|\\PC){0,40}") {
            redact(&text);
        }

        #[test]
        fn no_password_stays_behind_its_key(password in "[a-z0-9@:/ ,;'\"\\\\]{1,20}", deep: bool) {
            let password = format!("{password}QZ");
            let mut text = format!("Config {{ password: {password:?}, n: 1 }}");
            if deep {
                text = format!("{text:?}");
            }
            let redacted = redact(&text).into_owned();
            prop_assert!(!redacted.contains("QZ") && redacted.contains("n: 1"), "{text} {redacted}");
        }

        #[test]
        fn no_password_stays_in_a_url(password in "[a-z0-9@:/?#%!$]{6,20}") {
            let password = format!("Q{password}Q");
            let text = format!("failed: postgres://user:{password}@host/db (retry)");
            prop_assert!(!redact(&text).contains(&password));
        }
    }
}
