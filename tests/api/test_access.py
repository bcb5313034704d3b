"""Who may manage."""

from __future__ import annotations

import pytest

from supervisor.api.access import require_nearness
from supervisor.config.values import Management
from supervisor.errors import Forbidden


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
