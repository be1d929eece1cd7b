//! Parked tables: their changes are kept at the destination instead of being applied, until somebody mends the cause, or until
//! they are copied anew.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::epoch::Generation;
use crate::failure::Failure;
use crate::ids::TableNo;
use crate::lsn::Lsn;

/// How a stream has a table from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parking {
    /// Which table.
    pub table: TableNo,
    /// Under which of its plans: of an older one nothing is true any more.
    pub generation: Generation,
    /// What becomes of its changes.
    pub changes: Changes,
}

/// What becomes of the changes of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changes {
    /// They are applied.
    Applied,
    /// They are kept, for this cause.
    Parked(Box<Cause>),
    /// They are kept while it is copied anew: no snapshot may be older than this transaction, which was given out when they
    /// were kept already (law S2).
    Held(u64),
}

/// Why a table is parked: the first change that could not be applied, and what the server said of it; or what is wrong with the
/// table itself, so that none is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What is wrong, and what can be done about it.
    pub failure: Failure,
    /// What the source did: insert, update, delete, truncate; empty = no change was tried.
    pub operation: String,
    /// The key of its row, before the change; of a table without a key its first values. Cut where it is long.
    pub key: String,
    /// Where its transaction's commit record begins; where none was tried, the position from which on all are kept; 0 = the table
    /// could not be copied anew.
    pub commit_lsn: Lsn,
    /// Its transaction; 0 = none.
    pub xid: u64,
    /// Its number within the transaction, from 0.
    pub ordinal: u64,
    /// What was run at the destination; empty where it did not come to that.
    pub statement: String,
}

/// In a sentence.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failure, operation, key, commit_lsn, xid, ordinal, statement: _ } = self;
        if *commit_lsn == Lsn(0) {
            return write!(f, "{failure}; it is not copied anew");
        }
        if operation.is_empty() {
            return write!(f, "{failure}; from {commit_lsn} on");
        }
        write!(f, "{failure}; {operation}")?;
        if !key.is_empty() {
            write!(f, " of {key}")?;
        }
        write!(f, ", change {ordinal} of transaction {xid}, committed at {commit_lsn}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_a_sentence() {
        let failure = Failure::definite("row_missing", "1 rows were to be changed, 0 are there");
        let mut cause = Cause {
            failure,
            operation: "update".into(),
            key: "(5)".into(),
            commit_lsn: Lsn(0x16B_3748),
            xid: 734,
            ordinal: 1,
            statement: String::new(),
        };
        assert_eq!(
            cause.to_string(),
            "1 rows were to be changed, 0 are there [row_missing]; update of (5), change 1 of transaction 734, committed \
             at 0/16B3748"
        );
        cause.key.clear();
        assert!(cause.to_string().contains("; update, change 1"));
        cause.operation.clear();
        assert!(cause.to_string().ends_with("[row_missing]; from 0/16B3748 on"), "{cause}");
    }
}
