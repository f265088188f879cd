"""Testing without a node: `with tidemill.testing.local(app): …`.

Inside the block `.remote` and its kin run in this process, on state kept in a plain Python
model. Requests run one at a time, each as a whole: its writes are kept when it returns and
dropped when it raises. Arguments and results pass through the same encoding as on a node, so
what can not travel fails here too. Flows run step by step.

For tests against the real thing there is the pytest fixture `tidemill_node`: a `Client` of a
fresh node that runs for the test session.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from tidemill import _codec, _context, _sync
from tidemill._app import App, Function
from tidemill._codec import Payload
from tidemill._context import Runtime, StateBackend, Step, check_not_recording
from tidemill._flow import Flow
from tidemill._handles import Space
from tidemill._model import Model
from tidemill._ref import Ref
from tidemill._target import Call, Target
from tidemill.errors import Cancelled, FunctionError, NotFound

__all__ = ["Local", "local"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def local(*apps: App) -> Local:
    """A context manager: calls of functions of these apps run in this process.

    It gives a `Local`, whose `.state(app)` reads and writes what the functions left; with one
    app `tidemill.state` does so too.
    """
    return Local(apps)


class _Info:
    """A request in this process."""

    def __init__(self, app: str, timeout: float) -> None:
        self.request_id = uuid.uuid4().hex
        self.attempt = 1
        self.key: str | None = None
        self.trace = f"00-{uuid.uuid4().hex}-{self.request_id[:16]}-01"
        self.caller: dict[str, Any] = {"tenant": "default", "subject": "test"}
        self.app = app
        self._end = time.monotonic() + timeout
        self.enqueued: list[tuple[Target, Args, Kwargs]] = []

    def remaining(self) -> float | None:
        """Seconds until the deadline."""
        return max(0.0, self._end - time.monotonic())


class _Commits:
    """State from outside of requests: each write is a commit."""

    def __init__(self, owner: Local, app: str) -> None:
        self._owner = owner
        self._app = app

    def write(self, op: dict[str, Any]) -> None:
        """Does one operation."""
        with self._owner.lock:
            self._owner.model(self._app).apply([op])

    def read(self, get: dict[str, Any]) -> Any:
        """Answers one get."""
        with self._owner.lock:
            return self._owner.model(self._app).get(get, [])

    async def read_aio(self, get: dict[str, Any]) -> Any:
        """The same."""
        return self.read(get)


class _Base(Runtime):
    """What requests and their children share: everything comes down to `attempt`."""

    def attempt(self, target: Target, args: Args, kwargs: Kwargs) -> _Outcome:
        """Runs a call to its end."""
        raise NotImplementedError

    def join(self, outcome: _Outcome) -> None:
        """Takes over the writes of a child."""

    def _take(self, outcome: _Outcome) -> Any:
        self.join(outcome)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value()

    def call(self, target: Target, args: Args, kwargs: Kwargs) -> Any:
        return self._take(self.attempt(target, args, kwargs))

    async def call_aio(self, target: Target, args: Args, kwargs: Kwargs) -> Any:
        return await asyncio.to_thread(self.call, target, args, kwargs)

    def spawn(self, target: Target, args: Args, kwargs: Kwargs) -> Call[Any]:
        return LocalCall(self, self.attempt(target, args, kwargs))

    def stream(self, target: Target, args: Args, kwargs: Kwargs) -> Iterator[Any]:
        outcome = self.attempt(target, args, kwargs)
        self.join(outcome)

        def items() -> Iterator[Any]:
            for item in outcome.items:
                yield item.decode()
            if outcome.error is not None:
                raise outcome.error

        return items()

    async def stream_aio(self, target: Target, args: Args, kwargs: Kwargs) -> AsyncIterator[Any]:
        for item in await asyncio.to_thread(self.stream, target, args, kwargs):
            yield item

    def map(self, target: Target, items: Iterable[Any], concurrency: int) -> Iterator[Any]:
        return (self.call(target, (item,), {}) for item in items)

    async def map_aio(
        self, target: Target, items: Iterable[Any], concurrency: int
    ) -> AsyncIterator[Any]:
        for item in items:
            yield await self.call_aio(target, (item,), {})


class _Outcome:
    """How a call ended."""

    def __init__(self, request: str) -> None:
        self.request = request
        self.error: BaseException | None = None
        self.result: Payload | None = None
        self.items: list[Payload] = []
        self.streamed = False
        self.ops: list[dict[str, Any]] = []

    def value(self) -> Any:
        """The result, decoded anew."""
        if self.streamed:
            return [item.decode() for item in self.items]
        return None if self.result is None else self.result.decode()


class LocalCall(Call[Any]):
    """A call that has run already."""

    def __init__(self, runtime: _Base, outcome: _Outcome) -> None:
        self.id = outcome.request
        self._runtime = runtime
        self._outcome = outcome
        self._joined = False

    def _result(self, timeout: float | None) -> Any:
        if not self._joined:
            self._joined = True
            self._runtime.join(self._outcome)
        if self._outcome.error is not None:
            raise self._outcome.error
        return self._outcome.value()

    async def _result_aio(self, timeout: float | None) -> Any:
        return self._result(timeout)

    def _cancel(self) -> None:
        if not self._joined and isinstance(self._runtime, _LocalStep):
            self._joined = True
            self._outcome.error = Cancelled("the call was cancelled", request=self.id)

    async def _cancel_aio(self) -> None:
        self._cancel()


class _LocalStep(_Base, Step):
    """Inside a request."""

    def __init__(self, owner: Local, app: App, info: _Info, before: list[dict[str, Any]]) -> None:
        self.owner = owner
        self.app = app
        self.info: _Info = info
        self._before = before
        self.ops: list[dict[str, Any]] = []
        self._unjoined: list[_Outcome] = []

    @property
    def state(self) -> StateBackend:  # type: ignore[override]
        return self

    def write(self, op: dict[str, Any]) -> None:
        """Keeps an operation for the commit; a wrong type is refused at once."""
        check_not_recording("state is written")
        self.owner.model(self.app.name).cell(op["k"], [*self._before, *self.ops, op])
        self.ops.append(op)

    def read(self, get: dict[str, Any]) -> Any:
        """Answers one get with the request's own writes."""
        return self.owner.model(self.app.name).get(get, [*self._before, *self.ops])

    async def read_aio(self, get: dict[str, Any]) -> Any:
        """The same."""
        return self.read(get)

    # Nothing is run again here, so nothing needs to be kept.

    def recall(self, name: str) -> tuple[int, Payload | None]:
        return 0, None

    async def recall_aio(self, name: str) -> tuple[int, Payload | None]:
        return 0, None

    def record(self, name: str, number: int, value: Payload) -> Payload | None:
        return None

    async def record_aio(self, name: str, number: int, value: Payload) -> Payload | None:
        return None

    def attempt(self, target: Target, args: Args, kwargs: Kwargs) -> _Outcome:
        check_not_recording("a function is called")
        app = self.owner.app(target.app_name)
        if app is not self.app:
            raise NotFound(f"in local mode a request stays in app {self.app.name}")
        return self.owner.run(target, args, kwargs, self.info, [*self._before, *self.ops])

    def spawn(self, target: Target, args: Args, kwargs: Kwargs) -> Call[Any]:
        outcome = self.attempt(target, args, kwargs)
        self._unjoined.append(outcome)
        return LocalCall(self, outcome)

    def join(self, outcome: _Outcome) -> None:
        if outcome in self._unjoined:
            self._unjoined.remove(outcome)
        if outcome.error is None:
            self.ops.extend(outcome.ops)

    def finish(self) -> None:
        """Children that nobody awaited join when their caller ends."""
        for outcome in list(self._unjoined):
            self.join(outcome)

    def enqueue(self, target: Target, args: Args, kwargs: Kwargs) -> None:
        check_not_recording("a function is called")
        self.info.enqueued.append((target, args, kwargs))


class Local(_Base):
    """The in-process mode."""

    def __init__(self, apps: tuple[App, ...]) -> None:
        if not apps:
            raise TypeError("local takes the app to run: tidemill.testing.local(app)")
        self._apps = {app.name: app for app in apps}
        self._models: dict[str, Model] = {}
        self.lock = threading.RLock()
        self.outside = _Commits(self, apps[0].name) if len(apps) == 1 else None

    def __enter__(self) -> Local:
        _context.local_runtimes.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _context.local_runtimes.remove(self)

    @property
    def state(self) -> Callable[[App | str], Space]:  # type: ignore[override]
        """`local.state(app)`: the state as a client sees it."""
        return lambda app: Space(_Commits(self, app.name if isinstance(app, App) else app))

    def model(self, app: str) -> Model:
        """The state of one app."""
        return self._models.setdefault(app, Model())

    def app(self, name: str) -> App:
        """One of the apps that run here."""
        found = self._apps.get(name)
        if found is None:
            raise NotFound(f"app {name} does not run here", code="unknown-app")
        return found

    def attempt(self, target: Target, args: Args, kwargs: Kwargs) -> _Outcome:
        with self.lock:
            app = self.app(target.app_name)
            info = _Info(app.name, 60.0)
            outcome = self.run(target, args, kwargs, info, [])
            if outcome.error is None:
                self.model(app.name).apply(outcome.ops)
                for later in info.enqueued:
                    self.attempt(*later)
            outcome.ops = []
            return outcome

    def enqueue(self, target: Target, args: Args, kwargs: Kwargs) -> None:
        self.attempt(target, args, kwargs)

    def run(
        self,
        target: Target,
        args: Args,
        kwargs: Kwargs,
        info: _Info,
        before: list[dict[str, Any]],
    ) -> _Outcome:
        """One call with its children; `before` are writes that it sees and that are not its."""
        app = self.app(target.app_name)
        here = _LocalStep(self, app, info, before)
        outcome = _Outcome(info.request_id)
        token = _context.current.set(here)
        try:
            payload = _codec.encode_call(args, kwargs)
            taken, named = _codec.decode_call(payload.content_type, payload.data)
            if isinstance(target, Flow):
                result = target.run(tuple(taken), named, self._step(here))
                outcome.result = _codec.encode(result)
            else:
                self._function(here, self._find(app, target), tuple(taken), named, outcome)
            here.finish()
            outcome.ops = here.ops
        except Exception as error:
            outcome.error = error
        except (SystemExit, KeyboardInterrupt) as error:
            outcome.error = FunctionError(type(error).__name__, str(error))
        finally:
            _context.current.reset(token)
        return outcome

    def _find(self, app: App, target: Target) -> Function[..., Any, Any]:
        found = app.functions.get(target.name or "")
        if found is None:
            raise NotFound(f"app {app.name} has no function {target.name}")
        return found

    def _step(self, here: _LocalStep) -> Callable[[Any, Args, Kwargs], Any]:
        def call(function: Function[..., Any, Any], args: Args, kwargs: Kwargs) -> Any:
            # Each step has values of its own, though a result may have several takers.
            payload = _codec.encode_call(args, kwargs)
            taken, named = _codec.decode_call(payload.content_type, payload.data)
            args, kwargs = _resolve(here, tuple(taken), named)
            return _codec.encode(_sync.settle(function.local(*args, **kwargs))).decode()

        return call

    def _function(
        self,
        here: _LocalStep,
        function: Function[..., Any, Any],
        args: Args,
        kwargs: Kwargs,
        outcome: _Outcome,
    ) -> None:
        args, kwargs = _resolve(here, args, kwargs)
        result = function.local(*args, **kwargs)
        if not function.generator:
            outcome.result = _codec.encode(_sync.settle(result))
            return
        outcome.streamed = True
        items = _sync.iterate(result) if function.is_async_gen else result
        for item in items:
            outcome.items.append(_codec.encode(item))


def _resolve(here: _LocalStep, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
    def value(item: Any) -> Any:
        if type(item) is not Ref:
            return item
        if item.app is not None and item.app != here.app.name:
            raise ValueError(f"{item!r}: a function reads the state of its own app only")
        view = here.read({"k": item.key, "t": "register"})
        return None if view is None else view.value.decode()

    return tuple(map(value, args)), {name: value(item) for name, item in kwargs.items()}
