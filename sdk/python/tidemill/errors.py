"""The exceptions of the platform.

An exception that a function raised travels as itself; what the platform has to say comes as a
subclass of `Error`, one for each kind of thing a caller may do next. `code` is the stable code
from docs/errors, `detail` the sentence for people, `request` the id of the request if there is one.
"""

from __future__ import annotations

from typing import Any


class Error(Exception):
    """Something the platform reports. Subclasses sort it by what the caller can do next."""

    code: str = "internal"
    status: int | None = None
    """The HTTP status of an answer that a client got; None for anything else."""
    retry_after: float | None = None
    """Seconds after which the node asks to try again."""
    is_final = False
    """Of a `ConnectionFailed`: trying again is of no use."""

    def __init__(
        self,
        detail: str = "",
        *,
        code: str | None = None,
        request: str | None = None,
        trace: str | None = None,
        extra: Any = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.request = request
        self.trace = trace
        self.extra = extra
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        where = f" (request {self.request})" if self.request else ""
        return f"{self.code}: {self.detail}{where}" if self.detail else f"{self.code}{where}"

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"request": self.request, "trace": self.trace, "extra": self.extra}
        return (_rebuild, (type(self), self.detail, self.code, state))


def _rebuild(kind: type[Error], detail: str, code: str, state: dict[str, Any]) -> Error:
    return kind(detail, code=code, **state)


class BadRequest(Error):
    """The node did not understand the request."""

    code = "bad-request"


class BadKey(Error):
    """A state key the node does not accept."""

    code = "bad-key"


class WrongType(Error):
    """The key holds another type of state than the one asked for."""

    code = "wrong-type"


class PayloadTooLarge(Error):
    """A value above the size the node accepts."""

    code = "payload-too-large"


class Unauthorized(Error):
    """No token, or a wrong one."""

    code = "unauthorized"


class RequestMismatch(Error):
    """The idempotency key was used before with other arguments."""

    code = "request-mismatch"


class RequestInFlight(Error):
    """The request is running for somebody else; ask again with the same key."""

    code = "request-in-flight"


class RequestExpired(Error):
    """The request has been, too long ago for its result to be kept. It was not run again."""

    code = "request-expired"


class NotFound(Error):
    """An app, function, request, key or trace that the node does not know; see `code`."""

    code = "unknown-function"


class NotAcceptable(Error):
    """The node can not answer in a form the caller accepts."""

    code = "not-acceptable"


class BadManifest(Error):
    """The bundle's `tidemill.json` is not valid."""

    code = "bad-manifest"


class PythonMismatch(Error):
    """The bundle was made by another Python than the node has."""

    code = "python-mismatch"


class EnvironmentFailed(Error):
    """The requirements of the app could not be installed."""

    code = "environment-failed"


class LoadFailed(Error):
    """The app could not be imported by a worker."""

    code = "load-failed"


class Timeout(Error, TimeoutError):
    """The deadline of the call has passed."""

    code = "timed-out"


class Cancelled(Error):
    """The request was cancelled. Raised inside the running function too."""

    code = "cancelled"


class WorkerCrashed(Error):
    """The process that ran the function ended."""

    code = "worker-crashed"


class OutOfMemory(Error):
    """The function went over its memory."""

    code = "out-of-memory"


class Overloaded(Error):
    """The node has too much to do now; try again later."""

    code = "overloaded"


class CallTooDeep(Error):
    """Functions calling functions beyond the limit of depth."""

    code = "call-too-deep"


class SnapshotExpired(Error):
    """The request ran for longer than its snapshot is kept; run it again."""

    code = "snapshot-expired"


class BadSessionToken(Error):
    """The session is not one of this node's. The client has begun a new one: try again."""

    code = "bad-session-token"


class StateLost(Error):
    """The node has lost what this session had seen: the last writes of durability `memory`.

    The client has begun a new session; read again what you rely on.
    """

    code = "state-lost"


class StorageFull(Error):
    """The node's disk is full."""

    code = "storage-full"


class StorageFailed(Error):
    """The node could not read or write its storage."""

    code = "storage-failed"


class ShuttingDown(Error):
    """The node is stopping."""

    code = "shutting-down"


class Internal(Error):
    """A fault of the platform."""

    code = "internal"


class ConnectionFailed(Error, ConnectionError):
    """The node can not be reached. Made by the client; the node never sends it."""

    code = "connection-failed"


class FunctionError(Error):
    """A function raised an exception that can not be rebuilt here.

    `type` is the name of its class, `message` its text and `traceback` where it was raised.
    """

    code = "function-failed"

    def __init__(
        self,
        type: str,
        message: str = "",
        traceback: str = "",
        *,
        request: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(f"{type}: {message}", request=request, code=code)
        self.type = type
        self.message = message
        self.traceback = traceback

    def __reduce__(self) -> tuple[Any, ...]:
        return (FunctionError, (self.type, self.message, self.traceback))


class RemoteTraceback(Exception):
    """The traceback of the process where the exception was raised, as text.

    It is the `__cause__` of an exception that came from a function.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return "\n" + self.text.rstrip("\n")


_BY_CODE: dict[str, type[Error]] = {
    kind.code: kind
    for kind in (
        BadRequest, BadKey, WrongType, PayloadTooLarge, Unauthorized, NotAcceptable, BadManifest,
        PythonMismatch, EnvironmentFailed, LoadFailed, Timeout, Cancelled, WorkerCrashed,
        OutOfMemory, Overloaded, CallTooDeep, SnapshotExpired, BadSessionToken, StateLost,
        StorageFull, StorageFailed, ShuttingDown, Internal, ConnectionFailed, RequestMismatch,
        RequestInFlight, RequestExpired,
    )
}  # fmt: skip
_BY_CODE["forbidden-host"] = Unauthorized
for _code in ("unknown-app", "unknown-function", "unknown-request", "unknown-key", "unknown-trace"):
    _BY_CODE[_code] = NotFound


def from_code(
    code: str,
    detail: str,
    *,
    request: str | None = None,
    trace: str | None = None,
    extra: Any = None,
) -> Error:
    """The exception for a code of docs/errors; an unknown code gives a plain `Error`."""
    kind = _BY_CODE.get(code, Error)
    return kind(detail, code=code, request=request, trace=trace, extra=extra)
