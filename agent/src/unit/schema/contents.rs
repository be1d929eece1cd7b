//! An archive's own table of contents: what each entry is, and what it is called, to the letter.
//!
//! What `pg_restore` writes about an archive is for people: names stand there on one line, whatever is in them, between words that
//! may be in them too. In the archive each stands with its length. It begins like this, in the formats 1.14 to 1.16 (`pg_dump` 13
//! to 18):
//!
//! ```text
//!  "PGDMP", version (3 bytes), size of a number, size of an offset, format; how it is compressed; when it was made
//!  (7 numbers); database, server, pg_dump (texts)
//!  number of entries; of each: id, has data (numbers), catalogue, row, name, kind (texts), section (a number), what makes it,
//!  what drops it, what copies it, schema, tablespace, access method (texts), from 1.16 on what kind of relation (a number),
//!  owner, has OIDs (texts), what it needs (texts; then none), where its data is (a byte and an offset)
//! ```

use std::collections::BTreeMap;

use super::toc::CatalogRow;

/// What the archive says of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Archived {
    pub(super) object: CatalogRow,
    pub(super) needs: Vec<u32>,
    pub(super) kind: String,
    pub(super) schema: Option<String>,
    pub(super) name: String,
    pub(super) owner: String,
}

/// Why an archive is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadArchive {
    #[error("it does not begin as an archive")]
    NoArchive,
    #[error("it is of format {0}.{1}")]
    Format(u8, u8),
    #[error("it ends in the middle, or a number in it is none")]
    Broken,
    #[error("a name in it is not valid UTF-8")]
    NotUtf8,
}

/// The entries by their number.
pub(super) fn contents(archive: &[u8]) -> Result<BTreeMap<u32, Archived>, BadArchive> {
    let rest = archive.strip_prefix(b"PGDMP").ok_or(BadArchive::NoArchive)?;
    let mut reader = Reader { rest, number_bytes: 0 };
    let [major, minor, _revision] = reader.array()?;
    if major != 1 || !(14..=16).contains(&minor) {
        return Err(BadArchive::Format(major, minor));
    }
    let [number_bytes, offset_bytes, _format] = reader.array()?;
    reader.number_bytes = number_bytes.into();
    if minor >= 15 {
        let [_algorithm] = reader.array()?;
    } else {
        reader.number()?;
    }
    for _ in 0..7 {
        reader.number()?;
    }
    for _ in 0..3 {
        reader.bytes()?;
    }
    let mut entries = BTreeMap::new();
    for _ in 0..reader.number()? {
        let id = u32::try_from(reader.number()?).map_err(|_| BadArchive::Broken)?;
        reader.number()?;
        let object = CatalogRow { class: reader.digits()?, oid: reader.digits()? };
        let name = reader.text()?.unwrap_or_default();
        let kind = reader.text()?.unwrap_or_default();
        reader.number()?;
        for _ in ["what makes it", "what drops it", "what copies it"] {
            reader.bytes()?;
        }
        let schema = reader.text()?.filter(|schema| !schema.is_empty());
        for _ in ["tablespace", "access method"] {
            reader.bytes()?;
        }
        if minor >= 16 {
            reader.number()?;
        }
        let owner = reader.text()?.unwrap_or_default();
        reader.bytes()?;
        let mut needs = Vec::new();
        while let Some(need) = reader.text()? {
            needs.push(need.parse().map_err(|_| BadArchive::Broken)?);
        }
        reader.take(1 + usize::from(offset_bytes))?;
        entries.insert(id, Archived { object, needs, kind, schema, name, owner });
    }
    Ok(entries)
}

struct Reader<'a> {
    rest: &'a [u8],
    number_bytes: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], BadArchive> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(BadArchive::Broken)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadArchive> {
        self.take(N)?.try_into().map_err(|_| BadArchive::Broken)
    }

    /// A sign, then the number, its lowest byte first.
    fn number(&mut self) -> Result<i64, BadArchive> {
        let [sign] = self.array()?;
        let mut number: i64 = 0;
        for &byte in self.take(self.number_bytes)?.iter().rev() {
            number = number.checked_mul(256).ok_or(BadArchive::Broken)? + i64::from(byte);
        }
        Ok(if sign == 0 { number } else { -number })
    }

    /// A length, below zero for none, and as many bytes.
    fn bytes(&mut self) -> Result<Option<&'a [u8]>, BadArchive> {
        match usize::try_from(self.number()?) {
            Ok(length) => self.take(length).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn text(&mut self) -> Result<Option<String>, BadArchive> {
        let bytes = self.bytes()?.map(<[u8]>::to_vec);
        bytes.map(String::from_utf8).transpose().map_err(|_| BadArchive::NotUtf8)
    }

    fn digits(&mut self) -> Result<u32, BadArchive> {
        self.text()?.and_then(|digits| digits.parse().ok()).ok_or(BadArchive::Broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: i32) -> Vec<u8> {
        let mut bytes = vec![u8::from(number < 0)];
        bytes.extend(number.unsigned_abs().to_le_bytes());
        bytes
    }

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = number(i32::try_from(text.len()).expect("a short text"));
        bytes.extend(text.as_bytes());
        bytes
    }

    /// Two entries; the first lies in no schema.
    fn archive(minor: u8) -> Vec<u8> {
        let mut bytes = [b"PGDMP".as_slice(), &[1, minor, 0, 4, 8, 1]].concat();
        bytes.extend(if minor >= 15 { vec![0] } else { number(-1) });
        bytes.extend((0..7).flat_map(number));
        bytes.extend(["shop", "15.1", "15.1"].into_iter().flat_map(text));
        bytes.extend(number(2));
        for (id, name, schema, needs) in [
            (7, "; Schema: x; Owner: y", None, vec![]),
            (9, "two\nlines", Some("; Schema: "), vec!["7", "300"]),
        ] {
            bytes.extend([number(id), number(0), text("1259"), text("16400")].concat());
            bytes.extend([text(name), text("TABLE"), number(2), text("CREATE"), text("")].concat());
            bytes.extend(number(-1));
            bytes.extend(schema.map_or_else(|| number(-1), text));
            bytes.extend([text(""), text("heap")].concat());
            if minor >= 16 {
                bytes.extend(number(i32::from(b'r')));
            }
            bytes.extend([text("Ann; Type: z"), text("false")].concat());
            bytes.extend(needs.into_iter().flat_map(text));
            bytes.extend(number(-1));
            bytes.extend([3, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        bytes
    }

    #[test]
    fn names_are_read_to_the_letter_in_each_format() {
        let first = Archived {
            object: CatalogRow { class: 1259, oid: 16400 },
            needs: vec![],
            kind: "TABLE".to_owned(),
            schema: None,
            name: "; Schema: x; Owner: y".to_owned(),
            owner: "Ann; Type: z".to_owned(),
        };
        let second = Archived {
            needs: vec![7, 300],
            schema: Some("; Schema: ".to_owned()),
            name: "two\nlines".to_owned(),
            ..first.clone()
        };
        for minor in 14..=16 {
            let read = contents(&archive(minor));
            assert_eq!(read, Ok([(7, first.clone()), (9, second.clone())].into()), "1.{minor}");
        }
    }

    #[test]
    fn what_is_no_whole_archive_is_refused() {
        let whole = archive(16);
        for end in 0..whole.len() {
            let refused = contents(&whole[..end]);
            assert!(matches!(refused, Err(BadArchive::NoArchive | BadArchive::Broken)), "{end}");
        }
        assert_eq!(contents(&archive(17)), Err(BadArchive::Format(1, 17)));
    }
}
