"""Requests that a browser sends for somebody else's page."""

from __future__ import annotations

import pytest

from supervisor.access.sites import is_foreign, may_be_foreign

HOST = {b"host": b"127.0.0.1:8080"}
BROWSER = {b"user-agent": b"Mozilla/5.0 (X11; Linux x86_64)"}

OURS: list[dict[bytes, bytes]] = [
    {},
    {b"user-agent": b"curl/8"},
    {b"sec-fetch-site": b"same-origin"},
    {b"sec-fetch-site": b"none"},
    {b"sec-fetch-site": b"same-origin", b"origin": b"https://llm.example.com"},
    {b"origin": b"http://127.0.0.1:8080"},
    {b"referer": b"http://127.0.0.1:8080/ui/models?x=1"},
    {b"host": b"localhost", b"origin": b"http://localhost:80"},
    {b"host": b"llm.example.com", b"origin": b"https://LLM.example.com"},
    {b"host": b"llm.example.com:443", b"origin": b"https://llm.example.com"},
    {b"host": b"[::1]:8080", b"origin": b"http://[::1]:8080"},
]
THEIRS: list[dict[bytes, bytes]] = [
    {b"sec-fetch-site": b"cross-site"},
    {b"sec-fetch-site": b"same-site"},
    {b"sec-fetch-site": b"what comes next"},
    {b"sec-fetch-site": b""},
    {b"sec-fetch-site": b"cross-site", b"origin": b"http://127.0.0.1:8080"},
    {b"origin": b"null"},
    {b"origin": b""},
    {b"origin": b"https://evil.example"},
    {b"origin": b"http://127.0.0.1:3000"},
    {b"origin": b"http://localhost:8080"},
    {b"origin": b"https://127.0.0.1:8080.evil.example"},
    {b"origin": b"http://127.0.0.1:8080@evil.example"},
    {b"origin": b"chrome-extension://abc"},
    {b"origin": b"file://"},
    {b"origin": b"http://127.0.0.1", b"referer": b"http://127.0.0.1:8080/"},
    {b"referer": b"http://evil.example/http://127.0.0.1:8080/"},
    {b"referer": b"about:client"},
    {b"host": b"evil.example", b"origin": b"http://127.0.0.1:8080"},
]


@pytest.mark.parametrize("headers", OURS, ids=str)
def test_our_page_and_no_browser(headers: dict[bytes, bytes]) -> None:
    """Our own page, what a person types and what is no browser pass."""
    assert not is_foreign({**HOST, **headers})


@pytest.mark.parametrize("headers", THEIRS, ids=str)
def test_other_pages(headers: dict[bytes, bytes]) -> None:
    """A page of any other origin is told, another port of this machine too."""
    assert is_foreign({**HOST, **headers})


def test_browsers_that_say_nothing() -> None:
    """A browser that does not say for whom it asks is told from what is none."""
    assert may_be_foreign({**HOST, **BROWSER})
    assert not may_be_foreign(HOST)
    assert not may_be_foreign({**HOST, b"user-agent": b"python-httpx/0.28"})
    for name in (b"sec-fetch-site", b"origin", b"referer"):
        assert not may_be_foreign({**HOST, **BROWSER, name: b"x"})
