//! Who a certificate says its holder is.
//!
//! The subject alternative names of a certificate hold one URI, `pgconvoy://<role>/<name>`. Host
//! names tell where a process may be dialled; the identity tells what it may do, wherever it runs.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

const SCHEME: &str = "pgconvoy://";

/// A name becomes part of a URI and of file names: what it may hold needs no quoting in either.
const NAME_BYTES_MAX: usize = 63;

/// What a certificate's holder is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A node of the coordinator cluster.
    Coordinator,
    /// A process that runs units.
    Agent,
    /// A user, or what acts for one.
    Client,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Coordinator, Role::Agent, Role::Client];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Coordinator => "coordinator",
            Role::Agent => "agent",
            Role::Client => "client",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Role, IdentityError> {
        Role::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| IdentityError::Role { role: text.to_owned() })
    }
}

/// A role and a name, proved by a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub role: Role,
    pub name: String,
}

/// Why something is no identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    #[error("`{role}` is no role; the roles are coordinator, agent and client")]
    Role { role: String },
    #[error(
        "`{name}` is no name; write 1 to 63 of a-z A-Z 0-9 . _ -, beginning with a letter or digit"
    )]
    Name { name: String },
    #[error("`{uri}` is no identity; it has the form pgconvoy://role/name")]
    Uri { uri: String },
    #[error("it does not say who its holder is (no pgconvoy:// URI among its alternative names)")]
    None,
    #[error("it names more than one holder: {first} and {second}")]
    Several { first: Identity, second: Identity },
    #[error("it is no X.509 certificate")]
    Malformed,
}

impl Identity {
    pub fn new(role: Role, name: &str) -> Result<Identity, IdentityError> {
        let sound = name.len() <= NAME_BYTES_MAX
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if sound {
            Ok(Identity { role, name: name.to_owned() })
        } else {
            Err(IdentityError::Name { name: name.to_owned() })
        }
    }

    /// The identity a certificate was issued for. Says nothing about who issued it.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Identity, IdentityError> {
        let (_, certificate) =
            parse_x509_certificate(certificate).map_err(|_| IdentityError::Malformed)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| IdentityError::Malformed)?
            .ok_or(IdentityError::None)?;
        let mut identities = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(uri.parse::<Identity>()),
            _ => None,
        });
        let first = identities.next().ok_or(IdentityError::None)??;
        match identities.next() {
            None => Ok(first),
            Some(second) => Err(IdentityError::Several { first, second: second? }),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.role, self.name)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Identity, IdentityError> {
        let (role, name) = uri
            .strip_prefix(SCHEME)
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(|| IdentityError::Uri { uri: uri.to_owned() })?;
        Identity::new(role.parse()?, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_what_it_shows() {
        for role in Role::ALL {
            let identity = Identity::new(role, "dc1.node-3").unwrap();
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        let refused = |uri: &str| uri.parse::<Identity>().unwrap_err();
        assert!(matches!(refused("spiffe://agent/a"), IdentityError::Uri { .. }));
        assert!(matches!(refused("pgconvoy://agent"), IdentityError::Uri { .. }));
        assert!(matches!(refused("pgconvoy://admin/a"), IdentityError::Role { .. }));
        for name in ["", "a/b", "..", "-a", "a b", "ä", &"a".repeat(64)] {
            let uri = format!("pgconvoy://agent/{name}");
            assert_eq!(refused(&uri), IdentityError::Name { name: name.to_owned() }, "{uri}");
        }
    }
}
