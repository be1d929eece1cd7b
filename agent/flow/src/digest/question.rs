//! What is asked of the rows of a COPY, wherever they are read: by whoever began it, or on their way to it.
//!
//! On the way, a [`Distiller`] follows what the server sends after the question was put. All messages are passed on as they
//! are, but for the rows: these are read here, and the answer comes in their stead. It is there before CopyDone is passed on; if
//! the COPY fails there is none. After either, nothing more is looked at.

use pgconvoy_shared::verify::Sample;

use super::{BadData, Digest, Focus, HashKey, Kept, Row, Rows};
use crate::copy::{BadFrame, Frames, Then};

/// Tag byte and length word.
const HEADER_BYTES: usize = 5;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The key of all hashes.
    pub secret: HashKey,
    /// So many columns, the first ones, are the key.
    pub key_columns: usize,
    /// The rows that are compared.
    pub sample: Sample,
    /// The rows that matter.
    pub focus: Focus,
    /// What is to be told of them.
    pub wanted: Wanted,
}

/// How rows are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Added up in buckets.
    Digest,
    /// One by one.
    Rows,
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What was wanted of the rows that matter.
    pub found: Found,
    /// All rows of the COPY.
    pub rows: u64,
    /// And their bytes.
    pub bytes: u64,
}

/// See [`Wanted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Added up in buckets.
    Digest(Digest),
    /// One by one.
    Rows(Vec<Kept>),
}

/// A question that is being answered.
pub struct Asked {
    question: Question,
    taken: Rows,
    answer: Answer,
}

impl Asked {
    /// Of no rows yet.
    #[must_use]
    pub fn of(question: Question) -> Self {
        let found = match question.wanted {
            Wanted::Digest => Found::Digest(Digest::new(question.sample, &question.focus)),
            Wanted::Rows => Found::Rows(Vec::new()),
        };
        let taken = Rows::new(question.secret.clone(), question.key_columns);
        Self { question, taken, answer: Answer { found, rows: 0, bytes: 0 } }
    }

    /// Takes whole and cut messages of COPY data, as [`Rows::take`] does.
    pub fn take(&mut self, data: &[u8]) -> Result<(), BadData> {
        let Self { question, taken, answer } = self;
        answer.bytes += data.len() as u64;
        taken.take(data, |row: Row<'_>| {
            answer.rows += 1;
            if question.focus.holds(&row) {
                match &mut answer.found {
                    Found::Digest(digest) => digest.add(&row),
                    Found::Rows(kept) => kept.push(Kept::of(&row, question.sample)),
                }
            }
        })
    }

    /// Rows and bytes so far.
    #[must_use]
    pub fn so_far(&self) -> (u64, u64) {
        (self.answer.rows, self.answer.bytes)
    }

    /// That was all.
    #[must_use]
    pub fn answer(self) -> Answer {
        self.answer
    }
}

/// A message that has no place before the end of a COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfPlace {
    /// Of that tag, or length.
    #[error("a message `{}` of {length} bytes is no part of a COPY", char::from(*tag))]
    Message {
        /// Its first byte.
        tag: u8,
        /// What it says to be long.
        length: i32,
    },
    /// COPY data whose length cannot be.
    #[error(transparent)]
    Frame(#[from] BadFrame),
    /// The same.
    #[error(transparent)]
    Data(#[from] BadData),
}

/// Reads the rows of one COPY out of what a server sends.
pub struct Distiller {
    /// None once nothing more is looked at.
    asked: Option<Asked>,
    frames: Frames,
    /// Of a message that is passed on, so many bytes are still to come.
    passing: usize,
    /// A header of which only this is here.
    cut: Vec<u8>,
}

/// What became of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Distilled {
    /// Comes before what is passed on.
    pub answer: Option<Answer>,
    /// To be passed on.
    pub passed: Vec<u8>,
}

impl std::fmt::Debug for Distiller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Distiller").field("read", &self.so_far()).finish_non_exhaustive()
    }
}

impl Distiller {
    /// The server waits for the statement; all that it sent before was passed on.
    #[must_use]
    pub fn of(question: Question) -> Self {
        let asked = Some(Asked::of(question));
        Self { asked, frames: Frames::default(), passing: 0, cut: Vec::new() }
    }

    /// Rows and bytes read so far; none once nothing more is looked at.
    #[must_use]
    pub fn so_far(&self) -> Option<(u64, u64)> {
        self.asked.as_ref().map(Asked::so_far)
    }

    /// Takes what the server sent next, cut anywhere.
    pub fn take(&mut self, data: &[u8]) -> Result<Distilled, OutOfPlace> {
        let mut begun = std::mem::take(&mut self.cut);
        if begun.is_empty() {
            return self.walk(data);
        }
        begun.extend_from_slice(data);
        self.walk(&begun)
    }

    fn walk(&mut self, mut rest: &[u8]) -> Result<Distilled, OutOfPlace> {
        let mut out = Distilled::default();
        loop {
            let (passed, behind) = rest.split_at(self.passing.min(rest.len()));
            out.passed.extend_from_slice(passed);
            self.passing -= passed.len();
            rest = behind;
            let Some(asked) = &mut self.asked else {
                out.passed.extend_from_slice(rest);
                return Ok(out);
            };
            let run = self.frames.walk(rest)?;
            let (rows, behind) = rest.split_at(run.bytes);
            asked.take(rows)?;
            rest = behind;
            let Some(header) = rest.first_chunk::<HEADER_BYTES>() else {
                self.cut = rest.to_vec();
                return Ok(out);
            };
            debug_assert_eq!(run.then, Then::Other, "a whole header that is no row's");
            self.passing = passed_on(*header)?;
            match header[0] {
                b'c' => out.answer = self.asked.take().map(Asked::answer),
                b'E' => self.asked = None,
                _ => {}
            }
        }
    }
}

/// How long a message is that may come before the end of a COPY: its beginning and its end, an error, notices.
fn passed_on(header: [u8; HEADER_BYTES]) -> Result<usize, OutOfPlace> {
    let [tag, length @ ..] = header;
    let length = i32::from_be_bytes(length);
    let payload = length.checked_sub(4).and_then(|payload| usize::try_from(payload).ok());
    match (tag, payload) {
        (b'H' | b'c' | b'E' | b'N' | b'S' | b'A', Some(payload)) => Ok(HEADER_BYTES + payload),
        _ => Err(OutOfPlace::Message { tag, length }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{copied, secret};
    use super::*;

    fn question(wanted: Wanted) -> Question {
        let (sample, focus) = (Sample::ALL, Focus::all());
        Question { secret: secret(), key_columns: 1, sample, focus, wanted }
    }

    fn message(tag: u8, payload: &[u8]) -> Vec<u8> {
        let length = i32::try_from(payload.len() + 4).unwrap();
        [&[tag], &length.to_be_bytes()[..], payload].concat()
    }

    fn directly(rows: &[&str], wanted: Wanted) -> Answer {
        let mut asked = Asked::of(question(wanted));
        asked.take(&copied(rows)).unwrap();
        asked.answer()
    }

    /// Everything that comes of a stream that is cut so.
    fn distilled(stream: &[u8], wanted: Wanted, cuts: &[usize]) -> Result<Distilled, OutOfPlace> {
        let mut distiller = Distiller::of(question(wanted));
        let mut all = Distilled::default();
        let mut rest = stream;
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            let out = distiller.take(now)?;
            assert!(all.passed.iter().all(|byte| *byte != b'!') || out.answer.is_none());
            all.answer = all.answer.or(out.answer);
            all.passed.extend(out.passed);
            rest = later;
        }
        Ok(all)
    }

    #[test]
    fn a_copy_that_fails_has_no_answer_and_its_error_is_passed_on() {
        let error = message(b'E', b"SERROR\0\0");
        let ready = message(b'Z', b"E");
        let stream =
            [message(b'H', &[0; 3]), copied(&["1\ta\n"]), error.clone(), ready.clone()].concat();
        let out = distilled(&stream, Wanted::Digest, &[3]).unwrap();
        assert_eq!(out.answer, None);
        assert_eq!(out.passed, [message(b'H', &[0; 3]), error, ready].concat());
    }

    #[test]
    fn what_is_no_copy_is_refused() {
        let refused = distilled(&message(b'T', b""), Wanted::Digest, &[100]);
        assert_eq!(refused, Err(OutOfPlace::Message { tag: b'T', length: 4 }));
        assert!(distilled(b"d\0\0\0\x01", Wanted::Digest, &[100]).is_err());
        assert!(distilled(b"N\xff\0\0\0", Wanted::Digest, &[100]).is_err());
    }

    proptest! {
        /// However the stream is cut, the answer is that of who reads the rows itself, and nothing else is lost.
        #[test]
        fn rows_are_read_on_the_way(
            rows in prop::collection::vec("[a-c]{0,30}\t[a-c]{0,200}\n", 0..12),
            notice_after in 0usize..12,
            one_by_one: bool,
            cuts in prop::collection::vec(1usize..90, 1..40),
        ) {
            let wanted = if one_by_one { Wanted::Rows } else { Wanted::Digest };
            let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
            let (first, last) = rows.split_at(notice_after.min(rows.len()));
            let (begin, notice) = (message(b'H', &[0; 3]), message(b'N', b"careful"));
            // Of what follows the COPY nothing is looked at: a row there is none.
            let end = [message(b'c', b""), message(b'C', b"COPY 7!\0"), message(b'Z', b"T"),
                message(b'd', b"x")].concat();
            let stream = [begin.clone(), copied(first), notice.clone(), copied(last), end.clone()];
            let out = distilled(&stream.concat(), wanted, &cuts).unwrap();
            prop_assert_eq!(out.passed, [begin, notice, end].concat());
            prop_assert_eq!(out.answer, Some(directly(&rows, wanted)));
        }
    }
}
