"""Durations, sizes and addresses: what people may write, and what not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import quantities
from supervisor.config.quantities import Address, duration, lifetime, listen_address, size

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0.0),
        (90, 90.0),
        (1.5, 1.5),
        ("0", 0.0),
        ("90", 90.0),
        ("30m", 1800.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("1s500ms", 1.5),
        ("1.5h", 5400.0),
        ("2d", 172800.0),
    ],
)
def test_durations(written: object, seconds: float) -> None:
    """A duration is a number of seconds, or numbers with units from large to small."""
    assert duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "soon",
        "",
        "30 m",
        "30M",
        "-1",
        "1m1h",
        "1m\n",
        "٣m",
        "1h1h",
        -1,
        True,
        False,
        None,
        [],
        float("nan"),
        float("inf"),
        10**40,
        "9" * 40 + "h",
        "1e3s",
    ],
)
def test_no_durations(written: object) -> None:
    """Anything else is refused with an example, `true` and infinity too."""
    with pytest.raises(ValueError, match='a duration such as "30m"'):
        duration(written)


@pytest.mark.parametrize(("written", "seconds"), [("never", None), (0, None), ("0", None), ("0s", None), ("5m", 300.0)])
def test_lifetimes(written: object, seconds: float | None) -> None:
    """Zero and `never` both keep a model loaded."""
    assert lifetime(written) == seconds


@pytest.mark.parametrize(
    ("written", "count"),
    [(0, 0), (4096, 4096), ("4096", 4096), ("8GiB", 8 * 1024**3), ("256MB", 256_000_000), ("1.5 KiB", 1536), ("1B", 1)],
)
def test_sizes(written: object, count: int) -> None:
    """A size is a number of bytes, or a number with a unit; `GB` and `GiB` are told apart."""
    assert size(written) == count


@pytest.mark.parametrize("written", ["8G", "8gib", "", "GiB", -1, 1.5, True, None, "1" * 400 + "B", "8GiB\n"])
def test_no_sizes(written: object) -> None:
    """Anything else is refused with an example; half a byte and `8G` too."""
    with pytest.raises(ValueError, match="a size such as"):
        size(written)


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        (":8080", Address("", 8080)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[::]:0", Address("::", 0)),
        ("my-box.local:65535", Address("my-box.local", 65535)),
    ],
)
def test_addresses(written: str, address: Address) -> None:
    """An address is a host and a port; no host is every interface, IPv6 stands in brackets."""
    assert listen_address(written) == address


@pytest.mark.parametrize(
    "written",
    [
        "8080",
        "localhost",
        "localhost:",
        "localhost:65536",
        "::1:8080",
        "[::1]",
        "[x]:1",
        "http://localhost:8080",
        "a b:1",
        "localhost:８０",
        "localhost:-1",
        "localhost:1\n",
        "",
        8080,
        True,
        None,
    ],
)
def test_no_addresses(written: object) -> None:
    """Anything else is refused with an example, before a socket is asked."""
    with pytest.raises(ValueError, match="an address such as"):
        listen_address(written)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none()))
def test_nothing_but_value_errors(written: object) -> None:
    """Whatever is written, a quantity is a value that makes sense or a `ValueError`."""
    readers: list[Callable[[object], float | None]] = [duration, lifetime, size, quantities.positive_size]
    for read in readers:
        try:
            value = read(written)
        except ValueError:
            continue
        assert value is None or 0 <= value < float("inf")


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_units_add_up(hours: int, minutes: int, seconds: int) -> None:
    """A duration is the sum of its parts."""
    assert duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds
