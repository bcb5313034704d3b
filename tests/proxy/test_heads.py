"""Heads on their way through: what belongs to one hop stays there."""

from __future__ import annotations

import pytest

from supervisor.proxy.heads import header, is_event_stream, request_head, response_headers

HOP_BY_HOP = [
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
]


def lines(head: bytes) -> list[bytes]:
    assert head.endswith(b"\r\n\r\n")
    return head.removesuffix(b"\r\n\r\n").split(b"\r\n")


def test_request_line_and_headers_in_order() -> None:
    """A child sees the method, the target and the headers as they came, repeated ones too."""
    head = request_head(b"GET", b"/a%2Fb?x=%20y", [(b"x-one", b"1"), (b"cookie", b"a"), (b"cookie", b"b")], None)

    assert lines(head) == [b"GET /a%2Fb?x=%20y HTTP/1.1", b"host: localhost", b"x-one: 1", b"cookie: a", b"cookie: b"]


@pytest.mark.parametrize("name", [*HOP_BY_HOP, b"host", b"expect", b"content-length"])
def test_request_headers_of_one_hop_stay(name: bytes) -> None:
    """What a client says to us only, a child does not hear."""
    head = request_head(b"GET", b"/", [(name, b"secret"), (b"x-kept", b"1")], None)

    assert b"secret" not in head
    assert b"x-kept: 1" in lines(head)


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_response_headers_of_one_hop_stay(name: bytes) -> None:
    """What a child says to us only, a client does not hear."""
    answer = response_headers(200, [(name, b"v"), (b"x-kept", b"1")], is_stream=False)

    assert answer == [(b"x-kept", b"1")]


def test_headers_named_by_connection_stay() -> None:
    """What Connection names is for this hop, whatever its case and spacing, in both directions."""
    headers = [(b"connection", b"close , X-Secret,x-other"), (b"x-secret", b"1"), (b"x-other", b"2"), (b"x-kept", b"3")]

    assert lines(request_head(b"GET", b"/", headers, None))[2:] == [b"x-kept: 3"]
    assert response_headers(200, headers, is_stream=False) == [(b"x-kept", b"3")]


@pytest.mark.parametrize("value", [b"keep-alive", b"Keep-Alive", b"close", b"Close"])
def test_plain_connection_names_nothing_else(value: bytes) -> None:
    """The usual values of Connection take no other header with them."""
    headers = [(b"connection", value), (b"x-kept", b"3")]

    assert response_headers(200, headers, is_stream=False) == [(b"x-kept", b"3")]


@pytest.mark.parametrize(("length", "line"), [(0, b"content-length: 0"), (17, b"content-length: 17")])
def test_length_is_ours(length: int, line: bytes) -> None:
    """The length a child reads is that of the bytes it gets, zero included."""
    head = request_head(b"POST", b"/", [(b"content-length", b"99")], length)

    assert [each for each in lines(head) if each.startswith(b"content-length")] == [line]


def test_response_length_passes() -> None:
    """A client learns how long an answer is."""
    assert response_headers(200, [(b"content-length", b"5")], is_stream=False) == [(b"content-length", b"5")]


def test_access_control_is_ours() -> None:
    """Who may read an answer is never told in the child's own words."""
    told = [
        (b"access-control-allow-origin", b""),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-allow-methods", b"*"),
        (b"access-control-allow-headers", b"*"),
    ]

    assert response_headers(200, told, is_stream=False) == []


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_body_has_no_length(status: int) -> None:
    """The length of a body that is not sent would make the client wait for it."""
    assert response_headers(status, [(b"content-length", b"5"), (b"etag", b"x")], is_stream=False) == [(b"etag", b"x")]


@pytest.mark.parametrize(
    ("content_type", "is_stream"),
    [(b"text/event-stream", True), (b"text/event-stream; charset=utf-8", True), (b"application/json", False)],
)
def test_streams_are_not_to_be_buffered(content_type: bytes, is_stream: bool) -> None:
    """A proxy in front of us is told to hold back no token of a stream, and nothing about other answers."""
    headers = [(b"content-type", content_type)]

    answer = response_headers(200, headers, is_stream=is_event_stream(headers))

    assert is_event_stream(headers) == is_stream
    assert ((b"x-accel-buffering", b"no") in answer) == is_stream


def test_first_header_of_a_name() -> None:
    """A header given twice counts as first given; one not given is None."""
    headers = [(b"accept", b"a"), (b"accept", b"b")]

    assert header(headers, b"accept") == b"a"
    assert header(headers, b"origin") is None
