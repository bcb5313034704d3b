"""Everything that can go wrong, as exceptions that know their HTTP status, their code and what to do next."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a start or a running child failed: one report, the same in HTTP, the log, `why` and the page."""

    id: str
    model: str
    cause: str
    """A stable word for programs, such as `model_file_truncated`."""
    message: str
    hint: str
    phase: str
    """`preparing`, `spawning`, `loading` or `serving`."""
    at: str
    """RFC 3339, UTC."""
    exit_code: int | None = None
    signal: str | None = None
    elapsed_seconds: float | None = None
    evidence: tuple[str, ...] = ()
    """The child's own lines that say so."""
    stderr_tail: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    """The argv with secrets replaced by `[redacted]`."""
    binary: dict[str, str | None] | None = None
    permanent: bool = False
    """Whether trying again without changing anything is pointless."""
    retry_after_seconds: float | None = None

    def as_json(self) -> dict[str, object]:
        """The report without the message, which stands beside it in every answer."""
        return {key: value for key, value in asdict(self).items() if key != "message"}


class SupervisorError(Exception):
    """Raised when a request or a command cannot be carried out; the base of all our errors."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    passes_after: ClassVar[float | None] = None
    """Seconds after which trying again makes sense, where nobody knows better."""

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after = self.passes_after if retry_after is None else retry_after
        """Seconds after which trying again makes sense."""


class InternalError(SupervisorError):
    """Raised when the fault is ours."""


class InvalidRequest(SupervisorError):
    """Raised when a request cannot be understood: no JSON, no model, a field of the wrong type."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class ModelNotFound(SupervisorError):
    """Raised when no model, alias or variant has the requested name."""

    status = 404
    code = "model_not_found"
    type = "invalid_request_error"


class NoModelNamed(SupervisorError):
    """Raised when a request names no model, and none is meant without a name."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class ProfileNotFound(SupervisorError):
    """Raised when no profile has this name."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class NoTarget(SupervisorError):
    """Raised when every target of a selector is on its way out."""

    status = 503
    code = "service_unavailable"
    passes_after = 1.0


class RecordBusy(SupervisorError):
    """Raised when the record of requests is held up by its disk."""

    status = 503
    code = "record_busy"
    passes_after = 5.0


class Unauthorized(SupervisorError):
    """Raised when a request brings no key, or none of ours, where one is needed."""

    status = 401
    code = "unauthorized"
    type = "authentication_error"


class ConcurrencyLimit(SupervisorError):
    """Raised when a model that refuses what it cannot serve at once has as many requests as it takes."""

    status = 429
    code = "concurrency_limit"
    type = "rate_limit_error"
    passes_after = 1.0


class RouteNotFound(SupervisorError):
    """Raised when no route has the requested path."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class MethodNotAllowed(SupervisorError):
    """Raised when a route exists but not for this method."""

    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message, hint=f"use {allowed}")
        self.allowed = allowed
        """The methods that exist, as the Allow header lists them."""


class BodyTooLarge(SupervisorError):
    """Raised when a request body exceeds `server.max_body`."""

    status = 413
    code = "request_too_large"
    type = "invalid_request_error"


class HeadTooLarge(SupervisorError):
    """Raised when the head of a request is larger than anybody needs."""

    status = 431
    code = "request_header_fields_too_large"
    type = "invalid_request_error"


class ConfigRejected(SupervisorError):
    """Raised when the files of the config cannot be used; the config in force stays."""

    status = 422
    code = "config_invalid"
    type = "invalid_request_error"

    def __init__(self, message: str, *, problems: tuple[str, ...]) -> None:
        super().__init__(message, hint="`llama-supervise check` lists the problems too")
        self.problems = problems
        """Everything to change before it can be used."""


class RequestTimeout(SupervisorError):
    """Raised when a request does not come to its end."""

    status = 408
    code = "request_timeout"
    type = "invalid_request_error"


class TooManyConnections(SupervisorError):
    """Raised when as many connections are open as there may be, and none of them is idle."""

    status = 503
    code = "too_many_connections"
    passes_after = 1.0


class BodyMemoryFull(SupervisorError):
    """Raised when the bodies of other requests hold all the memory there is for such."""

    status = 503
    code = "request_memory_full"
    passes_after = 5.0


class OutOfResources(SupervisorError):
    """Raised when the system gives this service no more of something: open files, memory, processes."""

    status = 503
    code = "out_of_resources"
    passes_after = 1.0


class Forbidden(SupervisorError):
    """Raised when a management route is called from somewhere it must not be."""

    status = 403
    code = "management_is_local"
    type = "permission_error"


class HostRefused(SupervisorError):
    """Raised when a request asks for a name that is not known to be ours."""

    status = 403
    code = "host_not_allowed"
    type = "permission_error"


class SiteRefused(SupervisorError):
    """Raised when a page of another site makes a browser ask for what only our own page may."""

    status = 403
    code = "cross_site_request"
    type = "permission_error"


class ScopeMissing(SupervisorError):
    """Raised when a key is not good for what is asked."""

    status = 403
    code = "insufficient_scope"
    type = "permission_error"


class ModelForbidden(SupervisorError):
    """Raised when a key may not use the model that is asked for."""

    status = 403
    code = "model_forbidden"
    type = "permission_error"


class RateLimited(SupervisorError):
    """Raised when a key has made as many requests as it may for now."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"


class KeyBusy(SupervisorError):
    """Raised when a key has as many requests under way as it may."""

    status = 429
    code = "key_concurrency_limit"
    type = "rate_limit_error"
    passes_after = 1.0


class PrivateUrl(SupervisorError):
    """Raised when a request would make a model's server fetch something from a private network."""

    status = 400
    code = "private_url"
    type = "invalid_request_error"


class QueueFull(SupervisorError):
    """Raised when too many requests wait already."""

    status = 429
    code = "queue_full"
    type = "rate_limit_error"


class CannotFit(SupervisorError):
    """Raised when a model could never be loaded beside what must stay."""

    status = 507
    code = "cannot_fit"


class ModelUnloaded(SupervisorError):
    """Raised when a model was unloaded by hand while a request waited for its start."""

    status = 503
    code = "model_unloaded"
    passes_after = 1.0


class ModelNotLoaded(SupervisorError):
    """Raised when a route that must not load a model is asked about one that is not loaded."""

    status = 409
    code = "model_not_loaded"
    type = "invalid_request_error"


class ShuttingDown(SupervisorError):
    """Raised when the service is stopping."""

    status = 503
    code = "shutting_down"
    passes_after = 5.0


class UpstreamUnreachable(SupervisorError):
    """Raised when a child that should be ready does not answer."""

    status = 502
    code = "upstream_unreachable"


class UpstreamTimeout(SupervisorError):
    """Raised when a server has a request and does not begin to answer it within its limit."""

    status = 504
    code = "gateway_timeout"


class UpstreamRefused(SupervisorError):
    """Raised when a child answers a request with an error and the stream that should have carried it has begun."""

    status = 502
    code = "upstream_error"


class ModelFailed(SupervisorError):
    """Raised when a model could not start, or its child died before it answered."""

    status = 503
    code = "model_failed_to_start"
    type = "model_failed_to_start"

    def __init__(self, failure: Failure, *, retry_after: float | None = None) -> None:
        """`retry_after` is what is left of the report's own pause."""
        after = failure.retry_after_seconds if retry_after is None else retry_after
        super().__init__(failure.message, hint=failure.hint, retry_after=after)
        self.failure = failure


class ModelCrashed(ModelFailed):
    """Raised when a child died while it served the request."""

    status = 502
    code = "model_crashed"
    type = "model_crashed"
