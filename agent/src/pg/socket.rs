//! A TCP socket that can be laid aside.
//!
//! The runtime waits for all sockets at once, and whatever arrives at any of them wakes it up, whether somebody reads there or
//! not. A server that sends many small messages, each by itself, so costs both sides a switch of processes for each. Who
//! knows that it will not read for a moment lays the socket aside: what arrives meanwhile stays in the kernel's
//! buffer and wakes nobody. The next read or write takes the socket up again.

use std::io;
use std::net;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// See the module.
#[derive(Debug)]
pub(super) struct Socket(State);

#[derive(Debug)]
enum State {
    /// The runtime waits for it.
    Attended(TcpStream),
    /// Nobody does.
    Aside(net::TcpStream),
    /// It could not be taken up again.
    Lost,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(State::Attended(stream))
    }

    /// Until the next read or write nobody is woken by it.
    pub(super) fn lay_aside(&mut self) -> io::Result<()> {
        self.0 = match std::mem::replace(&mut self.0, State::Lost) {
            State::Attended(stream) => State::Aside(stream.into_std()?),
            state @ (State::Aside(_) | State::Lost) => state,
        };
        Ok(())
    }

    fn attended(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let State::Aside(_) = self.0
            && let State::Aside(stream) = std::mem::replace(&mut self.0, State::Lost)
        {
            self.0 = State::Attended(TcpStream::from_std(stream)?);
        }
        match &mut self.0 {
            State::Attended(stream) => Ok(Pin::new(stream)),
            State::Aside(_) | State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.attended()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.attended()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attended()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attended()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_came_while_it_lay_aside_is_read_and_so_is_what_comes_later() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        let (mut near, mut far) = (Socket::new(near.unwrap()), far.unwrap().0);
        for round in 0..3u8 {
            near.lay_aside().unwrap();
            near.lay_aside().unwrap();
            far.write_all(&[round; 3]).await.unwrap();
            let mut read = [9; 3];
            near.read_exact(&mut read).await.unwrap();
            assert_eq!(read, [round; 3]);

            near.lay_aside().unwrap();
            near.write_all(&[round]).await.unwrap();
            assert_eq!(far.read_u8().await.unwrap(), round);
            // It is attended again: what comes now wakes who waits.
            let (read, written) =
                tokio::join!(biased; near.read_u8(), async { far.write_all(&[round]).await });
            written.unwrap();
            assert_eq!(read.unwrap(), round);
        }
        drop(far);
        near.lay_aside().unwrap();
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0, "the other side has closed it");
    }
}
