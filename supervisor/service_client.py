"""How a running service is asked by our own commands: with a key only where nobody on the way can read it."""

from __future__ import annotations

import ipaddress
import socket
import ssl

import httpx

HERE = frozenset({"127.0.0.1", "::1", "localhost"})


def service_client(url: str, *, key: str | None, timeout: float | None) -> httpx.Client:
    """A client of the service. On this machine its certificate, made for other names, need not be looked at."""
    needs_proof = url.startswith("https://") and httpx.URL(url).host not in HERE
    return httpx.Client(
        base_url=url,
        headers={"authorization": f"Bearer {key}"} if key and keeps_secret(url) else {},
        verify=ssl.create_default_context() if needs_proof else False,
        timeout=timeout,
        trust_env=False,
    )


def keeps_secret(url: str) -> bool:
    """Whether nobody on the way can read what is sent there: it stays on this machine, or HTTPS hides it."""
    host = httpx.URL(url).host
    return url.startswith("https://") or host in HERE or _is_of_this_machine(host)


def _is_of_this_machine(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
        with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))  # only our own addresses can be bound to
    except (ValueError, OSError):
        return False
    return True
