//! TLS towards PostgreSQL servers, with libpq's meanings of `sslmode`.
//!
//! - `prefer`, `allow`, `require` without a root certificate: encrypted, the server's certificate not looked at. That
//!   keeps out listeners, not impostors; `require` *with* a root certificate checks like `verify-ca`, as in libpq.
//! - `verify-ca`: the chain must end in the root certificate; whose host it names does not matter.
//! - `verify-full`: and it must be for this host, by its subject alternative names. (libpq also takes the common name of
//!   old certificates; rustls does not, and neither do browsers.)
//!
//! A server certificate that itself stands in the root file is trusted, which is how self-signed servers are set up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use pgconvoy_shared::endpoint::{Endpoint, SslMode};
use sha2::Digest;

use super::error::PgError;

/// Where systems keep the certificates they trust: what `sslrootcert=system` means.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The configuration for one connection. Files are read each time, so that replaced certificates are used at once.
pub(super) fn client_config(endpoint: &Endpoint) -> Result<ClientConfig, PgError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(endpoint, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| PgError::TlsSettings { source })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match (&endpoint.sslcert, &endpoint.sslkey) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let chain = certificates(Path::new(certificate))?;
            let key = private_key(Path::new(key))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|source| PgError::TlsSettings { source })
        }
        (Some(path), None) | (None, Some(path)) => Err(PgError::TlsFile {
            path: PathBuf::from(path),
            problem: "sslcert and sslkey must be given together".to_owned(),
        }),
    }
}

/// The name that the handshake asks for, and that `verify-full` checks.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, PgError> {
    ServerName::try_from(host.to_owned()).map_err(|_| PgError::TlsHost { host: host.to_owned() })
}

fn verifier(
    endpoint: &Endpoint,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, PgError> {
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let check_name = match (endpoint.sslmode, &endpoint.sslrootcert) {
        (SslMode::VerifyFull, _) => true,
        (SslMode::VerifyCa, _) | (SslMode::Require, Some(_)) => false,
        (SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require, _) => {
            return Ok(Arc::new(Unverified { schemes }));
        }
    };
    let roots = roots(endpoint.sslrootcert.as_deref())?;
    let mut store = RootCertStore::empty();
    // A bundle may hold certificates that rustls cannot use; what is left must not be nothing.
    let (added, _unusable) = store.add_parsable_certificates(roots.iter().cloned());
    if added == 0 {
        return Err(PgError::TlsFile {
            path: endpoint.sslrootcert.clone().unwrap_or_default().into(),
            problem: "it holds no usable root certificate".to_owned(),
        });
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
        .build()
        .map_err(|error| PgError::TlsSettings { source: Error::General(error.to_string()) })?;
    Ok(Arc::new(Verified { inner, roots, check_name }))
}

fn roots(file: Option<&str>) -> Result<Vec<CertificateDer<'static>>, PgError> {
    match file {
        Some("system") => SYSTEM_ROOTS
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
            .ok_or_else(|| PgError::TlsFile {
                path: "system".into(),
                problem: format!("none of {} exists", SYSTEM_ROOTS.join(", ")),
            })
            .and_then(certificates),
        Some(file) => certificates(Path::new(file)),
        None => Err(PgError::TlsFile {
            path: PathBuf::new(),
            problem: "sslmode verify-ca and verify-full need sslrootcert (a file, or `system`)"
                .to_owned(),
        }),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PgError> {
    let bad = |problem: String| PgError::TlsFile { path: path.to_owned(), problem };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| bad(error.to_string()))?;
    if found.is_empty() { Err(bad("it holds no certificate".to_owned())) } else { Ok(found) }
}

/// PKCS#8, PKCS#1 (RSA) or SEC1 (EC), unencrypted.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PgError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| PgError::TlsFile {
        path: path.to_owned(),
        problem: format!("no unencrypted private key in it: {error}"),
    })
}

/// `tls-server-end-point` (RFC 5929): ties a SCRAM login to this very TLS connection. None where the certificate's
/// signature names no hash (Ed25519): the login goes on without.
pub(super) fn channel_binding(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let der = certificate.as_ref();
    match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        // MD5 and SHA-1, with RSA or ECDSA, are replaced by SHA-256.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => {
            Some(sha2::Sha256::digest(der).to_vec())
        }
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => Some(sha2::Sha256::digest(der).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(sha2::Sha384::digest(der).to_vec()),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(sha2::Sha512::digest(der).to_vec()),
        _ => None,
    }
}

/// Checks the chain, and the name if asked to.
#[derive(Debug)]
struct Verified {
    inner: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
    check_name: bool,
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            if self.check_name {
                rustls::client::verify_server_name(
                    &ParsedCertificate::try_from(end_entity)?,
                    name,
                )?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is looked at last, after the chain was found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            answer => answer,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes any certificate. A signature by a key that nobody vouches for proves nothing, so it is not looked at either;
/// that also lets in the version 1 certificates that old recipes make.
#[derive(Debug)]
struct Unverified {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
