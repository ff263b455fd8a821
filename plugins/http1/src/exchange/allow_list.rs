//! Which peers are trusted: addresses, networks, or all (`forwarded_allow_ips`, `proxy_allow_ips`).
//!
//! It owns the comparison of a peer with such a list. It does not own what a trusted peer may do.
//!
//! What a newcomer gets wrong: a peer on a Unix socket has no address, and is trusted by every list, as in Gunicorn:
//! whoever may open the socket was let in by its permissions.

use std::net::IpAddr;

use rgunicorn_worker_api::request::Address;

/// A list of trusted peers. The default trusts nobody that has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    all: bool,
    networks: Vec<Network>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    is_v4: bool,
    bits: u128,
    mask: u128,
}

impl AllowList {
    /// The list in a setting, its elements separated by commas. The host has judged it; what is not understood all the
    /// same is nobody's address.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let elements = || text.split(',').map(str::trim);
        Self {
            all: elements().any(|element| element == "*"),
            networks: elements().filter_map(Network::of).collect(),
        }
    }

    /// Whether `peer`, the other end of the socket, is in the list.
    #[must_use]
    pub fn has(&self, peer: &Address) -> bool {
        match peer {
            Address::Unix(_) => true,
            Address::Ip(address) => {
                // A socket that listens for both kinds shows an IPv4 client as ::ffff:192.0.2.1.
                let (ip, bits) = canonical(address.ip());
                let is_in =
                    |network: &Network| network.is_v4 == ip.is_ipv4() && bits & network.mask == network.bits;
                self.all || self.networks.iter().any(is_in)
            }
            Address::Unknown => self.all,
        }
    }
}

impl Network {
    fn of(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let (address, bits) = canonical(address.parse().ok()?);
        let width = if address.is_ipv4() { 32 } else { 128 };
        let free = width - length.unwrap_or(width).min(width);
        let mask = u128::MAX.checked_shl(free).unwrap_or(0);
        Some(Self { is_v4: address.is_ipv4(), bits: bits & mask, mask })
    }
}

/// An IPv4 address that is written as IPv6 (RFC 4291 section 2.5.5.2) is IPv4.
fn canonical(address: IpAddr) -> (IpAddr, u128) {
    let address = address.to_canonical();
    let bits = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    (address, bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_addresses_and_networks() {
        let list = AllowList::of("127.0.0.1, ::1,10.0.0.0/8,fe80::/10,192.168.1.7/32");
        for (peer, expected) in [
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("::ffff:127.0.0.1", true),
            ("::1", true),
            ("::2", false),
            ("10.255.0.1", true),
            ("11.0.0.0", false),
            ("febf::1", true),
            ("fec0::1", false),
            ("192.168.1.7", true),
            ("192.168.1.6", false),
        ] {
            assert_eq!(
                list.has(&Address::Ip((peer.parse::<IpAddr>().unwrap(), 1).into())),
                expected,
                "{peer}"
            );
        }
        assert!(list.has(&Address::Unix(None)) && !list.has(&Address::Unknown));
    }

    #[test]
    fn nobody_and_everybody() {
        let [v4, v6] = ["1.2.3.4:5", "[2001:db8::1]:5"].map(|text| Address::Ip(text.parse().unwrap()));
        for (text, first, second) in [
            ("", false, false),
            ("*", true, true),
            ("::1,*", true, true),
            ("0.0.0.0/0", true, false),
            ("::/0", false, true),
            ("nonsense,1.2.3.4/x,*/0", false, false),
        ] {
            let list = AllowList::of(text);
            assert_eq!((list.has(&v4), list.has(&v6)), (first, second), "{text}");
            assert!(list.has(&Address::Unix(None)));
        }
    }
}
