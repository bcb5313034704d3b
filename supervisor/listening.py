"""Where the service listens: its sockets and its certificate, tried before anything is started."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING

from supervisor.runtime.ports import listener_of

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.config.values import Config


class AddressTaken(Exception):
    """Raised when the listen address cannot be bound."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on {host or '*'}:{port}: {reason}")


class TlsUnusable(Exception):
    """Raised when HTTPS cannot be served with the certificate and the key that were given."""

    def __init__(self, option: str, path: Path, reason: str, hint: str) -> None:
        super().__init__(f"`{option}` cannot be used: {path}: {reason}")
        self.hint = hint


def check_tls(config: Config) -> None:
    """Raise `TlsUnusable` if there is a certificate, and it or its key is no good."""
    files = tls_files(config)
    if files is None:
        return
    for option, path in zip(("tls_cert_file", "tls_key_file"), files, strict=True):
        try:
            path.read_bytes()
        except OSError as exc:
            raise TlsUnusable(option, path, exc.strerror or str(exc), "check the path and who may read it") from exc
    certificate, key = files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError as exc:
        raise TlsUnusable("tls_cert_file", certificate, _reason(exc), "it has to be a certificate in PEM") from exc
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, PermissionError) as exc:
        hint = "it has to be the key of that certificate, in PEM and without a password"
        raise TlsUnusable("tls_key_file", key, _reason(exc), hint) from exc


def tls_files(config: Config) -> tuple[Path, Path] | None:
    """The certificate and its key; None without TLS."""
    server = config.server
    if server.tls_cert_file is None or server.tls_key_file is None:
        return None
    return config.base / server.tls_cert_file, config.base / server.tls_key_file


def _no_password() -> str:
    raise PermissionError("it is encrypted")  # OpenSSL would ask on the terminal


def _reason(exc: OSError) -> str:
    return getattr(exc, "reason", None) or exc.strerror or str(exc)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; an empty host means every interface, IPv4 and IPv6."""
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=2048, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        holder = listener_of(port) if exc.errno == errno.EADDRINUSE else None
        reason = exc.strerror or str(exc)
        raise AddressTaken(host, port, f"{reason}; {holder} listens there" if holder else reason) from exc
