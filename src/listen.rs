//! Listening sockets, on ports and at paths. `[::]` means all addresses, even on a node without
//! IPv6.
mod unix;

pub use unix::{UnixBindError, UnixSocket};

use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

/// Whether other sockets may bind the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// No other socket may bind it.
    Exclusive,
    /// Other sockets may bind it, too (`SO_REUSEPORT`). The kernel spreads connections among them.
    Shared,
}

/// A socket that is bound and listens.
#[derive(Debug)]
pub struct Listener {
    /// The socket, in non-blocking mode.
    pub socket: TcpListener,
    /// Where it listens, with the port that the system chose if none was asked for.
    pub address: SocketAddr,
}

/// Binds an address; `[::]` becomes `0.0.0.0` where IPv6 is switched off.
///
/// # Errors
/// What the system says; see [`does_not_exist`].
pub fn bind(address: SocketAddr, port: Port) -> std::io::Result<Listener> {
    let socket = everywhere(address, |address| socket(address, port))?;
    let address = socket.local_addr()?;
    Ok(Listener { socket, address })
}

fn everywhere<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> std::io::Result<T>) -> std::io::Result<T> {
    match bind(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && has_no_family(&error) => bind(without_ipv6(address)),
        other => other,
    }
}

/// Returns the same port on all IPv4 addresses.
fn without_ipv6(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port())
}

/// Tells whether the machine does not have the address, or none of its family.
pub fn does_not_exist(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AddrNotAvailable || has_no_family(error)
}

#[cfg(unix)]
fn has_no_family(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

#[cfg(not(unix))]
fn has_no_family(_: &std::io::Error) -> bool {
    false
}

fn socket(address: SocketAddr, port: Port) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(port == Port::Shared)?;
    #[cfg(not(unix))]
    let _ = port;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_address_falls_back_to_ipv4() {
        let without = |address: SocketAddr| match address {
            SocketAddr::V4(_) => Ok(address),
            SocketAddr::V6(_) => Err(std::io::Error::from_raw_os_error(nix::errno::Errno::EAFNOSUPPORT as i32)),
        };
        let bound = |text: &str| everywhere(text.parse().expect("an address"), without);
        assert_eq!(bound("[::]:17090").expect("bound").to_string(), "0.0.0.0:17090");
        assert!(does_not_exist(&bound("[::1]:17080").expect_err("one address is not all addresses")));
        assert_eq!(bound("127.0.0.1:17080").expect("bound").to_string(), "127.0.0.1:17080");
    }

    #[test]
    fn port_in_use_is_not_a_missing_address() {
        let taken = bind("127.0.0.1:0".parse().expect("an address"), Port::Exclusive).expect("bound");
        assert!(!does_not_exist(&bind(taken.address, Port::Exclusive).expect_err("taken")));
    }
}
