//! The seam between "written" and "on disk".
//!
//! sled's `flush` ends in `sync_file_range`, which leaves the drive's cache and the file's metadata
//! alone. So the writer calls this after each flush, before it answers. Tests count the calls here,
//! hold them back, or let them fail: SIGKILL cannot tell a synced file from an unsynced one.

use std::fs::File;
use std::io;

/// Makes durable what has been written to the log so far.
pub trait Durability: Send {
    fn make_durable(&mut self) -> io::Result<()>;
}

/// `fdatasync` on a handle of our own to sled's file.
pub(super) struct Fdatasync(pub(super) File);

impl Durability for Fdatasync {
    fn make_durable(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
