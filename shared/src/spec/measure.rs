//! Sizes and durations as people write them: always with a unit, because `256` alone is a guess.

/// A text that is no measure: what is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadMeasure {
    pub message: String,
    pub remedy: &'static str,
}

const SIZES: &[(&str, u64)] =
    &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
const SIZE_REMEDY: &str = "write a whole number with B, KiB, MiB, GiB or TiB, such as `256MiB`";

/// Longest name first where one begins like another.
const DURATIONS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const DURATION_REMEDY: &str =
    "write whole numbers with ms, s, m, h or d, such as `500ms`, `10m` or `1h30m`";

/// `256MiB` → bytes.
pub fn size_bytes(text: &str) -> Result<u64, BadMeasure> {
    let bad = |message: String| BadMeasure { message, remedy: SIZE_REMEDY };
    let (number, unit) = number_and_rest(text)
        .ok_or_else(|| bad(format!("{} does not begin with a whole number", shown(text))))?;
    let unit = unit.trim_start();
    let factor = SIZES.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let factor = factor.ok_or_else(|| match unit {
        "" => bad(format!("{} has no unit", shown(text))),
        "kB" | "KB" | "MB" | "GB" | "TB" => {
            bad(format!("`{unit}` means 1000s to some and 1024s to others"))
        }
        _ => bad(format!("{} is no unit of size", shown(unit))),
    })?;
    number.checked_mul(factor).ok_or_else(|| bad(format!("{} is too large", shown(text))))
}

/// `1h30m` → milliseconds.
pub fn duration_ms(text: &str) -> Result<u64, BadMeasure> {
    let bad = |message: String| BadMeasure { message, remedy: DURATION_REMEDY };
    let mut total: u64 = 0;
    let mut rest = text;
    loop {
        let (number, after) = number_and_rest(rest)
            .ok_or_else(|| bad(format!("{} is no number with a unit", shown(rest))))?;
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let factor = DURATIONS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let factor = factor.ok_or_else(|| match unit {
            "" => bad(format!("{} has no unit", shown(text))),
            _ => bad(format!("{} is no unit of time", shown(unit))),
        })?;
        total = number
            .checked_mul(factor)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| bad(format!("{} is too long", shown(text))))?;
        if after.is_empty() {
            return Ok(total);
        }
        rest = after;
    }
}

fn number_and_rest(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

fn shown(text: &str) -> String {
    format!("`{}`", text.chars().take(40).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_binary_unit() {
        assert_eq!(size_bytes("256MiB"), Ok(256 << 20));
        assert_eq!(size_bytes("1 TiB"), Ok(1 << 40));
        assert_eq!(size_bytes("17B"), Ok(17));
        for bad in ["", "256", "MiB", "256MB", "1.5GiB", "-1MiB", "1mib", "20000000TiB"] {
            assert!(size_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units_and_may_be_put_together() {
        assert_eq!(duration_ms("12h"), Ok(43_200_000));
        assert_eq!(duration_ms("500ms"), Ok(500));
        assert_eq!(duration_ms("1h30m"), Ok(5_400_000));
        for bad in ["", "12", "12 h", "h", "1w", "1h30", "-1s", "99999999999999999999s"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
    }
}
