"""`tidemill.step`: what a function does once in a request, however often the request is run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from tidemill import _codec, _context
from tidemill._codec import Payload

F = TypeVar("F", bound=Callable[..., Any])


def step(name: str | Callable[..., Any], fn: Any = None, /, *args: Any, **kwargs: Any) -> Any:
    """Calls `fn(*args, **kwargs)` and records what it gives under `name`, durably, before going on.

    When the request is run again, after a crash, by `retries`, or by a caller with the same
    idempotency key, the step gives what was recorded and `fn` is not called. So it is the place
    for what can not be taken back, such as paying:

        receipt = tidemill.step("pay", pay, order, key=tidemill.request.id)

    If the worker or the node dies after `fn` has returned and before that is recorded, `fn` is
    called again: what it does outside happens at least once, so give the other side
    `tidemill.request.id` to tell a repetition. An exception is not recorded. `fn` may not write
    state or call functions: they would be missing when it is not called. Without a caller's key
    a step holds for the attempts of one request. Steps are told apart by name, by how many of
    that name came before, and by the call that they are in.

    With an async function it gives something to await. Also a decorator, with the function's
    name or one of its own: `@tidemill.step`, `@tidemill.step("pay")`.
    """
    if not isinstance(name, str):
        if fn is not None or args or kwargs:
            raise TypeError('a step begins with its name: tidemill.step("name", fn, ...)')
        return _decorated(name, getattr(name, "__qualname__", type(name).__name__))
    if fn is None:
        return lambda function: _decorated(function, name)
    if not callable(fn):
        raise TypeError(f"step {name!r} is not given a function but {fn!r}")
    if inspect.iscoroutinefunction(fn):
        return _run_aio(name, fn, args, kwargs)
    return _run(name, fn, args, kwargs)


def _decorated(function: F, name: str) -> F:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_aio(*args: Any, **kwargs: Any) -> Any:
            return await _run_aio(name, function, args, kwargs)

        return call_aio  # type: ignore[return-value]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return _run(name, function, args, kwargs)

    return call  # type: ignore[return-value]


def _here(name: str) -> _context.Step:
    here = _context.step()
    if here is None:
        raise RuntimeError("tidemill.step is there inside functions only")
    _context.check_not_recording(f"step {name!r} begins")
    return here


def _encode(name: str, value: Any) -> Payload:
    try:
        return _codec.encode(value)
    except Exception as error:
        raise TypeError(
            f"step {name!r} gave a {type(value).__name__}, which can not be recorded "
            f"({type(error).__name__}: {error})"
        ) from None


def _run(name: str, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    here = _here(name)
    number, before = here.recall(name)
    if before is not None:
        return before.decode()
    token = _context.recording.set(name)
    try:
        value = fn(*args, **kwargs)
    finally:
        _context.recording.reset(token)
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError(
            f"step {name!r} was given a function that gives an awaitable: make it async"
        )
    other = here.record(name, number, _encode(name, value))
    return value if other is None else other.decode()


async def _run_aio(name: str, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    here = _here(name)
    number, before = await here.recall_aio(name)
    if before is not None:
        return before.decode()
    token = _context.recording.set(name)
    try:
        value = await fn(*args, **kwargs)
    finally:
        _context.recording.reset(token)
    other = await here.record_aio(name, number, _encode(name, value))
    return value if other is None else other.decode()
