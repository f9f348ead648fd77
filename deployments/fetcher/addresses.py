"""Which IP addresses may be dialled. Knows nothing of names, URLs or HTTP.

The rule is positive for IPv6 (global unicast only) and a table for IPv4, both written out: what `ipaddress.is_global`
says has changed between Python versions, and it calls several tunnels and clouds' own services global.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from deployments.errors import MediaNotReachable

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; a cloud's metadata service too
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's host agent, on an address that is formally public
        "169.254.0.0/16",  # link-local; most clouds' metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments; Teredo tunnels hide an IPv4 address in here
        "2001:db8::/32",
        "2002::/16",  # 6to4 tunnels hide an IPv4 address
        "3fff::/20",
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")

METADATA_HOSTS = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
"""Names of clouds' metadata services, whatever address they resolve to."""


def dialled(address: Address) -> Address:
    """The address that a connection really goes to: the IPv4 one inside a v4-mapped or NAT64 address."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether any host of the internet could be meant: not a private, shared, local, multicast or tunnel one."""
    address = dialled(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _GLOBAL_UNICAST_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


class AddressPolicy:
    """Public addresses, and the networks that the operator allows."""

    def __init__(self, allowed_networks: Iterable[Network] = ()) -> None:
        self._allowed = tuple(allowed_networks)

    def check(self, host: str, addresses: Iterable[str]) -> None:
        """Raise `MediaNotReachable` unless every address of `host` may be dialled; the message does not tell them."""
        for text in addresses:
            address = ip_address(text)
            public = is_public(address) and host not in METADATA_HOSTS
            if not public and not any(dialled(address) in network for network in self._allowed):
                raise not_public(host)


def not_public(host: str) -> MediaNotReachable:
    """One wording for private hosts and for unknown ones, so that nobody can ask which names exist inside."""
    return MediaNotReachable(f"names a host without a public address: {host} (see the setting media.allowed_networks)")
