//! Check that an address is on the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns `true` if an address is certainly reachable from the whole internet.
pub(super) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !V4_REFUSED
            .iter()
            .any(|&(network, bits)| same_prefix(address.to_bits(), network.to_bits(), 32 - bits)),
        IpAddr::V6(address) => {
            let inside = |&(network, bits): &(Ipv6Addr, u32)| {
                same_prefix(address.to_bits(), network.to_bits(), 128 - bits)
            };
            inside(&V6_GLOBAL) && !V6_REFUSED.iter().any(inside)
        }
    }
}

/// Returns `true` if two addresses agree in all but the `last` bits.
fn same_prefix<
    T: std::ops::BitXor<Output = T> + std::ops::Shr<u32, Output = T> + Default + PartialEq,
>(
    a: T,
    b: T,
    last: u32,
) -> bool {
    (a ^ b) >> last == T::default()
}

const fn v4(a: u8, b: u8, c: u8, bits: u32) -> (Ipv4Addr, u32) {
    (Ipv4Addr::new(a, b, c, 0), bits)
}

/// IANA's special-purpose registry, multicast, and unassigned networks.
const V4_REFUSED: [(Ipv4Addr, u32); 16] = [
    v4(0, 0, 0, 8),
    v4(10, 0, 0, 8),
    // Carrier-grade NAT; some clouds have their metadata service here.
    v4(100, 64, 0, 10),
    v4(127, 0, 0, 8),
    // Link-local, with the metadata service of most clouds.
    v4(169, 254, 0, 16),
    v4(172, 16, 0, 12),
    v4(192, 0, 0, 24),
    // Documentation, here and below.
    v4(192, 0, 2, 24),
    v4(198, 51, 100, 24),
    v4(203, 0, 113, 24),
    // Former 6to4 relay anycast.
    v4(192, 88, 99, 24),
    v4(192, 168, 0, 16),
    // Benchmarks.
    v4(198, 18, 0, 15),
    v4(224, 0, 0, 4),
    // Reserved, including the broadcast address.
    v4(240, 0, 0, 4),
    // A public address that serves Azure's platform services to every virtual machine.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
];

/// Global unicast. Outside of it are unspecified, loopback, v4-mapped and v4-compatible addresses,
/// NAT64 (`64:ff9b::/96`, `64:ff9b:1::/48`), unique local, link-local, site-local and multicast
/// ones.
const V6_GLOBAL: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

const V6_REFUSED: [(Ipv6Addr, u32); 4] = [
    // Protocol assignments: Teredo, which embeds a v4 address, benchmarks, ORCHID.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    // Documentation, here and last.
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    // 6to4, which embeds a v4 address.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_all(expected: bool, addresses: &str) {
        for address in addresses.split_whitespace() {
            assert_eq!(is_global(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn special_v4_networks_are_rejected_up_to_their_edges() {
        assert_all(
            false,
            "0.0.0.0 0.0.0.1 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 \
             100.127.255.255",
        );
        assert_all(
            false,
            "127.0.0.0 127.0.0.1 127.255.255.255 169.254.0.0 169.254.169.254 169.254.255.255 \
             172.16.0.0 172.31.255.255",
        );
        assert_all(
            false,
            "192.0.0.0 192.0.0.255 192.0.2.0 192.0.2.255 192.88.99.0 192.88.99.255 192.168.0.0 \
             192.168.255.255",
        );
        assert_all(
            false,
            "198.18.0.0 198.19.255.255 198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255",
        );
        assert_all(
            false,
            "224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255 168.63.129.16",
        );
    }

    #[test]
    fn neighbors_of_special_v4_networks_are_global() {
        assert_all(
            true,
            "1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 \
             126.255.255.255 128.0.0.0",
        );
        assert_all(
            true,
            "169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 \
             192.0.1.255 192.0.3.0",
        );
        assert_all(
            true,
            "192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 \
             198.51.99.255 198.51.101.0",
        );
        assert_all(
            true,
            "203.0.112.255 203.0.114.0 223.255.255.255 168.63.129.15 168.63.129.17",
        );
    }

    #[test]
    fn special_v6_networks_are_rejected_up_to_their_edges() {
        assert_all(
            false,
            ":: ::1 ::2 fc00:: fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fd00:ec2::254 fe80:: \
             fe80::1 febf:ffff::1",
        );
        assert_all(
            false,
            "fec0:: feff:ffff::1 ff00:: ff02::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 100::1 \
             5f00::1 4000:: 1fff:ffff::1",
        );
        assert_all(
            false,
            "2001:: 2001:1::1 2001:2::1 2001:20::1 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
        );
        assert_all(
            false,
            "2001:db8:: 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 3fff:: \
             3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
        );
    }

    #[test]
    fn v4_addresses_embedded_in_v6_are_rejected() {
        assert_all(
            false,
            "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 ::8.8.8.8 \
             ::ffff:0:127.0.0.1",
        );
        assert_all(
            false,
            "64:ff9b::127.0.0.1 64:ff9b::169.254.169.254 64:ff9b::8.8.8.8 64:ff9b:1::10.0.0.1 \
             64:ff9b:1:ffff::8.8.8.8",
        );
        assert_all(
            false,
            "2002:7f00:1:: 2002:a9fe:a9fe::1 2002:808:808:: 2001:0:7f00:1::1",
        );
    }

    #[test]
    fn other_v6_addresses_are_global() {
        assert_all(
            true,
            "2001:200:: 2001:4860:4860::8888 2001:db7:ffff::1 2001:db9:: 2003:: \
             2606:4700:4700::1111 2a00:1450:4001::1",
        );
        assert_all(true, "2000::1 3ffe:ffff::1 3fff:1000:: 3fff:ffff::1");
    }
}
