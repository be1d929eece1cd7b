//! A small certificate authority, for trying mutual TLS out and for clusters that have none.
//!
//! [`init`] makes the authority, [`issue`] a certificate that serves and dials and says who its
//! holder is. Nothing is ever overwritten: an authority made anew by mistake would lock everybody
//! out. Keys are readable by their owner alone from their first byte on.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use crate::tls::{Identity, IdentityError, Role};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_DAYS: u32 = 3650;
const LEAF_DAYS: u32 = 365;

/// Certificates begin this much in the past, for machines whose clock is behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

const AUTHORITY: &str = "ca";
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// The files that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    #[error("`{path}` exists, and nothing is overwritten; remove it first if it is not needed")]
    Exists { path: PathBuf },
    #[error("cannot write `{path}`")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read `{path}`; an authority is made by `certs init`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is not what `certs init` writes")]
    Authority {
        path: PathBuf,
        #[source]
        source: rcgen::Error,
    },
    #[error("the certificate would say nothing useful")]
    Identity(#[from] IdentityError),
    #[error("`ca` is the name of the authority itself")]
    NameTaken,
    #[error("`{host}` is neither a host name nor an IP address")]
    Host { host: String },
    #[error("cannot make the certificate")]
    Make(#[source] rcgen::Error),
}

/// Makes an authority: `ca.crt`, to be given to every process, and `ca.key`, to be kept.
pub fn init(dir: &Path) -> Result<Written, CertsError> {
    let written = Written::named(dir, AUTHORITY);
    written.must_be_new()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named("pgconvoy certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_DAYS);
    let key = KeyPair::generate().map_err(CertsError::Make)?;
    let certificate = params.self_signed(&key).map_err(CertsError::Make)?;
    written.write(&certificate.pem(), &key.serialize_pem())?;
    Ok(written)
}

/// Issues `<name>.crt` and `<name>.key` in `out_dir`. `hosts` are the names and addresses under
/// which the holder may be dialled; one that only dials needs none.
pub fn issue(
    ca_dir: &Path,
    role: Role,
    name: &str,
    hosts: &[String],
    out_dir: &Path,
) -> Result<Written, CertsError> {
    let identity = Identity::new(role, name)?;
    if name == AUTHORITY {
        return Err(CertsError::NameTaken);
    }
    let written = Written::named(out_dir, name);
    written.must_be_new()?;
    let issuer = read_authority(&Written::named(ca_dir, AUTHORITY))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.subject_alt_names = alternative_names(&identity, hosts)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, LEAF_DAYS);
    let key = KeyPair::generate().map_err(CertsError::Make)?;
    let certificate = params.signed_by(&key, &issuer).map_err(CertsError::Make)?;
    written.write(&certificate.pem(), &key.serialize_pem())?;
    Ok(written)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn valid_for(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + DAY * days).into();
}

fn alternative_names(identity: &Identity, hosts: &[String]) -> Result<Vec<SanType>, CertsError> {
    let uri = identity.to_string().try_into().map_err(CertsError::Make)?;
    let mut names = vec![SanType::URI(uri)];
    for host in hosts {
        let unsound = || CertsError::Host { host: host.clone() };
        // What can be dialled and what can be issued are the same set.
        names.push(match rustls_pki_types::ServerName::try_from(host.as_str()) {
            Ok(rustls_pki_types::ServerName::IpAddress(address)) => {
                SanType::IpAddress(std::net::IpAddr::from(address))
            }
            Ok(_) => SanType::DnsName(host.as_str().try_into().map_err(|_| unsound())?),
            Err(_) => return Err(unsound()),
        });
    }
    Ok(names)
}

fn read_authority(files: &Written) -> Result<Issuer<'static, KeyPair>, CertsError> {
    let read = |path: &Path| {
        fs::read_to_string(path)
            .map_err(|source| CertsError::Read { path: path.to_owned(), source })
    };
    let unsound = |path: &Path| {
        let path = path.to_owned();
        |source| CertsError::Authority { path, source }
    };
    let key = KeyPair::from_pem(&read(&files.key)?).map_err(unsound(&files.key))?;
    Issuer::from_ca_cert_pem(&read(&files.cert)?, key).map_err(unsound(&files.cert))
}

impl Written {
    fn named(dir: &Path, name: &str) -> Written {
        Written { cert: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) }
    }

    fn must_be_new(&self) -> Result<(), CertsError> {
        for path in [&self.cert, &self.key] {
            if fs::symlink_metadata(path).is_ok() {
                return Err(CertsError::Exists { path: path.clone() });
            }
        }
        Ok(())
    }

    /// The key first: a certificate is never there without it.
    fn write(&self, certificate: &str, key: &str) -> Result<(), CertsError> {
        if let Some(dir) = self.key.parent() {
            fs::create_dir_all(dir)
                .map_err(|source| CertsError::Write { path: dir.to_owned(), source })?;
        }
        write_new(&self.key, KEY_MODE, key)?;
        write_new(&self.cert, CERTIFICATE_MODE, certificate)
    }
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), CertsError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CertsError::Exists { path: path.to_owned() },
        _ => CertsError::Write { path: path.to_owned(), source },
    })
}
