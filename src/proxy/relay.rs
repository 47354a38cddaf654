//! Relays bytes in both directions, until both sides have ended, one is broken, or nothing has
//! moved for the idle timeout.
use std::cell::Cell;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

/// Relays between two streams, and passes half-closes on.
pub(super) async fn run<A, B>(agent: A, upstream: B, idle: Duration)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let moved = Cell::new(Instant::now());
    let (agent_read, agent_write) = tokio::io::split(agent);
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let both = async {
        let up = pump(agent_read, upstream_write, &moved);
        let down = pump(upstream_read, agent_write, &moved);
        tokio::try_join!(up, down)
    };
    let quiet = async {
        while moved.get().elapsed() < idle {
            tokio::time::sleep_until(moved.get() + idle).await;
        }
    };
    tokio::select! {
        ended = both => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a relayed connection broke");
            }
        }
        () = quiet => tracing::debug!("a relayed connection was closed: nothing moved for the idle timeout"),
    }
}

/// Relays one direction. It fails only if reading fails: then nothing more will arrive, and the
/// other side must learn of it. A failure to write ends this direction alone, because what the same
/// side sent before may still be delivered.
async fn pump<R, W>(mut from: ReadHalf<R>, mut to: WriteHalf<W>, moved: &Cell<Instant>) -> std::io::Result<()>
where
    R: AsyncRead,
    W: AsyncWrite,
{
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        moved.set(Instant::now());
        let forwarded = forward(&mut to, &buffer[..read]).await;
        moved.set(Instant::now());
        if let Err(error) = &forwarded {
            tracing::debug!(%error, "a relayed connection accepts no more data");
        }
        if read == 0 || forwarded.is_err() {
            return Ok(());
        }
    }
}

/// Writes what was read to the other side. An empty slice stands for the end of the stream.
async fn forward<W: AsyncWrite>(to: &mut WriteHalf<W>, bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() {
        return to.shutdown().await;
    }
    to.write_all(bytes).await?;
    // A TLS stream may buffer bytes until it is flushed.
    to.flush().await
}
