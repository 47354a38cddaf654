//! Where agents connect: TCP ports, and Unix sockets that admit the peers of some uids.
use prometheus::IntCounter;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A listener that agents connect to.
#[derive(Debug)]
pub enum AgentListener {
    /// A TCP port.
    Tcp(std::net::TcpListener),
    /// A Unix socket.
    Unix {
        /// The socket.
        listener: std::os::unix::net::UnixListener,
        /// The uids whose processes may use it.
        uids: Arc<[u32]>,
    },
}

/// A listener of a worker.
pub(super) trait Listen {
    /// What it accepts.
    type Stream: AgentStream;

    /// Accepts the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>>;
}

/// A connection of an agent.
pub(super) trait AgentStream: AsyncRead + AsyncWrite + AsFd + AsRawFd + Unpin + Send + Sized + 'static {
    /// Makes a connection of its descriptor.
    fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self>;

    /// The address by which URLs name the listener.
    fn local(&self) -> io::Result<SocketAddr>;

    /// Sets the options of the socket.
    fn configure(&self) -> io::Result<()>;
}

/// A Unix socket that checks who connects (`SO_PEERCRED`).
pub(super) struct CheckedUnixListener {
    listener: UnixListener,
    uids: Arc<[u32]>,
    refused: IntCounter,
    logged: Cell<Option<Instant>>,
}

impl CheckedUnixListener {
    /// `refused` counts the connections of other uids.
    pub(super) fn new(listener: UnixListener, uids: Arc<[u32]>, refused: IntCounter) -> Self {
        Self { listener, uids, refused, logged: Cell::new(None) }
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        let peer = stream.peer_cred().ok();
        if peer.is_some_and(|peer| self.uids.contains(&peer.uid())) {
            return true;
        }
        self.refused.inc();
        if self.logged.get().is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
            self.logged.set(Some(Instant::now()));
            tracing::warn!(
                uid = peer.map_or(-1, |peer| i64::from(peer.uid())),
                pid = peer.and_then(|peer| peer.pid()).unwrap_or_default(),
                "a process was refused at the Unix socket: `uids` of listen.outbound does not list its uid"
            );
        }
        false
    }
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Listen for CheckedUnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            if self.admits(&stream) {
                return Ok(stream);
            }
        }
    }
}

impl AgentStream for TcpStream {
    fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        Self::from_std(descriptor.into())
    }

    fn local(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    fn configure(&self) -> io::Result<()> {
        self.set_nodelay(true)
    }
}

impl AgentStream for UnixStream {
    fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        Self::from_std(descriptor.into())
    }

    /// Clients that connect to a Unix socket commonly put `localhost` without a port into their
    /// URLs.
    fn local(&self) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, 80).into())
    }

    fn configure(&self) -> io::Result<()> {
        Ok(())
    }
}
