"""Questions and answers on the worker socket, from any thread and from event loops.

Whoever waits for an answer reads the socket; when several wait, one reads and hands the others
theirs. On an event loop nobody blocks: the loop reads when the socket has something.

Cancellation. The node sends a `cancel` frame and the signal SIGUSR1, in either order. Code that
waits for an answer finds the frame; code that computes is interrupted by the signal, whose
handler looks for the frame and raises `Cancelled` in the main thread. While the main thread is
inside this module (`busy`) the handler leaves it alone, so that no frame is left half sent.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tidemill._codec import Payload
from tidemill._wire import CANCEL, REPLY, Frame, Wire
from tidemill.errors import Cancelled

_SIGNAL_GRACE_MS = 50
# How often to look for an answer that comes soon before sleeping until it is there.
_GLANCES_MAX = 64
# After that many answers that did not come soon, looking is tried again.
_GLANCES_AGAIN = 32

Reply = tuple[dict[str, Any], list[Payload]]


class Link:
    """The worker's end of the conversation."""

    def __init__(self, wire: Wire, closed: Callable[[], None]) -> None:
        self.wire = wire
        self.request: str | None = None
        """The request that runs, whose cancellation matters."""
        self.interruptible = False
        """Whether the main thread runs user code, which the signal may interrupt."""
        self.cancel_task: Callable[[], object] | None = None
        """Cancels the coroutine that runs, where one does."""
        self._closed = closed
        self._cancelled: str | None = None
        self._mutex = threading.Lock()
        self._cond = threading.Condition(self._mutex)
        self._followers = 0
        self._reading = False
        self._waiting: dict[int, asyncio.Future[Frame] | None] = {}
        self._replies: dict[int, Frame] = {}
        self._inbox: deque[Frame] = deque()
        self._seq = 0
        self._busy = 0
        self._main = threading.get_ident()
        self._readers: dict[asyncio.AbstractEventLoop, int] = {}
        self._poll = select.poll()
        self._poll.register(wire.sock, select.POLLIN)
        self._glances = self._glances_max = _GLANCES_MAX if _processors() > 1 else 0
        self._slept = 0

    # -- the request --

    def begin(self, request: str) -> None:
        """A request starts."""
        self._cancelled = None
        self.request = request

    def end(self) -> None:
        """The request is over: answers that nobody waited for are dropped when they come."""
        self.interruptible = False
        self.request = None
        self.cancel_task = None
        self._waiting.clear()
        self._replies.clear()

    def is_cancelled(self) -> bool:
        """Whether the node wants the request stopped."""
        return self._cancelled is not None and self._cancelled == self.request

    # -- sending --

    def send(self, kind: int, header: dict[str, Any], payloads: Sequence[Payload] = ()) -> None:
        """Sends a frame that needs no answer."""
        self._send(self.wire.pack(kind, header, payloads))

    def send_bytes(self, data: bytes) -> None:
        """Sends frames that are bytes already."""
        self._send(data)

    def send_log(self, data: bytes) -> bool:
        """Sends log frames; False when the node takes none for a second."""
        main = self._enter()
        try:
            return self.wire.send_patiently(data, 1000)
        except OSError:
            self._closed()
            return False
        finally:
            self._leave(main)

    def _send(self, data: bytes) -> None:
        main = self._enter()
        try:
            self.wire.send_bytes(data)
        except OSError:
            self._closed()
            raise
        finally:
            self._leave(main)

    def ask(self, kind: int, header: dict[str, Any], payloads: Sequence[Payload] = ()) -> int:
        """Sends a frame that will be answered; `wait` for the number it gives."""
        seq = self._next()
        header["seq"] = seq
        data = self.wire.pack(kind, header, payloads)
        self._waiting[seq] = None
        self._send(data)
        return seq

    def tell(self, kind: int, header: dict[str, Any]) -> None:
        """Sends a frame whose answer does not matter."""
        header["seq"] = self._next()
        self.send(kind, header)

    def forget(self, seq: int) -> None:
        """Drops the answer to a question."""
        with self._guarded():
            self._waiting.pop(seq, None)
            self._replies.pop(seq, None)

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    # -- answers, blocking --

    def wait(self, seq: int, *, soon: bool = False) -> Reply:
        """The answer to question `seq`. `soon`: it takes the node no longer than a wake-up."""
        main = self._enter()
        try:
            replies = self._replies
            while True:
                with self._mutex:
                    while True:
                        frame = replies.pop(seq, None)
                        if frame is not None:
                            self._waiting.pop(seq, None)
                            return frame[1], self.wire.payloads(frame[1], frame[2])
                        if self.is_cancelled():
                            raise Cancelled("the request was cancelled", request=self.request)
                        if self.request is None or seq not in self._waiting:
                            raise RuntimeError("the request of this call is over")
                        if not self._reading:
                            self._reading = True
                            break
                        self._follow()
                if soon:
                    self._glance()
                self._lead()
        finally:
            self._leave(main)

    def _glance(self) -> None:
        """Stays awake for an answer that is on its way. `_reading` is ours.

        To be woken from sleep takes longer than to read a value from memory, above all on a
        virtual machine. Where answers do not come that soon, the processors have more to do
        than to wait for us, and so looking is soon given up; yielding lets others go first.
        """
        glances = self._glances
        if glances == 0:
            self._slept += 1
            if self._slept < _GLANCES_AGAIN:
                return
            self._slept = 0
            glances = self._glances_max
        poll = self._poll.poll
        for _ in range(glances):
            if poll(0):
                self._glances = self._glances_max
                return
            os.sched_yield()
        self._glances = glances // 2

    def next_frame(self) -> Frame:
        """The node's next frame that starts something: for the main thread, between requests."""
        main = self._enter()
        try:
            while True:
                with self._mutex:
                    while True:
                        if self._inbox:
                            return self._inbox.popleft()
                        if not self._reading:
                            self._reading = True
                            break
                        self._follow()
                self._lead()
        finally:
            self._leave(main)

    def _lead(self) -> None:
        """Reads one frame, waiting for it, and all that came with it. `_reading` is ours."""
        try:
            frames = [self.wire.read_frame()]
            while self.wire.has_frame():
                frames.append(self.wire.read_frame())
        except (EOFError, OSError, ValueError):
            self._closed()
            raise
        with self._mutex:
            self._reading = False
            for frame in frames:
                self._dispatch(frame)
            self._wake()

    def _follow(self) -> None:
        self._followers += 1
        self._cond.wait()
        self._followers -= 1

    def _wake(self) -> None:
        if self._followers:
            self._cond.notify_all()

    def _dispatch(self, frame: Frame) -> None:
        kind, header, _ = frame
        if kind == REPLY:
            seq = header.get("re", 0)
            if seq not in self._waiting:
                return
            future = self._waiting[seq]
            if future is None:
                self._replies[seq] = frame
                return
            loop = future.get_loop()
            if asyncio._get_running_loop() is loop:
                _settle(future, frame)
            else:
                loop.call_soon_threadsafe(_settle, future, frame)
        elif kind == CANCEL:
            if header.get("request") == self.request:
                self._cancelled = self.request
                self._interrupt()
        else:
            self._inbox.append(frame)

    def _interrupt(self) -> None:
        if self.cancel_task is not None:
            self.cancel_task()
        elif threading.get_ident() != self._main:
            signal.pthread_kill(self._main, signal.SIGUSR1)

    # -- answers, on an event loop --

    async def ask_aio(
        self, kind: int, header: dict[str, Any], payloads: Sequence[Payload] = ()
    ) -> Reply:
        """Sends a frame and awaits its answer."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Frame] = loop.create_future()
        seq = self._next()
        header["seq"] = seq
        data = self.wire.pack(kind, header, payloads)
        self._waiting[seq] = future
        self._watch(loop)
        try:
            self._send(data)
            frame = await future
        finally:
            self._waiting.pop(seq, None)
            self._unwatch(loop)
        return frame[1], self.wire.payloads(frame[1], frame[2])

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        count = self._readers.get(loop, 0)
        if count == 0:
            loop.add_reader(self.wire.sock.fileno(), self._readable)
        self._readers[loop] = count + 1

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        count = self._readers.get(loop, 1) - 1
        if count == 0:
            self._readers.pop(loop, None)
            loop.remove_reader(self.wire.sock.fileno())
        else:
            self._readers[loop] = count

    def _readable(self) -> None:
        main = self._enter()
        try:
            self._read_if_ready(0)
        finally:
            self._leave(main)

    def _read_if_ready(self, timeout_ms: int) -> bool:
        """Reads when there is something within `timeout_ms` and nobody else reads."""
        with self._mutex:
            if self._reading:
                return False
            self._reading = True
        if self._poll.poll(timeout_ms):
            self._lead()
            return True
        with self._mutex:
            self._reading = False
            self._wake()
        return False

    # -- the signal --

    def on_signal(self, _signum: int, _frame: object) -> None:
        """SIGUSR1: raises `Cancelled` if the request that runs is the one to stop."""
        if self._busy or not self.interruptible or self.request is None:
            return
        self._busy += 1
        try:
            while not self.is_cancelled() and self._read_if_ready(_SIGNAL_GRACE_MS):
                pass
        finally:
            self._busy -= 1
        if self.is_cancelled() and self.cancel_task is None and self.interruptible:
            self.interruptible = False
            raise Cancelled("the request was cancelled", request=self.request)

    # -- keeping the signal out --

    def _enter(self) -> bool:
        main = threading.get_ident() == self._main
        if main:
            self._busy += 1
        return main

    def _leave(self, main: bool) -> None:
        if main:
            self._busy -= 1

    def _guarded(self) -> _Guard:
        return _Guard(self)


class _Guard:
    __slots__ = ("_link", "_main")

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        self._main = self._link._enter()

    def __exit__(self, *_: object) -> None:
        self._link._leave(self._main)


def _processors() -> int:
    """How many processors this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return 1


def _settle(future: asyncio.Future[Frame], frame: Frame) -> None:
    if not future.done():
        future.set_result(frame)


def end_group() -> None:
    """Ends this process and what it started, at once."""
    try:
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(0)
