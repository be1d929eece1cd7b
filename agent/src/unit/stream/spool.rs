//! Files for transactions in progress that do not fit into memory. They live as long as the connection: the slot sends again
//! what was not confirmed.

use std::io::SeekFrom;

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use pgconvoy_shared::failure::Failure;

/// What is read of a file at once.
const READ_BYTES: usize = 256 * 1024;

/// The changes of one transaction.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    bytes: u64,
}

impl Spool {
    /// An empty one. It has no name, so nothing is left of it whatever happens.
    pub(super) fn new() -> Result<Self, Failure> {
        let file = tempfile::tempfile().map_err(|error| failure(&error))?;
        Ok(Self { file: File::from_std(file), bytes: 0 })
    }

    /// What was put by.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) async fn append(
        &mut self,
        records: impl Iterator<Item = Bytes>,
    ) -> Result<(), Failure> {
        let mut gathered = BytesMut::with_capacity(READ_BYTES);
        for record in records {
            gathered.extend_from_slice(&record);
            self.bytes += record.len() as u64;
            if gathered.len() >= READ_BYTES {
                self.file.write_all(&gathered).await.map_err(|error| failure(&error))?;
                gathered.clear();
            }
        }
        self.file.write_all(&gathered).await.map_err(|error| failure(&error))
    }

    /// Goes back to the beginning.
    pub(super) async fn rewind(&mut self) -> Result<(), Failure> {
        self.file.flush().await.map_err(|error| failure(&error))?;
        self.file.seek(SeekFrom::Start(0)).await.map(drop).map_err(|error| failure(&error))
    }

    /// Reads on; false at the end.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> Result<bool, Failure> {
        buffer.reserve(READ_BYTES);
        let read = self.file.read_buf(buffer).await.map_err(|error| failure(&error))?;
        Ok(read > 0)
    }
}

/// A full disk may be emptied by somebody.
fn failure(error: &std::io::Error) -> Failure {
    Failure::other(
        "spool_failed",
        format!("a large transaction could not be put by in a file: {error}"),
    )
    .about(std::env::temp_dir().display().to_string())
    .remedy("give the agent's machine room in its folder for temporary files (TMPDIR)")
}
