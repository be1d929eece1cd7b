//! Columns of values as parameters: `text[]` in PostgreSQL's binary form.
//!
//! Values are written once, straight from the bytes of the stream; long ones are not even copied. Their types are those of
//! the statement, which casts.

use bytes::{BufMut, Bytes, BytesMut};

use super::tuple::Tuple;

/// Object id of `text`.
const TEXT_OID: u32 = 25;

/// A value of this length is no longer copied: it is left where it came, and so takes no memory a second time.
const LONG: usize = 1 << 20;

/// The value of a parameter of type `text[]`, in the binary form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pieces: Vec<Bytes>,
    /// How many elements it has.
    pub count: i32,
}

impl Parameter {
    /// Its bytes, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter()
    }

    /// How many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pieces().map(Bytes::len).sum()
    }
}

/// An array that grows.
#[derive(Debug, Default)]
pub(super) struct TextArray {
    pieces: Vec<Bytes>,
    last: BytesMut,
    count: i32,
}

impl TextArray {
    /// Adds a value that was not told by a row.
    pub(super) fn push(&mut self, value: Option<&[u8]>) {
        self.begin(value);
        self.last.put_slice(value.unwrap_or_default());
    }

    /// Adds a value of this row.
    pub(super) fn push_of(&mut self, row: &Tuple, value: &[u8]) {
        if value.len() < LONG {
            return self.push(Some(value));
        }
        self.begin(Some(value));
        self.pieces.extend([self.last.split().freeze(), row.bytes().slice_ref(value)]);
    }

    /// Writes how long the next value is.
    fn begin(&mut self, value: Option<&[u8]>) {
        self.count += 1;
        let length =
            |value: &[u8]| i32::try_from(value.len()).expect("a value has less than 1 GiB");
        self.last.put_i32(value.map_or(-1, length));
    }

    pub(super) fn finish(self) -> Parameter {
        let mut head = BytesMut::with_capacity(20);
        head.put_i32(1); // dimensions
        head.put_i32(1); // there may be nulls
        head.put_u32(TEXT_OID);
        head.put_i32(self.count);
        head.put_i32(1); // the first has number 1
        let mut pieces = vec![head.freeze()];
        pieces.extend(self.pieces);
        pieces.push(self.last.freeze());
        Parameter { pieces, count: self.count }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tuple::Field;
    use super::*;

    #[test]
    fn an_array_is_as_the_server_reads_it() {
        let mut array = TextArray::default();
        array.push(Some(b"ab"));
        array.push(None);
        let expected =
            b"\0\0\0\x01\0\0\0\x01\0\0\0\x19\0\0\0\x02\0\0\0\x01\0\0\0\x02ab\xff\xff\xff\xff";
        let parameter = array.finish();
        assert_eq!(parameter.pieces.concat(), expected);
        assert_eq!((parameter.bytes(), parameter.count), (expected.len(), 2));
    }

    #[test]
    fn a_long_value_stays_where_it_is() {
        let long = vec![b'x'; LONG];
        let row = Tuple::from_fields([Field::Text(b"1"), Field::Text(&long)].into_iter());
        let mut copied = TextArray::default();
        let mut array = TextArray::default();
        for field in row.fields() {
            let Field::Text(value) = field else { continue };
            copied.push(Some(value));
            array.push_of(&row, value);
        }
        array.push(None);
        copied.push(None);
        let array = array.finish();
        assert_eq!(array.pieces.concat(), copied.finish().pieces.concat());
        let is_of_row = |piece: &Bytes| row.bytes().as_ptr_range().contains(&piece.as_ptr());
        assert!(array.pieces.iter().any(|piece| piece.len() == LONG && is_of_row(piece)));
    }
}
