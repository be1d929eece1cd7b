//! What a node serves over gRPC.
//!
//! Reading order: [`door`] (who is let in, and which node answers), [`access`] (the table it goes
//! by), then a file for each service. Services parse, propose or read, and answer; they decide
//! nothing. [`error`] says what can go wrong, and `status` alone puts that into gRPC's words.

mod access;
mod agents;
mod cluster;
mod door;
pub(crate) mod error;
mod show;
mod status;
mod tasks;
mod verify;
mod watch;

use std::io;
use std::sync::Arc;

use futures::Stream;
use pgconvoy_proto::DESCRIPTORS;
use pgconvoy_proto::v1::agent_service_server::AgentServiceServer;
use pgconvoy_proto::v1::cluster_service_server::ClusterServiceServer;
use pgconvoy_proto::v1::task_service_server::TaskServiceServer;
use pgconvoy_runtime::tls::{self, Connection};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::node::Node;

/// The largest message taken from outside: a whole specification, or a part of a result.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The largest answer: a list of many tasks, a task with all its tables.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The services cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("the gRPC services ended")]
    Transport(#[from] tonic::transport::Error),
    #[error("the contracts' descriptors cannot be used for reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Answers until `stop`, and ends what it has begun.
pub(crate) async fn serve(
    node: Arc<Node>,
    incoming: impl Stream<Item = io::Result<Connection>> + Send + 'static,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<TaskServiceServer<tasks::Tasks>>().await;
    health.set_serving::<AgentServiceServer<agents::Agents>>().await;
    health.set_serving::<ClusterServiceServer<cluster::Cluster>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut routes = Routes::builder();
    routes
        .add_service(
            TaskServiceServer::new(tasks::Tasks::new(Arc::clone(&node)))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            AgentServiceServer::new(agents::Agents::new(Arc::clone(&node)))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(ClusterServiceServer::new(cluster::Cluster::new(Arc::clone(&node))))
        .add_service(node.raft.raft_service())
        .add_service(health_service)
        .add_service(reflection().build_v1()?);
    let door = door::Door::new(node.seat(), node.dialer.clone());
    tls::server()
        .layer(door)
        .add_routes(routes.routes())
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await?;
    Ok(())
}
