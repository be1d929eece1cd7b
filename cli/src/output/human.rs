//! Numbers, times and names for people.

use std::borrow::Cow;

use jiff::Timestamp;

/// `1.5 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 100.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 table`, `2 tables`.
pub(crate) fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `1h 02m`, `3m 07s`, `12s`, `0.4s`.
pub(crate) fn duration_ms(ms: u64) -> String {
    let secs = ms / 1000;
    match secs {
        0..=9 => format!("{}.{}s", secs, ms % 1000 / 100),
        10..=59 => format!("{secs}s"),
        60..=3599 => format!("{}m {:02}s", secs / 60, secs % 60),
        3600..=86_399 => format!("{}h {:02}m", secs / 3600, secs / 60 % 60),
        _ => format!("{}d {:02}h", secs / 86_400, secs / 3600 % 24),
    }
}

/// Whole percent, and 100 only when all is done.
pub(crate) fn percent(done: u64, total: u64) -> u64 {
    if total == 0 || done >= total {
        return 100;
    }
    u64::try_from(u128::from(done) * 100 / u128::from(total)).unwrap_or(99)
}

/// RFC 3339 in UTC; none for 0, which stands for "not yet".
pub(crate) fn rfc3339(ms: u64) -> Option<String> {
    if ms == 0 {
        return None;
    }
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok())?;
    // Always three digits, so that times stand under each other.
    Some(format!("{time:.3}"))
}

/// The text as a terminal may have it. Names and keys are somebody's data, and whatever they hold must not move the cursor or
/// hide what stands before them: control characters but tabs and line ends are shown as escapes.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let is_safe = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(is_safe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_safe(c) { shown.push(c) } else { shown.extend(c.escape_unicode()) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_honest() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1023 * 1024), "1.0 MiB");
        assert_eq!(bytes(256 << 20), "256 MiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        assert_eq!(duration_ms(1_450), "1.4s");
        assert_eq!(duration_ms(3_720_000), "1h 02m");
        assert_eq!(percent(999_999, 1_000_000), 99);
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
    }

    #[test]
    fn times_are_rfc_3339_and_0_is_none() {
        assert_eq!(rfc3339(0), None);
        assert_eq!(rfc3339(1_700_000_000_500).as_deref(), Some("2023-11-14T22:13:20.500Z"));
    }

    #[test]
    fn what_would_move_the_cursor_is_shown() {
        assert_eq!(printable("naïve\t1\n"), "naïve\t1\n");
        assert_eq!(printable("\u{1b}[2Jk\r\u{9b}"), r"\u{1b}[2Jk\u{d}\u{9b}");
    }
}
