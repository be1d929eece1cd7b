//! Rows that a partner reads in the owner's place, so that a comparison sends hashes and no rows over the way.
//!
//! The owner puts a [`Question`] before the COPY that it is about; the partner reads that COPY's rows out of what it passes on
//! ([`Distiller`](pgconvoy_flow::digest::Distiller)), tells now and then how far it is, and says the answer before the COPY's end.
//! Login, transaction, snapshot, lock, and every statement stay the owner's, over the same session: so no fence changes, no
//! password goes to the partner, and a partner that is lost is a lost connection.

use std::io;

use bytes::Bytes;
use pgconvoy_flow::digest::{
    Answer, BUCKETS, Bucket, Digest, Focus, Found, HashKey, Kept, Question, Wanted,
};
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::relay_frame::Frame;
use pgconvoy_shared::verify::Sample;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::tunnel::nonsense;

/// Of a digest, in one frame: some 40 KiB.
const BUCKETS_PER_FRAME: usize = BUCKETS / 8;

/// Rows in one frame: their hashes are 32 bytes each, and a key is cut at some hundred.
const ROWS_PER_FRAME: usize = 256;

/// Takes questions for a session. They go before all that is written on it later.
#[derive(Debug)]
pub(crate) struct Errands(UnboundedSender<Errand>);

/// A question on its way, and where replies are to go. They are held as long as nobody takes them, which is no longer than
/// it takes to look for them between two reads.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) question: v1::RelayQuestion,
    pub(super) replies: UnboundedSender<Frame>,
}

/// What a partner says to a question.
pub(crate) struct Replies {
    frames: UnboundedReceiver<Frame>,
    found: Found,
    answer: Option<Answer>,
    /// Something that means nothing.
    bad: Option<io::Error>,
}

/// How far a partner is: rows and bytes read.
pub(crate) type SoFar = (u64, u64);

impl Errands {
    pub(super) fn new() -> (Self, UnboundedReceiver<Errand>) {
        let (errands, taken) = unbounded_channel();
        (Self(errands), taken)
    }

    /// Puts a question about the next COPY.
    pub(crate) fn ask(&self, question: &Question) -> Replies {
        let (replies, frames) = unbounded_channel();
        let found = match question.wanted {
            Wanted::Digest => Found::Digest(Digest::new(question.sample, &question.focus)),
            Wanted::Rows => Found::Rows(Vec::new()),
        };
        // If the session is gone, so is the other end of the replies, and there is no answer.
        let _unless_gone = self.0.send(Errand { question: asked(question), replies });
        Replies { frames, found, answer: None, bad: None }
    }
}

impl Replies {
    /// How far the partner is, whenever it says so; none once it says nothing more, or nothing that has a meaning.
    pub(crate) async fn next(&mut self) -> Option<SoFar> {
        while self.bad.is_none()
            && let Some(frame) = self.frames.recv().await
        {
            match self.take(frame) {
                Ok(None) => {}
                Ok(so_far) => return so_far,
                Err(bad) => self.bad = Some(bad),
            }
        }
        None
    }

    /// The answer, if it has come. It comes before the COPY's end does.
    pub(crate) fn answer(mut self) -> io::Result<Option<Answer>> {
        if let Some(bad) = self.bad {
            return Err(bad);
        }
        while let Ok(frame) = self.frames.try_recv() {
            self.take(frame)?;
        }
        Ok(self.answer)
    }

    fn take(&mut self, frame: Frame) -> io::Result<Option<SoFar>> {
        match (frame, &mut self.found) {
            (Frame::Read(read), _) => return Ok(Some((read.rows, read.bytes))),
            (Frame::Buckets(buckets), Found::Digest(digest)) => add_buckets(digest, &buckets)?,
            (Frame::Rows(rows), Found::Rows(kept)) => {
                for row in rows.rows {
                    kept.push(kept_of(&row)?);
                }
            }
            (Frame::Answered(said), found) => {
                if let Found::Digest(digest) = found {
                    digest.compared = said.compared;
                }
                let found = std::mem::replace(found, Found::Rows(Vec::new()));
                self.answer = Some(Answer { found, rows: said.rows, bytes: said.bytes });
            }
            _ => return Err(nonsense("an answer to another question")),
        }
        Ok(None)
    }
}

/// As it goes over the way.
fn asked(question: &Question) -> v1::RelayQuestion {
    v1::RelayQuestion {
        secret: Bytes::copy_from_slice(&question.secret.0[..]),
        key_columns: u32::try_from(question.key_columns).expect("a table has 1600 columns"),
        sample_hundredths: question.sample.as_hundredths(),
        focus: question.focus.levels().map(|buckets| v1::RelayFocus { buckets }).collect(),
        rows: question.wanted == Wanted::Rows,
    }
}

/// As the partner understands it.
pub(super) fn question_of(wire: v1::RelayQuestion) -> io::Result<Question> {
    let secret = wire.secret[..].try_into().map_err(|_| nonsense("a secret of another length"))?;
    let sample = Sample::hundredths(wire.sample_hundredths);
    let focus = wire.focus.iter();
    Ok(Question {
        secret: HashKey(Box::new(secret)),
        key_columns: wire.key_columns as usize,
        sample: sample.map_err(|_| nonsense("a sample that cannot be"))?,
        focus: focus.fold(Focus::all(), |focus, level| focus.narrowed(&level.buckets)),
        wanted: if wire.rows { Wanted::Rows } else { Wanted::Digest },
    })
}

/// How far the partner is.
pub(super) fn read((rows, bytes): SoFar) -> Frame {
    Frame::Read(v1::RelayRead { rows, bytes })
}

/// The frames of an answer.
pub(super) fn frames_of(answer: Answer) -> Vec<Frame> {
    let (mut frames, compared) = match answer.found {
        Found::Digest(digest) => (frames_of_digest(&digest), digest.compared),
        Found::Rows(kept) => (kept.chunks(ROWS_PER_FRAME).map(frame_of_rows).collect(), 0),
    };
    let (rows, bytes) = (answer.rows, answer.bytes);
    frames.push(Frame::Answered(v1::RelayAnswered { rows, bytes, compared }));
    frames
}

fn frames_of_digest(digest: &Digest) -> Vec<Frame> {
    let numbered: Vec<_> =
        (0..).zip(&digest.buckets).filter(|(_, bucket)| bucket.rows > 0).collect();
    let frame = |some: &[(u32, &Bucket)]| {
        let numbers = some.iter().map(|(no, _)| *no).collect();
        let rows = some.iter().map(|(_, bucket)| bucket.rows).collect();
        let sums: Vec<u8> = some.iter().flat_map(|(_, bucket)| bucket.sum.to_le_bytes()).collect();
        Frame::Buckets(v1::RelayBuckets { numbers, rows, sums: sums.into() })
    };
    numbered.chunks(BUCKETS_PER_FRAME).map(frame).collect()
}

fn add_buckets(digest: &mut Digest, some: &v1::RelayBuckets) -> io::Result<()> {
    let (sums, rest) = some.sums.as_chunks();
    let whole =
        rest.is_empty() && sums.len() == some.numbers.len() && sums.len() == some.rows.len();
    if !whole {
        return Err(nonsense("a digest that is cut"));
    }
    for ((no, rows), sum) in some.numbers.iter().zip(&some.rows).zip(sums) {
        let bucket = digest.buckets.get_mut(*no as usize);
        let bucket = bucket.ok_or_else(|| nonsense("a bucket that cannot be"))?;
        bucket.rows = *rows;
        bucket.sum = u128::from_le_bytes(*sum);
        digest.rows += *rows;
    }
    Ok(())
}

fn frame_of_rows(kept: &[Kept]) -> Frame {
    let row = |kept: &Kept| v1::RelayRow {
        hashes: [kept.key.to_le_bytes(), kept.hash.to_le_bytes()].concat().into(),
        shown: Bytes::copy_from_slice(&kept.shown),
    };
    Frame::Rows(v1::RelayRows { rows: kept.iter().map(row).collect() })
}

fn kept_of(row: &v1::RelayRow) -> io::Result<Kept> {
    let ([key, hash], []) = row.hashes.as_chunks() else {
        return Err(nonsense("a row without its hashes"));
    };
    let (key, hash) = (u128::from_le_bytes(*key), u128::from_le_bytes(*hash));
    Ok(Kept { key, hash, version: 0, shown: Box::from(&row.shown[..]) })
}
