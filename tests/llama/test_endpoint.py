"""Where servers listen, as URLs say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.llama.endpoint import HttpEndpoint, TcpEndpoint, UnixEndpoint, endpoint_of


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://localhost:5800", TcpEndpoint(5800, "localhost")),
        ("http://127.0.0.1:5800/", TcpEndpoint(5800)),
        ("http://localhost", TcpEndpoint(80, "localhost")),
        ("http://localhost:1/base", HttpEndpoint("localhost", 1, base_path="/base")),
        ("https://localhost:1", HttpEndpoint("localhost", 1, tls=True)),
        ("http://10.0.0.2:8080", HttpEndpoint("10.0.0.2", 8080)),
        ("http://box", HttpEndpoint("box", 80)),
        ("HTTPS://API.Example.com/v1/", HttpEndpoint("api.example.com", 443, tls=True, base_path="/v1")),
        ("http://[::1]:9/a//", HttpEndpoint("::1", 9, base_path="/a")),
        ("http://user:pass@box:7/a?b#c", HttpEndpoint("box", 7, base_path="/a")),
        ("http://bücher.example/ä b%20c", HttpEndpoint("xn--bcher-kva.example", 80, base_path="/%C3%A4%20b%20c")),
    ],
)
def test_url(url: str, endpoint: TcpEndpoint | HttpEndpoint) -> None:
    """A URL tells host, port, TLS and base path; what is plainly on this machine is an endpoint like a child's."""
    assert endpoint_of(url) == endpoint


@pytest.mark.parametrize(
    "url", ["", "box:80", "ftp://box", "http://", "http://:80", "http://box:x", "http://box:70000", "http://a..b"]
)
def test_no_url_of_a_server(url: str) -> None:
    """What is no URL of an HTTP server is a `ValueError`."""
    with pytest.raises(ValueError):
        endpoint_of(url)


@pytest.mark.parametrize(
    ("endpoint", "shown", "authority"),
    [
        (TcpEndpoint(80), "http://127.0.0.1:80", "127.0.0.1:80"),
        (HttpEndpoint("box", 80), "http://box", "box"),
        (HttpEndpoint("box", 443), "http://box:443", "box:443"),
        (HttpEndpoint("box", 443, tls=True, base_path="/v1"), "https://box/v1", "box"),
        (HttpEndpoint("::1", 8080, base_path="/a"), "http://[::1]:8080/a", "[::1]:8080"),
    ],
)
def test_shown(endpoint: TcpEndpoint | HttpEndpoint, shown: str, authority: str) -> None:
    """An endpoint is shown as its URL, and told as the Host that its clients ask for."""
    assert str(endpoint) == shown
    assert endpoint.authority == authority


def test_socket_file() -> None:
    """A socket file is shown as one."""
    assert str(UnixEndpoint(Path("/run/1.sock"))) == "unix:/run/1.sock"
