//! A table's columns in one line, to see whether they are still those that were planned (law S4).
//!
//! Made of what the server *describes* for `select * from only table`, not of catalogue rows: an imported snapshot shows
//! those as they were.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// A column as a RowDescription has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedColumn {
    /// Its name.
    pub name: String,
    /// Its number in the table: a dropped and re-created column has another one.
    pub number: i16,
    /// Object id of its type.
    pub type_oid: u32,
    /// Length, precision and the like of the type.
    pub type_modifier: i32,
}

/// The digest of a column list: 32 hexadecimal digits.
#[must_use]
pub fn fingerprint(columns: &[DescribedColumn]) -> String {
    let mut digest = Sha256::new();
    for column in columns {
        // The length keeps names apart from what follows them.
        digest.update((column.name.len() as u64).to_be_bytes());
        digest.update(column.name.as_bytes());
        digest.update(column.number.to_be_bytes());
        digest.update(column.type_oid.to_be_bytes());
        digest.update(column.type_modifier.to_be_bytes());
    }
    let mut text = String::with_capacity(32);
    for byte in &digest.finalize()[..16] {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, number: i16) -> DescribedColumn {
        DescribedColumn { name: name.to_owned(), number, type_oid: 23, type_modifier: -1 }
    }

    #[test]
    fn any_change_of_columns_shows() {
        let planned = [column("a", 1), column("b", 2)];
        let told = fingerprint(&planned);
        assert_eq!(told.len(), 32);
        assert_eq!(told, fingerprint(&planned.clone()));
        let wider = DescribedColumn { type_oid: 20, ..column("b", 2) };
        for other in [
            vec![column("a", 1)],
            vec![column("b", 2), column("a", 1)],
            vec![column("a", 1), column("b", 3)],
            vec![column("a", 1), wider],
        ] {
            assert_ne!(told, fingerprint(&other));
        }
    }
}
