//! TCP connections to upstreams: the name is resolved once, and its addresses are checked and
//! connected to.
use super::error::SendError;
use super::pool::Pool;
use super::resolver::Resolver;
use crate::host::without_brackets;
use crate::policy::Origin;
use crate::proxy::guard::{AddressError, AddressRules, Guard};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;

/// The recommended connection attempt delay (RFC 8305 §8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Where a connection goes, and which addresses it may use.
#[derive(Clone, Copy)]
pub(crate) struct DialTarget<'o> {
    pub(crate) origin: &'o Origin,
    pub(crate) rules: &'o AddressRules,
    pub(crate) guard: &'o Guard,
}

/// Opens a bare TCP connection, for a tunnel.
pub(crate) async fn dial(pool: &Pool, to: DialTarget<'_>, timeout: Duration) -> Result<TcpStream, SendError> {
    tokio::time::timeout(timeout, tcp(pool.resolver(), to)).await.map_err(|_| SendError::ConnectTimeout)?
}

/// Opens a TCP connection. If the name has several addresses, each gets a head start over the next
/// one (RFC 8305 §5), so that an address that does not answer costs a moment and not the whole
/// deadline.
pub(super) async fn tcp(resolver: &Rc<Resolver>, to: DialTarget<'_>) -> Result<TcpStream, SendError> {
    let host = without_brackets(&to.origin.host);
    let mut addresses = permitted_addresses(resolver, host, to).await?.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last_error = SendError::no_address();
    loop {
        if let Some(address) = addresses.next() {
            attempts.push(TcpStream::connect(address));
        } else if attempts.is_empty() {
            return Err(last_error);
        }
        let has_more = !addresses.as_slice().is_empty();
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => {
                    let stream = to.guard.admit(stream).map_err(|_| SendError::NoDescriptor)?;
                    tune(&stream);
                    return Ok(stream);
                }
                Err(error) if is_out_of_descriptors(&error) => return Err(SendError::NoDescriptor),
                Err(error) => last_error = SendError::Connect(error),
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

/// Disables Nagle's algorithm, because requests are small and written whole, and enables
/// keep-alive, because a peer that has vanished must be noticed.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    if let Err(error) = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive)) {
        tracing::debug!(%error, "a socket option was refused");
    }
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

    #[tokio::test]
    async fn localhost_is_loopback_whatever_the_resolver_says() {
        for host in ["localhost", "LOCALHOST", "api.localhost"] {
            let addresses = resolve(&Resolver::system(), host, 80).await.expect("addresses");
            assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{host}: {addresses:?}");
        }
    }
}
