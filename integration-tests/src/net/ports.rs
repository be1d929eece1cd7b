//! Ports for processes that are yet to listen.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::bail;

/// Below those that the kernel gives to whoever asks for any: a port of ours is free until its process takes it, and on a
/// busy machine somebody's outgoing connection would have it by then.
const PORTS: Range<u16> = 10_000..30_000;

/// Keep other tests, each a process, from the ports that this one chose: all of them ask for the same number's datagrams first.
static HELD: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

/// Two addresses that nobody listens on, and that no other test will choose as long as this process lasts.
pub(crate) fn free_pair() -> anyhow::Result<[SocketAddr; 2]> {
    let [one, other] = find_pair()?;
    HELD.lock().unwrap_or_else(PoisonError::into_inner).extend([one.1, other.1]);
    Ok([one.0, other.0])
}

/// Two addresses of the network that the calling thread is in, and what holds them.
pub(super) fn find_pair() -> anyhow::Result<[(SocketAddr, UdpSocket); 2]> {
    let mut found = (0..200).filter_map(|_| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(PORTS)));
        let held = UdpSocket::bind(address).ok()?;
        TcpListener::bind(address).ok()?;
        Some((address, held))
    });
    match (found.next(), found.next()) {
        (Some(one), Some(other)) => Ok([one, other]),
        _ => bail!("no free ports were found in {PORTS:?}"),
    }
}
