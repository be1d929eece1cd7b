//! Unix sockets at paths of any length.
//!
//! The address of a socket holds 107 bytes of path, and a data directory may well be deeper. A longer path is reached by
//! way of its directory: that is opened, and the socket is named as an entry of `/proc/self/fd/N`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// What fits into the address, with the zero byte behind it.
const PATH_BYTES_MAX: usize = 107;

/// A path that fits, for as long as this lives.
struct Reachable {
    path: PathBuf,
    _directory: Option<File>,
}

impl Reachable {
    fn new(path: &Path) -> io::Result<Reachable> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it names no file"));
        };
        if path.as_os_str().len() <= PATH_BYTES_MAX {
            return Ok(Reachable { path: path.to_owned(), _directory: None });
        }
        let directory = File::open(directory)?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&directory);
        let path = Path::new("/proc/self/fd").join(fd.to_string()).join(name);
        Ok(Reachable { path, _directory: Some(directory) })
    }
}

/// Connects to the socket at a path.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(&Reachable::new(path)?.path).await
}

/// Whether somebody listens at a path.
pub fn is_served(path: &Path) -> bool {
    Reachable::new(path)
        .and_then(|reachable| std::os::unix::net::UnixStream::connect(&reachable.path))
        .is_ok()
}

/// Makes a socket at a path where nothing is.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    UnixListener::bind(&Reachable::new(path)?.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_of_any_length_is_bound_and_connected_to() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["short", &"deep/".repeat(60)] {
            let directory = folder.path().join(name);
            std::fs::create_dir_all(&directory).unwrap();
            let path = directory.join("api.sock");
            assert!(!is_served(&path));
            let listener = bind(&path).unwrap();
            assert!(path.exists() && is_served(&path));
            let (connected, accepted) = tokio::join!(connect(&path), listener.accept());
            connected.unwrap();
            accepted.unwrap();
        }
    }
}
