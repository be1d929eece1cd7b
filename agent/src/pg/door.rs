//! A Unix socket of this agent's behind which a database of another site stands, for client programs that know nothing of
//! relays: pg_dump connects to it as to a server on this machine, and logs in by itself.
//!
//! Whoever comes through it is past the choice that `sslmode` may leave between kinds of connections. So that is made before,
//! as libpq would make it: by a login of ours ([`Access::proven`]).
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
use super::transport::Attempt;

/// The port in the socket's name.
const PORT: u16 = 5432;

/// An open door; dropping it closes it and all that went through it.
#[derive(Debug)]
pub(crate) struct Door {
    folder: TempDir,
    _porter: Owned<()>,
}

impl Door {
    /// To the database of `access`, on connections of that kind.
    pub(crate) fn to(access: &Access, attempt: Attempt) -> io::Result<Self> {
        // Its mode is 0700.
        let folder = tempfile::Builder::new().prefix("pgconvoy-").tempdir()?;
        let listener = UnixListener::bind(folder.path().join(format!(".s.PGSQL.{PORT}")))?;
        let name = format!("door to {access}");
        let _porter = tasks::owned(name, let_in(listener, access.clone(), attempt));
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

async fn let_in(listener: UnixListener, access: Access, attempt: Attempt) {
    let mut inside = FuturesUnordered::new();
    loop {
        tokio::select! {
            came = listener.accept() => match came {
                Ok((client, _)) => inside.push(pass_on(client, &access, attempt)),
                Err(error) => return warn!("a door to {access} is stuck: {error}"),
            },
            Some(()) = inside.next(), if !inside.is_empty() => {}
        }
    }
}

/// How it ended, the client program tells from its own end.
async fn pass_on(mut client: UnixStream, access: &Access, attempt: Attempt) {
    match access.unnamed(attempt).await {
        Ok(mut server) => {
            let _ended = copy_bidirectional(&mut client, &mut server).await;
        }
        Err(error) => warn!("no connection through a door to {access}: {}", chain(&error)),
    }
}
