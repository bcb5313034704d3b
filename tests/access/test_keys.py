"""Whose key it is, and what it is good for."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.access.keys import KeyRing, key_of, may_use, require_model
from supervisor.config.clients import EVERYTHING, ClientKey, Scope, digest_of
from supervisor.config.values import Config, Server
from supervisor.errors import ModelForbidden


def key(name: str = "k", **fields: object) -> ClientKey:
    return ClientKey(name, digest_of(f"secret of {name}"), **fields)  # type: ignore[arg-type]


def test_owners() -> None:
    """A key is known by its digest alone, and plain keys are good for everything."""
    config = Config(Path("/"), Server(api_keys=("plain",)), keys={"a": key("a"), "unread": ClientKey("unread")})
    ring = KeyRing.of(config)

    plain, named = ring.owner_of(b"plain"), ring.owner_of(b"secret of a")
    assert plain is not None
    assert (plain.name, plain.scopes) == ("api_keys[0]", EVERYTHING)
    assert named is config.keys["a"]
    for other in (b"", None, b"plai", b"plain ", b"secret of b", digest_of("plain")):
        assert ring.owner_of(other) is None
    assert len(ring) == 3, "a key whose file was not read keeps the service closed"
    assert "plain'" not in repr(config.keys)
    assert "secret" not in repr(ring)


class Digest(bytes):
    """One that only what takes constant time may look into."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared in a way that ends at the first difference")

    __hash__ = bytes.__hash__


def test_comparing_tells_nothing() -> None:
    """Every digest is compared in constant time, those behind one that has fitted too."""
    looked_at: list[str] = []

    class Watched:
        def __init__(self, name: str) -> None:
            self.name = name

        @property
        def digest(self) -> bytes:
            looked_at.append(self.name)
            return Digest(digest_of("the same"))

    keys: Any = tuple(map(Watched, "abc"))

    assert KeyRing(keys).owner_of(b"the same") is not None
    assert KeyRing(keys).owner_of(b"another") is None
    assert looked_at == [*"abcabc"]


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ({Scope.INFERENCE}, {Scope.INFERENCE}),
        ({Scope.MANAGE}, {Scope.MANAGE}),
        ({Scope.ADMIN}, {Scope.ADMIN, Scope.MANAGE}),
        (set(), set()),
        (EVERYTHING, EVERYTHING),
    ],
)
def test_scopes(scopes: set[Scope], allowed: set[Scope]) -> None:
    """`admin` includes `manage`; neither includes `inference`."""
    assert {scope for scope in Scope if key(scopes=frozenset(scopes)).allows(scope)} == allowed


def test_models() -> None:
    """A key for some models is good for what any of its patterns fits, by any name that the request means it by."""
    some = key(models=("qwen*", "gemma-3"))

    assert may_use(key(), "anything")
    assert may_use(some, "qwen3-8b")
    assert may_use(some, "fast", "gemma-3")
    assert not may_use(some, "gemma-3-270m")
    assert not may_use(some, "QWEN3")
    assert not may_use(some)
    assert not may_use(some, None, "")
    require_model(None, "anything")
    with pytest.raises(ModelForbidden, match="the key `k` may not use the model `llama`"):
        require_model(some, "llama", "llama-3")


def test_our_own_commands() -> None:
    """Our commands bring a key that may manage all models, if the config tells one."""
    user, some = key("user", secret="u"), key("some", scopes=EVERYTHING, models=("a",), secret="s")
    hashed, boss = key("hashed", scopes=EVERYTHING), key("boss", scopes=frozenset({Scope.ADMIN}), secret="b")

    manager = key("manager", scopes=frozenset({Scope.MANAGE}), secret="m")

    assert KeyRing((user, some, hashed, boss)).own() == "b"
    assert KeyRing((user, manager, some)).own() == "m"
    assert KeyRing((user, manager, boss)).own() == "b", "`plan` is for who may change the service"
    assert KeyRing((user, some, hashed)).own() is None


def basic(text: bytes) -> bytes:
    return b"Basic " + base64.b64encode(text)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({b"authorization": b"Bearer k"}, b"k"),
        ({b"authorization": b"bEARER  k "}, b"k"),
        ({b"authorization": basic(b"me:k")}, b"k"),
        ({b"authorization": basic(b"me:k:l")}, b"k:l"),
        ({b"authorization": basic(b"k")}, None),
        ({b"authorization": b"Basic !", b"x-api-key": b"k"}, b"k"),
        ({b"authorization": b"k"}, None),
        ({b"x-api-key": b"k"}, b"k"),
    ],
)
def test_where_a_key_is_found(headers: dict[bytes, bytes], found: bytes | None) -> None:
    """The password of Basic, else Bearer, else `x-api-key`."""
    assert key_of(headers) == found


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
    st.sampled_from(["{}", "Bearer {}", "bearer   {}", "Token {}", "Basic {basic}", "basic {user}", "Basic {half}"]),
    st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"]),
)
def test_a_key_of_ours_is_found_in_every_form(secret: str, form: str, name: bytes) -> None:
    """However a key is wrapped, it is known as ours before the header would go on."""
    encoded = {
        "basic": base64.b64encode(f"me:{secret}".encode()).decode(),
        "user": base64.b64encode(f"{secret.replace(':', '')}:x".encode()).decode(),
        "half": base64.b64encode(secret.encode()).decode(),
    }
    ours = secret.replace(":", "") if "{user}" in form else secret
    ring = KeyRing((ClientKey("k", digest_of(ours)),))

    assert not ours or ring.is_in(name, form.format(secret, **encoded).encode())


@given(st.binary(max_size=60))
def test_no_credential_breaks_anything(value: bytes) -> None:
    """Any header can be looked at."""
    key_of({b"authorization": value})
    key_of({b"authorization": b"Basic " + value})
    KeyRing((key(),)).is_in(b"authorization", value)
