"""Every path for everybody who may come: the whole table, asked of a running service."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from supervisor.api.access import Access
from supervisor.api.doors import DOORS, KEYED, NOT_SERVED, Doors
from supervisor.api.routes import Api
from supervisor.app import _ADDRESSED, METRICS
from supervisor.config.values import Config, Management, Server
from supervisor.errors import Forbidden, HostRefused, SiteRefused, SupervisorError
from supervisor.proxy.heads import fields_of
from supervisor.proxy.routes import ROUTES
from tests.conftest import RunningService, running_service
from tests.proxy.conftest import http_to

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLERS = ("nobody", "user", "operator", "owner", "all", "some")
"""Who asks: without a key, with one for `inference`, `manage`, `admin`, everything, and everything with one model."""
CONFIG = """
[server]
api_keys = ["key-of-all"]
[keys.user]
key = "key-of-user"
[keys.operator]
key = "key-of-operator"
scopes = ["manage"]
[keys.owner]
key = "key-of-owner"
scopes = ["admin"]
[keys.some]
key = "key-of-some"
scopes = ["inference", "manage"]
models = ["mine*"]
[models.mine]
cmd = "false --port ${PORT}"
[models.theirs]
cmd = "false --port ${PORT}"
"""


class Row(NamedTuple):
    """A path, how it is asked for without doing anything, and what each caller gets: let in (1), 401 (0), 403 (-)."""

    template: str
    method: str
    path: str
    table: str


EVERYBODY, WITH_KEY, USERS, MANAGERS, MANAGERS_OF_ALL, ADMINS, CHILDREN = (
    "111111",
    "011111",
    "01--11",
    "0-1111",
    "0-111-",
    "0--11-",
    "0---11",
)
ROWS = [
    *(
        Row(path, "GET", path, EVERYBODY)
        for path in ("/health", "/v1/health", "/wol-health", "/favicon.ico", "/upstream")
    ),
    Row("/v1/models", "GET", "/v1/models", WITH_KEY),
    Row("/models", "GET", "/models", WITH_KEY),
    Row("/v1/models/{name:path}", "GET", "/v1/models/mine", WITH_KEY),
    Row("/api/version", "GET", "/api/version", WITH_KEY),
    Row("/comfyui", "GET", "/comfyui", WITH_KEY),
    Row("/running", "GET", "/running", MANAGERS_OF_ALL),
    Row("/status", "GET", "/status", MANAGERS_OF_ALL),
    Row("/models/load", "POST", "/models/load", MANAGERS),
    Row("/models/unload", "POST", "/models/unload", MANAGERS),
    Row("/unload", "GET", "/unload", MANAGERS_OF_ALL),
    Row("/api/models/unload", "POST", "/api/models/unload", MANAGERS_OF_ALL),
    Row("/api/models/unload/{name:path}", "POST", "/api/models/unload/mine", MANAGERS),
    Row("/api/profiles", "GET", "/api/profiles", MANAGERS_OF_ALL),
    Row("/api/profiles/active", "PUT", "/api/profiles/active", MANAGERS_OF_ALL),
    Row("/api/inflight/{id}/cancel", "POST", "/api/inflight/7/cancel", MANAGERS_OF_ALL),
    Row("/api/events", "GET", "/api/events", MANAGERS_OF_ALL),
    Row("/api/metrics/activity", "GET", "/api/metrics/activity", MANAGERS_OF_ALL),
    Row("/api/metrics/stats", "GET", "/api/metrics/stats", MANAGERS_OF_ALL),
    Row("/api/captures/{id}", "GET", "/api/captures/1", MANAGERS_OF_ALL),
    Row("/api/performance", "GET", "/api/performance", MANAGERS_OF_ALL),
    Row("/api/hardware", "GET", "/api/hardware", MANAGERS_OF_ALL),
    Row("/api/reload", "GET", "/api/reload", ADMINS),
    Row("/metrics", "GET", "/metrics", MANAGERS_OF_ALL),
    Row("/logs", "GET", "/logs", MANAGERS_OF_ALL),
    Row("/logs/stream", "GET", "/logs/stream", MANAGERS_OF_ALL),
    Row("/logs/stream/{name:path}", "GET", "/logs/stream/mine", MANAGERS),
    Row("/logs/{name:path}", "GET", "/logs/mine", MANAGERS),
    *(
        Row(path, "GET" if "POST" not in route.methods else "POST", path, USERS)
        for path, route in ROUTES.items()
        if path != METRICS
    ),
    Row("/upstream/", "GET", "/upstream/nobody/x", CHILDREN),
    Row("/comfyui/", "GET", "/comfyui/", CHILDREN),
]
FURTHER = [
    Row("", "GET", "/", EVERYBODY),
    Row("", "GET", "/nothing/here", WITH_KEY),
    Row("", "HEAD", "/unload", MANAGERS_OF_ALL),
    Row("", "POST", "/status", MANAGERS_OF_ALL),
    Row("", "GET", "/%73tatus", MANAGERS_OF_ALL),
    Row("", "GET", "/status?key=key-of-all&api_key=key-of-all", MANAGERS_OF_ALL),
    Row("", "GET", "/v1/models/theirs", "01111-"),
    Row("", "POST", "/api/models/unload/theirs", "0-111-"),
    Row("", "GET", "/logs/theirs", "0-111-"),
    Row("", "GET", "/logs/proxy", "0-111-"),
    Row("", "GET", "/logs/upstream", "0-111-"),
    Row("", "GET", "/logs/stream/upstream", "0-111-"),
    Row("", "GET", "/upstream/theirs/x.png", "0---1-"),
    Row("", "POST", "/api/reload", ADMINS),
    Row("", "GET", "/metrics?model=mine", USERS),
    Row("", "GET", "/metrics?model=theirs", "01--1-"),
    Row("", "GET", "/props?model=theirs", "01--1-"),
    Row("", "GET", "/slots?model=theirs", "01--1-"),
]
"""Other ways to the same, and other models."""


def served() -> list[Any]:
    """The routes that answer by themselves, as the service has them."""
    pool = SimpleNamespace(on_change=[])
    service: Any = SimpleNamespace(config=Config(Path("/")), pool=pool, bus=None, names=None, logs=None, in_flight=None)
    service.configuration = SimpleNamespace(followers=[], on_end=[])
    return Api(service).routes()


def test_every_path_has_a_row() -> None:
    """Who adds a route says in `doors` and in the table above who may come; until then it is for managers only."""
    there = {route.path for route in served()}

    assert there == DOORS.keys(), "a route without a door, or a door without a route"
    assert {row.template for row in ROWS} == there | ROUTES.keys() | set(_ADDRESSED)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("doors") / "service", CONFIG) as running:
        yield running


def sign(row: Row, caller: str, service: RunningService) -> str:
    """What becomes of a request."""
    headers = {} if caller == "nobody" else {"authorization": f"Bearer key-of-{caller}"}
    with http_to(service.url) as http, http.stream(row.method, row.path, headers=headers) as answer:
        return {401: "0", 403: "-"}.get(answer.status_code, "1")


@pytest.mark.parametrize("row", [*ROWS, *FURTHER], ids=lambda row: f"{row.method} {row.path}")
def test_every_path_for_everybody(service: RunningService, row: Row) -> None:
    """Scopes decide who is let in, on every path."""
    assert "".join(sign(row, caller, service) for caller in CALLERS) == row.table


def test_a_model_is_refused_in_words(service: RunningService) -> None:
    """Who may not use a model is told which, in the words of the API; its list has only what it may use."""
    with http_to(service.url) as http:
        http.headers["x-api-key"] = "key-of-some"
        chat = http.post("/v1/chat/completions", json={"model": "theirs"})
        message = http.post("/v1/messages", json={"model": "theirs"})
        listed = [entry["id"] for entry in http.get("/v1/models").json()["data"]]

    assert (chat.status_code, chat.json()["error"]["code"]) == (403, "model_forbidden")
    assert "the key `some` may not use the model `theirs`" in chat.json()["error"]["message"]
    assert (message.status_code, message.json()["error"]["type"]) == (403, "permission_error")
    assert message.json()["type"] == "error"
    assert listed == ["mine"]


# Without keys: who is near enough, asks for us by name, and is no other site's page.


class Asks:
    """A request as it comes in."""

    def __init__(self, method: str, path: str, *headers: tuple[bytes, bytes], address: str = "127.0.0.1") -> None:
        self.method, self.path, self.address = method, path, (address, 5)
        self.headers = [(b"host", b"localhost"), *headers]
        if any(name == b"host" for name, _ in headers):
            self.headers = list(headers)
        self.fields = fields_of(self.headers)
        self.query = b""
        self.key: Any = None
        self.watcher: Any = None
        self.deed, self.request_id, self.status = "", "", 0


def access(**server: Any) -> Access:
    return Access(Config(Path("/"), Server(**server)), Doors(ROUTES, _ADDRESSED, served()))


def refusal(asks: Asks, **server: Any) -> type[SupervisorError] | None:
    """Why a request is not let in."""
    try:
        access(**server).admit(asks)
    except SupervisorError as exc:
        return type(exc)
    return None


MANAGING = [row for row in ROWS if row.table in {MANAGERS, MANAGERS_OF_ALL, ADMINS, CHILDREN}]
OTHERS = [row for row in ROWS if row not in MANAGING]
each = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
BROWSER = (b"user-agent", b"Mozilla/5.0")


@each
def test_from_where(row: Row) -> None:
    """Without keys the rule `management` decides on what manages, and on nothing else."""
    far, near = Asks(row.method, row.path, address="8.8.8.8"), Asks(row.method, row.path, address="192.168.1.7")
    proxied = Asks(row.method, row.path, (b"x-forwarded-for", b"127.0.0.1"))
    expected = Forbidden if row in MANAGING else None

    assert refusal(Asks(row.method, row.path)) is None
    assert [refusal(far), refusal(near), refusal(proxied)] == [expected] * 3
    assert refusal(near, management=Management.PRIVATE) is None
    assert refusal(far, management=Management.PRIVATE) is expected
    assert refusal(far, management=Management.OPEN) is None


@each
def test_through_a_trusted_proxy(row: Row) -> None:
    """A proxy that is trusted is believed about who asks."""
    expected = Forbidden if row in MANAGING else None
    for client, result in ((b"127.0.0.1", None), (b"8.8.8.8", expected), (b"nonsense", expected)):
        asks = Asks(row.method, row.path, (b"x-forwarded-for", client))
        assert refusal(asks, trusted_proxies=("127.0.0.0/8",)) is result


@each
def test_by_which_name(row: Row) -> None:
    """A name that a stranger's page may have is refused on every path, from this machine too."""
    evil = Asks(row.method, row.path, (b"host", b"evil.example:8080"))

    assert refusal(evil) is HostRefused
    assert refusal(evil, allowed_hosts=("evil.example",)) is None
    assert refusal(evil, allowed_hosts=("*",)) is None
    # With a file of llama-swap's only where it matters: models are for pages of any site anyway.
    assert refusal(evil, are_hosts_checked_for_models=False) is (HostRefused if row in MANAGING else None)


@each
@pytest.mark.parametrize(
    "headers",
    [
        [(b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"no-cors"), (b"sec-fetch-dest", b"image"), BROWSER],
        [(b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"navigate"), BROWSER],
        [(b"sec-fetch-site", b"same-site"), (b"origin", b"http://localhost:3000"), BROWSER],
        [(b"origin", b"https://evil.example"), BROWSER],
        [(b"origin", b"null")],
        [(b"referer", b"https://evil.example/"), BROWSER],
    ],
    ids=["img", "link", "port", "fetch", "sandbox", "old"],
)
def test_for_which_page(row: Row, headers: list[tuple[bytes, bytes]]) -> None:
    """What manages is refused to other sites' pages, websockets and plain GETs included; using models is not."""
    expected = SiteRefused if row in MANAGING else None

    assert refusal(Asks(row.method, row.path, *headers)) is expected
    assert refusal(Asks(row.method, row.path, *headers), management=Management.OPEN) is expected


@each
def test_for_our_page(row: Row) -> None:
    """Our own page, and what a person types, may do everything from here."""
    for headers in (
        [(b"sec-fetch-site", b"same-origin"), (b"origin", b"http://localhost"), BROWSER],
        [(b"sec-fetch-site", b"none"), BROWSER],
        [(b"origin", b"http://localhost"), BROWSER],
        [(b"user-agent", b"curl/8")],
    ):
        assert refusal(Asks(row.method, row.path, *headers)) is None


def test_an_image_cannot_unload() -> None:
    """A browser that says nothing of the page it asks for, as to plain HTTP in a network, cannot unload with a GET."""
    assert refusal(Asks("GET", "/unload", BROWSER)) is SiteRefused
    assert refusal(Asks("GET", "/logs", BROWSER)) is None, "nothing changes, and another page cannot read it"
    key = (b"authorization", b"Bearer k")
    assert refusal(Asks("GET", "/unload", BROWSER, key), api_keys=("k",)) is None, "no page can send this"
    assert (
        refusal(Asks("GET", "/unload", BROWSER, (b"authorization", b"Basic bWU6aw==")), api_keys=("k",)) is SiteRefused
    )


def test_a_browsers_own_key_is_not_for_other_pages() -> None:
    """A browser sends the password of Basic by itself; another site's page cannot use models with it."""
    basic, cross = (b"authorization", b"Basic bWU6aw=="), (b"sec-fetch-site", b"cross-site")

    assert refusal(Asks("POST", "/v1/chat/completions", basic, cross), api_keys=("k",)) is SiteRefused
    assert refusal(Asks("POST", "/v1/chat/completions", basic), api_keys=("k",)) is None
    bearer = (b"authorization", b"Bearer k")
    assert refusal(Asks("POST", "/v1/chat/completions", bearer, cross), api_keys=("k",)) is None


def test_where_nothing_is_served() -> None:
    """A path that is not there needs a key, where there are keys, and is nobody's to manage."""
    doors = Doors(ROUTES, _ADDRESSED, served())

    assert doors.of("/nothing") is KEYED
    assert doors.of("/running/x") is KEYED
    assert all(doors.of(path).is_open for path in NOT_SERVED)


def test_a_request_counts_until_its_end() -> None:
    """Requests at a time are counted from their start to their end, whoever else looks on."""
    from supervisor.config.clients import ClientKey, digest_of
    from supervisor.errors import KeyBusy, RateLimited

    keys = {"k": ClientKey("k", digest_of("k"), concurrency=1, rate=2)}
    rules = Access(Config(Path("/"), keys=keys), Doors(ROUTES, _ADDRESSED, served()), clock=lambda: 5.0)
    first, second, third = (Asks("POST", "/infill", (b"x-api-key", b"k")) for _ in range(3))
    rules.admit(first)
    with pytest.raises(KeyBusy):
        rules.admit(second)
    assert second.watcher is None

    first.watcher.client_began()
    first.watcher.client_ended()
    rules.admit(second)
    second.watcher.client_ended()
    with pytest.raises(RateLimited):
        rules.admit(third)
    rules.admit(Asks("GET", "/v1/models", (b"x-api-key", b"k")))


def test_another_config() -> None:
    """Keys that go are refused and keys that come let in at once; one that stays has no more left than it had."""
    from supervisor.config.clients import ClientKey, digest_of
    from supervisor.errors import RateLimited, Unauthorized

    stays, goes, comes = (ClientKey(name, digest_of(name), rate=1) for name in ("stays", "goes", "comes"))
    doors = Doors(ROUTES, _ADDRESSED, served())
    rules = Access(Config(Path("/"), keys={"stays": stays, "goes": goes}), doors, clock=lambda: 5.0)

    def asks(key: bytes, host: bytes = b"localhost") -> Asks:
        return Asks("POST", "/infill", (b"host", host), (b"x-api-key", key))

    rules.admit(asks(b"stays"))
    rules.adopt(Config(Path("/"), Server(allowed_hosts=("a.example",)), keys={"stays": stays, "comes": comes}))

    with pytest.raises(Unauthorized):
        rules.admit(asks(b"goes"))
    with pytest.raises(RateLimited):
        rules.admit(asks(b"stays"))
    rules.admit(asks(b"comes", b"a.example"))
