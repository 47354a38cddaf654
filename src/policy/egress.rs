//! Which addresses requests may go to.
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address ranges that host names must not resolve to, and the exceptions from them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressRules {
    /// The ranges that are refused.
    pub refuse: Vec<IpNet>,
    /// The ranges that are allowed although a wider range is refused.
    pub allow: Vec<IpNet>,
}

impl EgressRules {
    /// Whether an address is refused: of the ranges that contain it, the narrowest decides.
    pub fn refuses(&self, address: IpAddr) -> bool {
        let narrowest =
            |ranges: &[IpNet]| ranges.iter().filter(|range| range.contains(&address)).map(IpNet::prefix_len).max();
        // No range is in both lists; `check` refuses that.
        narrowest(&self.refuse) > narrowest(&self.allow)
    }
}

/// The addresses that a packet to `address` may reach: itself, and the IPv4 address in it if it is
/// one of an IPv6 transition mechanism.
pub fn reached_addresses(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let canonical = address.to_canonical();
    let embedded = match canonical {
        IpAddr::V6(address) => embedded_ipv4(address).map(IpAddr::V4),
        IpAddr::V4(_) => None,
    };
    std::iter::once(canonical).chain(embedded)
}

/// The IPv4 address in an IPv4-compatible (RFC 4291 §2.5.5.1), NAT64 (RFC 6052 §2.2, RFC 8215) or
/// 6to4 address (RFC 3056 §2).
fn embedded_ipv4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let pair = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // How an operator divides this range is not known; the end is what the common /96 has.
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, _, _, _, _, _] => Some(pair(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowest_range_decides() {
        let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a range")).collect();
        let rules = EgressRules {
            refuse: ranges(&["10.0.0.0/8", "10.1.2.3/32", "::/0"]),
            allow: ranges(&["10.1.0.0/16", "2001:db8::/32"]),
        };
        for (address, is_refused) in [
            ("10.0.0.1", true),
            ("10.1.0.1", false),
            ("10.1.2.3", true),
            ("11.0.0.1", false),
            ("2001:db8::1", false),
            ("2001:db9::1", true),
        ] {
            assert_eq!(rules.refuses(address.parse().expect("an address")), is_refused, "{address}");
        }
    }

    #[test]
    fn embedded_addresses_are_found() {
        for (address, embedded) in [
            ("::ffff:169.254.169.254", "169.254.169.254"),
            ("::169.254.169.254", "169.254.169.254"),
            ("64:ff9b::a9fe:a9fe", "169.254.169.254"),
            ("64:ff9b:1::a9fe:a9fe", "169.254.169.254"),
            ("2002:a9fe:a9fe::1", "169.254.169.254"),
            ("::1", "::1"),
            ("2001:db8::a9fe:a9fe", "2001:db8::a9fe:a9fe"),
        ] {
            let reached = reached_addresses(address.parse().expect("an address")).last();
            assert_eq!(reached, Some(embedded.parse().expect("an address")), "{address}");
        }
    }
}
