//! The frames that a snapshot file is made of; see [the format](super).

use std::io::{self, Read, Write};

const MAGIC: &[u8; 8] = b"pgcvsnap";
const VERSION: u32 = 1;
const FRAME_BYTES: usize = 64 * 1024;

/// Writes frames of at most 64 KiB.
pub(super) struct FrameWriter<W> {
    to: W,
    frame: Vec<u8>,
    all: crc32fast::Hasher,
}

impl<W: Write> FrameWriter<W> {
    pub(super) fn begin(mut to: W) -> io::Result<Self> {
        to.write_all(MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        Ok(Self { to, frame: Vec::with_capacity(FRAME_BYTES), all: crc32fast::Hasher::new() })
    }

    pub(super) fn end_frame(&mut self) -> io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.frame.len()).expect("a frame has at most 64 KiB");
        let crc = crc32fast::hash(&self.frame).to_le_bytes();
        self.all.update(&crc);
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(&crc)?;
        self.to.write_all(&self.frame)?;
        self.frame.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.end_frame()?;
        self.to.write_all(&0_u32.to_le_bytes())?;
        self.to.write_all(&self.all.finalize().to_le_bytes())?;
        self.to.flush()
    }
}

impl<W: Write> Write for FrameWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = FRAME_BYTES - self.frame.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.frame.extend(taken);
        if self.frame.len() == FRAME_BYTES {
            self.end_frame()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what a [`FrameWriter`] wrote, and notices if it did not.
pub(super) struct FrameReader<R> {
    from: R,
    frame: Vec<u8>,
    read: usize,
    all: crc32fast::Hasher,
    ended: bool,
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl<R: Read> FrameReader<R> {
    pub(super) fn begin(mut from: R) -> io::Result<Self> {
        let mut head = [0; 12];
        from.read_exact(&mut head)?;
        let (magic, version) = head.split_at(8);
        if magic != MAGIC {
            return Err(invalid("it is no snapshot"));
        }
        if version != VERSION.to_le_bytes() {
            return Err(invalid("another version of pgconvoy wrote it"));
        }
        Ok(Self { from, frame: Vec::new(), read: 0, all: crc32fast::Hasher::new(), ended: false })
    }

    /// The next frame, empty after the last.
    pub(super) fn frame(&mut self) -> io::Result<Vec<u8>> {
        if self.ended {
            return Ok(Vec::new());
        }
        let (mut length, mut crc) = ([0; 4], [0; 4]);
        self.from.read_exact(&mut length)?;
        self.from.read_exact(&mut crc)?;
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 {
            self.ended = true;
            if self.all.clone().finalize().to_le_bytes() != crc {
                return Err(invalid("a frame is missing or at another's place"));
            }
            if self.from.read(&mut [0])? != 0 {
                return Err(invalid("something follows its end"));
            }
            return Ok(Vec::new());
        }
        if length > FRAME_BYTES {
            return Err(invalid("a frame is longer than any may be"));
        }
        let mut frame = vec![0; length];
        self.from.read_exact(&mut frame)?;
        if crc32fast::hash(&frame).to_le_bytes() != crc {
            return Err(invalid("a frame does not match its checksum"));
        }
        self.all.update(&crc);
        Ok(frame)
    }
}

impl<R: Read> Read for FrameReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.read == self.frame.len() {
            self.frame = self.frame()?;
            self.read = 0;
        }
        let bytes = &self.frame[self.read..];
        let taken = bytes.len().min(into.len());
        into[..taken].copy_from_slice(&bytes[..taken]);
        self.read += taken;
        Ok(taken)
    }
}
