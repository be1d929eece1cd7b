//! The framing of COPY data, without looking at the rows.
//!
//! Between the server and us, COPY data is a sequence of messages: `d`, a length, that many bytes; one message a row
//! (and in the binary form one more at the end, the trailer). A server that takes rows looks at their bytes only: they may
//! be cut into messages anywhere. So rows need not be taken apart: [`Frames`] walks over the headers of what was read, and
//! gives what is between them. A message may be far longer than a buffer; its bytes are passed on as they come.

use pgconvoy_shared::unit::CopyFormat;

/// Tag byte and length word.
const HEADER_BYTES: usize = 5;

/// Follows a stream of messages through buffers that are cut anywhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frames {
    /// Bytes of the current message that are still to come.
    payload_left: u32,
    /// Messages begun so far.
    messages: u64,
}

/// What stands at the beginning of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// So many bytes are COPY data and may be passed on. They end between two messages, or within the bytes of one, never
    /// within a header.
    pub bytes: usize,
    /// What comes after them.
    pub then: Then,
}

/// What ends a [`Run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The end of the buffer, or less than a header: more has to be read.
    More,
    /// A message that is no COPY data.
    Other,
}

/// A length word that cannot be: less than its own four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of COPY data says it is {length} bytes long, which cannot be")]
pub struct BadFrame {
    /// What it says.
    pub length: i32,
}

impl Frames {
    /// Goes as far into `buffer` as COPY data reaches. The next call takes the buffer that follows those bytes.
    pub fn walk(&mut self, buffer: &[u8]) -> Result<Run, BadFrame> {
        self.unframe(buffer, |_| {})
    }

    /// As [`walk`](Self::walk); gives away what is between the headers, of each message what is here.
    #[inline]
    pub fn unframe<'b>(
        &mut self,
        buffer: &'b [u8],
        mut each: impl FnMut(&'b [u8]),
    ) -> Result<Run, BadFrame> {
        let mut at = 0;
        loop {
            let rest = buffer.len() - at;
            let payload = (self.payload_left as usize).min(rest);
            each(&buffer[at..at + payload]);
            at += payload;
            // No truncation: it is at most `payload_left`.
            self.payload_left -= payload as u32;
            let Some(header) = buffer[at..].first_chunk::<HEADER_BYTES>() else {
                return Ok(Run { bytes: at, then: self.then(&buffer[at..]) });
            };
            if header[0] != b'd' {
                return Ok(Run { bytes: at, then: Then::Other });
            }
            let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
            self.payload_left = length
                .checked_sub(4)
                .and_then(|payload| u32::try_from(payload).ok())
                .ok_or(BadFrame { length })?;
            self.messages += 1;
            at += HEADER_BYTES;
        }
    }

    /// A tag that is not `d` ends the data, however little of its message is here.
    fn then(&self, rest: &[u8]) -> Then {
        match rest.first() {
            None | Some(b'd') => Then::More,
            Some(_) => Then::Other,
        }
    }

    /// Whether another message may follow here: nothing of the last one is outstanding.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.payload_left == 0
    }

    /// Rows begun so far. The binary form's trailer, a message of its own, is counted too until the stream has
    /// [`ended`](Self::rows_at_end).
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Rows of a stream that is complete.
    #[must_use]
    pub fn rows_at_end(&self, format: CopyFormat) -> u64 {
        match format {
            CopyFormat::Text => self.messages,
            CopyFormat::Binary => self.messages.saturating_sub(1),
        }
    }
}

/// The number of rows in a command tag: `COPY 42`.
#[must_use]
pub fn rows_of_tag(tag: &str) -> Option<u64> {
    tag.strip_prefix("COPY ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, payload: &[u8]) -> Vec<u8> {
        let length = i32::try_from(payload.len() + 4).unwrap();
        [&[tag], &length.to_be_bytes()[..], payload].concat()
    }

    #[test]
    fn data_ends_where_another_message_begins() {
        let stream = [message(b'd', b"1\n"), message(b'd', b""), message(b'c', b"")].concat();
        let mut frames = Frames::default();
        assert_eq!(frames.walk(&stream), Ok(Run { bytes: 12, then: Then::Other }));
        assert_eq!((frames.messages(), frames.at_boundary()), (2, true));
    }

    #[test]
    fn a_length_that_cannot_be_is_refused() {
        assert_eq!(Frames::default().walk(b"d\0\0\0\x03"), Err(BadFrame { length: 3 }));
        assert_eq!(Frames::default().walk(b"d\x80\0\0\0"), Err(BadFrame { length: i32::MIN }));
    }

    #[test]
    fn tags_tell_rows() {
        assert_eq!(rows_of_tag("COPY 42"), Some(42));
        assert_eq!(rows_of_tag("COPY"), None);
    }

    proptest! {
        /// However a stream is cut into reads, the same bytes are passed on, in the same number of rows.
        #[test]
        fn cuts_do_not_matter(
            rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            cuts in prop::collection::vec(1usize..17, 1..60),
        ) {
            let data: Vec<u8> = rows.iter().flat_map(|row| message(b'd', row)).collect();
            let stream = [data.clone(), message(b'c', b"")].concat();
            let (mut frames, mut behind) = (Frames::default(), Frames::default());
            let (mut passed, mut payloads) = (Vec::new(), Vec::new());
            let mut inbox = Vec::new();
            let mut unread = &stream[..];
            let mut cuts = cuts.iter().cycle();
            loop {
                let run = frames.walk(&inbox).unwrap();
                let piece: Vec<u8> = inbox.drain(..run.bytes).collect();
                let taken = behind.unframe(&piece, |payload| payloads.extend_from_slice(payload));
                prop_assert_eq!(taken, Ok(Run { bytes: piece.len(), then: Then::More }));
                prop_assert_eq!(behind, frames);
                passed.extend(piece);
                if run.then == Then::Other {
                    break;
                }
                let take = (*cuts.next().unwrap()).min(unread.len());
                prop_assert!(take > 0, "the end was not seen");
                inbox.extend_from_slice(&unread[..take]);
                unread = &unread[take..];
            }
            prop_assert_eq!(passed, data);
            prop_assert_eq!(payloads, rows.concat());
            prop_assert_eq!(frames.messages(), rows.len() as u64);
            prop_assert!(frames.at_boundary());
        }

        /// Whatever the bytes are: no panic, and never more passed on than there is.
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            if let Ok(run) = frames.walk(&bytes) {
                prop_assert!(run.bytes <= bytes.len());
            }
        }
    }
}
