"""Calls over HTTP (docs/http.md, "Calls"): the runtime outside of functions."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import functools
import json
import os
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from itertools import count
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

from tidemill import _codec, _failure
from tidemill._codec import PICKLE, Payload
from tidemill._context import Runtime
from tidemill._flow import Flow
from tidemill._http import Http, Response
from tidemill._kv import unwrap
from tidemill._retry import Retry
from tidemill._target import Call, Target
from tidemill.errors import ConnectionFailed, Error, NotFound, Timeout, from_code

T = TypeVar("T")

_ASYNC_THREADS = 64
_POLL_FIRST_SECONDS = 0.002
_POLL_MAX_SECONDS = 0.25
_WAIT_SECONDS = 20
# After these a session's token is of no use any more.
_ENDING_CODES = frozenset({"bad-session-token", "state-lost"})
_SESSION_ENDS = frozenset({400, 410})

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class HttpRuntime(Runtime):
    """Calls to one node. Safe to use from several threads."""

    def __init__(self, http: Http, retry: Retry | None = None, terms: str = "") -> None:
        self.http = http
        self.retry = retry or Retry()
        self._terms = terms
        self._seen = ""
        self._seen_lock = threading.Lock()
        self.known_flows: set[tuple[str, str]] = set()
        self._keys = _Keys()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_lock = threading.Lock()

    def session(self, terms: str) -> HttpRuntime:
        """Another that asks other things of state, over the same connections."""
        made = HttpRuntime(self.http, self.retry, terms)
        made.known_flows = self.known_flows
        return made

    def _asks(self) -> str:
        """Header lines: what is asked of state, and what this session has seen."""
        seen = self._seen
        return f"{self._terms}Tidemill-Session: {seen}\r\n" if seen else self._terms

    def saw(self, token: str | None) -> None:
        """Takes an answer's token. Of two the greater text names the later state, and answers
        reach the threads of a session in any order."""
        if token is None or token <= self._seen:
            return
        with self._seen_lock:
            self._seen = max(self._seen, token)

    def _answered(self, answer: Response) -> None:
        if answer.status in _SESSION_ENDS and _problem_code(answer) in _ENDING_CODES:
            with self._seen_lock:
                self._seen = ""
            return
        self.saw(answer.headers.get("tidemill-session"))

    def close(self) -> None:
        """Closes idle connections and threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None
        self.http.close()

    def send(
        self,
        method: str,
        path: str,
        headers: str = "",
        body: Any = (),
        *,
        accept: tuple[int, ...] = (),
        timeout: float | None = None,
    ) -> Response:
        """One request; a problem is raised, unless its status is in `accept`."""
        answer = self.http.request(method, path, headers + self._asks(), body, timeout)
        self._answered(answer)
        if answer.status >= 300 and answer.status not in accept:
            raise_problem(answer.status, answer.headers, answer.body)
        return answer

    def _path(self, target: Target) -> str:
        name = target.name
        if name is None:
            assert isinstance(target, Flow)
            name = self._register_flow(target)
        return f"/v1/call/{quote(target.app_name)}/{quote(name)}"

    def _register_flow(self, flow: Flow, again: bool = False) -> str:
        """An unregistered flow is known to the node by the hash of what it is."""
        name = flow.adhoc_name()
        place = (flow.app_name, name)
        if again or place not in self.known_flows:
            body = json.dumps(flow.compile(), separators=(",", ":")).encode()
            path = f"/v1/apps/{quote(flow.app_name)}/flows/{name}"
            self.send("PUT", path, "Content-Type: application/json\r\n", (body,))
            self.known_flows.add(place)
        return name

    def _with_flow(self, target: Target, act: Callable[[str], T]) -> T:
        path = self._path(target)
        try:
            return act(path)
        except NotFound as error:
            if target.name is not None or error.code != "unknown-function":
                raise
            assert isinstance(target, Flow)
            self._register_flow(target, again=True)  # the node was started anew
            return act(path)

    def post_call(self, path: str, payload: Payload, headers: str = "") -> Any:
        answer = self._post(path, payload, headers)
        content_type = answer.headers.get("content-type", _codec.BYTES)
        if content_type.startswith("text/event-stream"):
            return stream_items(events(iter((bytes(answer.body),))), self.saw)
        return _codec.decode(content_type, answer.body)

    def _post(self, path: str, payload: Payload, headers: str = "") -> Response:
        headers = (
            f"Content-Type: {payload.content_type}\r\n"
            f"Idempotency-Key: {quoted(self._keys.next())}\r\n{headers}{self._asks()}"
        )

        def once() -> Response:
            answer = self.http.request("POST", path, headers, payload.parts)
            self._answered(answer)
            if answer.status >= 300:
                raise_problem(answer.status, answer.headers, answer.body)
            return answer

        return self.persist(once)

    def persist(self, once: Callable[[], T]) -> T:
        """Does something that may be done again, until it succeeds or there is no use."""
        tried = 0
        while True:
            try:
                return once()
            except Error as error:
                seconds = self.retry.pause(error, tried, random.random())
                if seconds is None:
                    raise
            tried += 1
            time.sleep(seconds)

    def call(self, target: Target, args: Args, kwargs: Kwargs) -> Any:
        payload = _codec.encode_call(args, kwargs)
        if target.name is not None:
            return self.post_call(self._path(target), payload)
        return self._with_flow(target, lambda path: self.post_call(path, payload))

    def spawn(self, target: Target, args: Args, kwargs: Kwargs) -> Call[Any]:
        payload = _codec.encode_call(args, kwargs)
        prefer = "Prefer: respond-async\r\n"
        key = self._keys.next()

        def start() -> str:
            with idempotency_key(key):
                answer = self._with_flow(target, lambda path: self._post(path, payload, prefer))
            return _request_of(answer)

        return ClientCall(self, start(), target.generator, start)

    def enqueue(self, target: Target, args: Args, kwargs: Kwargs) -> None:
        self.spawn(target, args, kwargs)

    def stream(self, target: Target, args: Args, kwargs: Kwargs) -> Iterator[Any]:
        return self._stream(self._path(target), _codec.encode_call(args, kwargs))

    def _stream(self, path: str, payload: Payload) -> Iterator[Any]:
        headers = (
            f"Content-Type: {payload.content_type}\r\nAccept: text/event-stream\r\n"
            f"Idempotency-Key: {quoted(self._keys.next())}\r\n{self._asks()}"
        )

        def once() -> Iterator[bytes]:
            status, found, pieces = self.http.open_stream("POST", path, headers, payload.parts)
            if status >= 300:
                answer = Response(status, found, b"".join(pieces))
                self._answered(answer)
                raise_problem(status, found, answer.body)
            self.saw(found.get("tidemill-session"))
            return pieces

        # Once items have come, they can not be asked for again.
        return stream_items(events(self.persist(once)), self.saw)

    def map(self, target: Target, items: Iterable[Any], concurrency: int) -> Iterator[Any]:
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="tidemill-map")
        source = iter(items)
        flying: deque[Future[Any]] = deque()

        def start() -> None:
            for item in source:
                flying.append(pool.submit(self._one, target, item))
                return

        def run() -> Iterator[Any]:
            try:
                for _ in range(concurrency):
                    start()
                while flying:
                    result = flying[0].result()
                    flying.popleft()
                    start()
                    yield result
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

        return run()

    def _one(self, target: Target, item: Any) -> Any:
        if target.generator:
            return list(self.stream(target, (item,), {}))
        return self.call(target, (item,), {})

    async def call_aio(self, target: Target, args: Args, kwargs: Kwargs) -> Any:
        return await self.in_thread(self.call, target, args, kwargs)

    async def stream_aio(self, target: Target, args: Args, kwargs: Kwargs) -> AsyncIterator[Any]:
        items = await self.in_thread(self.stream, target, args, kwargs)
        end = object()
        while (item := await self.in_thread(next, items, end)) is not end:
            yield item

    async def map_aio(
        self, target: Target, items: Iterable[Any], concurrency: int
    ) -> AsyncIterator[Any]:
        source = iter(items)
        flying: deque[asyncio.Future[Any]] = deque()

        def start() -> None:
            for item in source:
                flying.append(asyncio.ensure_future(self.in_thread(self._one, target, item)))
                return

        try:
            for _ in range(concurrency):
                start()
            while flying:
                result = await flying[0]
                flying.popleft()
                start()
                yield result
        finally:
            for future in flying:
                future.cancel()

    async def in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Runs blocking work on the client's own threads."""
        if self._pool is None:
            with self._pool_lock:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(_ASYNC_THREADS, "tidemill-aio")
        here = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, functools.partial(here.run, work, *args))


class ClientCall(Call[Any]):
    """A request that was started with `.spawn`, or that is known by its id."""

    def __init__(
        self,
        runtime: HttpRuntime,
        id: str,
        generator: bool = False,
        start: Callable[[], str] | None = None,
    ) -> None:
        self.id = id
        self._runtime = runtime
        self._start = start
        self._started = 1
        self._generator = generator
        self._outcome: tuple[bool, Any] | None = None

    def _result(self, timeout: float | None) -> Any:
        if self._outcome is None:
            self._outcome = self._poll(timeout)
        ok, value = self._outcome
        if ok:
            return value
        raise value

    def _poll(self, timeout: float | None) -> tuple[bool, Any]:
        end = None if timeout is None else time.monotonic() + timeout
        pause = _POLL_FIRST_SECONDS
        path = f"/v1/requests/{quote(self.id)}/result"
        while True:
            wait = float(_WAIT_SECONDS)
            if end is not None:
                wait = min(wait, max(0.0, end - time.monotonic()))
            answer = self._look(path, f"Prefer: wait={wait:.3f}\r\n")
            if answer.status == 404 and self._start_again():
                continue
            if answer.status != 202:
                return self._ended(answer)
            if end is not None and time.monotonic() >= end:
                raise Timeout(f"no result within {timeout} seconds", request=self.id)
            time.sleep(pause if end is None else min(pause, max(0.0, end - time.monotonic())))
            pause = min(pause * 1.5, _POLL_MAX_SECONDS)

    def _look(self, path: str, headers: str) -> Response:
        http = self._runtime.http
        return self._runtime.persist(lambda: http.request("GET", path, headers))

    def _start_again(self) -> bool:
        """A node that died before the request had committed knows nothing of it. With the same
        key it can be asked again."""
        if self._start is None or self._started > self._runtime.retry.times:
            return False
        self._started += 1
        return self._start() == self.id

    def _ended(self, answer: Response) -> tuple[bool, Any]:
        if answer.status >= 300:
            return (False, problem(answer.status, answer.headers, answer.body))
        content_type = answer.headers.get("content-type", _codec.BYTES)
        if content_type.startswith("text/event-stream"):
            return (
                True,
                list(stream_items(events(iter((bytes(answer.body),))), self._runtime.saw)),
            )
        value = _codec.decode(content_type, answer.body)
        if self._generator:  # its items in one list, those that are not JSON wrapped
            value = [unwrap(item).decode() for item in value]
        return (True, value)

    async def _result_aio(self, timeout: float | None) -> Any:
        return await self._runtime.in_thread(self._result, timeout)

    def _cancel(self) -> None:
        self._runtime.send("DELETE", f"/v1/requests/{quote(self.id)}")

    async def _cancel_aio(self) -> None:
        await self._runtime.in_thread(self._cancel)


class _Keys:
    """Idempotency keys: one for each call, the same for its retries.

    `tm1-`, when the key was made in Unix milliseconds, 32 random digits: a node refuses a key
    that is too old by that alone (docs/http.md).
    """

    def __init__(self) -> None:
        self._pid = 0
        self._prefix = ""
        self._count = count()

    def next(self) -> str:
        """The caller's own key, or else one that was never used."""
        own = _own_key.get()
        if own is not None:
            return own
        if self._pid != os.getpid():
            self._prefix = os.urandom(12).hex()
            self._pid = os.getpid()
        return (
            f"tm1-{time.time_ns() // 1_000_000:012x}-"
            f"{self._prefix}{next(self._count) & 0xFFFFFFFF:08x}"
        )


_own_key: ContextVar[str | None] = ContextVar("tidemill_key", default=None)


@contextlib.contextmanager
def idempotency_key(key: str) -> Iterator[None]:
    """Within it calls from outside carry this key: what it names takes effect once.

        with tidemill.idempotency_key(f"order-{number}"):
            receipt = pay.remote(number)

    A function called again with the same key and arguments, by whomever and from wherever, is
    not run again: the call is answered with the first result, for a day unless the node is set
    otherwise. With other arguments it raises `tidemill.RequestMismatch`. 1 to 255 printable
    ASCII characters.
    """
    if not 1 <= len(key) <= 255 or not all(" " <= letter <= "~" for letter in key):
        raise ValueError("an idempotency key has 1 to 255 printable ASCII characters")
    token = _own_key.set(key)
    try:
        yield
    finally:
        _own_key.reset(token)


def quoted(key: str) -> str:
    """A key as a structured string (RFC 8941)."""
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _request_of(answer: Response) -> str:
    id = answer.headers.get("tidemill-request")
    return id if id is not None else answer.headers.get("location", "").rpartition("/")[2]


# -- problems --------------------------------------------------------------------------------------


def problem(status: int, headers: dict[str, str], body: Any) -> BaseException:
    """The exception for an RFC 9457 problem."""
    request = headers.get("tidemill-request")
    try:
        found = json.loads(bytes(body))
        code = found["code"]
    except (ValueError, KeyError, TypeError):
        text = bytes(body[:500]).decode("utf-8", "replace")
        error: BaseException = Error(
            f"HTTP {status}: {text}", code=f"http-{status}", request=request
        )
    else:
        error = from_problem(code, found, request)
        if code == "function-failed":
            return error
    if isinstance(error, Error):
        error.status = status
        with contextlib.suppress(ValueError):
            error.retry_after = float(headers["retry-after"]) if "retry-after" in headers else None
    return error


def from_problem(code: str, found: dict[str, Any], request: str | None) -> BaseException:
    """The same for a problem that is parsed."""
    request = found.get("request") or request
    if code == "function-failed":
        exception = found.get("exception")
        error = {**exception, "code": code} if isinstance(exception, dict) else {"code": code}
        error.setdefault("message", found.get("detail", ""))
        pickled = error.pop("pickle", None)
        payload = _codec.payload(PICKLE, base64.b64decode(pickled)) if pickled else None
        return _failure.rebuild(error, payload, request)
    detail = found.get("detail") or found.get("title") or ""
    suggestions = found.get("suggestions")
    if suggestions:
        detail += f" (did you mean {', '.join(map(str, suggestions))}?)"
    return from_code(code, detail, request=request, trace=found.get("trace"), extra=found)


def raise_problem(status: int, headers: dict[str, str], body: Any) -> NoReturn:
    """Raises it."""
    raise problem(status, headers, body)


# -- streams ---------------------------------------------------------------------------------------


def lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Lines, without their ends, of a body that comes in pieces."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest


def events(pieces: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    """Server-sent events: `(event, data)`."""
    event = "message"
    data: list[str] = []
    for line in lines(pieces):
        if not line:
            if data or event != "message":
                yield event, "\n".join(data)
            event, data = "message", []
            continue
        field, _, value = line.decode("utf-8").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data.append(value)


def _problem_code(answer: Response) -> str | None:
    try:
        code = json.loads(answer.body)["code"]
    except (ValueError, TypeError, KeyError):
        return None
    return code if isinstance(code, str) else None


def stream_items(
    stream: Iterator[tuple[str, str]], saw: Callable[[str | None], None]
) -> Iterator[Any]:
    """The items of a streamed answer. Raises unless it ends with `committed`."""
    for event, data in stream:
        if event == "item":
            yield unwrap(json.loads(data)).decode()
        elif event == "committed":
            saw(json.loads(data).get("session"))
            return
        elif event == "failed":
            found = json.loads(data)
            raise from_problem(found.get("code", "internal"), found, found.get("request"))
    raise ConnectionFailed("the stream ended before its request was committed")
