"""URLs that a model's server would fetch."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.access.urls import Fetched, address_in, fetched, host_of, is_public, may_hold_urls

PRIVATE = [
    "http://10.0.0.1/x",
    "HTTP://10.0.0.1",
    " http://10.0.0.1",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0X7F000001",
    "http://127.1",
    "http://0177.0.0.1",
    "http://010.8.8.8",
    "http://0/",
    "http://127.0.0.1./",
    "http://[::1]/",
    "http://[::ffff:10.0.0.1]:80/",
    "http://[::7f00:1]",
    "http://[64:ff9b::7f00:1]",
    "http://[2002:7f00:1::]",
    "http://[fe80::1%25eth0]/",
    "http://[fd00::1]",
    "http://169.254.169.254/latest/meta-data",
    "http://100.64.0.1",
    "http://224.0.0.1",
    "http://255.255.255.255",
    "http://user:secret@127.0.0.1:80/",
    "http://a@b@127.0.0.1/",
    "http:/127.0.0.1/",
    "http:127.0.0.1",
    "http:///127.0.0.1",
    "http:\\\\127.0.0.1",
    "http:/\\127.0.0.1",
    "http://8.8.8.8\\@127.0.0.1",
    "http://127.0.0.1\t.example.com",
    "http://127.0.0.1%00.example.com",
    "http://１２７.0.0.1/",
    "http://127。0。0。1/",
    "http://localhost:3000/",
    "http://LOCALHOST",
    "http://nas/x.png",
    "http://camera.local/x.jpg",
    "http://x.internal",
    "http://host.docker.internal",
    "ftp://10.0.0.1/x",
    "file:///etc/passwd",
]
PUBLIC = [
    "http://8.8.8.8/x",
    "https://1.1.1.1:8443/?q=http://127.0.0.1",
    "http://134744072/",
    "http://0x08080808",
    "http://[2001:4860:4860::8888]/a.png",
    "http://[::ffff:8.8.8.8]",
    "data:image/png;base64,iVBORw0KGgo//http://10.0.0.1",
    "iVBORw0KGgo//",
]


def body(url: str) -> bytes:
    return json.dumps({"model": "m", "messages": [{"content": [{"image_url": {"url": url}}]}]}).encode()


@pytest.mark.parametrize("url", PRIVATE)
def test_private(url: str) -> None:
    """A private, loopback or link-local address in any spelling, a local name, and what is ambiguous is found."""
    assert may_hold_urls(body(url))
    assert fetched(body(url)) == [Fetched("messages[0].content[0].image_url.url", None)]


@pytest.mark.parametrize("url", PUBLIC)
def test_public(url: str) -> None:
    """Public addresses pass, and so does content that comes along."""
    assert fetched(body(url)) == []


def test_names_are_to_be_looked_up() -> None:
    """What a name leads to is for somebody else to find out."""
    assert fetched(body("https://user@Example.COM:443/a.png")) == [
        Fetched("messages[0].content[0].image_url.url", "example.com")
    ]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"messages": [{"content": [{"type": "image_url", "image_url": "URL"}]}]}, "messages[0].content[0].image_url"),
        ({"input": [{"content": [{"type": "input_image", "image_url": "URL"}]}]}, "input[0].content[0].image_url"),
        ({"input": [{"content": [{"type": "input_file", "file_url": "URL"}]}]}, "input[0].content[0].file_url"),
        (
            {"messages": [{"content": [{"type": "image", "source": {"type": "url", "url": "URL"}}]}]},
            "messages[0].content[0].source.url",
        ),
        (
            {"messages": [{"content": [{"type": "input_audio", "input_audio": {"data": "URL"}}]}]},
            "messages[0].content[0].input_audio.data",
        ),
        ({"messages": [{"content": [{"audio_url": {"url": "URL"}}]}]}, "messages[0].content[0].audio_url.url"),
        ({"images": ["x", "URL"]}, "images[1]"),
        ({"Image_URL": {"URL": "URL"}}, "Image_URL.URL"),
    ],
)
def test_fields(fields: dict[str, Any], place: str) -> None:
    """Each API's way to name an image or a sound is known, and the answer names the field."""
    text = json.dumps(fields).replace('"URL"', '"http://10.0.0.1/"').replace('"http://10.0.0.1/":', '"URL":')

    assert fetched(text.encode()) == [Fetched(place, None)]


@pytest.mark.parametrize(
    "text",
    [
        '{"image_url": "http:\\/\\/10.0.0.1"}',
        '{"image_url": "http\\u003a//10.0.0.1"}',
        '{"image_url": "\\u0068ttp://10.0.0.1"}',
        '{"image\\u005furl": "http://10.0.0.1"}',
        '{"image_url": "http://10.0.0.1", "image_url": "data:,x"}',
        '{"image_url": "data:,x", "image_url": "http://10.0.0.1"}',
        '{"seed": ' + "9" * 5000 + ', "image_url": "http://10.0.0.1"}',
        '{"image_url": ' * 90 + '"http://10.0.0.1"' + "}" * 90,
        '{"x": ' + "[" * 101 + '{"image_url": "http://8.8.8.8"}' + "]" * 101 + "}",
        '{"x": ' + "[" * 90_000 + '{"image_url": "http://10.0.0.1"}' + "]" * 90_000 + "}",
    ],
    ids=lambda text: text[:40],
)
def test_nothing_hides_a_url(text: str) -> None:
    """Escapes, fields that come twice, large numbers and depth hide nothing."""
    assert may_hold_urls(text.encode())
    assert any(found.host is None for found in fetched(text.encode()))


def test_words_are_no_urls() -> None:
    """Prompts may speak of addresses."""
    content = "what is at http://192.168.1.1/ and http://localhost?"
    assert fetched(json.dumps({"messages": [{"role": "user", "content": content}], "prompt": content}).encode()) == []
    assert fetched(b"http://10.0.0.1 is no JSON") == []
    assert not may_hold_urls(json.dumps({"messages": [{"content": "hello\nthere"}]}).encode())


@given(st.ip_addresses(v=4), st.sampled_from(["{}", "{:d}", "0x{:x}", "{:d}."]))
def test_every_spelling_of_an_address(address: ipaddress.IPv4Address, form: str) -> None:
    """However an IPv4 address is spelled, it is judged as that address."""
    host = form.format(str(address) if form == "{}" else int(address))

    assert address_in(host_of(f"http://{host}/x") or "") == address
    assert bool(fetched(body(f"http://{host}/x"))) is not is_public(address)


@given(st.ip_addresses(v=4))
def test_no_disguise_of_a_private_address(address: ipaddress.IPv4Address) -> None:
    """An IPv4 address within an IPv6 address is judged as itself."""
    number = int(address)
    for disguised in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80):
        assert not is_public(ipaddress.IPv6Address(disguised)) or is_public(address)


@given(st.text(max_size=40))
def test_any_url_can_be_read(text: str) -> None:
    """No text breaks the reading, and a host that was read holds nothing that others would cut at."""
    host = host_of(f"http://{text}")

    assert host is None or not set(host) & set("/\\@#?% ")
    fetched(body(f"http://{text}"))
