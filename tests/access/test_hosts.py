"""Names under which the service may be asked for."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.access.hosts import KEPT, Hosts, is_address, name_of, parts_of

HOSTS = Hosts(["llm.example.com", "*.example.org"], own=["Tower.attic.example"])

OURS = [
    None,
    b"localhost",
    b"LOCALHOST:8080",
    b"127.0.0.1:8080",
    b"192.168.1.20",
    b"8.8.8.8:80",
    b"[::1]:8080",
    b"[fd00::5]",
    b"[::ffff:10.0.0.1]:1",
    b"tower",
    b"tower.attic.example",
    b"tower.local.:8080",
    b"nas.lan",
    b"nas.home.arpa",
    b"box.tail1234.ts.net",
    b"app.localhost:3000",
    b"host.docker.internal:8080",
    b"host.containers.internal",
    b"llama",
    b"open_webui:8080",
    b"llm.example.com",
    b"LLM.Example.com:443",
    b"a.example.org",
    b"a.b.example.org:1",
]
OTHERS = [
    b"",
    b"evil.example",
    b"evil.example:8080",
    b"localhost.evil.example",
    b"127.0.0.1.nip.io",
    b"192.168.1.20.evil.example:8080",
    b"evil.example#.local",
    b"evil.example/.local",
    b"evil.example?x.local",
    b"local.evil",
    b"evil-lan.example",
    b"example.org",
    b"evilexample.org",
    b"x.llm.example.com",
    b"llm.example.com.evil.example",
    b"127.1.2",
    b"[::1",
    b"[::1]evil.example",
    b"[evil.example]",
    b"localhost:80:80",
    b"localhost:99999",
    b"localhost@evil.example",
    b"evil.example\\.local",
    b"\xc3\xa9vil.local",
    b"local host",
    b".ts.net\x00",
]


@pytest.mark.parametrize("host", OURS)
def test_names_that_nobody_else_can_give_us(host: bytes | None) -> None:
    """Addresses, names of this machine, of home networks and of the config are ours, whatever the port."""
    assert HOSTS.allow(host)
    assert host in HOSTS.known


@pytest.mark.parametrize("host", OTHERS)
def test_any_other_name(host: bytes) -> None:
    """Any name that a stranger's page could have is refused, and so is what is no name."""
    assert not HOSTS.allow(host)
    assert host not in HOSTS.known


def test_any_name_at_all() -> None:
    """A star lets every name in."""
    assert all(Hosts(["*"]).allow(host) for host in [*OURS, *OTHERS])


def test_little_is_remembered() -> None:
    """Who asks under many names does not fill the memory."""
    hosts = Hosts()
    assert all(hosts.allow(b"%d.local" % number) for number in range(KEPT * 2))

    assert len(hosts.known) <= KEPT


@given(st.ip_addresses(), st.none() | st.integers(0, 65535))
def test_every_address_is_ours(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int | None) -> None:
    """An address in Host, with or without a port, is read as that address, and cannot be made to lead elsewhere."""
    host = f"[{address}]" if address.version == 6 else str(address)
    text = (host if port is None else f"{host}:{port}").encode()

    parts = parts_of(text)
    assert parts is not None
    assert (ipaddress.ip_address(parts[0]), parts[1]) == (address, port)
    assert Hosts().allow(text)


@given(st.binary(max_size=60))
def test_anything_can_be_read(host: bytes) -> None:
    """No value of Host breaks anything; what is read has no sign in it that others would read otherwise."""
    name = name_of(host)

    assert name is None or not set(name) & set("/\\@#?%[] \t\0,;") or is_address(name)


@given(st.from_regex(r"\A[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){1,3}\Z"))
def test_public_names_are_never_ours(name: str) -> None:
    """Nothing that a stranger can put in front of a name of his own makes it ours."""
    assert not Hosts(["ours.example"]).allow(f"{name}.evil.example".encode())
