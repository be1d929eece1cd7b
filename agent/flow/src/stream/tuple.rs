//! Rows as they came: the bytes of a `TupleData`, looked at in place.
//!
//! A stream has hundreds of thousands of rows a second. So a row stays one slice of what was read, checked once when it is
//! decoded; its fields are found by walking over it.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// A row, or those columns of it that are told. Two are equal if they have the same bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple(Bytes);

/// A field of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// Null; in an old row that is a key: not told.
    Null,
    /// A long value that is stored apart and was not changed: not told.
    Unchanged,
    /// A value in the text form of its type.
    Text(&'a [u8]),
    /// A value in the binary form of its type.
    Binary(&'a [u8]),
}

const NULL: u8 = b'n';
const UNCHANGED: u8 = b'u';
const TEXT: u8 = b't';
const BINARY: u8 = b'b';

impl Tuple {
    /// The row that begins `bytes`, and what follows it; an error says what is wrong.
    pub(super) fn split_from(bytes: &mut Bytes) -> Result<Self, &'static str> {
        let (count, mut rest) = bytes.split_first_chunk().ok_or("no count of columns")?;
        for _ in 0..u16::from_be_bytes(*count) {
            rest = split_field(rest)?.1;
        }
        let length = bytes.len() - rest.len();
        Ok(Self(bytes.split_to(length)))
    }

    /// Made of fields.
    ///
    /// # Panics
    /// With more columns than a table can have, or a value longer than a message can be: neither came from a server.
    #[must_use]
    pub fn from_fields<'a>(fields: impl ExactSizeIterator<Item = Field<'a>>) -> Self {
        let mut bytes = BytesMut::with_capacity(2 + fields.len() * 8);
        bytes.put_u16(u16::try_from(fields.len()).expect("a table has at most 1,600 columns"));
        for field in fields {
            field.put(&mut bytes);
        }
        Self(bytes.freeze())
    }

    /// Its bytes, as the protocol has them.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// How many columns it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields().left
    }

    /// Whether it has no column at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its fields, in order.
    #[must_use]
    pub fn fields(&self) -> Fields<'_> {
        match self.0.split_first_chunk() {
            Some((count, rest)) => Fields { left: usize::from(u16::from_be_bytes(*count)), rest },
            None => Fields { left: 0, rest: &[] },
        }
    }

    /// Whether all of its values are told.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.fields().all(|field| field != Field::Unchanged)
    }

    /// Some of its fields, in the order asked for; a column that it lacks is null.
    #[must_use]
    pub fn project(&self, columns: impl ExactSizeIterator<Item = usize> + Clone) -> Self {
        let field = |column| self.fields().nth(column).unwrap_or(Field::Null);
        Self::from_fields(columns.map(field))
    }

    /// Itself, with the values that it does not tell taken from `below`.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        if self.is_whole() {
            return self.clone();
        }
        let pick = |(above, below)| if above == Field::Unchanged { below } else { above };
        Self::from_fields(self.fields().zip(below.fields()).map(pick))
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fields()).finish()
    }
}

impl Field<'_> {
    /// Whether it is not told because it did not change.
    #[must_use]
    pub fn is_unchanged(self) -> bool {
        matches!(self, Self::Unchanged)
    }

    fn put(self, bytes: &mut BytesMut) {
        let (tag, value) = match self {
            Self::Null => return bytes.put_u8(NULL),
            Self::Unchanged => return bytes.put_u8(UNCHANGED),
            Self::Text(value) => (TEXT, value),
            Self::Binary(value) => (BINARY, value),
        };
        bytes.put_u8(tag);
        bytes.put_u32(u32::try_from(value.len()).expect("a value has less than 1 GiB"));
        bytes.put_slice(value);
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Unchanged => f.write_str("unchanged"),
            Self::Text(value) => write!(f, "{:?}", String::from_utf8_lossy(value)),
            Self::Binary(value) => write!(f, "b\"{}\"", value.escape_ascii()),
        }
    }
}

/// The field that begins `bytes`, and what follows it.
fn split_field(bytes: &[u8]) -> Result<(Field<'_>, &[u8]), &'static str> {
    let (tag, rest) = bytes.split_first().ok_or("fewer columns than it says")?;
    match *tag {
        NULL => Ok((Field::Null, rest)),
        UNCHANGED => Ok((Field::Unchanged, rest)),
        TEXT | BINARY => {
            let (length, rest) = rest.split_first_chunk().ok_or("a value without a length")?;
            let length = usize::try_from(i32::from_be_bytes(*length));
            let length = length.map_err(|_| "a value of negative length")?;
            let (value, rest) =
                rest.split_at_checked(length).ok_or("a value longer than its message")?;
            Ok((if *tag == TEXT { Field::Text(value) } else { Field::Binary(value) }, rest))
        }
        _ => Err("a field that is neither null, unchanged, text nor binary"),
    }
}

/// See [`Tuple::fields`].
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    left: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (field, rest) = split_field(self.rest).ok()?;
        self.rest = rest;
        Some(field)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// A tuple is checked when it is made, so there are as many fields as it says.
impl ExactSizeIterator for Fields<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(fields: &[Field<'_>]) -> Tuple {
        Tuple::from_fields(fields.iter().copied())
    }

    #[test]
    fn a_row_is_the_fields_it_was_made_of() {
        let fields = [Field::Text(b"1"), Field::Null, Field::Unchanged, Field::Binary(b"\0")];
        let row = tuple(&fields);
        assert_eq!(row.fields().collect::<Vec<_>>(), fields);
        assert_eq!((row.len(), row.is_whole()), (4, false));
        assert_eq!(format!("{row:?}"), r#"["1", null, unchanged, b"\x00"]"#);
        let mut bytes = Bytes::from([row.bytes(), &b"rest"[..]].concat());
        assert_eq!(Tuple::split_from(&mut bytes), Ok(row));
        assert_eq!(bytes, "rest");
    }

    #[test]
    fn what_is_not_told_is_taken_from_below() {
        let above = tuple(&[Field::Text(b"2"), Field::Unchanged, Field::Null]);
        let below = tuple(&[Field::Text(b"1"), Field::Text(b"long"), Field::Text(b"x")]);
        let both = tuple(&[Field::Text(b"2"), Field::Text(b"long"), Field::Null]);
        assert_eq!(above.over(&below), both);
        assert!(both.is_whole());
    }

    #[test]
    fn a_row_cut_short_is_refused() {
        let row = tuple(&[Field::Text(b"abc"), Field::Null]);
        for length in 0..row.bytes().len() {
            assert!(Tuple::split_from(&mut row.bytes().slice(..length)).is_err(), "{length}");
        }
        let mut negative = Bytes::from_static(b"\0\x01t\xff\xff\xff\xff");
        assert_eq!(Tuple::split_from(&mut negative), Err("a value of negative length"));
    }
}
