//! Columns of values as `text[]` parameters, in the binary form in which they are sent.
//!
//! Values are written once, straight from the bytes of the stream. Their types are those of the statement, which casts.

use bytes::{BufMut, Bytes, BytesMut};

/// Object id of `text`.
const TEXT_OID: u32 = 25;

/// An array that grows.
#[derive(Debug)]
pub(super) struct TextArray {
    bytes: BytesMut,
    count: i32,
}

impl TextArray {
    pub(super) fn new() -> Self {
        let mut bytes = BytesMut::new();
        bytes.put_i32(1); // dimensions
        bytes.put_i32(1); // there may be nulls
        bytes.put_u32(TEXT_OID);
        bytes.put_i32(0); // how many: written in the end
        bytes.put_i32(1); // the first has number 1
        Self { bytes, count: 0 }
    }

    pub(super) fn push(&mut self, value: Option<&[u8]>) {
        self.count += 1;
        match value {
            None => self.bytes.put_i32(-1),
            Some(value) => {
                self.bytes
                    .put_i32(i32::try_from(value.len()).expect("a value has less than 1 GiB"));
                self.bytes.put_slice(value);
            }
        }
    }

    /// The value of a parameter of type `text[]`, in the binary form.
    pub(super) fn finish(mut self) -> Bytes {
        self.bytes[12..16].copy_from_slice(&self.count.to_be_bytes());
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_as_the_server_reads_it() {
        let mut array = TextArray::new();
        array.push(Some(b"ab"));
        array.push(None);
        let expected =
            b"\0\0\0\x01\0\0\0\x01\0\0\0\x19\0\0\0\x02\0\0\0\x01\0\0\0\x02ab\xff\xff\xff\xff";
        assert_eq!(array.finish(), &expected[..]);
    }
}
