//! Pieces of COPY data on their way from one session to another, and the buffers that they are in.
//!
//! What a read brought goes to who writes as it is, in the buffer that it was read into. A piece that is let go of gives its
//! buffer back to the session that read it, which fills it again: memory that is taken from the system anew for each piece
//! costs as much as copying the rows does. So there are as many buffers as pieces were ever under way at once.

use std::mem;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;

use pgconvoy_flow::copy::Frames;

use super::READ_BYTES;

/// Whole and cut messages of COPY data.
///
/// It knows where in the stream it stands, so whoever passes it on need not look into it again to notice that another one
/// is missing, came twice or came too early.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: BytesMut,
    begins: Frames,
    ends: Frames,
    stock: Arc<Stock>,
}

impl Piece {
    /// The first bytes of an inbox, which is left with the others.
    pub(super) fn cut_from(
        inbox: &mut BytesMut,
        bytes: usize,
        [begins, ends]: [Frames; 2],
        stock: &Arc<Stock>,
    ) -> Self {
        let mut read = mem::replace(inbox, stock.take());
        // The beginning of a header, or what follows the last row: a few bytes.
        inbox.extend_from_slice(&read[bytes..]);
        read.truncate(bytes);
        Self { bytes: read, begins, ends, stock: Arc::clone(stock) }
    }

    /// Where the stream was before it.
    pub(super) fn begins(&self) -> Frames {
        self.begins
    }

    /// Where the stream is after it.
    pub(super) fn ends(&self) -> Frames {
        self.ends
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut buffer = mem::take(&mut self.bytes);
        buffer.clear();
        self.stock.buffers().push(buffer);
    }
}

/// Buffers of one COPY that are free.
#[derive(Debug, Default)]
pub(super) struct Stock {
    free: Mutex<Vec<BytesMut>>,
}

impl Stock {
    fn take(&self) -> BytesMut {
        let free = self.buffers().pop();
        free.unwrap_or_else(|| BytesMut::with_capacity(READ_BYTES))
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<BytesMut>> {
        // A list of buffers is whole at every moment.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_filled_again_once_its_piece_is_gone() {
        let stock = Arc::new(Stock::default());
        let mut inbox = BytesMut::with_capacity(READ_BYTES);
        let mut cut = |bytes: &[u8], count| {
            inbox.extend_from_slice(bytes);
            let piece = Piece::cut_from(&mut inbox, count, [Frames::default(); 2], &stock);
            (piece.as_ptr(), piece, inbox.to_vec())
        };
        let (first, piece, rest) = cut(b"rowsd\0", 4);
        assert_eq!((&piece[..], &rest[..]), (&b"rows"[..], &b"d\0"[..]));
        let (second, kept, _) = cut(b"more", 6);
        assert_eq!(&kept[..], b"d\0more");
        drop(piece);
        let (third, ..) = cut(b"third", 5);
        let (fourth, ..) = cut(b"fourth", 6);
        assert_ne!(first, second);
        assert!([third, fourth].contains(&first), "nobody else has it");
        assert!(![third, fourth].contains(&second), "it is under way still");
    }
}
