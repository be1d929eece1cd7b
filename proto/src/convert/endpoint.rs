//! Where a database is.

use pgconvoy_shared::endpoint::{Endpoint, SslMode};

use super::{WireError, non_empty, optional_enum, wire_enum};
use crate::v1;

wire_enum!(SslMode { Disable, Allow, Prefer, Require, VerifyCa, VerifyFull });

const PORT_DEFAULT: u16 = 5432;

impl From<Endpoint> for v1::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            host: endpoint.host,
            port: endpoint.port.into(),
            database: endpoint.database,
            user: endpoint.user,
            sslmode: v1::SslMode::from(endpoint.sslmode).into(),
            sslrootcert: endpoint.sslrootcert.unwrap_or_default(),
            sslcert: endpoint.sslcert.unwrap_or_default(),
            sslkey: endpoint.sslkey.unwrap_or_default(),
            connect_timeout_secs: endpoint.connect_timeout_secs,
            settings: endpoint.settings.into_iter().collect(),
            site: endpoint.site.unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = WireError;
    fn try_from(wire: v1::Endpoint) -> Result<Self, WireError> {
        let port = match wire.port {
            0 => PORT_DEFAULT,
            // 0 is no port, so the check of the specification refuses what is out of range.
            port => u16::try_from(port).unwrap_or(0),
        };
        Ok(Self {
            host: wire.host,
            port,
            database: wire.database,
            user: wire.user,
            sslmode: optional_enum(wire.sslmode, "sslmode")?.unwrap_or_default(),
            sslrootcert: non_empty(wire.sslrootcert),
            sslcert: non_empty(wire.sslcert),
            sslkey: non_empty(wire.sslkey),
            connect_timeout_secs: wire.connect_timeout_secs,
            settings: wire.settings.into_iter().collect(),
            site: non_empty(wire.site),
        })
    }
}
