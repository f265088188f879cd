"""What can be called by name: the `.remote`, `.spawn`, `.map` of functions and flows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

from tidemill import _context

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_CONCURRENCY = 16


class Target:
    """A function or flow of an app, as the runtimes see it."""

    app_name: str
    name: str | None
    generator: bool = False

    def ir(self) -> dict[str, Any] | None:
        """The flow, where the target is one without a registered name."""
        return None


class Call(ABC, Generic[R]):
    """A call that was started with `.spawn`."""

    id: str
    """The request's id; inside a function, that of the request both belong to."""

    @abstractmethod
    def _result(self, timeout: float | None) -> R: ...

    @abstractmethod
    async def _result_aio(self, timeout: float | None) -> R: ...

    @abstractmethod
    def _cancel(self) -> None: ...

    @abstractmethod
    async def _cancel_aio(self) -> None: ...

    @property
    def get(self) -> Get[R]:
        """`get(timeout=None)` waits for the result; `await get.aio()` in a coroutine."""
        return Get(self)

    @property
    def cancel(self) -> Cancel:
        """`cancel()` stops the call; `await cancel.aio()` in a coroutine."""
        return Cancel(self)

    def __repr__(self) -> str:
        return f"<Call {self.id}>"


class Get(Generic[R]):
    """`Call.get`."""

    __slots__ = ("_call",)

    def __init__(self, call: Call[R]) -> None:
        self._call = call

    def __call__(self, timeout: float | None = None) -> R:
        """Waits for the result, at most `timeout` seconds (then raises `tidemill.Timeout`)."""
        return self._call._result(timeout)

    async def aio(self, timeout: float | None = None) -> R:
        """The same without blocking the event loop."""
        return await self._call._result_aio(timeout)


class Cancel:
    """`Call.cancel`."""

    __slots__ = ("_call",)

    def __init__(self, call: Call[Any]) -> None:
        self._call = call

    def __call__(self) -> None:
        """Stops the call."""
        self._call._cancel()

    async def aio(self) -> None:
        """The same without blocking the event loop."""
        await self._call._cancel_aio()


class Remote(Generic[P, R]):
    """`f.remote`: calls where the platform runs it, and waits for the result."""

    __slots__ = ("_target",)

    def __init__(self, target: Target) -> None:
        self._target = target

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls and waits. On a generator function: an iterator of its items."""
        target = self._target
        if target.generator:
            return _context.runtime().stream(target, args, kwargs)  # type: ignore[return-value]
        return _context.runtime().call(target, args, kwargs)  # type: ignore[no-any-return]

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """For `await`. On a generator function: an async iterator of its items."""
        target = self._target
        if target.generator:
            return _context.runtime().stream_aio(target, args, kwargs)  # type: ignore[return-value]
        return _context.runtime().call_aio(target, args, kwargs)


class RemoteGen(Generic[P]):
    """`f.remote_gen`: calls a generator function."""

    __slots__ = ("_target",)

    def __init__(self, target: Target) -> None:
        self._target = target

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        """An iterator of the items. It raises at its end if the request failed."""
        return _context.runtime().stream(self._generator(), args, kwargs)

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
        """The same as an async iterator."""
        return _context.runtime().stream_aio(self._generator(), args, kwargs)

    def _generator(self) -> Target:
        if not self._target.generator:
            raise TypeError(f"{self._target!r} is not a generator function; use .remote")
        return self._target


class Spawn(Generic[P, R]):
    """`f.spawn`: starts a call and does not wait."""

    __slots__ = ("_target",)

    def __init__(self, target: Target) -> None:
        self._target = target

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Starts a call; `.get()` waits for its result."""
        return _context.runtime().spawn(self._target, args, kwargs)

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """The same in a coroutine."""
        return _context.runtime().spawn(self._target, args, kwargs)


class Map(Generic[R]):
    """`f.map`: one call for each item."""

    __slots__ = ("_target",)

    def __init__(self, target: Target) -> None:
        self._target = target

    def __call__(
        self, iterable: Iterable[Any], *, concurrency: int = DEFAULT_CONCURRENCY
    ) -> Iterator[R]:
        """Results in the order of the items, at most `concurrency` calls in flight.

        Items are taken as results are asked for, so an endless iterable is fine.
        """
        return _context.runtime().map(self._target, iterable, _bounded(concurrency))

    def aio(
        self, iterable: Iterable[Any], *, concurrency: int = DEFAULT_CONCURRENCY
    ) -> AsyncIterator[R]:
        """The same for `async for`."""
        return _context.runtime().map_aio(self._target, iterable, _bounded(concurrency))


def _bounded(concurrency: int) -> int:
    if concurrency < 1:
        raise ValueError("concurrency must be at least 1")
    return concurrency


class Callable_(Target, Generic[P, R]):
    """Adds the forms of calling to a target."""

    remote: Remote[P, R]
    spawn: Spawn[P, R]
    map: Map[R]

    def _init_forms(self) -> None:
        self.remote = Remote(self)
        self.spawn = Spawn(self)
        self.map = Map(self)


def enqueue(target: Target, /, *args: Any, **kwargs: Any) -> None:
    """Calls `target` as a request of its own.

    Inside a function it starts after this request has committed, and not at all if it fails.
    Outside it starts at once; nobody waits for it.
    """
    if not isinstance(target, Target):
        raise TypeError("enqueue takes a function of an app, or a flow")
    _context.runtime().enqueue(target, args, kwargs)
