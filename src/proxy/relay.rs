//! Relays bytes in both directions, until both sides have ended, one is broken, or nothing has
//! moved for the idle timeout.
use super::ended::EndedBy;
use super::transfer::{Transfer, Watchdog};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

/// Relays between two streams, and passes half-closes on. Returns who ended it.
pub(super) async fn run<A, B>(agent: A, upstream: B, transfer: &Transfer, idle: Duration) -> EndedBy
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    transfer.touch();
    let (agent_read, agent_write) = tokio::io::split(agent);
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let sent = |bytes| {
        transfer.count_request(bytes);
        transfer.touch();
    };
    let received = |bytes| transfer.count_response(bytes);
    let both = async {
        let up = async { pump(agent_read, upstream_write, sent).await.map_err(|error| (EndedBy::Agent, error)) };
        let down =
            async { pump(upstream_read, agent_write, received).await.map_err(|error| (broken_by(&error), error)) };
        tokio::try_join!(up, down)
    };
    tokio::select! {
        ended = both => match ended {
            Ok(_) => EndedBy::Whole,
            Err((by, error)) => {
                tracing::debug!(%error, "a relayed connection broke");
                by
            }
        },
        () = Watchdog::new(idle).expired(transfer) => {
            tracing::debug!("a relayed connection was closed: nothing moved for the idle timeout");
            EndedBy::Timeout
        }
    }
}

/// Who ended a connection to an upstream on which reading has failed.
fn broken_by(error: &io::Error) -> EndedBy {
    if error.kind() == io::ErrorKind::ConnectionAborted { EndedBy::Trust } else { EndedBy::Upstream }
}

/// Relays one direction, and reports the bytes that have moved. It fails only if reading fails:
/// then nothing more will arrive, and the other side must learn of it. A failure to write ends this
/// direction alone, because what the same side sent before may still be delivered.
async fn pump<R, W>(mut from: ReadHalf<R>, mut to: WriteHalf<W>, moved: impl Fn(usize)) -> io::Result<()>
where
    R: AsyncRead,
    W: AsyncWrite,
{
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        moved(0);
        let forwarded = forward(&mut to, &buffer[..read]).await;
        moved(if forwarded.is_ok() { read } else { 0 });
        if let Err(error) = &forwarded {
            tracing::debug!(%error, "a relayed connection accepts no more data");
        }
        if read == 0 || forwarded.is_err() {
            return Ok(());
        }
    }
}

/// Writes what was read to the other side. An empty slice stands for the end of the stream.
async fn forward<W: AsyncWrite>(to: &mut WriteHalf<W>, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return to.shutdown().await;
    }
    to.write_all(bytes).await?;
    // A TLS stream may buffer bytes until it is flushed.
    to.flush().await
}
