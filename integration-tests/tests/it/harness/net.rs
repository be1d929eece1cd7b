//! The proxy does to connections what its weather says.

use std::net::SocketAddr;
use std::time::Duration;

use pgconvoy_integration_tests::net::{Proxy, Weather};
use pgconvoy_integration_tests::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

async fn say(stream: &mut TcpStream, word: &[u8; 4]) -> Option<[u8; 4]> {
    stream.write_all(word).await.ok()?;
    hear(stream).await
}

/// The next four bytes, if they come soon.
async fn hear(stream: &mut TcpStream) -> Option<[u8; 4]> {
    let mut heard = [0; 4];
    let read = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut heard));
    read.await.ok()?.ok().map(|_| heard)
}

#[tokio::test]
async fn bytes_pass_in_clear_weather_and_after_a_delay() {
    let proxy = Proxy::to(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut stream, b"ping").await.as_ref(), Some(b"ping"));
    proxy.set(Weather::Delay(Duration::from_millis(20)));
    let before = std::time::Instant::now();
    assert_eq!(say(&mut stream, b"slow").await.as_ref(), Some(b"slow"));
    assert!(before.elapsed() >= Duration::from_millis(40), "there and back");
}

#[tokio::test]
async fn a_stall_holds_bytes_and_loses_none() {
    let proxy = Proxy::to(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.set(Weather::Stalled);
    assert_eq!(say(&mut stream, b"held").await, None);
    proxy.set(Weather::Clear);
    assert_eq!(hear(&mut stream).await.as_ref(), Some(b"held"));
}

#[tokio::test]
async fn a_black_hole_swallows_and_its_connections_do_not_come_back() {
    let proxy = Proxy::to(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.set(Weather::BlackHole);
    assert_eq!(say(&mut stream, b"lost").await, None);
    proxy.set(Weather::Clear);
    assert_eq!(say(&mut stream, b"ping").await, None);
    let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut fresh, b"ping").await.as_ref(), Some(b"ping"));
}

#[tokio::test]
async fn a_cut_closes_what_is_open_and_refusing_lets_nobody_in() {
    let proxy = Proxy::to(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut stream, b"ping").await.as_ref(), Some(b"ping"));
    proxy.cut();
    wait::until(Duration::from_secs(5), "the connection to go", async || {
        match proxy.connections() {
            0 => Ok(()),
            open => Err(format!("{open} open")),
        }
    })
    .await
    .unwrap();
    assert_eq!(say(&mut stream, b"ping").await, None);
    proxy.set(Weather::Refusing);
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut refused, b"ping").await, None);
}

#[tokio::test]
async fn what_is_forgotten_stays_open_for_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::to(listener.local_addr().unwrap()).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"ping").await.unwrap();
    assert_eq!(hear(&mut client).await.as_ref(), Some(b"ping"));
    proxy.forget();
    assert_eq!(client.read(&mut [0; 4]).await.unwrap_or(0), 0, "the client sees its end");
    let waits = tokio::time::timeout(Duration::from_millis(300), server.read_u8()).await;
    assert!(waits.is_err(), "the server sees nothing: {waits:?}");
}

#[tokio::test]
async fn traps_hold_what_is_said_and_lose_what_is_answered() {
    let proxy = Proxy::to(echo().await).await.unwrap();
    let held = proxy.hold_at(b"hold", 1);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(say(&mut stream, b"ping").await.as_ref(), Some(b"ping"));
    assert_eq!(say(&mut stream, b"hold").await, None);
    held.open();
    assert_eq!(hear(&mut stream).await.as_ref(), Some(b"hold"));

    let lost = proxy.lose_answers_to(b"lose", 1);
    assert_eq!(say(&mut stream, b"lose").await, None);
    assert_eq!((held.caught(), lost.caught()), (1, 1));
    assert_eq!(stream.read(&mut [0; 4]).await.unwrap_or(0), 0, "and its connection is gone");
}
