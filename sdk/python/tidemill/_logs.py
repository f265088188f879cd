"""Output of functions: `stdout`, `stderr` and `logging`, as `log` frames.

Whole lines go out as they are written, one frame each. What a request may write is bounded; the
rest is counted and said in one line. A node that takes nothing for a second loses lines, but
never holds a function up for longer.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from typing import Any, TextIO

from tidemill import _context
from tidemill._link import Link
from tidemill._wire import LOG, frame_bytes, header_text

REQUEST_MAX = 1 << 20
_LINE_MAX = 32 << 10


class Output:
    """What one request writes."""

    __slots__ = ("_dropped", "_left", "_link", "_lock", "_partial", "_step", "_used")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.RLock()
        self._left = REQUEST_MAX
        self._dropped = 0
        self._partial: dict[tuple[int, str], str] = {}
        self._used = False
        self._step = 0

    def write(self, step: int, stream: str, text: str) -> None:
        """Text of a stream; lines go out, the rest waits for its end."""
        with self._link._guarded(), self._lock:
            self._used = True
            self._step = step
            place = (step, stream)
            text = self._partial.pop(place, "") + text
            whole, newline, rest = text.rpartition("\n")
            if len(rest) > _LINE_MAX:
                whole, newline, rest = text, "\n", ""
            if rest:
                self._partial[place] = rest
            if newline:
                self._emit(step, stream, whole.split("\n"), {})

    def record(self, step: int, level: str, logger: str, text: str) -> None:
        """A record of `logging`."""
        with self._link._guarded(), self._lock:
            self._used = True
            self._step = step
            self._emit(step, "log", [text], {"level": level, "logger": logger})

    def finish(self) -> None:
        """Sends what is left: lines without an end, and how much was dropped."""
        if not self._used:
            return
        with self._link._guarded(), self._lock:
            for (step, stream), rest in self._partial.items():
                self._emit(step, stream, [rest], {})
            self._partial.clear()
            if self._dropped:
                text = f"[{self._dropped} bytes of output were dropped: the limit of a request is "
                self._send(self._step, "stderr", [f"{text}{REQUEST_MAX} bytes]"], {})
                self._dropped = 0

    def _emit(self, step: int, stream: str, lines: list[str], more: dict[str, Any]) -> None:
        kept = []
        for line in lines:
            size = len(line) + 1
            if size > self._left:
                self._dropped += size
                self._left = 0
                continue
            self._left -= size
            if size <= _LINE_MAX:
                kept.append(line)
            else:
                kept.extend(line[i : i + _LINE_MAX] for i in range(0, size - 1, _LINE_MAX))
        if kept and not self._send(step, stream, kept, more):
            self._dropped += sum(len(line) + 1 for line in kept)

    def _send(self, step: int, stream: str, lines: list[str], more: dict[str, Any]) -> bool:
        frames = [
            frame_bytes(LOG, header_text({"step": step, "stream": stream, **more, "text": line}))
            for line in lines
        ]
        return self._link.send_log(b"".join(frames))


class Stream(io.TextIOBase):
    """Stands for `sys.stdout` or `sys.stderr`; outside of requests it is the original."""

    def __init__(self, name: str, original: TextIO) -> None:
        self._name = name
        self._original = original
        self.buffer = _Bytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._original.fileno()

    def flush(self) -> None:
        if _context.step() is None:
            self._original.flush()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        step: Any = _context.step()
        output = getattr(getattr(step, "info", None), "output", None)
        if output is None or not step.info.open:
            return self._original.write(text)
        output.write(step.id, self._name, text)
        return len(text)


class _Bytes(io.RawIOBase):
    """`sys.stdout.buffer`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = bytes(data)
        self._stream.write(view.decode("utf-8", "replace"))
        return len(view)


class Handler(logging.Handler):
    """Sends records of `logging` while a request runs."""

    def emit(self, record: logging.LogRecord) -> None:
        step: Any = _context.step()
        output = getattr(getattr(step, "info", None), "output", None)
        try:
            text = self.format(record)
            if output is None or not step.info.open:
                sys.stderr.write(f"{record.levelname} {record.name}: {text}\n")
            else:
                output.record(step.id, record.levelname, record.name, text)
        except Exception:
            self.handleError(record)


def capture_streams() -> None:
    """Replaces `sys.stdout` and `sys.stderr`, before user code can keep the originals."""
    for name in ("stdout", "stderr"):
        original = getattr(sys, name)
        if original is not None and not isinstance(original, Stream):
            setattr(sys, name, Stream(name, original))


def capture_logging() -> None:
    """Sends the root logger's records to the node, after user code has set its levels."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler and isinstance(handler.stream, Stream):
            root.removeHandler(handler)  # the same records would come a second time as text
    configured = root.level != logging.WARNING
    if not any(isinstance(handler, Handler) for handler in root.handlers):
        root.addHandler(Handler())
    if not configured:
        root.setLevel(logging.INFO)
