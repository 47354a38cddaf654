//! The settings of the process: its listeners, its log and its limits, and the hosts that it may
//! contact over plain HTTP.
use super::Builder;
use crate::config::file::{
    File, ListenFile, LogFormatFile, LogLevelFile, OutboundFile, OutboundSocketFile, PlainHttpFile,
};
use crate::config::leaf::Size;
use crate::config::problem::KeyPath;
use crate::config::runtime::{Listen, ListenAddress, ListenSocket, ProcessLimits, ProcessSettings};
use crate::issuer::PlainHttp;
use crate::policy::HostPattern;
use crate::telemetry::{Level, LogFormat, LogSettings};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use url::Url;

const OUTBOUND_PORT: u16 = 17080;
const METRICS_PORT: u16 = 17090;

impl Builder<'_> {
    pub(super) fn listen(&mut self, file: &ListenFile) -> Listen {
        let path = KeyPath::default().key("listen");
        let overrides = self.inputs.overrides;
        let outbound_default =
            [(Ipv4Addr::LOCALHOST, OUTBOUND_PORT).into(), (Ipv6Addr::LOCALHOST, OUTBOUND_PORT).into()];
        let metrics_default = [(Ipv6Addr::UNSPECIFIED, METRICS_PORT).into()];
        let written = file.outbound.as_ref().map(|listed| {
            let listed = listed.iter().filter_map(|listener| match listener {
                OutboundFile::Address(address) => Some(*address),
                OutboundFile::Socket(_) => None,
            });
            listed.collect::<Vec<_>>()
        });
        let outbound = addresses(&overrides.listen_outbound, written.as_deref(), &outbound_default);
        let outbound_sockets = self.outbound_sockets(file, &path.key("outbound"));
        let admin = overrides.admin.clone().or_else(|| file.admin.as_ref().map(|admin| admin.0.clone()));
        if let Some(admin) = admin.as_ref().filter(|admin| outbound_sockets.iter().any(|socket| socket.path == **admin))
        {
            self.error(&path.key("outbound"), format!("{} is also `listen.admin`", admin.display()))
                .help("give each socket a path of its own");
        }
        let metrics = addresses(&overrides.listen_metrics, file.metrics.as_deref(), &metrics_default);
        let jwks = addresses(&[], Some(&file.jwks), &[]);
        if outbound.is_empty() && outbound_sockets.is_empty() {
            self.error(&path.key("outbound"), "the agent needs an address to connect to")
                .help("remove the key to listen on 127.0.0.1:17080 and [::1]:17080");
        }
        let everything = [("outbound", &outbound), ("metrics", &metrics), ("jwks", &jwks)];
        let mut seen: Vec<SocketAddr> = Vec::new();
        for (key, ListenAddress { address, .. }) in
            everything.iter().flat_map(|(key, list)| list.iter().map(move |a| (key, a)))
        {
            if address.port() != 0 && seen.contains(address) {
                self.error(&path.key(key), format!("{address} is listed twice"));
            }
            seen.push(*address);
            if *key == "outbound" && !address.ip().is_loopback() {
                self.warn(&path.key(key), format!("anyone who can reach {address} can use this workload's authority"))
                    .help("listen on 127.0.0.1 and [::1], unless something else keeps strangers out");
            }
        }
        Listen { outbound, outbound_sockets, metrics, admin, jwks }
    }

    /// The Unix sockets for the agent, which `--listen-outbound` replaces like the addresses.
    fn outbound_sockets(&mut self, file: &ListenFile, path: &KeyPath) -> Vec<ListenSocket> {
        let mut sockets: Vec<ListenSocket> = Vec::new();
        let listed = file.outbound.iter().flatten().filter(|_| self.inputs.overrides.listen_outbound.is_empty());
        for listener in listed.collect::<Vec<_>>() {
            let OutboundFile::Socket(OutboundSocketFile { unix, uids }) = listener else { continue };
            let uids = uids.as_ref().map(|uids| uids.iter().map(|uid| uid.0).collect::<Vec<_>>());
            if uids.as_ref().is_some_and(Vec::is_empty) {
                self.error(path, format!("nobody may connect to {}", unix.0.display()))
                    .help("list the uid of the agent, or remove `uids`");
            }
            if sockets.iter().any(|socket| socket.path == unix.0) {
                self.error(path, format!("{} is listed twice", unix.0.display()));
            }
            sockets.push(ListenSocket { path: unix.0.clone(), uids });
        }
        sockets
    }

    pub(super) fn process(&mut self, file: &File) -> ProcessSettings {
        let path = KeyPath::default();
        if file.drain.idle > file.drain.deadline {
            self.error(
                &path.key("drain").key("deadline"),
                "`deadline` is shorter than `idle`: the process would end first",
            );
        }
        let level = match file.log.level {
            LogLevelFile::Error => Level::Error,
            LogLevelFile::Warn => Level::Warn,
            LogLevelFile::Info => Level::Info,
            LogLevelFile::Debug => Level::Debug,
            LogLevelFile::Trace => Level::Trace,
        };
        ProcessSettings {
            workers: file.workers.map(|count| count.0),
            log: LogSettings {
                level: self.inputs.overrides.log_level.unwrap_or(level),
                format: match file.log.format {
                    LogFormatFile::Json => LogFormat::Json,
                    LogFormatFile::Pretty => LogFormat::Pretty,
                },
            },
            limits: ProcessLimits {
                connections: file.limits.connections.0,
                requests: file.limits.requests.0,
                request_headers: bytes(file.limits.request_headers),
                delegated_tokens: file.limits.delegated_tokens.0,
            },
            token_timeout: file.token_timeout,
            drain_idle: file.drain.idle,
            drain_deadline: file.drain.deadline,
        }
    }

    /// The hosts other than loopback. Each causes a warning, because what is sent there can be read
    /// on the path.
    pub(super) fn plain_http(&mut self, file: &PlainHttpFile) -> PlainHttp {
        let path = KeyPath::default().key("allow_plain_http");
        let mut hosts = PlainHttp::default();
        for (index, host) in file.0.iter().enumerate() {
            let item = path.index(index);
            let path = if self.is_written(&item) { item } else { path.clone() };
            match host {
                HostPattern::Exact(name) if **name == *"loopback" => {}
                HostPattern::Exact(name) => {
                    self.warn(
                        &path,
                        format!(
                            "credentials are sent to {name} in the clear: anyone on the path can read and use them"
                        ),
                    );
                    hosts.hosts.insert(name.to_string());
                }
                HostPattern::Suffix(_) => {
                    self.error(&path, "plain HTTP is allowed host by host").help("list each host by its name");
                }
            }
        }
        hosts
    }

    /// Refuses a URL if a credential or a key would be sent to it, or fetched from it, in the
    /// clear.
    pub(super) fn check_plain_http(&mut self, path: &KeyPath, url: &str) {
        let Ok(url) = Url::parse(url) else { return };
        if url.scheme() == "http" && !self.plain_http.allows(&url) {
            let host = url.host_str().unwrap_or_default().to_owned();
            self.error(path, "requests to this URL would cross the network in the clear")
                .help(format!("write `https`, or accept it with allow_plain_http: [{host}]"));
        }
    }
}

/// Takes the addresses of the command line, or else those of the file, or else the defaults. A
/// default address that the machine does not have is skipped, and so is the `::1` of a flag, because
/// the same flags are used on machines with and without IPv6.
fn addresses(overridden: &[SocketAddr], written: Option<&[SocketAddr]>, default: &[SocketAddr]) -> Vec<ListenAddress> {
    let listed = |list: &[SocketAddr], required: fn(SocketAddr) -> bool| -> Vec<ListenAddress> {
        list.iter().map(|address| ListenAddress { address: *address, required: required(*address) }).collect()
    };
    match written {
        _ if !overridden.is_empty() => listed(overridden, |address| address.ip() != Ipv6Addr::LOCALHOST),
        Some(written) => listed(written, |_| true),
        None => listed(default, |_| false),
    }
}

/// A size as a number of bytes. Sizes are at most 1 TiB, which fits in the `usize` of a 64-bit
/// machine.
pub(super) fn bytes(size: Size) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}
