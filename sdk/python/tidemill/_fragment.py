"""A fragment that a worker runs, and the runtime its steps see.

`Fragment` holds what the steps of one request share here: writes not sent yet, reads made at the
snapshot, output. `WorkerStep` is the runtime of one step: what `.remote`, `tidemill.state` and
`tidemill.request` come to inside a worker.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from tidemill import _codec, _failure
from tidemill._codec import Payload
from tidemill._context import StateBackend, Step, View, check_not_recording
from tidemill._link import Link, Reply
from tidemill._ref import Ref
from tidemill._target import Call, Target
from tidemill._wire import CALL, RECALL, RECORD, STATE, WAIT
from tidemill.errors import Cancelled, Timeout, WrongType

_OPS_MAX = 1000
_OPS_BYTES_MAX = 1 << 20

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Fragment:
    """One `run` frame being run."""

    __slots__ = (
        "app", "attempt", "caller", "calls", "causal", "deadline", "key", "link",
        "open", "ops", "ops_bytes", "output", "request_id", "root", "trace",
    )  # fmt: skip

    def __init__(self, link: Link, header: dict[str, Any], root: str, output: Any) -> None:
        self.link = link
        self.root = root
        self.output = output
        self.request_id: str = header["request"]
        self.attempt: int = header.get("attempt", 1)
        self.app: str = header.get("app", "")
        self.key: str | None = header.get("key")
        self.trace: str = header.get("trace") or ""
        self.caller: dict[str, Any] = header.get("caller") or {}
        self.causal = header.get("level") != "eventual"
        deadline = header.get("deadline_ms")
        self.deadline = None if deadline is None else time.monotonic() + deadline / 1000
        self.ops: list[dict[str, Any]] = []
        self.ops_bytes = 0
        self.calls = 0
        self.open = True

    def remaining(self) -> float | None:
        """Seconds until the deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def take_ops(self, payloads: list[Payload]) -> list[dict[str, Any]]:
        """The writes not sent yet; their values join `payloads`."""
        ops, self.ops, self.ops_bytes = self.ops, [], 0
        for op in ops:
            value = op.get("p")
            if value is not None:
                op["p"] = len(payloads)
                payloads.append(value)
        return ops

    def check_open(self) -> None:
        """Refuses what code left behind by an earlier request does."""
        if not self.open:
            raise RuntimeError("the request this code belongs to is over")


class WorkerStep(Step):
    """The runtime inside a step."""

    info: Fragment

    def __init__(self, fragment: Fragment, id: int) -> None:
        self.info = fragment
        self.id = id
        # Of this step alone: branches that share a worker do not see each other's writes.
        self.cache: dict[str, dict[Any, Any]] = {}

    @property
    def state(self) -> StateBackend:  # type: ignore[override]
        return self

    # -- state --

    def write(self, op: dict[str, Any]) -> None:
        """Keeps an operation until the next frame that goes out, or sends it if it stands alone."""
        fragment = self.info
        fragment.check_open()
        check_not_recording("state is written")
        op["s"] = self.id
        op.pop("_t", None)
        at = op.get("at")
        if at is not None and at.startswith(fragment.root):
            op["at"] = at[len(fragment.root) :]
        self.cache.pop(op["k"], None)
        fragment.ops.append(op)
        value = op.get("p")
        if value is not None:
            fragment.ops_bytes += value.size
        is_much = len(fragment.ops) > _OPS_MAX or fragment.ops_bytes > _OPS_BYTES_MAX
        if is_much or not fragment.causal:
            self._flush()

    def _flush(self) -> None:
        payloads: list[Payload] = []
        ops = self.info.take_ops(payloads)
        self.info.link.send(STATE, {"ops": ops}, payloads)

    def read(self, get: dict[str, Any]) -> Any:
        """One get, from the reads made already or from the node."""
        place = self._place(get)
        if place is not None and place[1] in place[0]:
            return place[0][place[1]]
        link = self.info.link
        header, payloads = self._state_frame([get])
        reply = link.wait(link.ask(STATE, header, payloads), soon=True)
        return self._keep(get, self._answers(reply)[0])

    async def read_aio(self, get: dict[str, Any]) -> Any:
        """The same without blocking the event loop."""
        place = self._place(get)
        if place is not None and place[1] in place[0]:
            return place[0][place[1]]
        header, payloads = self._state_frame([get])
        reply = await self.info.link.ask_aio(STATE, header, payloads)
        return self._keep(get, self._answers(reply)[0])

    def _place(self, get: dict[str, Any]) -> tuple[dict[Any, Any], Any] | None:
        """Where the read is kept. Only a snapshot's reads repeat."""
        fragment = self.info
        fragment.check_open()
        if not fragment.causal or "has" in get or "k" not in get:
            return None
        entries = self.cache.get(get["k"])
        if entries is None:
            entries = self.cache[get["k"]] = {}
        return entries, (get["t"], get.get("f"))

    def _keep(self, get: dict[str, Any], answer: Any) -> Any:
        place = self._place(get)
        if place is not None:
            place[0][place[1]] = answer
        return answer

    def _state_frame(self, gets: list[dict[str, Any]]) -> tuple[dict[str, Any], list[Payload]]:
        payloads: list[Payload] = []
        ops = self.info.take_ops(payloads)
        asked = []
        for get in gets:
            get = {"s": self.id, **get}
            element = get.get("has")
            if element is not None:
                get["has"] = len(payloads)
                payloads.append(element)
            asked.append(get)
        return {"ops": ops, "get": asked}, payloads

    def _answers(self, reply: Reply) -> list[Any]:
        header, payloads = reply
        if "error" in header:
            raise self._error(header, payloads)
        return [
            parse_view(answer, payloads) if isinstance(answer, dict) and "t" in answer else answer
            for answer in header["r"]
        ]

    def resolve(self, args: Any, kwargs: Kwargs) -> tuple[list[Any], Kwargs]:
        """Puts the values of registers where `tidemill.ref` stands for them."""
        refs = [value for value in (*args, *kwargs.values()) if type(value) is Ref]
        for ref in refs:
            if ref.app is not None and ref.app != self.info.app:
                raise ValueError(f"{ref!r}: a function reads the state of its own app only")
        header, payloads = self._state_frame([{"k": ref.key, "t": "register"} for ref in refs])
        link = self.info.link
        answers = self._answers(link.wait(link.ask(STATE, header, payloads), soon=True))
        values = {}
        for ref, view in zip(refs, answers, strict=True):
            if view is not None and view.type != "register":
                raise WrongType(f"{ref!r} holds a {view.type}, not a register")
            self._keep({"k": ref.key, "t": "register"}, view)
            values[ref] = None if view is None else view.value.decode()
        return (
            [values[a] if type(a) is Ref else a for a in args],
            {k: values[v] if type(v) is Ref else v for k, v in kwargs.items()},
        )

    # -- recorded steps --

    def recall(self, name: str) -> tuple[int, Payload | None]:
        self.info.check_open()
        link = self.info.link
        reply = link.wait(link.ask(RECALL, {"step": self.id, "name": name}), soon=True)
        return self._recalled(reply)

    async def recall_aio(self, name: str) -> tuple[int, Payload | None]:
        self.info.check_open()
        header = {"step": self.id, "name": name}
        return self._recalled(await self.info.link.ask_aio(RECALL, header))

    def record(self, name: str, number: int, value: Payload) -> Payload | None:
        link = self.info.link
        header = {"step": self.id, "name": name, "n": number}
        return self._recalled(link.wait(link.ask(RECORD, header, [value])))[1]

    async def record_aio(self, name: str, number: int, value: Payload) -> Payload | None:
        header = {"step": self.id, "name": name, "n": number}
        return self._recalled(await self.info.link.ask_aio(RECORD, header, [value]))[1]

    def _recalled(self, reply: Reply) -> tuple[int, Payload | None]:
        header, payloads = reply
        if "error" in header:
            raise self._error(header, payloads)
        return header["r"]["n"], payloads[0] if payloads else None

    # -- calls --

    def _call_frame(
        self, mode: str, target: Target, args: Args, kwargs: Kwargs
    ) -> tuple[int, dict[str, Any], list[Payload]]:
        fragment = self.info
        fragment.check_open()
        check_not_recording("a function is called")
        payloads = [_codec.encode_call(args, kwargs)]
        number = fragment.calls
        fragment.calls += 1
        header: dict[str, Any] = {
            "step": self.id,
            "call": number,
            "mode": mode,
            "ops": fragment.take_ops(payloads),
        }
        if target.app_name != fragment.app:
            header["app"] = target.app_name
        flow = target.ir()
        if flow is not None:
            header["flow"] = flow
        else:
            header["function"] = target.name
        return number, header, payloads

    def _error(self, header: dict[str, Any], payloads: list[Payload]) -> BaseException:
        error = header["error"]
        index = error.get("p")
        pickled = payloads[index] if isinstance(index, int) and index < len(payloads) else None
        return _failure.rebuild(error, pickled, self.info.request_id)

    def _result(self, reply: Reply, generator: bool = False) -> Any:
        header, payloads = reply
        self.cache.clear()  # the child's writes have joined ours
        if "error" in header:
            raise self._error(header, payloads)
        if generator:
            return payloads
        return payloads[0].decode() if payloads else None

    def call(self, target: Target, args: Args, kwargs: Kwargs) -> Any:
        _, header, payloads = self._call_frame("remote", target, args, kwargs)
        link = self.info.link
        return self._result(link.wait(link.ask(CALL, header, payloads)))

    async def call_aio(self, target: Target, args: Args, kwargs: Kwargs) -> Any:
        number, header, payloads = self._call_frame("remote", target, args, kwargs)
        return self._result(await self._ask_call(number, header, payloads))

    async def _ask_call(
        self, number: int, header: dict[str, Any], payloads: list[Payload]
    ) -> Reply:
        try:
            return await self.info.link.ask_aio(CALL, header, payloads)
        except asyncio.CancelledError:
            self.abandon(number)
            raise

    def spawn(self, target: Target, args: Args, kwargs: Kwargs) -> Call[Any]:
        number, header, payloads = self._call_frame("spawn", target, args, kwargs)
        self.info.link.send(CALL, header, payloads)
        return WorkerCall(self, number, target.generator)

    def enqueue(self, target: Target, args: Args, kwargs: Kwargs) -> None:
        _, header, payloads = self._call_frame("enqueue", target, args, kwargs)
        self.info.link.send(CALL, header, payloads)

    def stream(self, target: Target, args: Args, kwargs: Kwargs) -> Iterator[Any]:
        _, header, payloads = self._call_frame("remote", target, args, kwargs)
        link = self.info.link
        items = self._result(link.wait(link.ask(CALL, header, payloads)), generator=True)
        return (item.decode() for item in items)

    async def stream_aio(self, target: Target, args: Args, kwargs: Kwargs) -> AsyncIterator[Any]:
        number, header, payloads = self._call_frame("remote", target, args, kwargs)
        reply = await self._ask_call(number, header, payloads)
        for item in self._result(reply, generator=True):
            yield item.decode()

    def abandon(self, number: int) -> None:
        """Cancels a call whose result nobody wants any more."""
        fragment = self.info
        if fragment.open:
            fragment.link.tell(WAIT, {"call": number, "cancel": True})

    def map(self, target: Target, items: Iterable[Any], concurrency: int) -> Iterator[Any]:
        link = self.info.link
        source = iter(items)
        flying: deque[tuple[int, int]] = deque()

        def start() -> bool:
            for item in source:
                number, header, payloads = self._call_frame("remote", target, (item,), {})
                flying.append((link.ask(CALL, header, payloads), number))
                return True
            return False

        def run() -> Iterator[Any]:
            try:
                while len(flying) < concurrency and start():
                    pass
                while flying:
                    reply = link.wait(flying[0][0])
                    flying.popleft()
                    result = self._result(reply, target.generator)
                    start()
                    yield [p.decode() for p in result] if target.generator else result
            finally:
                for seq, number in flying:
                    link.forget(seq)
                    self.abandon(number)

        return run()

    async def map_aio(
        self, target: Target, items: Iterable[Any], concurrency: int
    ) -> AsyncIterator[Any]:
        source = iter(items)
        flying: deque[asyncio.Task[Reply]] = deque()

        def start() -> bool:
            for item in source:
                frame = self._call_frame("remote", target, (item,), {})
                flying.append(asyncio.ensure_future(self._ask_call(*frame)))
                return True
            return False

        try:
            while len(flying) < concurrency and start():
                pass
            while flying:
                reply = await flying[0]
                flying.popleft()
                result = self._result(reply, target.generator)
                start()
                yield [p.decode() for p in result] if target.generator else result
        finally:
            for task in flying:
                task.cancel()


class WorkerCall(Call[Any]):
    """A child of the request, started with `.spawn`."""

    def __init__(self, step: WorkerStep, number: int, generator: bool) -> None:
        self._step = step
        self._number = number
        self._generator = generator
        self._done: tuple[bool, Any] | None = None
        self._lock = threading.Lock()
        self._task: asyncio.Task[Reply] | None = None

    @property
    def id(self) -> str:  # type: ignore[override]
        return self._step.info.request_id

    def _frame(self, timeout: float | None) -> dict[str, Any]:
        self._step.info.check_open()
        header: dict[str, Any] = {"call": self._number}
        if timeout is not None:
            header["timeout_ms"] = max(0, round(timeout * 1000))
        return header

    def _take(self, reply: Reply, timeout: float | None) -> Any:
        if self._done is None:
            error = reply[0].get("error")
            try:
                result = self._step._result(reply, self._generator)
            except BaseException as failed:
                # A wait that ran out may be tried again; anything else is how the call ended.
                if timeout is None or error is None or error.get("code") != "timed-out":
                    self._done = (False, failed)
                raise
            if self._generator:
                result = [item.decode() for item in result]
            self._done = (True, result)
        ok, value = self._done
        if ok:
            return value
        raise value

    def _result(self, timeout: float | None) -> Any:
        # The node gives a result once, so threads take turns.
        with self._lock:
            if self._done is not None:
                return self._take(({}, []), None)
            link = self._step.info.link
            return self._take(link.wait(link.ask(WAIT, self._frame(timeout))), timeout)

    async def _result_aio(self, timeout: float | None) -> Any:
        if self._done is not None:
            return self._take(({}, []), None)
        # One question for all coroutines that wait, which a wait that is given up leaves alone.
        if self._task is None:
            link = self._step.info.link
            self._task = asyncio.ensure_future(link.ask_aio(WAIT, self._frame(None)))
        try:
            reply = await asyncio.wait_for(asyncio.shield(self._task), timeout)
        except TimeoutError:
            raise Timeout(f"no result within {timeout} seconds", request=self.id) from None
        return self._take(reply, None)

    def _cancel(self) -> None:
        if self._done is not None:
            return
        self._step.info.check_open()
        self._step.abandon(self._number)
        self._done = (False, Cancelled("the call was cancelled"))

    async def _cancel_aio(self) -> None:
        self._cancel()


def parse_view(view: dict[str, Any], payloads: list[Payload]) -> View:
    """A view as the protocol has it, with the payloads it names."""
    kind = view["t"]
    made = View(kind)
    if kind == "register":
        made.value = payloads[view["p"]]
    elif kind in ("multi", "set", "log"):
        made.values = [payloads[index] for index in view["ps"]]
        made.at = view.get("at", [])
    elif kind == "map":
        made.fields = {name: parse_view(field, payloads) for name, field in view["f"].items()}
    else:
        made.value = view.get("v")
    return made


__all__ = ["Fragment", "WorkerCall", "WorkerStep", "parse_view"]
