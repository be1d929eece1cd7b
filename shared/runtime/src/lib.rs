//! Plumbing every pgconvoy process needs, and nothing that knows what the process is for.
//!
//! Reading order: [`tls`] (who may speak to whom, and how one knows), [`memory`] (the same without
//! a network), [`tasks`] and [`shutdown`] (how work starts and how it ends), [`telemetry`] (what
//! may be said about it).
//!
//! What is absent: the domain. It is in `pgconvoy-shared`, and pure.

pub mod build_info;
pub mod certs;
pub mod clock;
mod connection;
pub mod http;
pub mod memory;
pub mod shutdown;
pub mod signals;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod unix_socket;

/// Makes ring the cryptography of this process; may be called any number of times.
///
/// Our own TLS names its provider and needs none of this. Libraries that build a rustls
/// configuration by themselves take the process default, and panic without one.
pub fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Refused only when another thread has just installed it: what we want is there then.
        let _lost_the_race = rustls::crypto::ring::default_provider().install_default();
    }
}
