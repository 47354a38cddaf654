//! Listening sockets. `[::]` means everything, on a node without IPv6 too.
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

/// Binds an address; `[::]` becomes `0.0.0.0` where IPv6 is switched off. With `shared`, others may bind the same port, and the kernel
/// spreads connections among them. Returned is where it listens.
pub fn bind(address: SocketAddr, shared: bool) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = everywhere(address, |address| socket(address, shared))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn everywhere<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> std::io::Result<T>) -> std::io::Result<T> {
    match bind(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && has_no_family(&error) => bind(without_ipv6(address)),
        other => other,
    }
}

/// Everything that can be heard by IPv4.
fn without_ipv6(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port())
}

/// Whether the machine lacks the address, or all of its family.
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

fn socket(address: SocketAddr, shared: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(shared)?;
    #[cfg(not(unix))]
    let _ = shared;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_what_the_machine_has() {
        let without = |address: SocketAddr| match address {
            SocketAddr::V4(_) => Ok(address),
            SocketAddr::V6(_) => Err(std::io::Error::from_raw_os_error(nix::errno::Errno::EAFNOSUPPORT as i32)),
        };
        let bound = |text: &str| everywhere(text.parse().expect("an address"), without);
        assert_eq!(bound("[::]:17090").expect("bound").to_string(), "0.0.0.0:17090");
        assert!(does_not_exist(&bound("[::1]:17080").expect_err("one address is not everything")));
        assert_eq!(bound("127.0.0.1:17080").expect("bound").to_string(), "127.0.0.1:17080");
    }

    #[test]
    fn a_port_that_is_taken_is_no_missing_address() {
        let (_taken, address) = bind("127.0.0.1:0".parse().expect("an address"), false).expect("bound");
        assert!(!does_not_exist(&bind(address, false).expect_err("taken")));
    }
}
