//! Follows where a specification says that a password is to be had.
//!
//! Read here, by the client, when a task is created: the coordinators get the password itself, and seal it.

mod pgpass;

use std::io;
use std::path::{Path, PathBuf};

use pgconvoy_runtime::telemetry::register_secret;
use pgconvoy_shared::endpoint::{Endpoint, Side};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::secret::Secret;
use pgconvoy_shared::spec::PasswordRef;

use crate::exit::Exit;
use crate::problem::Problem;

/// The password of one end; none where nothing names one. Relative paths are seen from `folder`.
pub(crate) fn find(
    side: Side,
    named: Option<&PasswordRef>,
    endpoint: &Endpoint,
    folder: &Path,
) -> Result<Option<Secret>, Problem> {
    let found = match named {
        Some(PasswordRef::Value(secret)) => Some(secret.clone()),
        Some(PasswordRef::Env(name)) => match std::env::var(name) {
            Ok(value) => Some(Secret::new(value)),
            Err(_) => {
                let message = format!("the environment variable `{name}` is not set");
                return Err(unreadable(side, message));
            }
        },
        Some(PasswordRef::File(path)) => Some(first_line(side, &folder.join(path))?),
        None => from_pgpass(side, endpoint)?,
    };
    if let Some(secret) = &found {
        register_secret(secret.expose());
    }
    Ok(found)
}

fn first_line(side: Side, path: &Path) -> Result<Secret, Problem> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| unreadable(side, format!("cannot read `{}`: {error}", path.display())))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::new(line)),
        _ => Err(unreadable(side, format!("the first line of `{}` is empty", path.display()))),
    }
}

/// As libpq does: the file of PGPASSFILE, else `~/.pgpass`, which need not be there.
fn from_pgpass(side: Side, endpoint: &Endpoint) -> Result<Option<Secret>, Problem> {
    let (path, named) = match std::env::var_os("PGPASSFILE") {
        Some(path) => (PathBuf::from(path), true),
        None => match std::env::home_dir() {
            Some(home) => (home.join(".pgpass"), false),
            None => return Ok(None),
        },
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(pgpass::find(&text, endpoint).map(Secret::new)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !named => Ok(None),
        Err(error) => {
            Err(unreadable(side, format!("cannot read PGPASSFILE `{}`: {error}", path.display())))
        }
    }
}

fn unreadable(side: Side, message: String) -> Problem {
    let failure = Failure::definite("password_unreadable", message)
        .about(format!("{side}.password"))
        .remedy("see whether the name is right and may be read; a relative path is seen from the task file");
    Problem::new(Exit::Usage, failure)
}
