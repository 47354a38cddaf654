//! TCP connections to upstreams: the name is resolved once, and its addresses are checked and
//! connected to.
use super::addresses::NamedPort;
use super::config::DialTarget;
use super::error::SendError;
use super::pool::Pool;
use super::resolver::Resolver;
use super::retry::pauses;
use crate::egress_proxy::EgressProxy;
use crate::host::without_brackets;
use crate::policy::{Origin, Scheme};
use crate::proxy::guard::{AddressError, AddressRules, NamedBy};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The recommended connection attempt delay (RFC 8305 §8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Long enough for a peer that pauses: Linux counts the time with a closed window as well.
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// Opens a bare TCP connection, for a tunnel. If no descriptor is left, idle connections are
/// evicted and it tries once more.
pub(crate) async fn dial(pool: &Pool, to: DialTarget<'_>, timeout: Duration) -> Result<TcpStream, SendError> {
    let opening = async {
        match open(pool.resolver(), to).await {
            Err(SendError::NoDescriptor) => {}
            opened => return opened,
        }
        pool.evict_idle();
        // The tasks of the evicted connections need a moment to close them.
        if let Some(pause) = pauses().next() {
            tokio::time::sleep(pause).await;
        }
        open(pool.resolver(), to).await
    };
    tokio::time::timeout(timeout, opening).await.map_err(|_| SendError::ConnectTimeout)?
}

/// Opens a connection to an origin, directly or through its egress proxy.
pub(super) async fn open(resolver: &Rc<Resolver>, to: DialTarget<'_>) -> Result<TcpStream, SendError> {
    match to.egress_proxy.filter(|proxy| proxy.serves(&to.origin.host)) {
        Some(proxy) => Box::pin(through(proxy, resolver, to)).await,
        None => tcp(resolver, to).await,
    }
}

/// Opens a tunnel. The egress proxy resolves the name, so only an address that stands in its place
/// can be checked.
async fn through(proxy: &EgressProxy, resolver: &Rc<Resolver>, to: DialTarget<'_>) -> Result<TcpStream, SendError> {
    let Origin { host, port, .. } = to.origin;
    // Reads every spelling of an IPv4 address that the proxy's own resolver may know.
    let address = match url::Host::parse(host) {
        Ok(url::Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Ok(url::Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Ok(url::Host::Domain(_)) | Err(_) => None,
    };
    if let Some(address) = address {
        to.guard.check_address(without_brackets(host), to.rules, (address, *port).into())?;
    }
    let origin = Origin { scheme: Scheme::Http, host: proxy.host.clone(), port: proxy.port };
    // The configured ranges are for upstreams.
    let rules = AddressRules { named_by: NamedBy::Configuration, egress: Arc::default() };
    let to_proxy = DialTarget { origin: &origin, rules: &rules, guard: to.guard, egress_proxy: None };
    let stream = tcp(resolver, to_proxy).await.map_err(SendError::at_egress_proxy)?;
    proxy.open_tunnel(stream, &format!("{host}:{port}")).await.map_err(SendError::EgressProxy)
}

/// Opens a TCP connection. If the name has several addresses, they take turns in being the first,
/// and each gets a head start over the next one (RFC 8305 §5), so that an address that does not
/// answer costs a moment and not the whole deadline.
async fn tcp(resolver: &Rc<Resolver>, to: DialTarget<'_>) -> Result<TcpStream, SendError> {
    let host = without_brackets(&to.origin.host);
    let permitted = permitted_addresses(resolver, host, to).await?;
    let name = NamedPort { name: host.into(), port: to.origin.port };
    let order = &resolver.order;
    let mut addresses = order.borrow_mut().arrange(&name, permitted, Instant::now()).into_iter();
    let mut attempts = FuturesUnordered::new();
    // The addresses of attempts that have not ended, in the order of their beginnings.
    let mut pending = Vec::new();
    let mut last_error = SendError::no_address();
    loop {
        if let Some(address) = addresses.next() {
            pending.push(address);
            attempts.push(async move { (address, TcpStream::connect(address).await) });
        } else if attempts.is_empty() {
            return Err(last_error);
        }
        let has_more = !addresses.as_slice().is_empty();
        tokio::select! {
            Some((address, attempt)) = attempts.next() => match attempt {
                Ok(stream) => {
                    let mut order = order.borrow_mut();
                    order.record_success(&name, address);
                    // Those that had a head start and are still silent would cost it again.
                    for slower in pending.into_iter().take_while(|pending| *pending != address) {
                        order.record_failure(&name, slower, Instant::now());
                    }
                    let stream = to.guard.admit(stream).map_err(|_| SendError::NoDescriptor)?;
                    tune(&stream);
                    return Ok(stream);
                }
                Err(error) if is_out_of_descriptors(&error) => return Err(SendError::NoDescriptor),
                Err(error) => {
                    pending.retain(|pending| *pending != address);
                    order.borrow_mut().record_failure(&name, address, Instant::now());
                    last_error = SendError::connect(error);
                }
            },
            // The attempt has not ended yet; the next address is tried in parallel.
            () = tokio::time::sleep(ATTEMPT_DELAY), if has_more => {}
        }
    }
}

/// Resolves a host, and leaves out the addresses that are refused. A name that leads to this proxy
/// is refused as a whole: its other addresses are not what the agent meant either.
async fn permitted_addresses(
    resolver: &Rc<Resolver>,
    host: &str,
    to: DialTarget<'_>,
) -> Result<Vec<SocketAddr>, SendError> {
    let mut refused = None;
    let resolved = resolve(resolver, host, to.origin.port).await?;
    let mut permitted = Vec::with_capacity(resolved.len());
    for address in resolved {
        match to.guard.check_address(host, to.rules, address) {
            Ok(()) => permitted.push(address),
            Err(error @ AddressError::Loop(_)) => return Err(error.into()),
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if permitted.is_empty() => Err(error.into()),
        _ => Ok(permitted),
    }
}

/// Resolves a host. `localhost` is loopback whatever a resolver says (RFC 6761 §6.3), because
/// cleartext HTTP is trusted there.
async fn resolve(resolver: &Rc<Resolver>, host: &str, port: u16) -> Result<Vec<SocketAddr>, SendError> {
    if host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let addresses = resolver.look_up(host).await.map_err(SendError::Resolve)?;
    Ok(addresses.into_iter().map(|address| (address, port).into()).collect())
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

/// Disables Nagle's algorithm, because requests are small and written whole, and makes the system
/// notice a peer that has vanished: by keep-alive where nothing is sent, and otherwise by what is
/// not acknowledged (RFC 5482).
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    let socket = SockRef::from(stream);
    let tuned = stream.set_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned.and_then(|()| limit_unacknowledged(&socket)) {
        tracing::debug!(%error, "a socket option was refused");
    }
}

/// Ends the connection if the peer acknowledges or takes nothing for [`UNACKNOWLEDGED`].
#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit_unacknowledged(socket: &SockRef<'_>) -> std::io::Result<()> {
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limit_unacknowledged(_: &SockRef<'_>) -> std::io::Result<()> {
    Ok(())
}

/// The name for SNI and verification. A SPIFFE peer is verified by its ID and not by this name
/// (SPIFFE X.509-SVID §5), so a host that is not a DNS name gets a placeholder.
pub(super) fn server_name(host: &str) -> ServerName<'static> {
    let bare = without_brackets(host).to_owned();
    ServerName::try_from(bare).unwrap_or_else(|_| ServerName::try_from("invalid.invalid").expect("a DNS name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::guard::Guard;
    use crate::proxy::metrics::UpstreamGauges;
    use crate::proxy::runtime::block_on;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn localhost_is_loopback_whatever_the_resolver_says() {
        for host in ["localhost", "LOCALHOST", "api.localhost"] {
            let addresses = resolve(&Resolver::system(), host, 80).await.expect("addresses");
            assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{host}: {addresses:?}");
        }
    }

    /// A name with three addresses on one port, of which only those in `listening` accept.
    struct Name {
        pool: Rc<Pool>,
        origin: Origin,
        listeners: Vec<(u8, TcpListener)>,
    }

    impl Name {
        async fn new(listening: &[u8]) -> Self {
            let first = TcpListener::bind((Ipv4Addr::new(127, 0, 0, listening[0]), 0)).await.expect("bound");
            let port = first.local_addr().expect("an address").port();
            let mut listeners = vec![(listening[0], first)];
            for last in &listening[1..] {
                let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, *last), port)).await.expect("bound");
                listeners.push((*last, listener));
            }
            let resolver = Resolver::new(|_| Ok((1..=3).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect()));
            let pool = Pool::new(UpstreamGauges::unregistered().expect("gauges"), resolver);
            Self { pool, origin: Origin { scheme: Scheme::Http, host: "three.test".into(), port }, listeners }
        }

        /// Which address a new connection reaches.
        async fn reached(&self) -> u8 {
            let rules = AddressRules { named_by: NamedBy::Configuration, egress: Arc::default() };
            let to = DialTarget { origin: &self.origin, rules: &rules, guard: &Guard::default(), egress_proxy: None };
            let stream = dial(&self.pool, to, Duration::from_secs(20)).await.expect("connected");
            let peer = stream.peer_addr().expect("a peer").ip();
            let reached = self.listeners.iter().find(|(last, _)| peer == Ipv4Addr::new(127, 0, 0, *last));
            reached.expect("a listener").0
        }
    }

    #[test]
    fn connections_take_turns_at_the_addresses_of_a_name() {
        let ended = block_on(async {
            let name = Name::new(&[1, 2, 3]).await;
            let mut reached = Vec::new();
            for _ in 0..6 {
                reached.push(name.reached().await);
            }
            assert_eq!(reached, [1, 2, 3, 1, 2, 3]);
        });
        ended.expect("a runtime");
    }

    #[test]
    fn address_that_refuses_connections_is_set_aside() {
        let ended = block_on(async {
            let name = Name::new(&[1, 3]).await;
            let mut reached = Vec::new();
            for _ in 0..6 {
                reached.push(name.reached().await);
            }
            assert_eq!(reached.iter().filter(|last| **last == 1).count(), 3, "{reached:?}");
            let now = Instant::now();
            let of = NamedPort { name: "three.test".into(), port: name.origin.port };
            let all = (1..=3).map(|last| (Ipv4Addr::new(127, 0, 0, last), of.port).into()).collect();
            let order = name.pool.resolver().order.borrow_mut().arrange(&of, all, now);
            assert_eq!(order[2].ip(), Ipv4Addr::new(127, 0, 0, 2), "{order:?}");
        });
        ended.expect("a runtime");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn lost_peer_is_noticed_by_the_system() {
        let ended = block_on(async {
            let name = Name::new(&[1, 2, 3]).await;
            let rules = AddressRules { named_by: NamedBy::Configuration, egress: Arc::default() };
            let to = DialTarget { origin: &name.origin, rules: &rules, guard: &Guard::default(), egress_proxy: None };
            let stream = dial(&name.pool, to, Duration::from_secs(20)).await.expect("connected");
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().expect("keep-alive"));
            assert_eq!(socket.tcp_user_timeout().expect("a timeout"), Some(UNACKNOWLEDGED));
        });
        ended.expect("a runtime");
    }
}
