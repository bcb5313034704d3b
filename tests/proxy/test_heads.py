"""Heads on their way through: what belongs to one hop stays there."""

from __future__ import annotations

import base64

import pytest

from supervisor.access.keys import KeyRing
from supervisor.config.clients import ClientKey, digest_of
from supervisor.proxy.encodings import readable
from supervisor.proxy.heads import (
    Forwarding,
    Headers,
    Trail,
    fields_of,
    header,
    is_event_stream,
    request_head,
    response_headers,
)

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


# What one server gets to see, another not.

ADDRESS = ("192.168.0.9", 5555)
KEYS = KeyRing((ClientKey("one", digest_of("ours")), ClientKey("two", digest_of("ours too"))))


def forwarded(
    forwarding: Forwarding, *headers: tuple[bytes, bytes], address: tuple[str, int] | None = ADDRESS
) -> Headers:
    """The headers that reach a server, Host among them."""
    head = request_head(b"GET", b"/x", list(headers), None, forwarding, address)
    pairs = [line.partition(b": ") for line in lines(head)[1:]]
    return [(name, value) for name, _, value in pairs]


def test_nothing_configured() -> None:
    """A forwarding without rules passes everything on as it came, and hides the host."""
    headers = [(b"host", b"x:1"), (b"x-forwarded-for", b"1.2.3.4"), (b"authorization", b"Bearer k"), (b"a", b"b")]

    assert forwarded(Forwarding(), *headers) == [(b"host", b"localhost"), *headers[1:]]
    assert request_head(b"GET", b"/", headers, 5) == request_head(b"GET", b"/", headers, 5, Forwarding(), ADDRESS)


@pytest.mark.parametrize(
    ("host", "sent", "seen"),
    [(None, [b"me:8080"], b"me:8080"), (None, [], b"localhost"), (b"peer:1", [b"me:8080"], b"peer:1")],
)
def test_host(host: bytes | None, sent: list[bytes], seen: bytes) -> None:
    """A server sees the host the client asked for, or its own, as is laid down; one and first."""
    assert forwarded(Forwarding(host=host), *[(b"host", each) for each in sent]) == [(b"host", seen)]


def test_base_path() -> None:
    """A base path stands before the path of a request, whatever that is."""
    head = request_head(b"GET", b"/v1/a%2Fb?x=/", [], None, Forwarding(base_path=b"/api/llm"))

    assert lines(head)[0] == b"GET /api/llm/v1/a%2Fb?x=/ HTTP/1.1"


@pytest.mark.parametrize(
    ("came", "address", "goes"),
    [
        ([], ADDRESS, [b"192.168.0.9"]),
        ([b"1.1.1.1", b"2.2.2.2, 3.3.3.3"], ADDRESS, [b"1.1.1.1, 2.2.2.2, 3.3.3.3, 192.168.0.9"]),
        ([], ("::ffff:10.0.0.1", 1), [b"10.0.0.1"]),
        ([], ("fd00::1", 1), [b"fd00::1"]),
        ([b"1.1.1.1"], None, [b"1.1.1.1"]),
        ([], None, []),
    ],
)
def test_trail_goes_on(came: list[bytes], address: tuple[str, int] | None, goes: list[bytes]) -> None:
    """The client's address comes behind those that were there; the other headers of that kind stay."""
    headers = [(b"x-forwarded-for", each) for each in came]
    seen = forwarded(Forwarding(trail=Trail.CONTINUED), *headers, (b"x-forwarded-proto", b"https"), address=address)

    assert [value for name, value in seen if name == b"x-forwarded-for"] == goes
    assert (b"x-forwarded-proto", b"https") in seen


def test_no_client_drops_what_we_add() -> None:
    """Connection takes headers of the client away, never ours."""
    forwarding = Forwarding(trail=Trail.CONTINUED, api_key=b"k")
    names = (b"connection", b"x-forwarded-for, authorization, x-api-key")

    seen = forwarded(forwarding, names, (b"x-forwarded-for", b"6.6.6.6"))

    assert seen[1:] == [(b"x-forwarded-for", b"192.168.0.9"), (b"authorization", b"Bearer k"), (b"x-api-key", b"k")]


def test_hidden_trail() -> None:
    """A peer learns nothing of whom we serve, but for what its client says of itself."""
    names = [b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port"]

    seen = forwarded(Forwarding(trail=Trail.HIDDEN), *[(name, b"v") for name in names], (b"user-agent", b"curl"))

    assert seen == [(b"host", b"localhost"), (b"user-agent", b"curl")]


def basic(text: bytes) -> bytes:
    return b"Basic " + base64.b64encode(text)


OTHERS = [
    (b"authorization", b"Bearer theirs"),
    (b"authorization", b"Bearer"),
    (b"authorization", b"theirs"),
    (b"authorization", b"Basic !"),
    (b"authorization", basic(b"theirs:theirs")),
    (b"authorization", basic(b"ours theirs")),
    (b"x-api-key", b"theirs"),
    (b"x-api-key", b""),
    (b"api-key", b"theirs"),
]
OURS = [
    (b"authorization", b"Bearer ours"),
    (b"authorization", b"bEARER  ours too "),
    (b"authorization", basic(b"me:ours")),
    (b"authorization", b"BASIC " + basic(b":ours too")[6:]),
    (b"x-api-key", b"ours"),
    (b"x-api-key", b" ours too"),
    (b"authorization", b"ours"),
    (b"authorization", b"Digest ours"),
    (b"authorization", basic(b"ours:theirs")),
    (b"authorization", basic(b"ours")),
    (b"api-key", b"ours"),
    (b"x-goog-api-key", b"Bearer ours"),
]


@pytest.mark.parametrize("pair", OURS)
def test_our_keys_stay(pair: tuple[bytes, bytes]) -> None:
    """A key of ours goes to no server, however it came."""
    assert forwarded(Forwarding(own_keys=KEYS), pair) == [(b"host", b"localhost")]
    assert forwarded(Forwarding(), pair)[1:] == [(pair[0], pair[1])]


@pytest.mark.parametrize("pair", OTHERS)
def test_other_credentials_pass(pair: tuple[bytes, bytes]) -> None:
    """What is no key of ours is for the server."""
    assert forwarded(Forwarding(own_keys=KEYS), pair)[1:] == [pair]


@pytest.mark.parametrize("pair", [*OURS, *OTHERS[:-1]])
def test_key_of_a_peer(pair: tuple[bytes, bytes]) -> None:
    """A peer with a key gets that one, whatever the client has sent."""
    seen = forwarded(Forwarding(api_key=b"peer's", own_keys=KEYS), pair)

    assert seen[1:] == [(b"authorization", b"Bearer peer's"), (b"x-api-key", b"peer's")]


# What comes back.


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


def test_every_connection_header_counts() -> None:
    """One that names nothing does not hide the next."""
    headers = [(b"connection", b"close"), (b"connection", b"x-secret"), (b"x-secret", b"1"), (b"x-kept", b"3")]

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

    answer = response_headers(200, headers, is_stream=is_event_stream(fields_of(headers)))

    assert is_event_stream(fields_of(headers)) == is_stream
    assert ((b"x-accel-buffering", b"no") in answer) == is_stream


def test_streams_say_so_once() -> None:
    """A server that says it itself, or the contrary, is not repeated."""
    headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"yes")]

    assert response_headers(200, headers, is_stream=True) == [headers[0], (b"x-accel-buffering", b"no")]
    assert response_headers(200, headers, is_stream=False) == headers


def test_first_header_of_a_name() -> None:
    """A header given twice counts as first given; one not given is None."""
    headers = [(b"accept", b"a"), (b"accept", b"b")]

    assert header(headers, b"accept") == b"a"
    assert header(headers, b"origin") is None


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"gzip, deflate", b"gzip, deflate"),
        (b"gzip, deflate, br, zstd", b"gzip, deflate"),
        (b"br;q=1.0, gzip;q=0.8, *;q=0.1", b"gzip;q=0.8"),
        (b"zstd", b""),
    ],
)
def test_readable_encodings(value: bytes, kept: bytes) -> None:
    """An answer that is to be recorded comes in a compression that we understand, or in none."""
    headers = [(b"host", b"x"), (b"accept-encoding", value), (b"accept", b"*/*")]

    assert readable(headers, fields_of(headers)) == [(b"host", b"x"), (b"accept-encoding", kept), (b"accept", b"*/*")]


def test_every_encoding_counts() -> None:
    """A second line of compressions is read, too."""
    headers = [(b"accept-encoding", b"gzip"), (b"accept-encoding", b"br, deflate")]

    assert readable(headers, fields_of(headers)) == [(b"accept-encoding", b"gzip"), (b"accept-encoding", b"deflate")]
