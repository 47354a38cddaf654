//! New connections: the name resolved once, the address checked, then connected to, then TLS.
use super::abortable::Severable;
use super::config::{Key, PeerTls, Protocol};
use super::pool::{Connection, Made, Pool, Stream, Whole};
use super::resolver::Names;
use super::send::SendError;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::policy::Origin;
use crate::proxy::body::RequestBody;
use crate::proxy::downstream::Local;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use std::cell::RefCell;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// Bounds the memory of one connection, and with it the size of a response's head.
pub(crate) const BUFFER: usize = 64 * 1024;

/// Addresses that no request may be sent to, and descriptors that no connection of the agent's traffic may take.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    own: Vec<SocketAddr>,
    kept_from: Option<u64>,
}

impl Guard {
    /// `own`: what this proxy itself listens on. `kept_from`: the first descriptor that is kept for other things.
    pub fn new(own: Vec<SocketAddr>, kept_from: Option<u64>) -> Self {
        Self { own, kept_from }
    }

    /// A connection that leaves alone what is kept: the system hands out the lowest descriptor that is free, so that a high one
    /// says that few are left. Where a lower one has become free since, the connection moves there: else several could come in
    /// for the same one.
    ///
    /// # Errors
    /// The connection, where there is no room for it.
    pub(crate) fn admit(&self, stream: TcpStream) -> Result<TcpStream, TcpStream> {
        match self.kept_from {
            Some(kept) if number(&stream) >= kept => moved_below(kept, stream),
            _ => Ok(stream),
        }
    }

    /// `named`: the configuration names this host, and not the agent alone.
    fn check(&self, host: &str, named: bool, address: SocketAddr) -> Result<(), SendError> {
        let to_us = |own: &SocketAddr| {
            own.port() == address.port()
                && (own.ip() == address.ip() || (own.ip().is_unspecified() && address.ip().is_loopback()))
        };
        if self.own.iter().any(to_us) {
            return Err(SendError::Loop);
        }
        // Cloud metadata services live on link-local addresses: a name may not lead there, only a route that says the address.
        let spelled_out = named && host.parse::<IpAddr>().is_ok();
        if is_link_local(address.ip()) && !spelled_out {
            return Err(SendError::Prohibited(address.ip()));
        }
        Ok(())
    }
}

/// Which addresses one connection may have.
#[derive(Clone, Copy)]
pub(crate) struct Allowed<'g> {
    pub(crate) guard: &'g Guard,
    /// Whether the configuration names the host, and not the agent alone.
    pub(crate) named: bool,
}

#[cfg(unix)]
fn number(socket: &impl std::os::fd::AsRawFd) -> u64 {
    u64::try_from(socket.as_raw_fd()).unwrap_or(0)
}

#[cfg(unix)]
fn moved_below(kept: u64, stream: TcpStream) -> Result<TcpStream, TcpStream> {
    use std::os::fd::AsFd;
    let lowest = stream.as_fd().try_clone_to_owned().ok().filter(|copy| number(copy) < kept);
    lowest.and_then(|lowest| TcpStream::from_std(lowest.into()).ok()).ok_or(stream)
}

#[cfg(not(unix))]
fn number(_: &TcpStream) -> u64 {
    0
}

#[cfg(not(unix))]
fn moved_below(_: u64, stream: TcpStream) -> Result<TcpStream, TcpStream> {
    Err(stream)
}

#[cfg(unix)]
fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    error.raw_os_error().is_some_and(|code| code == Errno::EMFILE as i32 || code == Errno::ENFILE as i32)
}

#[cfg(not(unix))]
fn is_out_of_descriptors(_: &std::io::Error) -> bool {
    false
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => ip.is_link_local(),
            None => (ip.segments()[0] & 0xffc0) == 0xfe80,
        },
    }
}

/// Connects and speaks the protocol that was agreed on.
pub(super) async fn connect(pool: &Rc<Pool>, key: &Arc<Key>, guard: &Guard) -> Result<Connection, SendError> {
    let made = Made { at: Instant::now(), revision: key.revision() };
    // From before the handshake, so that no change of trust is missed.
    let changes = key.tls.as_ref().and_then(|tls| tls.identity.as_ref()).map(Identity::changes);
    let stream = tcp(pool.names(), &key.origin, Allowed { guard, named: key.named }).await?;
    let Some(tls) = &key.tls else {
        let http2 = key.protocol == Protocol::Http2;
        return speak(pool, key, made, TokioIo::new(stream), http2).await;
    };
    let config = if key.protocol == Protocol::Http1 { &tls.http1 } else { &tls.any };
    let name = server_name(&key.origin.host);
    let stream =
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(|error| SendError::tls(&error))?;
    let (_, session) = stream.get_ref();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let chain = session.peer_certificates().map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect());
    let cut = changes.map(|changes| {
        let chain = chain.unwrap_or_default();
        let watched = Watched { tls: Arc::clone(tls), chain, since: tls.clock.now(), changes };
        let (cut, is_cut) = oneshot::channel();
        tokio::task::spawn_local(watched.run(cut));
        is_cut
    });
    speak(pool, key, made, TokioIo::new(Severable::new(stream, cut)), http2).await
}

/// A TCP connection to an origin. Where its name has several addresses, each gets a head start over the next (RFC 8305 §5), so that one
/// that does not answer costs a moment and not the whole deadline.
pub(super) async fn tcp(names: &Rc<Names>, origin: &Origin, allowed: Allowed<'_>) -> Result<TcpStream, SendError> {
    let host = origin.host.trim_start_matches('[').trim_end_matches(']');
    let mut waiting = resolve(names, host, origin.port).await?.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = SendError::Resolve(Arc::new(std::io::Error::other("the name has no address")));
    loop {
        if let Some(address) = waiting.next() {
            allowed.guard.check(host, allowed.named, address)?;
            attempts.push(TcpStream::connect(address));
        } else if attempts.is_empty() {
            return Err(last);
        }
        let more = !waiting.as_slice().is_empty();
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => {
                    let stream = allowed.guard.admit(stream).map_err(|_| SendError::NoDescriptor)?;
                    tune(&stream);
                    return Ok(stream);
                }
                Err(error) if is_out_of_descriptors(&error) => return Err(SendError::NoDescriptor),
                Err(error) => last = SendError::Connect(error),
            },
            // No answer yet: the next address is tried beside this one.
            () = tokio::time::sleep(HEAD_START), if more => {}
        }
    }
}

/// RFC 8305 §8: the recommended connection attempt delay.
const HEAD_START: Duration = Duration::from_millis(250);

/// `localhost` is loopback, whatever a resolver says (RFC 6761 §6.3): plain HTTP is trusted there.
async fn resolve(names: &Rc<Names>, host: &str, port: u16) -> Result<Vec<SocketAddr>, SendError> {
    if host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let found = names.look_up(host).await.map_err(SendError::Resolve)?;
    Ok(found.into_iter().map(|address| (address, port).into()).collect())
}

/// No delay, because requests are small and whole; keep-alive, because a peer that vanished must be noticed.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    if let Err(error) = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive)) {
        tracing::debug!(%error, "a socket option was refused");
    }
}

/// The name for SNI and verification. A SPIFFE peer is judged by its ID and not by this name (X509-SVID §5), so a host that
/// is no DNS name still has one.
pub(super) fn server_name(host: &str) -> ServerName<'static> {
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(bare).unwrap_or_else(|_| ServerName::try_from("invalid.invalid").expect("a DNS name"))
}

/// A live connection whose trust may end before it does.
struct Watched {
    tls: Arc<PeerTls>,
    chain: Vec<CertificateDer<'static>>,
    since: Timestamp,
    changes: watch::Receiver<u64>,
}

async fn speak<I>(
    pool: &Rc<Pool>,
    key: &Arc<Key>,
    made: Made,
    io: TokioIo<I>,
    http2: bool,
) -> Result<Connection, SendError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let live = Live::new(pool);
    if http2 {
        let mut builder = http2::Builder::new(Local);
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .max_header_list_size(64 * 1024)
            // Until the peer has said how many it takes: what is beyond that would wait for others to end.
            .initial_max_send_streams(1);
        let (sender, connection) = builder.handshake(io).await.map_err(SendError::Handshake)?;
        let connection = Rc::new(RefCell::new(Box::pin(connection)));
        // Asked when it matters: nothing is woken here when the peer's settings come.
        let asked = Rc::downgrade(&connection);
        let takes = move || asked.upgrade().map_or(0, |connection| connection.borrow().current_max_send_streams());
        let stream = Stream::new(&pool.share(key, &sender, made, Box::new(takes)));
        let connection = std::future::poll_fn(move |cx| connection.borrow_mut().as_mut().poll(cx));
        tokio::task::spawn_local(run(connection, live));
        return Ok(Connection::Http2(sender, stream));
    }
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake::<_, RequestBody>(io)
        .await
        .map_err(SendError::Handshake)?;
    tokio::task::spawn_local(run(connection.with_upgrades(), live));
    Ok(Connection::Http1(Whole { sender, made, key: Arc::clone(key), pool: Rc::clone(pool) }))
}

/// Drives a connection until it ends.
async fn run(connection: impl Future<Output = hyper::Result<()>>, _live: Live) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to an upstream ended");
    }
}

impl Watched {
    /// Cuts the connection once the authority that vouched for the peer is no longer trusted; ends with it otherwise.
    async fn run(self, mut cut: oneshot::Sender<()>) {
        let reason = tokio::select! {
            () = cut.closed() => return,
            reason = self.distrusted() => reason,
        };
        tracing::warn!(%reason, "a connection to an upstream is closed: its trust has ended");
        // An error means that it has just ended by itself.
        let _ = cut.send(());
    }

    async fn distrusted(mut self) -> String {
        let Some(identity) = self.tls.identity.clone() else { return std::future::pending().await };
        while self.changes.changed().await.is_ok() {
            let Ok(snapshot) = identity.current() else { continue };
            // Judged as of the handshake: a leaf that has aged since only retires the connection, because its owner holds the
            // next one by now; what ends it is that the authority above it is gone.
            if let Err(refused) = crate::tls::recheck(&self.tls.trust, &self.chain, &snapshot, self.since) {
                return refused.to_string();
            }
        }
        std::future::pending().await
    }
}

/// Counts a live connection.
struct Live(Rc<Pool>);

impl Live {
    fn new(pool: &Rc<Pool>) -> Self {
        pool.metrics().upstream_open.inc();
        Self(Rc::clone(pool))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.metrics().upstream_open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_is_loopback_whatever_a_resolver_says() {
        for host in ["localhost", "LOCALHOST", "api.localhost"] {
            let addresses = resolve(&Names::system(), host, 80).await.expect("addresses");
            assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{host}: {addresses:?}");
        }
    }

    #[test]
    fn names_do_not_lead_to_metadata_services_or_to_ourselves() {
        let guard =
            Guard::new(vec!["127.0.0.1:17080".parse().expect("address"), "[::]:17090".parse().expect("address")], None);
        let check = |host: &str, address: &str| guard.check(host, true, address.parse().expect("address")).is_ok();
        assert!(!check("metadata.example", "169.254.169.254:80"));
        assert!(!check("metadata.example", "[::ffff:169.254.169.254]:80"));
        assert!(!check("metadata.example", "[fe80::1]:80"));
        assert!(check("169.254.169.254", "169.254.169.254:80"));
        let agents_own = guard.check("169.254.169.254", false, "169.254.169.254:80".parse().expect("address"));
        assert!(agents_own.is_err(), "the agent's word is not the configuration's");
        assert!(!check("x", "127.0.0.1:17080"));
        assert!(!check("x", "127.0.0.1:17090"));
        assert!(check("x", "127.0.0.1:17081"));
        assert!(check("x", "10.0.0.1:443"));
    }
}
