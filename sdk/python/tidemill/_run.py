"""Runs fragments in a worker, one after the other, in the main thread."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from tidemill import _codec, _context, _failure, _sync
from tidemill._app import App, Function
from tidemill._codec import Payload
from tidemill._fragment import Fragment, WorkerStep
from tidemill._link import Link
from tidemill._logs import Output
from tidemill._ref import Ref
from tidemill._wire import BEGIN, DONE, FAILED, ITEM, RUN, STOP, Frame
from tidemill.errors import Cancelled

_NULL = _codec.encode(None)
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RSS_CPU_NS = 500_000
_RSS_AGE_CPU_NS = 5_000_000
# What an output may be and still be handed to several steps without a copy.
_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes, memoryview})


class Runner:
    """A worker's functions and the loop that serves them."""

    def __init__(self, link: Link, app: App, root: str) -> None:
        self._link = link
        self._app = app
        self._root = root.rstrip("/") + "/"
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._rss_bytes = 0
        self._rss_read_at = -(1 << 62)
        _sync.runner = self._run_coroutine

    def serve(self) -> None:
        """Runs until the node says stop."""
        while True:
            frame = self._link.next_frame()
            if frame[0] == RUN:
                self.run(frame)
            elif frame[0] == STOP:
                return

    def run(self, frame: Frame) -> None:
        """One fragment, from `run` to `done` or `failed`."""
        header, body = frame[1], frame[2]
        link = self._link
        cpu = time.process_time_ns()
        output = Output(link)
        fragment = Fragment(link, header, self._root, output)
        link.begin(fragment.request_id)
        running = _Running(self, fragment)
        try:
            try:
                payloads = running.steps(header, link.wire.payloads(header, body))
            finally:
                link.interruptible = False
        except BaseException as error:
            link.interruptible = False
            self._leave_fork()
            self._finish(fragment)
            self._failed(fragment, running.step, error, cpu)
            return
        self._leave_fork()
        self._finish(fragment)
        self._done(fragment, payloads, cpu)

    def _leave_fork(self) -> None:
        """A child that user code forked and let return must not speak for its parent."""
        if os.getpid() != self._pid:
            os._exit(0)

    def _finish(self, fragment: Fragment) -> None:
        if self._loop is not None:
            self._cancel_tasks(self._loop)
        fragment.output.finish()
        fragment.open = False
        _context.current.set(None)
        _context.process_step = None

    def _usage(self, cpu: int) -> tuple[int, int, bool]:
        now = time.process_time_ns()
        # Reading it costs as much as a small request, and such a one changes it little.
        if now - cpu > _RSS_CPU_NS or now - self._rss_read_at > _RSS_AGE_CPU_NS:
            self._rss_read_at = now
            self._rss_bytes = int(os.pread(self._statm, 96, 0).split(None, 2)[1]) * _PAGE
        return (now - cpu) // 1000, self._rss_bytes, _has_children()

    def _done(self, fragment: Fragment, payloads: list[Payload], cpu: int) -> None:
        link = self._link
        outputs = list(range(len(payloads)))
        ops = fragment.take_ops(payloads)
        cpu_us, rss_bytes, dirty = self._usage(cpu)
        header: dict[str, Any] = {
            "ops": ops, "outputs": outputs, "cpu_us": cpu_us, "rss_bytes": rss_bytes,
        }  # fmt: skip
        if dirty:
            header["dirty"] = True
        try:
            data = link.wire.pack(DONE, header, payloads)
        except Exception as error:  # values beyond every limit
            self._failed(fragment, 0, error, cpu)
            return
        link.end()
        link.send_bytes(data)

    def _failed(self, fragment: Fragment, step: int, error: BaseException, cpu: int) -> None:
        link = self._link
        cancelled = link.is_cancelled() and isinstance(error, Cancelled | asyncio.CancelledError)
        pickled: Payload | None = None
        if cancelled:
            described: dict[str, Any] = {
                "code": "cancelled",
                "message": "the request was cancelled",
                "traceback": _failure.format_exception(error),
            }
        else:
            described, pickled = _failure.describe(error)
        cpu_us, rss_bytes, dirty = self._usage(cpu)
        header = {"step": step, "error": described, "cpu_us": cpu_us, "rss_bytes": rss_bytes}
        if dirty:
            header["dirty"] = True
        if pickled is not None:
            described["p"] = 0
        try:
            data = link.wire.pack(FAILED, header, [pickled] if pickled is not None else [])
        except Exception:  # an exception that carries too much
            described.pop("p", None)
            header.pop("p", None)
            data = link.wire.pack(FAILED, header, [])
        link.end()
        link.send_bytes(data)

    # -- coroutines --

    def _run_coroutine(self, coroutine: Any) -> Any:
        """Runs on the worker's one event loop, which lives as long as the worker."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
        task = loop.create_task(coroutine)
        link = self._link
        link.cancel_task = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            if link.is_cancelled():
                task.cancel()
            return loop.run_until_complete(task)
        finally:
            link.cancel_task = None

    def _cancel_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tasks that a request started and did not wait for end with it."""
        tasks = asyncio.all_tasks(loop)
        if tasks:
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))


class _Running:
    """The steps of one fragment on their way."""

    __slots__ = ("_fragment", "_runner", "step")

    def __init__(self, runner: Runner, fragment: Fragment) -> None:
        self._runner = runner
        self._fragment = fragment
        self.step = 0

    def steps(self, header: dict[str, Any], payloads: list[Payload]) -> list[Payload]:
        """Runs the steps in order; gives the payloads of the outputs asked for."""
        steps, wanted = header["steps"], header["outputs"]
        if len(steps) == 1 and wanted == [steps[0]["id"]]:
            return [self._only(steps[0], payloads)]
        takers: dict[int, int] = {}
        for step in steps:
            for source in _sources(step):
                takers[source] = takers.get(source, 0) + 1
        results: dict[int, Any] = {}
        encoded: dict[int, Payload] = {}
        for index, step in enumerate(steps):
            if index:
                self._runner._link.send(BEGIN, {"step": step["id"]})
            id = step["id"]
            function = self._enter(step)
            result = self._call(function, *self._arguments(step, payloads, results, takers))
            if id in wanted:
                encoded[id] = _encode_result(function, result)
            if takers.get(id, 0):
                results[id] = result
        return [encoded[id] for id in wanted]

    def _only(self, step: dict[str, Any], payloads: list[Payload]) -> Payload:
        function = self._enter(step)
        args, kwargs = self._arguments(step, payloads, {}, {})
        if function.generator:
            self._generate(function, args, kwargs)
            return _NULL
        return _encode_result(function, self._call(function, args, kwargs))

    def _enter(self, step: dict[str, Any]) -> Function[..., Any, Any]:
        self.step = step["id"]
        here = WorkerStep(self._fragment, self.step)
        _context.current.set(here)
        _context.process_step = here
        name = step["function"]
        function = self._runner._app.functions.get(name)
        if function is None:
            raise LookupError(f"this worker has no function {name!r}")
        return function

    def _arguments(
        self,
        step: dict[str, Any],
        payloads: list[Payload],
        results: dict[int, Any],
        takers: dict[int, int],
    ) -> tuple[Any, dict[str, Any]]:
        args: Any
        kwargs: dict[str, Any] = {}
        call = step.get("call")
        if call is None:
            args = [
                payloads[item["p"]].decode() if "p" in item else _take(item["s"], results, takers)
                for item in step["in"]
            ]
        elif isinstance(call, dict):
            args, kwargs = _codec.as_call(_take(call["s"], results, takers))
        else:
            payload = payloads[call]
            args, kwargs = _codec.decode_call(payload.content_type, payload.data)
        for value in args:
            if type(value) is Ref:
                return self._here().resolve(args, kwargs)
        if kwargs:
            for value in kwargs.values():
                if type(value) is Ref:
                    return self._here().resolve(args, kwargs)
        return args, kwargs

    def _here(self) -> WorkerStep:
        step = _context.current.get()
        assert isinstance(step, WorkerStep)
        return step

    def _call(self, function: Function[..., Any, Any], args: Any, kwargs: dict[str, Any]) -> Any:
        link = self._runner._link
        if link.is_cancelled():
            raise Cancelled("the request was cancelled")
        link.interruptible = True
        target = function.target()
        if function.is_async:
            result = self._runner._run_coroutine(target(*args, **kwargs))
        else:
            result = target(*args, **kwargs)
        link.interruptible = False
        return result

    def _generate(
        self, function: Function[..., Any, Any], args: Any, kwargs: dict[str, Any]
    ) -> None:
        link = self._runner._link
        if function.is_async_gen:
            link.interruptible = True
            items = function.target()(*args, **kwargs)
            self._runner._run_coroutine(self._drain(function, items))
        else:
            link.interruptible = True
            for item in function.target()(*args, **kwargs):
                self._item(function, item)
        link.interruptible = False

    async def _drain(self, function: Function[..., Any, Any], items: Any) -> None:
        async for item in items:
            self._item(function, item)

    def _item(self, function: Function[..., Any, Any], item: Any) -> None:
        link = self._runner._link
        link.send(ITEM, {"step": self.step}, [_encode_result(function, item)])


def _sources(step: dict[str, Any]) -> list[int]:
    call = step.get("call")
    if call is not None:
        return [call["s"]] if isinstance(call, dict) else []
    return [item["s"] for item in step["in"] if "s" in item]


def _take(id: int, results: dict[int, Any], takers: dict[int, int]) -> Any:
    """The output of an earlier step. All takers but the last get a copy, so that a step that
    changes its argument does not change another's."""
    value = results[id]
    takers[id] -= 1
    if takers[id] == 0:
        del results[id]
        return value
    if type(value) in _IMMUTABLE:
        return value
    return _codec.encode(value).decode()


def _encode_result(function: Function[..., Any, Any], result: Any) -> Payload:
    try:
        return _codec.encode(result)
    except Exception as error:
        raise TypeError(
            f"the result of {function.name} can not travel: {type(result).__name__} does not "
            f"pickle ({type(error).__name__}: {error})"
        ) from None


def _has_children() -> bool:
    """Whether processes were left behind; those that have ended are reaped."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
