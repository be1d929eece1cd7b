//! The HTTP listener of a process: metrics and health for machines, one page for people.
//!
//! On loopback it speaks plain text, so that a probe or a browser on the same machine needs no
//! certificate; elsewhere it is protected as the process's gRPC is.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::build_info;
use crate::tls::{Connection, Listener, Security, TlsError};

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a process says of itself.
pub trait Probed: Send + Sync + 'static {
    /// What it is: `coordinator node 1`.
    fn name(&self) -> String;

    /// All metrics in the OpenMetrics text form.
    fn metrics(&self) -> impl Future<Output = String> + Send;

    /// An error: restarting the process would help.
    fn health(&self) -> impl Future<Output = Result<(), String>> + Send;

    /// An error: it runs, and cannot do what it is there for now.
    fn readiness(&self) -> Result<(), String>;
}

/// Opens the port.
pub fn bind(
    address: SocketAddr,
    security: &Security,
    insecure_plaintext: bool,
) -> Result<Listener, TlsError> {
    if address.ip().is_loopback() {
        return Listener::bind(address, &Security::Plaintext, false);
    }
    Listener::bind(address, security, insecure_plaintext)
}

/// Answers until `stop`, and ends what it has begun.
pub async fn serve<P: Probed>(
    listener: Listener,
    probed: Arc<P>,
    stop: CancellationToken,
) -> io::Result<()> {
    let local = listener.local_addr();
    let connections = Connections { incoming: Box::pin(listener.incoming()), local };
    axum::serve(connections, routes(probed)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn routes<P: Probed>(probed: Arc<P>) -> Router {
    Router::new()
        .route("/", get(index::<P>))
        .route("/metrics", get(metrics::<P>))
        .route("/healthz", get(healthz::<P>))
        .route("/readyz", get(readyz::<P>))
        .with_state(probed)
}

async fn index<P: Probed>(State(probed): State<Arc<P>>) -> impl IntoResponse {
    Html(format!(
        "<!doctype html><html lang=\"en\"><title>pgconvoy</title><h1>pgconvoy</h1>\
         <p>Version {}, {}.</p>\
         <p><a href=\"/metrics\">metrics</a> · <a href=\"/healthz\">healthz</a> · \
         <a href=\"/readyz\">readyz</a></p></html>\n",
        build_info::describe(),
        probed.name(),
    ))
}

async fn metrics<P: Probed>(State(probed): State<Arc<P>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], probed.metrics().await)
}

async fn healthz<P: Probed>(State(probed): State<Arc<P>>) -> impl IntoResponse {
    answer("ok", probed.health().await)
}

async fn readyz<P: Probed>(State(probed): State<Arc<P>>) -> impl IntoResponse {
    answer("ready", probed.readiness())
}

fn answer(well: &str, state: Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, format!("{well}\n")),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

type Incoming = Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>;

/// Our connections in the form that axum takes.
struct Connections {
    incoming: Incoming,
    local: Option<SocketAddr>,
}

impl axum::serve::Listener for Connections {
    type Io = Connection;
    type Addr = Option<SocketAddr>;

    async fn accept(&mut self) -> (Connection, Option<SocketAddr>) {
        loop {
            match self.incoming.next().await {
                Some(Ok(connection)) => {
                    let address = connection.peer().address;
                    return (connection, address);
                }
                // A listener tells of failed connections in the log, and goes on.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        Ok(self.local)
    }
}
