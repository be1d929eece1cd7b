//! TLS configurations that follow their files.
//!
//! Certificates live shorter than connections to a database migration do, so they are renewed
//! under a running process: by whoever writes new files in the place of the old. Before each new
//! connection the files are looked at (three `stat` calls) and read again if they changed.
//!
//! Three files cannot be replaced at one moment. A set that does not fit together, or cannot be
//! read, is reported once and left alone; the last good one serves until the files change again.
//! Connections that are open keep what they were made with.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};

use super::{Identity, TlsError, TlsFiles};
use crate::telemetry::chain;

/// The one protocol spoken: HTTP/2, which gRPC needs.
const ALPN: &[u8] = b"h2";

/// What the three files said when they were last read with success.
#[derive(Clone, Debug)]
pub(super) struct Configs {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

/// The files of a process, and what was last read from them.
#[derive(Debug)]
pub(super) struct Credentials {
    files: TlsFiles,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    configs: Configs,
    /// The state of the files that `configs`, or the last refusal, came from.
    seen: Stamp,
}

/// Tells one state of the files from another. None = a file cannot be looked at.
type Stamp = Option<[FileStamp; 3]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    inode: u64,
    size: u64,
    /// Of the inode, not of the content: `touch -d` cannot set it back.
    changed: (i64, i64),
}

impl Credentials {
    pub(super) fn load(files: &TlsFiles) -> Result<Credentials, TlsError> {
        // Looked at before reading: a change while we read is then seen as one the next time.
        let seen = stamp(files);
        let configs = read(files)?;
        Ok(Credentials { files: files.clone(), loaded: Mutex::new(Loaded { configs, seen }) })
    }

    /// What a new connection is to be made with.
    pub(super) fn current(&self) -> Configs {
        let mut loaded = self.loaded.lock().expect("nothing panics while it holds this lock");
        let now = stamp(&self.files);
        if now != loaded.seen {
            loaded.seen = now;
            match read(&self.files) {
                Ok(configs) => {
                    info!("read the new certificate in `{}`", self.files.cert.display());
                    loaded.configs = configs;
                }
                Err(error) => warn!(
                    "the changed TLS files cannot be used, going on with the old ones: {}",
                    chain(&error)
                ),
            }
        }
        loaded.configs.clone()
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    let of = |path: &Path| fs::metadata(path).ok().map(|metadata| FileStamp::of(&metadata));
    Some([of(&files.ca)?, of(&files.cert)?, of(&files.key)?])
}

impl FileStamp {
    fn of(metadata: &Metadata) -> FileStamp {
        FileStamp {
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn read(files: &TlsFiles) -> Result<Configs, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(read_authorities(&files.ca)?);
    let chain = read_certificates(&files.cert)?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|source| pem_error(&files.key, source))?;
    // A listener would refuse this process: better told here than by the other end.
    identity_in(&files.cert, &chain[0])?;
    let pair_error =
        |source| TlsError::Pair { cert: files.cert.clone(), key: files.key.clone(), source };
    let mut server = server_builder(&provider, Arc::clone(&roots), &files.ca)?
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(pair_error)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Settings { source })?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(pair_error)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Configs { client: Arc::new(client), server: Arc::new(server) })
}

/// Whom the first certificate of a file was issued for.
pub(super) fn identity(path: &Path) -> Result<Identity, TlsError> {
    identity_in(path, &read_certificates(path)?[0])
}

fn identity_in(path: &Path, certificate: &CertificateDer<'_>) -> Result<Identity, TlsError> {
    Identity::of_certificate(certificate)
        .map_err(|source| TlsError::Identity { path: path.to_owned(), source })
}

type ServerBuilder = rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>;

fn server_builder(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    ca: &Path,
) -> Result<ServerBuilder, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
        .build()
        .map_err(|error| TlsError::Authority {
            path: ca.to_owned(),
            source: rustls::Error::General(error.to_string()),
        })?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Settings { source })?;
    Ok(builder.with_client_cert_verifier(verifier))
}

fn read_authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in read_certificates(path)? {
        roots
            .add(authority)
            .map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

/// At least one.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| pem_error(path, source))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

fn pem_error(path: &Path, error: pem::Error) -> TlsError {
    let path = path.to_owned();
    match error {
        pem::Error::Io(source) => TlsError::Read { path, source },
        source => TlsError::Pem { path, source },
    }
}
