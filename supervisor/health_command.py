"""`llama-supervise health`: whether the service answers, for whoever asks often; so it loads hardly anything."""

from __future__ import annotations

import http.client
import ssl
import sys
from urllib.parse import urlsplit

PATIENCE_SECONDS = 5.0


def health(url: str) -> int:
    """0 if the service at this URL answers that it is well, else 1 and a word why."""
    try:
        status = _status(url)
    except (OSError, http.client.HTTPException) as exc:
        reason = f"no answer: {exc}"
    else:
        if status == http.client.OK:
            sys.stdout.write("ok\n")
            return 0
        reason = f"it answers with {status}"
    sys.stderr.write(f"error: {url}/health: {reason}\n")
    return 1


def _status(url: str) -> int:
    parts = urlsplit(url)
    if parts.scheme == "https":
        # Nothing secret is sent or learned, and on this machine the certificate is for another name.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.netloc, timeout=PATIENCE_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/health")
        return connection.getresponse().status
    finally:
        connection.close()
