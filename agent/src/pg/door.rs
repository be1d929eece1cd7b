//! A Unix socket of this agent's behind which a database of another site stands, for client programs that know nothing of
//! relays: pg_dump connects to it as to a server on this machine, and logs in by itself.
//!
//! Only this user comes to the socket: its folder is closed to others. All connections end with the [`Door`].

use std::io;
use std::path::Path;

use futures::stream::{FuturesUnordered, StreamExt};
use pgconvoy_runtime::tasks::{self, Owned};
use pgconvoy_runtime::telemetry::chain;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use super::Access;

/// The port in the socket's name.
const PORT: u16 = 5432;

/// An open door; dropping it closes it and all that went through it.
#[derive(Debug)]
pub(crate) struct Door {
    folder: TempDir,
    _porter: Owned<()>,
}

impl Door {
    /// To the database of `access`.
    pub(crate) fn to(access: &Access) -> io::Result<Self> {
        // Its mode is 0700.
        let folder = tempfile::Builder::new().prefix("pgconvoy-").tempdir()?;
        let listener = UnixListener::bind(folder.path().join(format!(".s.PGSQL.{PORT}")))?;
        let name = format!("door to {access}");
        let _porter = tasks::owned(name, let_in(listener, access.clone()));
        Ok(Self { folder, _porter })
    }

    /// libpq's `host`.
    pub(crate) fn host(&self) -> &Path {
        self.folder.path()
    }

    /// libpq's `port`.
    pub(crate) fn port(&self) -> u16 {
        PORT
    }
}

async fn let_in(listener: UnixListener, access: Access) {
    let mut inside = FuturesUnordered::new();
    loop {
        tokio::select! {
            came = listener.accept() => match came {
                Ok((client, _)) => inside.push(pass_on(client, &access)),
                Err(error) => return warn!("a door to {access} is stuck: {error}"),
            },
            Some(()) = inside.next(), if !inside.is_empty() => {}
        }
    }
}

/// How it ended, the client program tells from its own end.
async fn pass_on(mut client: UnixStream, access: &Access) {
    match access.unnamed().await {
        Ok(mut server) => {
            let _ended = copy_bidirectional(&mut client, &mut server).await;
        }
        Err(error) => warn!("no connection through a door to {access}: {}", chain(&error)),
    }
}
