//! Pieces of a zstd stream, one a frame.
//!
//! One stream goes through all compressed frames of a direction, so that each piece may refer to earlier ones; it is
//! flushed with each frame, so that each gives all its bytes at once.

use std::fmt;
use std::io;

use bytes::Bytes;
use zstd::stream::raw::{Decoder, Encoder, InBuffer, Operation, OutBuffer};

use super::tunnel::{FRAME_BYTES, nonsense};

/// The fastest of zstd's ordinary levels: rows shrink to a third or less, at some hundred MB/s.
const LEVEL: i32 = 1;

/// What a frame may grow to when nothing in it repeats.
const PACKED_BYTES: usize = FRAME_BYTES + FRAME_BYTES / 128 + 1024;

/// Compresses one direction. Costs nothing until it is used.
#[derive(Default)]
pub(super) struct Packer {
    encoder: Option<Encoder<'static>>,
}

/// The other end of a [`Packer`].
#[derive(Default)]
pub(super) struct Unpacker {
    decoder: Option<Decoder<'static>>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").field("used", &self.encoder.is_some()).finish()
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacker").field("used", &self.decoder.is_some()).finish()
    }
}

impl Packer {
    /// At most [`FRAME_BYTES`].
    pub(super) fn pack(&mut self, bytes: &[u8]) -> io::Result<Bytes> {
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => none.insert(Encoder::new(LEVEL)?),
        };
        let mut packed = vec![0; PACKED_BYTES];
        let mut input = InBuffer::around(bytes);
        let mut output = OutBuffer::around(packed.as_mut_slice());
        while input.pos() < bytes.len() {
            encoder.run(&mut input, &mut output)?;
        }
        while encoder.flush(&mut output)? > 0 {
            if output.pos() == PACKED_BYTES {
                return Err(io::Error::other("a compressed frame does not fit"));
            }
        }
        let length = output.pos();
        packed.truncate(length);
        Ok(packed.into())
    }
}

impl Unpacker {
    /// Exactly `length` bytes come out of a piece; memory is bounded by that, whatever the piece holds.
    pub(super) fn unpack(&mut self, piece: &[u8], length: usize) -> io::Result<Bytes> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(Decoder::new()?),
        };
        // One more, for a byte too many to show.
        let mut unpacked = vec![0; length + 1];
        let mut input = InBuffer::around(piece);
        let mut output = OutBuffer::around(unpacked.as_mut_slice());
        loop {
            let before = (input.pos(), output.pos());
            decoder.run(&mut input, &mut output)?;
            if input.pos() == piece.len() && output.pos() == length {
                unpacked.truncate(length);
                return Ok(unpacked.into());
            }
            if (input.pos(), output.pos()) == before {
                return Err(nonsense("a compressed frame of another length"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_repetition_shrinks() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        let rows: Vec<u8> = (0..FRAME_BYTES).map(|n| (n % 251) as u8).collect();
        let mut noise: Vec<u8> = vec![0; FRAME_BYTES];
        rand::fill(&mut noise[..]);
        for (nth, frame) in
            [&rows[..], &noise, &rows[..1500], &noise[..1024], &rows].iter().enumerate()
        {
            let packed = packer.pack(frame).expect("packed");
            let unpacked = unpacker.unpack(&packed, frame.len()).expect("unpacked");
            assert_eq!(unpacked, *frame, "frame {nth}");
            if nth == 0 {
                assert!(packed.len() < frame.len() / 10, "{}", packed.len());
            }
        }
    }

    #[test]
    fn a_piece_of_another_length_than_was_said_is_refused() {
        let packed = Packer::default().pack(&[7; 4096]).expect("packed");
        for length in [4095, 4097, 0] {
            assert!(Unpacker::default().unpack(&packed, length).is_err(), "{length}");
        }
        assert!(Unpacker::default().unpack(b"no zstd at all", 100).is_err());
    }
}
