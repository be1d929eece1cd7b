//! Certificates for a throw-away server: an authority of its own, the server's certificate, and one for a role.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::spawn::Account;

/// Files that a client needs to speak TLS with the server.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority: libpq's `sslrootcert`.
    pub authority: PathBuf,
    /// A client certificate of the superuser: `sslcert`.
    pub client: PathBuf,
    /// Its key: `sslkey`.
    pub client_key: PathBuf,
    pub(super) server: PathBuf,
    pub(super) server_key: PathBuf,
}

/// Writes all files into a new folder.
pub(super) fn make(
    folder: &Path,
    role: &str,
    account: Option<&Account>,
) -> anyhow::Result<Certificates> {
    std::fs::create_dir(folder)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority for one test");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let files = Certificates {
        authority: folder.join("authority.crt"),
        client: folder.join("client.crt"),
        client_key: folder.join("client.key"),
        server: folder.join("server.crt"),
        server_key: folder.join("server.key"),
    };
    std::fs::write(&files.authority, authority.pem())?;

    let key = KeyPair::generate()?;
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    std::fs::write(&files.server, certificate.pem())?;
    write_key(&files.server_key, &key)?;

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, role);
    let certificate = params.signed_by(&key, &authority)?;
    std::fs::write(&files.client, certificate.pem())?;
    write_key(&files.client_key, &key)?;

    if let Some(account) = account {
        account.own(&files.server_key)?;
    }
    Ok(files)
}

/// PostgreSQL and libpq refuse keys that others may read.
fn write_key(path: &Path, key: &KeyPair) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.serialize_pem().as_bytes())?;
    Ok(())
}
