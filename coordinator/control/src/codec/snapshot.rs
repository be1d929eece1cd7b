//! Snapshots: a frozen state as a stream of frames, cut into chunks of bytes.
//!
//! ```text
//! "pgconvoy" version | frame | frame | …      frame = length (u32) crc32 (u32) postcard bytes, little-endian
//! agents, then for each task: task, its tables, their shards, its units; at last the end with the number of frames
//! ```
//!
//! A frame holds at most some thousand units or shards, so that neither side ever has a second copy of the state in memory.
//! Chunks cut the stream at any byte.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::unit::PlannedShard;

use super::{DecodeError, VERSION, check_version, decode};
use crate::state::record::TaskRecord;
use crate::state::{Agent, State, Table, Unit};

const MAGIC: &[u8; 8] = b"pgconvoy";
const SHARDS_PER_FRAME: usize = 4_096;
const FRAME_HEADER: usize = 8;

/// A state at one moment; see [`State::freeze`].
#[derive(Debug, Clone)]
pub struct Frozen {
    pub(crate) agents: Vec<Agent>,
    pub(crate) tasks: Vec<Arc<TaskRecord>>,
}

/// Why chunks are no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// They begin otherwise.
    #[error("not a snapshot of pgconvoy's control plane")]
    NoSnapshot,
    /// They end before the snapshot does.
    #[error("the snapshot is cut off after {frames} frames")]
    CutOff {
        /// Whole frames that were there.
        frames: u64,
    },
    /// A frame's bytes are not those that were written.
    #[error("frame {frame} of the snapshot is damaged: its checksum differs")]
    Checksum {
        /// Which frame, from 0.
        frame: u64,
    },
    /// A frame cannot be read.
    #[error("frame {frame} of the snapshot cannot be read")]
    Frame {
        /// Which frame, from 0.
        frame: u64,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// The version of the whole.
    #[error("the snapshot cannot be read")]
    Version {
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// Frames in an order that no snapshot has.
    #[error("frame {frame} of the snapshot is out of place")]
    OutOfPlace {
        /// Which frame, from 0.
        frame: u64,
    },
}

/// New frames are added at the end.
#[derive(Serialize, Deserialize)]
enum Frame<'a> {
    Agents(Cow<'a, [Agent]>),
    Task(Box<Cow<'a, TaskRecord>>),
    /// The next tables of the task.
    Tables(Cow<'a, [Table]>),
    /// The next shards of one of its tables.
    Shards {
        table: TableNo,
        shards: Cow<'a, [PlannedShard]>,
    },
    /// Its next units.
    Units(Cow<'a, [Unit]>),
    /// Nothing follows.
    End {
        frames: u64,
    },
    /// The next shards by which one of its tables is compared.
    CheckShards {
        table: TableNo,
        shards: Cow<'a, [PlannedShard]>,
    },
}

impl Frozen {
    /// The bytes, one chunk of at most `chunk_bytes` after the other.
    pub fn encode(&self, chunk_bytes: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
        let mut frames = self.frames().map(Some).chain(std::iter::once(None));
        let mut written = 0u64;
        let mut buffer = MAGIC.to_vec();
        buffer.push(VERSION);
        let mut over = false;
        std::iter::from_fn(move || {
            while buffer.len() < chunk_bytes && !over {
                let frame = frames.next().flatten();
                over = frame.is_none();
                put_frame(&mut buffer, &frame.unwrap_or(Frame::End { frames: written }));
                written += 1;
            }
            let rest = buffer.split_off(chunk_bytes.min(buffer.len()));
            let chunk = std::mem::replace(&mut buffer, rest);
            (!chunk.is_empty()).then_some(chunk)
        })
    }

    fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        let agents = std::iter::once(Frame::Agents(Cow::Borrowed(&self.agents)));
        agents.chain(self.tasks.iter().flat_map(|task| task_frames(task)))
    }
}

fn task_frames(task: &TaskRecord) -> impl Iterator<Item = Frame<'_>> {
    let tables = task.tables.chunks().map(|tables| Frame::Tables(Cow::Borrowed(tables)));
    let shards = (0u32..).map(TableNo).zip(task.tables.iter()).flat_map(|(no, table)| {
        table
            .shards
            .chunks(SHARDS_PER_FRAME)
            .map(move |shards| Frame::Shards { table: no, shards: Cow::Borrowed(shards) })
    });
    let checks = (0u32..).map(TableNo).zip(task.tables.iter()).flat_map(|(no, table)| {
        table
            .check
            .shards
            .chunks(SHARDS_PER_FRAME)
            .map(move |shards| Frame::CheckShards { table: no, shards: Cow::Borrowed(shards) })
    });
    let units = task.units.chunks().map(|units| Frame::Units(Cow::Borrowed(units)));
    std::iter::once(Frame::Task(Box::new(Cow::Borrowed(task))))
        .chain(tables)
        .chain(shards)
        .chain(checks)
        .chain(units)
}

fn put_frame(buffer: &mut Vec<u8>, frame: &Frame<'_>) {
    let start = buffer.len();
    let mut bytes = std::mem::take(buffer);
    bytes.extend_from_slice(&[0; FRAME_HEADER]);
    let mut bytes = postcard::to_extend(frame, bytes)
        .expect("a state is plain data, and a vector takes all bytes");
    let body = &bytes[start + FRAME_HEADER..];
    let crc = crc32fast::hash(body);
    let len = u32::try_from(body.len()).expect("a frame holds some thousand small things");
    bytes[start..start + 4].copy_from_slice(&len.to_le_bytes());
    bytes[start + 4..start + FRAME_HEADER].copy_from_slice(&crc.to_le_bytes());
    *buffer = bytes;
}

impl State {
    /// The state that was frozen, from its chunks.
    pub fn restore<C: AsRef<[u8]>>(
        chunks: impl IntoIterator<Item = C>,
    ) -> Result<Self, RestoreError> {
        let mut reader = Reader { chunks: chunks.into_iter(), buffer: Vec::new(), at: 0, frame: 0 };
        let head = reader.take(MAGIC.len() + 1)?;
        if head[..MAGIC.len()] != MAGIC[..] {
            return Err(RestoreError::NoSnapshot);
        }
        check_version(head[MAGIC.len()]).map_err(|source| RestoreError::Version { source })?;
        let mut state = Self::new();
        let mut task: Option<TaskRecord> = None;
        loop {
            let frame = reader.frame()?;
            let out_of_place = RestoreError::OutOfPlace { frame: reader.frame - 1 };
            match (frame, task.as_mut()) {
                (Frame::Agents(agents), None) => {
                    agents.into_owned().into_iter().for_each(|agent| state.agents.put(agent));
                }
                (Frame::Task(next), _) => {
                    if let Some(whole) = task.replace(next.into_owned()) {
                        state.insert_task(whole);
                    }
                }
                (Frame::Tables(tables), Some(task)) => task.tables.extend(tables.into_owned()),
                (Frame::Shards { table, shards }, Some(task)) => {
                    let Some(table) = task.tables.get_mut(table.0 as usize) else {
                        return Err(out_of_place);
                    };
                    Arc::make_mut(&mut table.shards).extend(shards.into_owned());
                }
                (Frame::CheckShards { table, shards }, Some(task)) => {
                    let Some(table) = task.tables.get_mut(table.0 as usize) else {
                        return Err(out_of_place);
                    };
                    Arc::make_mut(&mut table.check.shards).extend(shards.into_owned());
                }
                (Frame::Units(units), Some(task)) => task.units.extend(units.into_owned()),
                (Frame::End { frames }, _) if frames + 1 == reader.frame => {
                    if let Some(whole) = task {
                        state.insert_task(whole);
                    }
                    return Ok(state);
                }
                _ => return Err(out_of_place),
            }
        }
    }
}

struct Reader<I> {
    chunks: I,
    buffer: Vec<u8>,
    at: usize,
    /// Frames read.
    frame: u64,
}

impl<C: AsRef<[u8]>, I: Iterator<Item = C>> Reader<I> {
    fn take(&mut self, len: usize) -> Result<&[u8], RestoreError> {
        if self.buffer.len() - self.at < len {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        while self.buffer.len() < len {
            let cut_off = RestoreError::CutOff { frames: self.frame };
            let chunk = self.chunks.next().ok_or(cut_off)?;
            self.buffer.extend_from_slice(chunk.as_ref());
        }
        let from = self.at;
        self.at += len;
        Ok(&self.buffer[from..self.at])
    }

    fn frame(&mut self) -> Result<Frame<'static>, RestoreError> {
        let header: [u8; FRAME_HEADER] =
            self.take(FRAME_HEADER)?.try_into().expect("as many bytes as were asked for");
        let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let crc = u32::from_le_bytes([c0, c1, c2, c3]);
        let frame = self.frame;
        let body = self.take(len as usize)?;
        if crc32fast::hash(body) != crc {
            return Err(RestoreError::Checksum { frame });
        }
        let decoded = decode(body).map_err(|source| RestoreError::Frame { frame, source })?;
        self.frame += 1;
        Ok(decoded)
    }
}
