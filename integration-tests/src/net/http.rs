//! A page of a process: status and text.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Namespace;

/// Gets a page over HTTP, from within the process's network; none = the test's own.
pub async fn page(
    network: Option<&Namespace>,
    address: SocketAddr,
    path: &str,
) -> anyhow::Result<(u16, String)> {
    let mut stream = match network {
        Some(network) => network.socket()?.connect(address).await?,
        None => TcpStream::connect(address).await?,
    };
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok((status.with_context(|| format!("no status: {head}"))?, body.to_owned()))
}
