from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import MediaNotReachable
from deployments.fetcher.addresses import AddressPolicy, is_public

NOT_PUBLIC = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "224.0.1.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2001:20::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "93.184.216.34",
    "172.32.0.1",
    "2606:4700::1111",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_no_stranger_may_name_are_refused(address):
    assert not is_public(ip_address(address))
    with pytest.raises(MediaNotReachable):
        AddressPolicy().check("media.example", [address])


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_dialled(address):
    AddressPolicy().check("media.example", [address])


@given(st.ip_addresses())
def test_no_address_is_public_that_python_calls_private_or_multicast(address):
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped
    meant = mapped or address
    if is_public(address):
        assert not meant.is_multicast
        assert not meant.is_private
        assert not meant.is_loopback
        assert not meant.is_link_local
        assert not meant.is_unspecified


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_dress(address: IPv4Address):
    mapped, nat64 = IPv6Address(f"::ffff:{address}"), IPv6Address(f"64:ff9b::{address}")
    assert is_public(mapped) == is_public(nat64) == is_public(address)


@given(st.sampled_from(PUBLIC), st.sampled_from(NOT_PUBLIC), st.booleans())
def test_one_private_address_among_public_ones_refuses_the_host(public, private, first):
    with pytest.raises(MediaNotReachable, match=r"media\.example"):
        AddressPolicy().check("media.example", [private, public] if first else [public, private])


def test_the_refusal_does_not_tell_the_address():
    with pytest.raises(MediaNotReachable) as refused:
        AddressPolicy().check("media.example", ["10.20.30.40"])
    assert "10.20.30.40" not in refused.value.message


def test_allowed_networks_open_what_lies_in_them_and_nothing_else():
    policy = AddressPolicy([IPv4Network("10.1.0.0/16"), IPv6Network("fd00:1::/32")])
    policy.check("nas", ["10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5"])
    for address in ("10.2.0.1", "fd00:2::1", "127.0.0.1"):
        with pytest.raises(MediaNotReachable):
            policy.check("nas", [address])


@pytest.mark.parametrize("name", ["metadata.google.internal", "metadata", "instance-data.ec2.internal"])
def test_metadata_services_are_refused_by_name_whatever_they_resolve_to(name):
    with pytest.raises(MediaNotReachable):
        AddressPolicy().check(name, ["8.8.8.8"])
