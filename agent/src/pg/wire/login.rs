//! Login: startup message, and the password in whatever form the server asks for.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::super::access::later_settings;
use super::super::transport::Patience;
use super::*;

impl Access {
    /// Logs our own client in, for reading rows.
    pub(crate) async fn reader(&self) -> Result<Wire, PgError> {
        self.wire(Patience::Short).await
    }

    /// Logs our own client in, for writing rows.
    pub(crate) async fn writer(&self) -> Result<Wire, PgError> {
        self.wire(Patience::Long).await
    }

    /// Logs our own client in, for reading the log.
    pub(super) async fn log_reader(&self) -> Result<Wire, PgError> {
        let patience = Patience::Short;
        self.connect(patience, |transport| {
            self.log_wire_in(transport, patience, Protocol::Replication)
        })
        .await
    }

    async fn wire(&self, patience: Patience) -> Result<Wire, PgError> {
        self.connect(patience, |transport| self.log_wire_in(transport, patience, Protocol::Sql))
            .await
    }

    async fn log_wire_in(
        &self,
        transport: Transport,
        patience: Patience,
        protocol: Protocol,
    ) -> Result<Wire, PgError> {
        let mut wire = Wire {
            access: self.clone(),
            transport,
            patience,
            inbox: BytesMut::new(),
            parameters: BTreeMap::new(),
            key: None,
            state: State::Busy,
            transaction_status: b'I',
            setting: false,
        };
        wire.start_up(protocol).await?;
        wire.authenticate().await?;
        wire.wait_until_ready().await?;
        wire.set(later_settings(wire.major()?)).await?;
        Ok(wire)
    }
}

/// What a session understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// SQL.
    Sql,
    /// Commands of replication besides.
    Replication,
}

impl Wire {
    async fn start_up(&mut self, protocol: Protocol) -> Result<(), PgError> {
        let endpoint = self.access.endpoint();
        let options = self.access.startup_options();
        let replication = match protocol {
            Protocol::Sql => None,
            // Within a database, for logical decoding.
            Protocol::Replication => Some(("replication", "database")),
        };
        let parameters = [
            ("user", endpoint.user.as_str()),
            ("database", &endpoint.database),
            ("client_encoding", "UTF8"),
            ("application_name", self.access.application_name()),
            ("options", &options),
        ];
        let parameters = parameters.into_iter().chain(replication);
        let mut message = BytesMut::new();
        frontend::startup_message(parameters, &mut message)
            .map_err(|_| PgError::protocol("a setting with a zero byte in it"))?;
        self.send(&message).await
    }

    async fn authenticate(&mut self) -> Result<(), PgError> {
        loop {
            match self.message().await? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    let password = self.password()?;
                    self.answer(password.as_bytes()).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let user = self.access.endpoint().user.clone();
                    let hash = md5_hash(user.as_bytes(), self.password()?.as_bytes(), body.salt());
                    self.answer(hash.as_bytes()).await?;
                }
                Message::AuthenticationSasl(body) => self.scram(&body).await?,
                Message::ErrorResponse(body) => {
                    return Err(PgError::Server(Box::new(ServerError::parse(&body))));
                }
                Message::AuthenticationGss
                | Message::AuthenticationSspi
                | Message::AuthenticationKerberosV5 => {
                    return Err(PgError::AuthenticationMethod { method: "GSSAPI or SSPI".into() });
                }
                _ => return Err(self.out_of_step("a login")),
            }
        }
    }

    fn password(&self) -> Result<String, PgError> {
        // A copy that lives as long as its message does; the buffers it passes through are not wiped either.
        let password = self.access.password().ok_or(PgError::PasswordMissing)?;
        Ok(password.expose().to_owned())
    }

    async fn answer(&mut self, password: &[u8]) -> Result<(), PgError> {
        let mut message = BytesMut::new();
        frontend::password_message(password, &mut message)
            .map_err(|_| PgError::protocol("a password with a zero byte in it"))?;
        self.send(&message).await
    }

    /// SCRAM-SHA-256, bound to the TLS connection where both ends can.
    async fn scram(&mut self, offer: &AuthenticationSaslBody) -> Result<(), PgError> {
        let offered: Vec<&str> = offer
            .mechanisms()
            .collect()
            .map_err(|_| PgError::protocol("a malformed list of login methods"))?;
        let binding = self.transport.channel_binding().map(<[u8]>::to_vec);
        let (mechanism, binding) = match binding {
            Some(hash) if offered.contains(&SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash))
            }
            // We could have, and say so: a man in the middle who took PLUS out of the list is found out.
            Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        if !offered.contains(&mechanism) {
            return Err(PgError::AuthenticationMethod { method: offered.join(", ") });
        }
        let mut scram = ScramSha256::new(self.password()?.as_bytes(), binding);
        let mut message = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut message)
            .map_err(|source| PgError::ServerNotProven { source })?;
        self.send(&message).await?;

        match self.message().await? {
            Message::AuthenticationSaslContinue(body) => {
                scram.update(body.data()).map_err(|source| PgError::ServerNotProven { source })?
            }
            Message::ErrorResponse(body) => {
                return Err(PgError::Server(Box::new(ServerError::parse(&body))));
            }
            _ => return Err(self.out_of_step("a login")),
        }
        message.clear();
        frontend::sasl_response(scram.message(), &mut message)
            .map_err(|source| PgError::ServerNotProven { source })?;
        self.send(&message).await?;

        match self.message().await? {
            Message::AuthenticationSaslFinal(body) => {
                scram.finish(body.data()).map_err(|source| PgError::ServerNotProven { source })
            }
            Message::ErrorResponse(body) => {
                Err(PgError::Server(Box::new(ServerError::parse(&body))))
            }
            _ => Err(self.out_of_step("a login")),
        }
    }

    /// Sends a statement that cannot fail, and does not wait for it: its answer comes before that of the next one.
    async fn set(&mut self, sql: &str) -> Result<(), PgError> {
        if sql.is_empty() {
            return Ok(());
        }
        let mut message = BytesMut::new();
        frontend::query(sql, &mut message).expect("no zero byte in it");
        self.setting = true;
        self.send(&message).await
    }

    async fn wait_until_ready(&mut self) -> Result<(), PgError> {
        loop {
            match self.message().await? {
                Message::BackendKeyData(body) => {
                    self.key = Some(CancelKey {
                        process_id: body.process_id(),
                        secret_key: body.secret_key(),
                    });
                }
                Message::ReadyForQuery(_) => {
                    self.state = State::Idle;
                    return Ok(());
                }
                Message::ErrorResponse(body) => {
                    return Err(PgError::Server(Box::new(ServerError::parse(&body))));
                }
                _ => return Err(self.out_of_step("a login")),
            }
        }
    }
}
