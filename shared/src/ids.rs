//! Ids: one type each, so that one cannot be passed for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: {rule}")]
pub struct BadId {
    /// The kind of id that was wanted.
    pub what: &'static str,
    /// What was given.
    pub text: String,
    /// What would be right.
    pub rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                let ok: fn(&str) -> bool = $ok;
                if ok(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(BadId { what: $what, text: text.chars().take(80).collect(), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn all(text: &str, min: usize, max: usize, extra: &str) -> bool {
    (min..=max).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || extra.as_bytes().contains(&b))
}

text_id!(
    /// A migration task: unique for ever; part of slot, publication and application names.
    TaskId,
    "task id",
    "12 to 26 characters of a-z and 0-9",
    |text| all(text, 12, 26, "")
);
text_id!(
    /// An agent process, by the name its operator gave it.
    AgentId,
    "agent id",
    "1 to 48 characters of a-z, 0-9, `-`, `_` and `.`",
    |text| all(text, 1, 48, "-_.")
);
text_id!(
    /// A client's mark on a request: the same mark gives the same answer.
    RequestId,
    "request id",
    "1 to 64 printable ASCII characters without spaces",
    |text| (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
);

impl TaskId {
    /// A new id from 64 bits of chance and the time of creation (milliseconds since 1970), so that ids sort by age.
    #[must_use]
    pub fn from_parts(created_ms: u64, chance: u64) -> Self {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut text = String::with_capacity(20);
        for (bits, value) in [(45u32, created_ms), (60, chance)] {
            for shift in (0..bits / 5).rev() {
                text.push(char::from(DIGITS[(value >> (shift * 5) & 31) as usize]));
            }
        }
        Self(text.into())
    }
}

/// A coordinator node.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of an agent process: random per start. A new incarnation proves that the old one's units have no runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A unit's number within its task: dense, from 0, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitNo(pub u32);

impl fmt::Display for UnitNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A unit of a task: the smallest piece of work that is leased.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnitId {
    /// Its task.
    pub task: TaskId,
    /// Its number within the task.
    pub no: UnitNo,
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.task, self.no)
    }
}

/// A table's number within its task: dense, from 0, in the order in which the survey found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TableNo(pub u32);

impl fmt::Display for TableNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_task_id_is_a_task_id_and_sorts_by_age() {
        let old = TaskId::from_parts(1_700_000_000_000, u64::MAX);
        let new = TaskId::from_parts(1_700_000_000_001, 0);
        assert_eq!(old.as_str().parse::<TaskId>(), Ok(old.clone()));
        assert!(old < new);
        assert_eq!(old.as_str().len(), 21);
    }

    #[test]
    fn bad_ids_say_what_would_be_right() {
        let bad = "Shop".parse::<TaskId>().expect_err("upper case");
        assert_eq!(bad.to_string(), "`Shop` is no task id: 12 to 26 characters of a-z and 0-9");
        assert!("agent-1".parse::<AgentId>().is_ok());
        assert!("agent 1".parse::<AgentId>().is_err());
    }
}
