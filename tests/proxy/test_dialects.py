"""Errors in the words of each API."""

from __future__ import annotations

import json

import pytest

from supervisor import errors
from supervisor.errors import Failure, ModelCrashed, ModelFailed, SupervisorError
from supervisor.proxy.dialects import Dialect, error_event, error_json, error_response, status_of
from supervisor.proxy.routes import ROUTES, dialect_of

LASTING = Failure(
    id="f1",
    model="m",
    cause="model_file_truncated",
    message="m could not start: the file is incomplete",
    hint="download it again",
    phase="loading",
    at="2026-01-01T00:00:00Z",
    exit_code=1,
    stderr_tail=("last words",),
    permanent=True,
)
PASSING = Failure(
    id="f2",
    model="m",
    cause="out_of_memory",
    message="m could not start: there is too little memory",
    hint="",
    phase="loading",
    at="2026-01-01T00:00:00Z",
    retry_after_seconds=5.0,
)

EVERY_ERROR: list[tuple[SupervisorError, int, str, str]] = [
    (errors.InvalidRequest("m"), 400, "invalid_request_error", "invalid_request_error"),
    (errors.PrivateUrl("m"), 400, "invalid_request_error", "invalid_request_error"),
    (errors.Unauthorized("m"), 401, "authentication_error", "authentication_error"),
    (errors.Forbidden("m"), 403, "permission_error", "permission_error"),
    (errors.HostRefused("m"), 403, "permission_error", "permission_error"),
    (errors.SiteRefused("m"), 403, "permission_error", "permission_error"),
    (errors.ScopeMissing("m"), 403, "permission_error", "permission_error"),
    (errors.ModelForbidden("m"), 403, "permission_error", "permission_error"),
    (errors.ModelNotFound("m"), 404, "invalid_request_error", "not_found_error"),
    (errors.RouteNotFound("m"), 404, "invalid_request_error", "not_found_error"),
    (errors.NoModelNamed("m"), 404, "invalid_request_error", "not_found_error"),
    (errors.ProfileNotFound("m"), 404, "invalid_request_error", "not_found_error"),
    (errors.MethodNotAllowed("m", allowed="GET"), 405, "invalid_request_error", "api_error"),
    (errors.RequestTimeout("m"), 408, "invalid_request_error", "api_error"),
    (errors.ModelNotLoaded("m"), 409, "invalid_request_error", "api_error"),
    (errors.BodyTooLarge("m"), 413, "invalid_request_error", "request_too_large"),
    (errors.ConfigRejected("m", problems=("p",)), 422, "invalid_request_error", "api_error"),
    (errors.QueueFull("m"), 429, "rate_limit_error", "rate_limit_error"),
    (errors.ConcurrencyLimit("m"), 429, "rate_limit_error", "rate_limit_error"),
    (errors.RateLimited("m"), 429, "rate_limit_error", "rate_limit_error"),
    (errors.KeyBusy("m"), 429, "rate_limit_error", "rate_limit_error"),
    (errors.HeadTooLarge("m"), 431, "invalid_request_error", "api_error"),
    (errors.InternalError("m"), 500, "server_error", "api_error"),
    (errors.UpstreamUnreachable("m"), 502, "server_error", "api_error"),
    (errors.UpstreamRefused("m"), 502, "server_error", "api_error"),
    (errors.ModelUnloaded("m"), 503, "server_error", "overloaded_error"),
    (errors.ShuttingDown("m"), 503, "server_error", "overloaded_error"),
    (errors.RecordBusy("m"), 503, "server_error", "overloaded_error"),
    (errors.NoTarget("m"), 503, "server_error", "overloaded_error"),
    (errors.TooManyConnections("m"), 503, "server_error", "overloaded_error"),
    (errors.BodyMemoryFull("m"), 503, "server_error", "overloaded_error"),
    (errors.OutOfResources("m"), 503, "server_error", "overloaded_error"),
    (errors.UpstreamTimeout("m"), 504, "server_error", "api_error"),
    (errors.CannotFit("m"), 507, "server_error", "api_error"),
    (ModelFailed(LASTING), 500, "model_failed_to_start", "api_error"),
    (ModelFailed(PASSING), 503, "model_failed_to_start", "overloaded_error"),
    (ModelCrashed(LASTING), 502, "model_crashed", "api_error"),
    (ModelCrashed(PASSING), 502, "model_crashed", "api_error"),
]
each_error = pytest.mark.parametrize(
    ("error", "status", "openai_type", "anthropic_type"),
    EVERY_ERROR,
    ids=lambda value: type(value).__name__ if isinstance(value, SupervisorError) else "",
)


def test_no_error_is_left_out() -> None:
    """Every class of error has its row above."""

    def below(cls: type[SupervisorError]) -> set[type[SupervisorError]]:
        return {cls}.union(*(below(each) for each in cls.__subclasses__()))

    ours = {cls for cls in below(SupervisorError) if cls.__module__ == "supervisor.errors"}

    assert ours - {SupervisorError} == {type(error) for error, *_ in EVERY_ERROR}


@each_error
def test_openai(error: SupervisorError, status: int, openai_type: str, anthropic_type: str) -> None:
    """OpenAI's clients get their error object with a stable code under a true status."""
    found, headers, body = error_response(error, Dialect.OPENAI, b"*/*")
    told = json.loads(body)

    assert found == status == status_of(error)
    assert dict(headers)[b"content-type"] == b"application/json"
    assert dict(headers)[b"content-length"] == b"%d" % len(body)
    assert told["error"]["type"] == openai_type
    assert told["error"]["param"] is None
    assert told["error"]["code"] == (error.failure.cause if isinstance(error, ModelFailed) else error.code)
    assert told["error"]["message"].startswith(error.message)


@each_error
def test_anthropic(error: SupervisorError, status: int, openai_type: str, anthropic_type: str) -> None:
    """Anthropic's clients get theirs, under the same status."""
    found, _, body = error_response(error, Dialect.ANTHROPIC, b"application/json")
    told = json.loads(body)

    assert found == status
    assert told["type"] == "error"
    assert told["error"]["type"] == anthropic_type
    assert told["error"]["message"].startswith(error.message)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (b"", b"application/json"),
        (b"*/*", b"application/json"),
        (b"text/plain", b"text/plain; charset=utf-8"),
        (b"text/html,application/xhtml+xml,*/*;q=0.8", b"text/html; charset=utf-8"),
        (b"text/plain, application/json", b"application/json"),
        (b"text/event-stream", b"application/json"),
    ],
)
def test_accept(dialect: Dialect, accept: bytes, content_type: bytes) -> None:
    """Who reads text or HTML and no JSON gets that; the status is the same, and the length is right."""
    for error, status, *_ in EVERY_ERROR:
        found, headers, body = error_response(error, dialect, accept)

        assert found == status
        is_for_programs = isinstance(error, errors.ConcurrencyLimit)  # clients that retry read its code
        assert dict(headers)[b"content-type"] == (b"application/json" if is_for_programs else content_type)
        assert dict(headers)[b"content-length"] == b"%d" % len(body)
        assert error.message.encode() in body


@each_error
@pytest.mark.parametrize("dialect", Dialect)
def test_event(error: SupervisorError, status: int, openai_type: str, anthropic_type: str, dialect: Dialect) -> None:
    """In a stream the same object is one whole event, under the name that the route's own client raises for."""
    *names, data, empty, end = error_event(error, dialect).split(b"\n")

    assert names == ([b"event: error"] if dialect is Dialect.ANTHROPIC else [])
    assert json.loads(data.removeprefix(b"data: ")) == json.loads(json.dumps(error_json(error, dialect)))
    assert (empty, end) == (b"", b"")


def test_message_with_newlines_stays_one_event() -> None:
    """No message can end its event early."""
    event = error_event(SupervisorError("one\n\ndata: two\r\n", hint="\r\r"), Dialect.OPENAI)

    assert event.count(b"\n") == 2
    assert b"\r" not in event


def test_hint_is_part_of_the_message() -> None:
    """Clients show the message only, so it says what to do next."""
    error = SupervisorError("no model is called `x`", hint="did you mean `y`?")

    assert error_json(error)["error"]["message"] == "no model is called `x`; hint: did you mean `y`?"  # type: ignore[index]
    assert (
        error_response(error, Dialect.OPENAI, b"text/plain")[2] == b"no model is called `x`\nhint: did you mean `y`?\n"
    )


def test_html_is_escaped() -> None:
    """What a client sent comes back as text, never as markup."""
    body = error_response(SupervisorError("<script>", hint="<b>"), Dialect.OPENAI, b"text/html")[2]

    assert b"<script>" not in body
    assert b"<b>" not in body
    assert b"&lt;script&gt;" in body


@pytest.mark.parametrize(("seconds", "value"), [(5.0, b"5"), (0.2, b"1"), (0.0, b"1"), (2.6, b"3")])
def test_retry_after(seconds: float, value: bytes) -> None:
    """Who shall come back is told when, in whole seconds and never at once."""
    headers = error_response(errors.QueueFull("full", retry_after=seconds), Dialect.OPENAI, b"")[1]

    assert dict(headers)[b"retry-after"] == value


def test_no_retry_after_where_it_makes_no_sense() -> None:
    """Nobody is told to come back for the same mistake."""
    assert b"retry-after" not in dict(error_response(errors.InvalidRequest("m"), Dialect.OPENAI, b"")[1])


def test_permanent_failures_are_not_retried() -> None:
    """Client libraries are told not to repeat what only the owner can mend, and to repeat what may pass."""
    lasting = dict(error_response(ModelFailed(LASTING), Dialect.OPENAI, b"")[1])
    passing = dict(error_response(ModelFailed(PASSING), Dialect.OPENAI, b"")[1])

    assert lasting.get(b"x-should-retry") == b"false"
    assert b"retry-after" not in lasting
    assert b"x-should-retry" not in passing
    assert passing[b"retry-after"] == b"5"


@pytest.mark.parametrize("dialect", Dialect)
def test_failure_report(dialect: Dialect) -> None:
    """A failed model's answer carries the whole report in either dialect; the message stands beside it."""
    failure = error_json(ModelFailed(LASTING), dialect)["error"]["failure"]  # type: ignore[index]

    assert failure == LASTING.as_json()
    assert failure["cause"] == "model_file_truncated"
    assert failure["stderr_tail"] == ("last words",)
    assert "message" not in failure


def test_dialect_of_a_path() -> None:
    """Anthropic's paths speak its dialect, in the route table and behind `/upstream/`; all others OpenAI's."""
    assert {path for path, route in ROUTES.items() if route.dialect is Dialect.ANTHROPIC} == {
        "/v/messages",
        "/v/messages/count_tokens",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
    assert dialect_of("/upstream/m/v1/messages") is Dialect.ANTHROPIC
    assert dialect_of("/upstream/m/v1/chat/completions") is Dialect.OPENAI
