//! What a test may ask of its server.

use super::{Disk, Major, Regression};
use crate::net::Namespace;

/// How a throw-away server is set up. The default is quick and forgets everything in a crash of the machine, though
/// not of the server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub(super) major: Option<Major>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) tls: Tls,
    pub(super) fsync: bool,
    pub(super) disk: Option<Disk>,
    pub(super) network: Option<Namespace>,
    pub(super) regression: Option<Regression>,
}

/// Whether the server speaks TLS over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tls {
    /// Plain text only.
    #[default]
    Off,
    /// TLS for those who ask for it.
    Offered,
    /// TLS only.
    Required,
    /// TLS only, and with a certificate from the server's authority whose common name is the role's name.
    ClientCertificate,
}

impl Options {
    /// A server of this version instead of the usual one.
    pub fn major(mut self, major: Major) -> Self {
        self.major = Some(major);
        self
    }

    /// A setting of postgresql.conf; the last one of a name wins.
    pub fn setting(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// TLS as given.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// With `fsync`, for tests that are about what a crash leaves.
    pub fn durable(mut self) -> Self {
        self.fsync = true;
        self
    }

    /// With a small disk of its own besides, at [`Postgres::disk`](super::Postgres::disk), that can be full.
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disk = Some(disk);
        self
    }

    /// In a network of its own: over TCP only processes there reach it. The test does by the Unix socket.
    pub fn inside(mut self, network: &Namespace) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// With the database that PostgreSQL's own tests leave behind; of the version they belong to.
    pub fn regression(mut self, regression: Regression) -> Self {
        self.regression = Some(regression);
        self
    }

    /// The text of the settings, those of the test last.
    pub(super) fn configuration(&self) -> String {
        let switch = |on: bool| if on { "on" } else { "off" };
        let mut settings = vec![
            ("fsync", switch(self.fsync).to_owned()),
            ("full_page_writes", switch(self.fsync).to_owned()),
            ("wal_level", "logical".to_owned()),
            ("max_connections", "200".to_owned()),
            ("max_wal_senders", "20".to_owned()),
            ("max_replication_slots", "20".to_owned()),
            ("max_prepared_transactions", "10".to_owned()),
            ("shared_buffers", "64MB".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("log_line_prefix", "%m [%p] %q%u@%d %a ".to_owned()),
            ("ssl", switch(self.tls != Tls::Off).to_owned()),
        ];
        settings.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        settings
            .iter()
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect()
    }

    /// Who may come in: by the socket always with a password, over TCP as the TLS option tells.
    pub(super) fn access(&self) -> &'static str {
        match self.tls {
            Tls::Off | Tls::Offered => {
                "local all all scram-sha-256\nlocal replication all scram-sha-256\n\
                 host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n"
            }
            Tls::Required => {
                "local all all scram-sha-256\nlocal replication all scram-sha-256\n\
                 hostssl all all 127.0.0.1/32 scram-sha-256\n\
                 hostssl replication all 127.0.0.1/32 scram-sha-256\n"
            }
            Tls::ClientCertificate => {
                "local all all scram-sha-256\nlocal replication all scram-sha-256\n\
                 hostssl all all 127.0.0.1/32 cert\nhostssl replication all 127.0.0.1/32 cert\n"
            }
        }
    }
}
