"""Who may manage."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from supervisor.api.access import Access, own_names, require_nearness
from supervisor.api.doors import Doors
from supervisor.config.values import Config, Management, Server
from supervisor.errors import Forbidden, HostRefused
from tests.api.test_doors import Asks


def allowed(rule: Management, address: tuple[str, int] | None, *headers: tuple[bytes, bytes]) -> bool:
    try:
        require_nearness(headers, address, rule)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    ("address", "local", "private"),
    [
        ("127.0.0.1", True, True),
        ("127.8.8.8", True, True),
        ("::1", True, True),
        ("::ffff:127.0.0.1", True, True),
        ("192.168.1.20", False, True),
        ("10.0.0.3", False, True),
        ("::ffff:192.168.1.20", False, True),
        ("fd00::5", False, True),
        ("8.8.8.8", False, False),
        ("2001:4860:4860::8888", False, False),
        ("not an address", False, False),
    ],
)
def test_management_depends_on_where_a_request_comes_from(address: str, local: bool, private: bool) -> None:
    """`local` means this machine, `private` private networks too, `open` anyone."""
    assert allowed(Management.LOCAL, (address, 1)) is local
    assert allowed(Management.PRIVATE, (address, 1)) is private
    assert allowed(Management.OPEN, (address, 1))


@pytest.mark.parametrize("name", [b"x-forwarded-for", b"forwarded", b"x-real-ip"])
def test_a_proxys_address_is_not_the_clients(name: bytes) -> None:
    """A request that came through a proxy is never taken for one from this machine, whatever it claims."""
    assert not allowed(Management.LOCAL, ("127.0.0.1", 1), (name, b"127.0.0.1"))
    assert not allowed(Management.PRIVATE, ("127.0.0.1", 1), (name, b"127.0.0.1"))


def test_a_unix_socket_is_this_machine() -> None:
    """A connection without an address comes from this machine."""
    assert allowed(Management.LOCAL, None)


@pytest.mark.parametrize(
    ("resolver", "names"),
    [
        ("", ["nas"]),
        ("nameserver 192.168.1.1\nsearch fritz.box\n", ["nas", "nas.fritz.box"]),
        (
            "# search old.example\ndomain home.example.\nsearch a.example b.example\noptions edns0\nsearch .\nsearch",
            ["nas", "nas.home.example", "nas.a.example", "nas.b.example"],
        ),
    ],
)
def test_the_names_of_this_machine(tmp_path: Path, resolver: str, names: list[str]) -> None:
    """Its own, and with the domains of its network, by which a router's resolver knows it."""
    path = tmp_path / "resolv.conf"
    path.write_text(resolver)

    assert own_names("nas", path) == names
    assert own_names("nas", tmp_path / "none") == ["nas"]
    assert own_names("nas.other.example", path) == ["nas.other.example", *names[1:]]
    assert own_names()[0] == socket.gethostname()


def test_the_name_we_listen_at_is_ours() -> None:
    """Who writes it into the config has said so."""
    config = Config(Path("/"), Server(host="llm.example.com"))
    asks = Asks("GET", "/running", (b"host", b"llm.example.com:8080"))

    Access(config, Doors((), (), [])).admit(asks)
    with pytest.raises(HostRefused):
        Access(Config(Path("/")), Doors((), (), [])).admit(asks)
