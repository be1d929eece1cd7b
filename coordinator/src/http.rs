//! The HTTP listener: metrics and health for machines, one page for people.
//!
//! On loopback it speaks plain text, so that a probe or a browser on the same machine needs no
//! certificate; elsewhere it is protected as the node's gRPC is.

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
use pgconvoy_runtime::build_info;
use pgconvoy_runtime::tls::{Connection, Listener, Security, TlsError};
use tokio_util::sync::CancellationToken;

use crate::node::Node;

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Opens the port.
pub(crate) fn bind(
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
pub(crate) async fn serve(
    listener: Listener,
    node: Arc<Node>,
    stop: CancellationToken,
) -> io::Result<()> {
    let local = listener.local_addr();
    let connections = Connections { incoming: Box::pin(listener.incoming()), local };
    axum::serve(connections, routes(node)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn routes(node: Arc<Node>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(node)
}

async fn index(State(node): State<Arc<Node>>) -> impl IntoResponse {
    Html(format!(
        "<!doctype html><html lang=\"en\"><title>pgconvoy</title><h1>pgconvoy</h1>\
         <p>Version {}, coordinator node {}.</p>\
         <p><a href=\"/metrics\">metrics</a> · <a href=\"/healthz\">healthz</a> · \
         <a href=\"/readyz\">readyz</a></p></html>\n",
        build_info::describe(),
        node.id,
    ))
}

async fn metrics(State(node): State<Arc<Node>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], node.metrics.render(&node.reading().await))
}

/// Whether restarting the process would help.
async fn healthz(State(node): State<Arc<Node>>) -> impl IntoResponse {
    match node.health().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

/// Whether calls that come here are answered.
async fn readyz(State(node): State<Arc<Node>>) -> impl IntoResponse {
    match node.readiness() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
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
