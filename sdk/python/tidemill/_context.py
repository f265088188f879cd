"""Where calls and state operations go.

A `Runtime` carries calls. There are three: the request that a worker runs, the HTTP client, and
the in-process mode of `tidemill.testing`. This module finds the one in force and knows none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tidemill._codec import Payload
    from tidemill._target import Call, Target


class View:
    """What one key, or one field of a map, holds: a type and what that type carries."""

    __slots__ = ("at", "fields", "type", "value", "values")

    def __init__(self, type: str) -> None:
        self.type = type
        self.value: Any = None
        """`register`: a `Payload`; `counter`, `max`, `min`, `flag`, `top`: plain data."""
        self.values: list[Payload] = []
        """`multi`, `set`, `log`."""
        self.at: list[int] = []
        """`log`: Unix microseconds of each entry."""
        self.fields: dict[str, View] = {}
        """`map`."""


class StateBackend(Protocol):
    """Reads and writes of one app's state, in the terms of the worker protocol.

    `op` and `get` are the protocol's objects, with a `Payload` where it has an index.
    """

    def write(self, op: dict[str, Any]) -> None:
        """Does one operation, or keeps it for the commit of the request."""

    def read(self, get: dict[str, Any]) -> Any:
        """Answers one get: a `View`, `None` when absent, a bool for `has`, a dict for `scan`."""

    async def read_aio(self, get: dict[str, Any]) -> Any:
        """The same without blocking the event loop."""


class Runtime(ABC):
    """Something that can run functions and flows by name."""

    state: StateBackend | None = None
    """The state that code of a running step reads and writes."""
    outside: StateBackend | None = None
    """In local mode: the state that code outside of functions reads and writes."""

    @abstractmethod
    def call(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls and waits for the result."""

    @abstractmethod
    async def call_aio(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same without blocking the event loop."""

    @abstractmethod
    def spawn(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
        """Starts a call."""

    @abstractmethod
    def enqueue(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Starts a request of its own."""

    @abstractmethod
    def stream(
        self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[Any]:
        """Calls a generator function."""

    @abstractmethod
    def stream_aio(
        self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """The same without blocking the event loop."""

    @abstractmethod
    def map(self, target: Target, items: Iterable[Any], concurrency: int) -> Iterator[Any]:
        """Calls once for each item; results in the order of the items."""

    @abstractmethod
    def map_aio(self, target: Target, items: Iterable[Any], concurrency: int) -> AsyncIterator[Any]:
        """The same without blocking the event loop."""


class RequestInfo(Protocol):
    """What `tidemill.request` shows."""

    request_id: str
    attempt: int
    key: str | None
    trace: str
    caller: dict[str, Any]
    app: str

    def remaining(self) -> float | None:
        """Seconds until the deadline."""


class Step(Runtime):
    """A runtime with a request around it."""

    info: RequestInfo

    @abstractmethod
    def recall(self, name: str) -> tuple[int, Payload | None]:
        """Begins a recorded step: its number among those of its name, and what it gave before."""

    @abstractmethod
    async def recall_aio(self, name: str) -> tuple[int, Payload | None]:
        """The same without blocking the event loop."""

    @abstractmethod
    def record(self, name: str, number: int, value: Payload) -> Payload | None:
        """Records what it gave, durably; what another run of the request recorded first."""

    @abstractmethod
    async def record_aio(self, name: str, number: int, value: Payload) -> Payload | None:
        """The same without blocking the event loop."""


# The recorded step that runs, within which nothing else of the platform may happen.
recording: ContextVar[str | None] = ContextVar("tidemill_recording", default=None)


def check_not_recording(what: str) -> None:
    """Refuses what would be missing when a recorded step is not run again."""
    name = recording.get()
    if name is not None:
        raise RuntimeError(
            f"{what} inside of step {name!r}: on a retry its function is not run, and this would "
            f"be missing; do it after the step, with what the step gave"
        )


current: ContextVar[Step | None] = ContextVar("tidemill_step", default=None)

# In a worker: the step that runs now, for threads, which do not inherit context variables.
process_step: Step | None = None
# In a worker: why there is nothing to call through when there is no step.
no_runtime: str | None = None
# Outside: makes the default client.
default_client: Callable[[], Runtime] | None = None
# tidemill.testing.local, innermost last.
local_runtimes: list[Runtime] = []


def step() -> Step | None:
    """The step this code runs in, if any."""
    return current.get() or process_step


def runtime() -> Runtime:
    """Where a call from here goes."""
    here = current.get() or process_step
    if here is not None:
        return here
    if local_runtimes:
        return local_runtimes[-1]
    if no_runtime is not None:
        raise RuntimeError(no_runtime)
    if default_client is None:  # pragma: no cover - set by tidemill/__init__.py
        raise RuntimeError("tidemill is not fully imported")
    return default_client()


def state_backend() -> StateBackend:
    """The state of the app whose function runs here."""
    here = current.get() or process_step
    if here is not None and here.state is not None:
        return here.state
    if local_runtimes and local_runtimes[-1].outside is not None:
        return local_runtimes[-1].outside
    raise RuntimeError(
        "tidemill.state belongs to the function that runs; outside of functions use "
        "tidemill.connect().state('app')"
    )
