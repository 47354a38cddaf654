//! The ports of the proxy. A new port is a field of [`Listeners`] and [`Addresses`], a line in
//! [`Listeners::bind`] and [`Listeners::addresses`], and a task in `run`.
use crate::config::{Listen, ListenAddress, ListenSocket};
use crate::listen::{self, Listener, Port, UnixBindError, UnixSocket};
use crate::proxy::AgentListener;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a port cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The port is in use, or this user may not bind it.
    #[error("{setting}: {address} cannot be bound: {error}")]
    Bind {
        /// `listen.outbound`, `listen.metrics` or `listen.jwks`.
        setting: &'static str,
        /// The address that was tried.
        address: SocketAddr,
        /// The error of the system.
        error: std::io::Error,
    },
    /// A Unix socket cannot be created.
    #[error("{setting}: {}: {error}", .path.display())]
    BindUnix {
        /// `listen.outbound` or `listen.admin`.
        setting: &'static str,
        /// The path that was tried.
        path: PathBuf,
        /// Why it is not possible.
        error: UnixBindError,
    },
    /// No listener is left for the agent.
    #[error("listen.outbound: none of the default addresses exists on this machine; set one")]
    NoOutbound,
}

/// The addresses that a bound proxy listens on.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// The addresses that the agent connects to.
    pub outbound: Vec<SocketAddr>,
    /// The Unix sockets that the agent connects to.
    pub outbound_sockets: Vec<PathBuf>,
    /// The addresses that serve metrics and probes.
    pub metrics: Vec<SocketAddr>,
    /// The addresses that publish the keys that sign assertions.
    pub jwks: Vec<SocketAddr>,
    /// The path of the admin socket.
    pub admin: Option<PathBuf>,
}

/// Every port of the proxy, bound. The fields are named like the settings below `listen`.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) outbound: Vec<SharedPort>,
    pub(super) outbound_sockets: Vec<AgentSocket>,
    pub(super) metrics: Vec<Listener>,
    pub(super) jwks: Vec<Listener>,
    pub(super) admin: Option<UnixSocket>,
}

/// A Unix socket that the agent connects to.
#[derive(Debug)]
pub(super) struct AgentSocket {
    socket: UnixSocket,
    uids: Arc<[u32]>,
}

/// One address with a socket for each worker; the kernel spreads connections among them.
#[derive(Debug)]
pub(super) struct SharedPort {
    address: SocketAddr,
    sockets: Vec<TcpListener>,
}

impl Listeners {
    pub(super) fn bind(wanted: &Listen, workers: usize) -> Result<Self, ListenError> {
        let outbound = bind_all("listen.outbound", &wanted.outbound, |address| SharedPort::bind(address, workers))?;
        let sockets = wanted.outbound_sockets.iter().map(AgentSocket::bind);
        let outbound_sockets = sockets.collect::<Result<Vec<_>, _>>()?;
        if outbound.is_empty() && outbound_sockets.is_empty() {
            return Err(ListenError::NoOutbound);
        }
        let exclusive = |address| listen::bind(address, Port::Exclusive);
        Ok(Self {
            outbound,
            outbound_sockets,
            metrics: bind_all("listen.metrics", &wanted.metrics, exclusive)?,
            jwks: bind_all("listen.jwks", &wanted.jwks, exclusive)?,
            admin: wanted.admin.as_deref().map(|path| bind_unix("listen.admin", path, OWNER_ONLY)).transpose()?,
        })
    }

    pub(super) fn addresses(&self) -> Addresses {
        let exclusive = |listeners: &[Listener]| listeners.iter().map(|listener| listener.address).collect();
        Addresses {
            outbound: self.outbound.iter().map(|port| port.address).collect(),
            metrics: exclusive(&self.metrics),
            jwks: exclusive(&self.jwks),
            outbound_sockets: self.outbound_sockets.iter().map(|agent| agent.socket.path().to_owned()).collect(),
            admin: self.admin.as_ref().map(|socket| socket.path().to_owned()),
        }
    }

    /// Hands each worker its listeners for the agent.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(super) fn by_worker(&mut self, workers: usize) -> std::io::Result<Vec<Vec<AgentListener>>> {
        let mut listeners: Vec<Vec<AgentListener>> = Vec::new();
        listeners.resize_with(workers, Vec::new);
        for port in std::mem::take(&mut self.outbound) {
            for (worker, socket) in listeners.iter_mut().zip(port.sockets) {
                worker.push(AgentListener::Tcp(socket));
            }
        }
        for AgentSocket { socket, uids } in &self.outbound_sockets {
            for worker in &mut listeners {
                worker.push(AgentListener::Unix { listener: socket.listener()?, uids: Arc::clone(uids) });
            }
        }
        Ok(listeners)
    }
}

/// The permissions of a socket that only this process's own uid may open.
const OWNER_ONLY: u32 = 0o600;
/// Those of a socket that others may open, of which each connection is checked.
const EVERYONE: u32 = 0o666;

impl AgentSocket {
    /// Without a list of uids only this process's own may connect.
    fn bind(wanted: &ListenSocket) -> Result<Self, ListenError> {
        let own = nix::unistd::geteuid().as_raw();
        let uids: Arc<[u32]> = wanted.uids.clone().unwrap_or_else(|| vec![own]).into();
        let mode = if uids.iter().all(|uid| *uid == own) { OWNER_ONLY } else { EVERYONE };
        Ok(Self { socket: bind_unix("listen.outbound", &wanted.path, mode)?, uids })
    }
}

fn bind_unix(setting: &'static str, path: &Path, mode: u32) -> Result<UnixSocket, ListenError> {
    UnixSocket::bind(path, mode).map_err(|error| ListenError::BindUnix { setting, path: path.to_owned(), error })
}

impl Addresses {
    /// All TCP addresses, to which the proxy must not send a request of its own.
    pub(super) fn tcp(&self) -> Vec<SocketAddr> {
        [&self.outbound[..], &self.metrics, &self.jwks].concat()
    }
}

impl SharedPort {
    fn bind(address: SocketAddr, workers: usize) -> std::io::Result<Self> {
        // The port is bound exclusively first. If it were shared at once, a second proxy could bind
        // it, too, and would silently take half of the connections.
        let exclusive = listen::bind(address, Port::Exclusive)?;
        let address = exclusive.address;
        if workers == 1 {
            return Ok(Self { address, sockets: vec![exclusive.socket] });
        }
        drop(exclusive);
        let socket = |_| listen::bind(address, Port::Shared).map(|listener| listener.socket);
        Ok(Self { address, sockets: (0..workers).map(socket).collect::<Result<_, _>>()? })
    }
}

/// Binds each address, except those that are not required and that the machine does not have.
fn bind_all<T>(
    setting: &'static str,
    wanted: &[ListenAddress],
    bind: impl Fn(SocketAddr) -> std::io::Result<T>,
) -> Result<Vec<T>, ListenError> {
    let mut bound = Vec::with_capacity(wanted.len());
    for &ListenAddress { address, required } in wanted {
        match bind(address) {
            Ok(listener) => bound.push(listener),
            Err(error) if !required && listen::does_not_exist(&error) => {
                tracing::info!(%address, setting, "an address does not exist on this machine and is skipped");
            }
            Err(error) => return Err(ListenError::Bind { setting, address, error }),
        }
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbound(address: SocketAddr) -> Listen {
        let outbound = vec![ListenAddress { address, required: true }];
        Listen { outbound, outbound_sockets: Vec::new(), metrics: Vec::new(), admin: None, jwks: Vec::new() }
    }

    #[test]
    fn port_in_use_is_an_error_that_names_the_setting() {
        let taken = listen::bind("127.0.0.1:0".parse().expect("address"), Port::Shared).expect("bound");
        let address = taken.address;
        for workers in [1, 2] {
            let error = Listeners::bind(&outbound(address), workers).expect_err("taken");
            assert!(error.to_string().starts_with(&format!("listen.outbound: {address}")), "{error}");
        }
    }

    #[test]
    fn every_worker_has_a_socket_on_the_same_port() {
        let mut listeners = Listeners::bind(&outbound("127.0.0.1:0".parse().expect("address")), 3).expect("bound");
        let addresses = listeners.addresses();
        let workers = listeners.by_worker(3).expect("descriptors");
        assert_eq!(workers.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        for listener in workers.iter().flatten() {
            let AgentListener::Tcp(socket) = listener else { panic!("no socket is configured") };
            assert_eq!(socket.local_addr().expect("address"), addresses.outbound[0]);
        }
    }
}
