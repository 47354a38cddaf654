//! Which addresses the data plane may connect to, and which file descriptors its traffic may take.
use super::agent_listener::AgentStream;
use crate::policy::{EgressRules, reached_addresses};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// Refuses addresses that no request may be sent to, and file descriptors that are reserved for the
/// control plane.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    own: Vec<SocketAddr>,
    reserved_from: Option<u64>,
}

/// What the addresses of a connection's host are checked against.
#[derive(Clone, Debug)]
pub(super) struct AddressRules {
    pub(super) named_by: NamedBy,
    pub(super) egress: Arc<EgressRules>,
}

/// By identity: a reload may change which addresses are refused, so it needs new connections.
impl PartialEq for AddressRules {
    fn eq(&self, other: &Self) -> bool {
        self.named_by == other.named_by && Arc::ptr_eq(&self.egress, &other.egress)
    }
}

impl Eq for AddressRules {}

impl Hash for AddressRules {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.named_by, Arc::as_ptr(&self.egress)).hash(state);
    }
}

/// Who named the host of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum NamedBy {
    /// A route of the configuration, which spells it out.
    Configuration,
    /// The agent: the request passes without a route, or with one for every host below a name.
    Agent,
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// It is one of this proxy's own ports.
    #[error("{0} is this proxy's own port")]
    Loop(SocketAddr),
    /// It may serve the metadata and credentials of a machine in a cloud.
    #[error("{0} is a link-local or metadata address, which only a route that spells it out may use")]
    Metadata(IpAddr),
    /// The configuration refuses it.
    #[error("`egress.refuse` refuses {0}")]
    Refused(IpAddr),
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
    pub(super) fn admit<S: AgentStream>(&self, stream: S) -> Result<S, S> {
        match self.reserved_from {
            Some(reserved) if descriptor(&stream) >= reserved => move_below(reserved, stream),
            _ => Ok(stream),
        }
    }

    /// Checks an address that `host` resolves to.
    pub(super) fn check_address(
        &self,
        host: &str,
        rules: &AddressRules,
        address: SocketAddr,
    ) -> Result<(), AddressError> {
        if self.own.iter().any(|own| own.port() == address.port() && reaches(address.ip(), own.ip())) {
            return Err(AddressError::Loop(address));
        }
        let is_spelled_out = rules.named_by == NamedBy::Configuration && host.parse::<IpAddr>().is_ok();
        if is_spelled_out {
            return Ok(());
        }
        for ip in reached_addresses(address.ip()) {
            if is_metadata(ip) {
                return Err(AddressError::Metadata(address.ip()));
            }
            if rules.egress.refuses(ip) {
                return Err(AddressError::Refused(address.ip()));
            }
        }
        Ok(())
    }
}

/// Whether a connection to `target` reaches a listener at `own` if the port is the same. The
/// unspecified address stands for loopback as a target, and for every address of this machine as a
/// listener.
fn reaches(target: IpAddr, own: IpAddr) -> bool {
    let (target, own) = (target.to_canonical(), own.to_canonical());
    let is_loopback = target.is_loopback() || target.is_unspecified();
    target == own
        || (target.is_unspecified() && own.is_loopback())
        || (own.is_unspecified() && (is_loopback || is_address_of_this_machine(target)))
}

/// Whether the system would send packets to `address` from the same address.
fn is_address_of_this_machine(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Connecting a UDP socket sends nothing.
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address)
}

fn descriptor(socket: &impl std::os::fd::AsRawFd) -> u64 {
    u64::try_from(socket.as_raw_fd()).unwrap_or(0)
}

fn move_below<S: AgentStream>(reserved: u64, stream: S) -> Result<S, S> {
    let lowest = stream.as_fd().try_clone_to_owned().ok().filter(|copy| descriptor(copy) < reserved);
    lowest.and_then(|lowest| S::from_descriptor(lowest).ok()).ok_or(stream)
}

/// Whether an address is link-local, or one from which a cloud serves the metadata and credentials
/// of its machines outside the link-local range.
fn is_metadata(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local() || METADATA_V4.contains(&ip),
        IpAddr::V6(ip) => {
            let segments = ip.segments();
            segments[0] & 0xffc0 == 0xfe80 || segments[..2] == AWS_V6 || METADATA_V6.contains(&ip)
        }
    }
}

/// Alibaba Cloud, Azure's wire server, Oracle Cloud.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

/// AWS serves instance metadata at `fd00:ec2::254` and the credentials of pods at `fd00:ec2::23`.
const AWS_V6: [u16; 2] = [0xfd00, 0xec2];

/// Google Cloud, Oracle Cloud, Scaleway.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(named_by: NamedBy) -> AddressRules {
        AddressRules { named_by, egress: Arc::default() }
    }

    fn check(own: &str, host: &str, address: &str) -> bool {
        let guard = Guard::new(vec![own.parse().expect("address")], None);
        guard.check_address(host, &rules(NamedBy::Configuration), address.parse().expect("address")).is_ok()
    }

    #[test]
    fn names_that_lead_to_metadata_addresses_are_refused() {
        let check = |host: &str, ip: &str| {
            let address = SocketAddr::new(ip.parse().expect("address"), 80);
            let check = |named_by| Guard::default().check_address(host, &rules(named_by), address).is_ok();
            (check(NamedBy::Configuration), check(NamedBy::Agent))
        };
        for ip in [
            "169.254.169.254",
            "fe80::1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "::ffff:169.254.169.254",
            "::100.100.100.200",
            "64:ff9b::a83f:8110",
            "2002:a9fe:a9fe::",
        ] {
            assert_eq!(check("metadata.example", ip), (false, false), "{ip}");
            assert_eq!(check(ip, ip), (true, false), "only a route that spells it out may use {ip}");
        }
        for ip in ["10.0.0.1", "100.100.100.201", "fd00:ec3::254", "64:ff9b::a00:1"] {
            assert_eq!(check("api.example", ip), (true, true), "{ip}");
        }
    }

    #[test]
    fn own_port_is_refused_in_every_spelling() {
        for (own, address, is_allowed) in [
            ("127.0.0.1:17080", "127.0.0.1:17080", false),
            ("127.0.0.1:17080", "0.0.0.0:17080", false),
            ("127.0.0.1:17080", "[::ffff:127.0.0.1]:17080", false),
            ("127.0.0.1:17080", "127.0.0.1:17081", true),
            ("127.0.0.1:17080", "127.0.0.2:17080", true),
            ("[::1]:17080", "[::]:17080", false),
            ("[::]:17090", "[::]:17090", false),
            ("[::]:17090", "0.0.0.0:17090", false),
            ("[::]:17090", "127.0.0.1:17090", false),
            ("[::]:17090", "[::ffff:127.9.9.9]:17090", false),
            ("0.0.0.0:17090", "127.9.9.9:17090", false),
            ("[::]:17090", "192.0.2.1:17090", true),
            ("[::ffff:127.0.0.1]:17080", "127.0.0.1:17080", false),
        ] {
            assert_eq!(check(own, "x", address), is_allowed, "{address} with a listener at {own}");
        }
    }

    #[test]
    fn configured_ranges_are_refused_unless_the_route_spells_the_address_out() {
        let refuse = vec!["10.0.0.0/8".parse().expect("a range")];
        let egress = Arc::new(EgressRules { refuse, allow: Vec::new() });
        let check = |host: &str, address: &str| {
            let rules = AddressRules { named_by: NamedBy::Configuration, egress: Arc::clone(&egress) };
            Guard::default().check_address(host, &rules, address.parse().expect("address"))
        };
        let refused = Err(AddressError::Refused("10.0.0.1".parse().expect("address")));
        assert_eq!(check("api.example", "10.0.0.1:443"), refused);
        assert!(check("api.example", "[64:ff9b::a00:1]:443").is_err());
        assert_eq!(check("10.0.0.1", "10.0.0.1:443"), Ok(()));
        assert_eq!(check("api.example", "192.0.2.1:443"), Ok(()));
    }
}
