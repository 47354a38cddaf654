//! Which addresses the data plane may connect to, and which file descriptors its traffic may take.
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpStream;

/// Refuses addresses that no request may be sent to, and file descriptors that are reserved for the
/// control plane.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    own: Vec<SocketAddr>,
    reserved_from: Option<u64>,
}

/// Who named the host of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum NamedBy {
    /// A route of the configuration.
    Configuration,
    /// The agent alone: the request passes without a route.
    Agent,
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressError {
    /// It is one of this proxy's own ports.
    Loop,
    /// It is a link-local address, which serves cloud metadata.
    LinkLocal(IpAddr),
}

impl Guard {
    /// `own` are the addresses that this proxy listens on. `reserved_from` is the number of the
    /// first file descriptor that the agent's traffic must not take.
    pub fn new(own: Vec<SocketAddr>, reserved_from: Option<u64>) -> Self {
        Self { own, reserved_from }
    }

    /// Checks that a connection does not use a reserved descriptor. The system hands out the lowest
    /// free number, so a high one means that few are left. If a lower one has become free in the
    /// meantime, the connection moves to it: otherwise several connections could be admitted for
    /// the same free descriptor.
    ///
    /// # Errors
    /// No descriptor is left for the connection, which is returned.
    pub(super) fn admit(&self, stream: TcpStream) -> Result<TcpStream, TcpStream> {
        match self.reserved_from {
            Some(reserved) if descriptor(&stream) >= reserved => move_below(reserved, stream),
            _ => Ok(stream),
        }
    }

    /// Checks an address that `host` resolves to.
    pub(super) fn check_address(&self, host: &str, named_by: NamedBy, address: SocketAddr) -> Result<(), AddressError> {
        let is_ours = |own: &SocketAddr| {
            own.port() == address.port()
                && (own.ip() == address.ip() || (own.ip().is_unspecified() && address.ip().is_loopback()))
        };
        if self.own.iter().any(is_ours) {
            return Err(AddressError::Loop);
        }
        // Cloud metadata services use link-local addresses. No name may resolve to one; only a
        // route that spells out the address may use it.
        let is_spelled_out = named_by == NamedBy::Configuration && host.parse::<IpAddr>().is_ok();
        if is_link_local(address.ip()) && !is_spelled_out {
            return Err(AddressError::LinkLocal(address.ip()));
        }
        Ok(())
    }
}

#[cfg(unix)]
fn descriptor(socket: &impl std::os::fd::AsRawFd) -> u64 {
    u64::try_from(socket.as_raw_fd()).unwrap_or(0)
}

#[cfg(unix)]
fn move_below(reserved: u64, stream: TcpStream) -> Result<TcpStream, TcpStream> {
    use std::os::fd::AsFd;
    let lowest = stream.as_fd().try_clone_to_owned().ok().filter(|copy| descriptor(copy) < reserved);
    lowest.and_then(|lowest| TcpStream::from_std(lowest.into()).ok()).ok_or(stream)
}

#[cfg(not(unix))]
fn descriptor(_: &TcpStream) -> u64 {
    0
}

#[cfg(not(unix))]
fn move_below(_: u64, stream: TcpStream) -> Result<TcpStream, TcpStream> {
    Err(stream)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_to_link_local_addresses_or_own_ports_are_refused() {
        let guard =
            Guard::new(vec!["127.0.0.1:17080".parse().expect("address"), "[::]:17090".parse().expect("address")], None);
        let check = |host: &str, address: &str| {
            guard.check_address(host, NamedBy::Configuration, address.parse().expect("address")).is_ok()
        };
        assert!(!check("metadata.example", "169.254.169.254:80"));
        assert!(!check("metadata.example", "[::ffff:169.254.169.254]:80"));
        assert!(!check("metadata.example", "[fe80::1]:80"));
        assert!(check("169.254.169.254", "169.254.169.254:80"));
        let metadata = "169.254.169.254:80".parse().expect("address");
        let by_agent = guard.check_address("169.254.169.254", NamedBy::Agent, metadata);
        assert!(by_agent.is_err(), "only the configuration may name a link-local address");
        assert!(!check("x", "127.0.0.1:17080"));
        assert!(!check("x", "127.0.0.1:17090"));
        assert!(check("x", "127.0.0.1:17081"));
        assert!(check("x", "10.0.0.1:443"));
    }
}
