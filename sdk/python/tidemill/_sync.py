"""Running coroutines from plain code."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

# A worker runs coroutines on the loop it keeps; see tidemill.worker.
runner: Callable[[Coroutine[Any, Any, Any]], Any] | None = None


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs to the end, in a thread of its own where this one has a running loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        own = runner if threading.current_thread() is threading.main_thread() else None
        result: T = (own or asyncio.run)(coroutine)
        return result
    box: list[Any] = [None, None]
    context = contextvars.copy_context()

    def work() -> None:
        try:
            box[0] = context.run(asyncio.run, coroutine)
        except BaseException as error:
            box[1] = error

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if box[1] is not None:
        raise box[1]
    return box[0]  # type: ignore[no-any-return]


async def _await(value: Any) -> Any:
    return await value


def settle(value: Any) -> Any:
    """The value itself, or what it gives when it has to be awaited."""
    return run(_await(value)) if inspect.isawaitable(value) else value


def iterate(items: AsyncIterator[T]) -> Iterator[T]:
    """An async iterator as a plain one, on a loop of its own."""
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                item = loop.run_until_complete(_await(items.__anext__()))
            except StopAsyncIteration:
                return
            yield item
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            loop.run_until_complete(_await(close()))
        loop.close()
