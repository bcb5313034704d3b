"""Where a request comes from, through proxies."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.access.hops import Hops, Whence, address_of

HOPS = Hops(["127.0.0.1/32", "10.0.0.0/8", "::1/128"])
PROXY = ("127.0.0.1", 1)
XFF, FORWARDED = b"x-forwarded-for", b"forwarded"
HIDDEN = Whence(None, is_hidden=True)


def whence(*headers: tuple[bytes, bytes], peer: tuple[str, int] | None = PROXY, hops: Hops = HOPS) -> Whence:
    return hops.whence([(b"host", b"x"), *headers], peer)


def at(address: str) -> Whence:
    return Whence(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], at("127.0.0.1")),
        ([(XFF, b"203.0.113.9")], at("203.0.113.9")),
        ([(XFF, b"127.0.0.1, 203.0.113.9")], at("203.0.113.9")),
        ([(XFF, b"127.0.0.1"), (XFF, b"203.0.113.9")], at("203.0.113.9")),
        ([(XFF, b"8.8.8.8, 203.0.113.9, 10.1.2.3")], at("203.0.113.9")),
        ([(XFF, b"10.0.0.7, 127.0.0.1")], at("10.0.0.7")),
        ([(XFF, b"[2001:db8::7]:4711")], at("2001:db8::7")),
        ([(XFF, b"203.0.113.9:4711")], at("203.0.113.9")),
        ([(XFF, b"::ffff:203.0.113.9")], at("203.0.113.9")),
        ([(FORWARDED, b'for="[2001:db8::7]:4711";proto=https')], at("2001:db8::7")),
        ([(FORWARDED, b"For=127.0.0.1, proto=http;FOR = 203.0.113.9;by=10.0.0.1")], at("203.0.113.9")),
        ([(FORWARDED, b'for="1,2";for=127.0.0.1, for=203.0.113.9')], at("203.0.113.9")),
        ([(XFF, b"203.0.113.9"), (FORWARDED, b"for=203.0.113.9")], at("203.0.113.9")),
        ([(XFF, b"127.0.0.1"), (FORWARDED, b"for=203.0.113.9")], HIDDEN),
        ([(XFF, b"203.0.113.9"), (FORWARDED, b"for=127.0.0.1")], HIDDEN),
        ([(XFF, b"unknown")], HIDDEN),
        ([(XFF, b"")], HIDDEN),
        ([(XFF, b"127.0.0.1, not an address")], HIDDEN),
        ([(FORWARDED, b"for=_hidden")], HIDDEN),
        ([(FORWARDED, b"proto=https")], HIDDEN),
        ([(b"x-real-ip", b"127.0.0.1")], HIDDEN),
    ],
    ids=lambda value: str(value)[:60],
)
def test_through_a_trusted_proxy(headers: list[tuple[bytes, bytes]], expected: Whence) -> None:
    """The last address that is no trusted proxy's counts; where that is not certain, nothing is known."""
    assert whence(*headers) == expected


@pytest.mark.parametrize("name", [XFF, FORWARDED, b"x-real-ip"])
@pytest.mark.parametrize("value", [b"127.0.0.1", b"for=127.0.0.1", b"10.0.0.1", b""])
def test_through_any_other(name: bytes, value: bytes) -> None:
    """Through a proxy that is not trusted nothing comes from this machine, nor from near."""
    for peer in (("192.168.1.7", 1), ("8.8.8.8", 1), None):
        found = whence((name, value), peer=peer)
        assert not found.is_here
        assert not found.is_private
    assert not whence((name, value), hops=Hops()).is_here


def test_directly() -> None:
    """Without a word of a proxy the connection tells."""
    assert whence(peer=None).is_here
    assert whence(peer=("::ffff:127.0.0.1", 1)).is_here
    assert whence(peer=("192.168.1.7", 1)).is_private
    assert not whence(peer=("192.168.1.7", 1)).is_here
    assert not whence(peer=("not an address", 1)).is_here


addresses = st.ip_addresses().filter(lambda address: not HOPS._trusts(address_of(str(address))))  # type: ignore[arg-type]
garbage = st.binary(max_size=40).filter(lambda text: b"\n" not in text and b"\r" not in text)


@given(garbage, addresses, st.lists(st.sampled_from(["127.0.0.1", "10.3.2.1", "::1"]), max_size=3))
def test_what_a_client_invents_never_counts(
    invented: bytes, client: ipaddress.IPv4Address | ipaddress.IPv6Address, proxies: list[str]
) -> None:
    """Whatever a client writes into the header, the address that the first trusted proxy has seen is found."""
    added = ", ".join([str(client), *proxies]).encode()

    expected = getattr(client, "ipv4_mapped", None) or client
    assert whence((XFF, invented + b", " + added)) == Whence(expected)


@given(garbage, garbage)
def test_no_header_breaks_anything(forwarded: bytes, others: bytes) -> None:
    """Any value can be read, and garbage makes nothing local through a proxy that is not trusted."""
    whence((FORWARDED, forwarded), (XFF, others))
    assert not whence((FORWARDED, forwarded), (XFF, others), peer=("192.168.1.7", 1)).is_private


@given(st.ip_addresses(), st.integers(0, 65535))
def test_addresses_are_read_as_written(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    """An address is found with and without a port, in brackets or not."""
    expected = getattr(address, "ipv4_mapped", None) or address
    bracketed = f"[{address}]" if address.version == 6 else str(address)

    assert address_of(str(address)) == address_of(bracketed) == address_of(f"{bracketed}:{port}") == expected
