//! The cluster's key, and what it seals: the passwords of tasks.
//!
//! A password enters the Raft log as ciphertext (AES-256-GCM-SIV) bound to its task and side, so
//! that neither a data directory nor a copied entry gives it away, nor can it be used for another
//! task. It is sealed by the leader before the command is proposed, and opened only to be handed to
//! the agent that gets a lease.
//!
//! All nodes hold the same key, each in `secret.key` of its data directory, readable by its owner
//! alone. It is made when the cluster is initialised and handed to a node *before* the node becomes
//! a member: a member can always become the leader, and a leader must be able to open what is
//! sealed. A node that is no member yet takes any key, for nothing is sealed under its old one; a
//! member takes none but its own.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Key, Nonce};
use pgconvoy_runtime::telemetry;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::secret::{Sealed, Secret};
use rand::Rng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const FILE: &str = "secret.key";
const FILE_MODE: u32 = 0o600;
/// First line of the file; tells what it is, and its version.
const HEADER: &str = "pgconvoy cluster key 1";

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// Tells under which key something was sealed, so that a wrong key is named as such.
const KEY_ID_BYTES: usize = 4;

/// First byte of whatever is sealed.
const SEAL_VERSION: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("cannot use the cluster's key in `{path}`")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "`{path}` holds no key of a cluster; copy the file from another node of the same cluster"
    )]
    Malformed { path: PathBuf },
    #[error(
        "this node is a member of a cluster but has no `{path}`; copy the file from another node \
         of the same cluster"
    )]
    Missing { path: PathBuf },
    #[error("this node has no key yet: it belongs to no cluster")]
    NoKey,
    #[error("a key of a cluster has {KEY_BYTES} bytes, not {bytes}")]
    Length { bytes: usize },
    #[error("this node is a member of a cluster that has another key")]
    OtherKey,
    #[error("the {side} password of task {task} cannot be opened: {problem}")]
    Open { task: TaskId, side: Side, problem: &'static str },
}

/// Holds the key of this node's cluster, once there is one.
pub(crate) struct Vault {
    path: PathBuf,
    key: RwLock<Option<Arc<ClusterKey>>>,
}

struct ClusterKey {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    id: [u8; KEY_ID_BYTES],
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Vault {
    /// Reads the key, if there is one.
    pub(crate) fn open(data_dir: &Path) -> Result<Vault, SecretsError> {
        let path = data_dir.join(FILE);
        let key = match fs::read_to_string(&path) {
            Ok(text) => Some(Arc::new(parse(&Zeroizing::new(text), &path)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(SecretsError::File { path, source }),
        };
        Ok(Vault { path, key: RwLock::new(key) })
    }

    /// Refuses a member without a key: as a leader it could open nothing.
    pub(crate) fn require(&self) -> Result<(), SecretsError> {
        match self.current() {
            Ok(_) => Ok(()),
            Err(_) => Err(SecretsError::Missing { path: self.path.clone() }),
        }
    }

    /// Makes the key of a new cluster. One that is there already is kept: an initialisation that
    /// failed half-way is repeated with the key it may have handed out.
    pub(crate) fn make(&self) -> Result<(), SecretsError> {
        if self.current().is_ok() {
            return Ok(());
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::rng().fill_bytes(bytes.as_mut());
        self.store(ClusterKey::new(bytes))
    }

    /// Takes the key that another node handed over.
    pub(crate) fn install(&self, key: &[u8], member: bool) -> Result<(), SecretsError> {
        let bytes: [u8; KEY_BYTES] =
            key.try_into().map_err(|_| SecretsError::Length { bytes: key.len() })?;
        let new = ClusterKey::new(Zeroizing::new(bytes));
        match self.current() {
            Ok(known) if known.bytes == new.bytes => Ok(()),
            Ok(_) if member => Err(SecretsError::OtherKey),
            _ => self.store(new),
        }
    }

    /// The key, for handing it to a node that is about to join.
    pub(crate) fn hand_out(&self) -> Result<Zeroizing<Vec<u8>>, SecretsError> {
        Ok(Zeroizing::new(self.current()?.bytes.to_vec()))
    }

    /// Seals a password of a task. The log never shows it from now on.
    pub(crate) fn seal(
        &self,
        password: &Secret,
        task: &TaskId,
        side: Side,
    ) -> Result<Sealed, SecretsError> {
        telemetry::register_secret(password.expose());
        let key = self.current()?;
        let mut nonce = [0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let place = place(task, side);
        let payload = Payload { msg: password.expose().as_bytes(), aad: place.as_bytes() };
        let ciphertext = key
            .cipher()
            .encrypt(&Nonce::from(nonce), payload)
            .expect("a password is far below the cipher's 64 GiB");
        let mut sealed = vec![SEAL_VERSION];
        sealed.extend_from_slice(&key.id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        Ok(Sealed(sealed))
    }

    /// Opens what [`Vault::seal`] made for the same task and side.
    pub(crate) fn unseal(
        &self,
        sealed: &Sealed,
        task: &TaskId,
        side: Side,
    ) -> Result<Secret, SecretsError> {
        let cannot = |problem| SecretsError::Open { task: task.clone(), side, problem };
        let key = self.current()?;
        let (version, rest) = sealed.0.split_first().ok_or_else(|| cannot("it is empty"))?;
        if *version != SEAL_VERSION {
            return Err(cannot("it was sealed by a newer version"));
        }
        let (id, rest) =
            rest.split_at_checked(KEY_ID_BYTES).ok_or_else(|| cannot("it is cut off"))?;
        if id != key.id {
            return Err(cannot("it was sealed under another key than this node's"));
        }
        let (nonce, ciphertext) =
            rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(|| cannot("it is cut off"))?;
        let place = place(task, side);
        let payload = Payload { msg: ciphertext, aad: place.as_bytes() };
        let text = key
            .cipher()
            .decrypt(&Nonce::from(*nonce), payload)
            .map_err(|_| cannot("it was changed, or moved from another task"))?;
        let text = String::from_utf8(text).map_err(|_| cannot("it is no text"))?;
        telemetry::register_secret(&text);
        Ok(Secret::new(text))
    }

    fn current(&self) -> Result<Arc<ClusterKey>, SecretsError> {
        let key = self.key.read().expect("nothing panics while it holds this lock");
        key.as_ref().map(Arc::clone).ok_or(SecretsError::NoKey)
    }

    /// On disk first: what is sealed under a key must not outlive it.
    fn store(&self, key: ClusterKey) -> Result<(), SecretsError> {
        write_durably(&self.path, &format(&key))
            .map_err(|source| SecretsError::File { path: self.path.clone(), source })?;
        *self.key.write().expect("nothing panics while it holds this lock") = Some(Arc::new(key));
        Ok(())
    }
}

impl ClusterKey {
    fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> ClusterKey {
        let digest = Sha256::digest(bytes.as_slice());
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&digest[..KEY_ID_BYTES]);
        ClusterKey { bytes, id }
    }

    fn cipher(&self) -> Aes256GcmSiv {
        Aes256GcmSiv::new(&Key::<Aes256GcmSiv>::from(*self.bytes))
    }
}

/// What a sealed password is bound to.
fn place(task: &TaskId, side: Side) -> String {
    format!("{task}/{side}")
}

fn format(key: &ClusterKey) -> Zeroizing<String> {
    let mut text = Zeroizing::new(format!("{HEADER}\n"));
    for byte in key.bytes.iter() {
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    text
}

fn parse(text: &str, path: &Path) -> Result<ClusterKey, SecretsError> {
    let malformed = || SecretsError::Malformed { path: path.to_owned() };
    let digits = text.strip_prefix(HEADER).ok_or_else(malformed)?.trim();
    if digits.len() != 2 * KEY_BYTES || !digits.is_ascii() {
        return Err(malformed());
    }
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).map_err(|_| malformed())?;
    }
    Ok(ClusterKey::new(bytes))
}

/// Writes beside, syncs, renames, syncs the directory: the file is the old one or the new one.
fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn task(text: &str) -> TaskId {
        text.parse().unwrap()
    }

    fn vault() -> (tempfile::TempDir, Vault) {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path()).unwrap();
        vault.make().unwrap();
        (dir, vault)
    }

    #[test]
    fn what_is_sealed_is_opened_only_for_its_task_and_side() {
        let (_dir, vault) = vault();
        let id = task("aaaaaaaaaaaa");
        let sealed = vault.seal(&Secret::new("tiger-42"), &id, Side::Source).unwrap();
        assert!(!sealed.0.windows(8).any(|bytes| bytes == b"tiger-42"));
        assert_eq!(vault.unseal(&sealed, &id, Side::Source).unwrap().expose(), "tiger-42");
        assert!(vault.unseal(&sealed, &id, Side::Destination).is_err());
        assert!(vault.unseal(&sealed, &task("bbbbbbbbbbbb"), Side::Source).is_err());
    }

    #[test]
    fn sealing_twice_gives_different_bytes() {
        let (_dir, vault) = vault();
        let id = task("aaaaaaaaaaaa");
        let seal = || vault.seal(&Secret::new("same"), &id, Side::Source).unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn damaged_bytes_are_an_error_and_no_panic() {
        let (_dir, vault) = vault();
        let id = task("aaaaaaaaaaaa");
        let sealed = vault.seal(&Secret::new("x"), &id, Side::Source).unwrap();
        for length in 0..sealed.0.len() {
            let cut = Sealed(sealed.0[..length].to_vec());
            assert!(vault.unseal(&cut, &id, Side::Source).is_err(), "{length}");
        }
        for at in 0..sealed.0.len() {
            let mut changed = sealed.clone();
            changed.0[at] ^= 1;
            assert!(vault.unseal(&changed, &id, Side::Source).is_err(), "{at}");
        }
    }

    #[test]
    fn the_key_survives_a_restart_readable_by_its_owner_alone() {
        let (dir, vault) = vault();
        let id = task("aaaaaaaaaaaa");
        let sealed = vault.seal(&Secret::new("x"), &id, Side::Source).unwrap();
        let again = Vault::open(dir.path()).unwrap();
        assert_eq!(again.unseal(&sealed, &id, Side::Source).unwrap().expose(), "x");
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FILE_MODE);
    }

    #[test]
    fn a_member_takes_no_other_key() {
        let (_dir, first) = vault();
        let (_other_dir, second) = vault();
        let key = first.hand_out().unwrap();
        assert!(matches!(second.install(&key, true), Err(SecretsError::OtherKey)));
        second.install(&key, false).unwrap();
        second.install(&key, true).unwrap();
        assert_eq!(first.hand_out().unwrap(), second.hand_out().unwrap());
    }

    #[test]
    fn a_file_that_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "hello", HEADER, "pgconvoy cluster key 1\nabcd\n"] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let refused = Vault::open(dir.path());
            assert!(matches!(refused, Err(SecretsError::Malformed { .. })), "{text}");
        }
    }
}
