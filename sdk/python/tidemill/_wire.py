"""Frames on the worker socket (docs/worker-protocol.md, "Frames") and values in shared memory.

One thread reads at a time, see `_link`. Sending is locked. Knows no meaning of any frame.
"""

from __future__ import annotations

import errno
import itertools
import json
import mmap
import os
import select
import socket
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from tidemill import _json
from tidemill._codec import BYTES, JSON, PICKLE, Payload
from tidemill.errors import PayloadTooLarge

LOAD, FORK, RUN, REPLY, CANCEL, STOP = 1, 2, 3, 4, 5, 6
HELLO, LOADED, EXITED, STATE, CALL, WAIT, ITEM, LOG, DONE, FAILED, BEGIN = range(16, 27)
RECALL, RECORD = 27, 28

FRAME_MAX = (64 << 20) + (64 << 10)
SHARED_MIN = 64 << 10
_MAPPED_MAX = 512 << 20
_BUFFER = 256 << 10

_SHORT = {JSON: "j", BYTES: "b", PICKLE: "p"}
_LONG = {short: long for long, short in _SHORT.items()}

_prefix = struct.Struct("<IBI")
_decode = json.JSONDecoder().raw_decode

Frame = tuple[int, dict[str, Any], bytes]


def frame_bytes(kind: int, header: str, body: bytes = b"") -> bytes:
    """One frame. Lone surrogates in the header become question marks."""
    head = header.encode("utf-8", "replace")
    length = 5 + len(head) + len(body)
    if length > FRAME_MAX:
        raise PayloadTooLarge(f"a frame of {length} bytes is above the limit of {FRAME_MAX}")
    return _prefix.pack(length, kind, len(head)) + head + body


def header_text(header: dict[str, Any]) -> str:
    """The header's JSON."""
    return _json.encode(header)


class Wire:
    """One connection to the node."""

    def __init__(self, sock: socket.socket, shm: str | None, worker: int | str) -> None:
        self.sock = sock
        self.lock = threading.Lock()
        self._shm = shm
        self._worker = worker
        self._made = itertools.count(1)
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._maps: OrderedDict[str, memoryview] = OrderedDict()
        self._mapped = 0

    # -- receiving --

    def has_frame(self) -> bool:
        """Whether a whole frame has been received already."""
        have = self._end - self._start
        if have < 9:
            return False
        return have >= 4 + int.from_bytes(self._view[self._start : self._start + 4], "little")

    def read_frame(self) -> Frame:
        """The next frame. Raises `EOFError` when the node has closed the connection."""
        start, view = self._start, self._view
        if self._end - start < 4:
            start = self._fill(4)
        need = 4 + int.from_bytes(view[start : start + 4], "little")
        if not 9 <= need <= FRAME_MAX + 4:
            raise EOFError(f"the node sent a frame of {need} bytes")
        if self._end - start < need:
            if need > _BUFFER:
                return self._read_large(need)
            start = self._fill(need)
        frame = _parse(view[start : start + need])
        self._start = start + need
        if self._start == self._end:
            self._start = self._end = 0
        return frame

    def _fill(self, need: int) -> int:
        """Receives until `need` bytes are in the buffer; gives where they start."""
        if self._start + need > _BUFFER:
            rest = bytes(self._view[self._start : self._end])
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        while self._end - self._start < need:
            count = self.sock.recv_into(self._view[self._end :])
            if count == 0:
                raise EOFError("the node has closed the connection")
            self._end += count
        return self._start

    def _read_large(self, need: int) -> Frame:
        whole = bytearray(need)
        view = memoryview(whole)
        at = self._end - self._start
        view[:at] = self._view[self._start : self._end]
        self._start = self._end = 0
        while at < need:
            count = self.sock.recv_into(view[at:])
            if count == 0:
                raise EOFError("the node has closed the connection")
            at += count
        return _parse(view)

    def payloads(self, header: dict[str, Any], body: bytes) -> list[Payload]:
        """The payloads of a frame; those in shared memory are mapped."""
        found = []
        at = 0
        for entry in header.get("p", ()):
            kind, size = entry["t"], entry["n"]
            shared = entry.get("shm")
            if shared is None:
                data: bytes | memoryview = body if size == len(body) else body[at : at + size]
                if len(data) != size:
                    raise EOFError("the node sent a frame whose body is too short")
                at += size
            else:
                data = self._map(shared, size)
            found.append(Payload(_LONG.get(kind, kind), (data,), size))
        return found

    def _map(self, name: str, size: int) -> memoryview:
        known = self._maps.get(name)
        if known is not None:
            self._maps.move_to_end(name)
            return known
        if self._shm is None or "/" in name or size == 0:
            raise EOFError(f"the node named a shared value that can not be: {name!r}")
        fd = os.open(os.path.join(self._shm, name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            view = memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ))
        finally:
            os.close(fd)
        self._maps[name] = view
        self._mapped += size
        while self._mapped > _MAPPED_MAX and len(self._maps) > 1:
            _, old = self._maps.popitem(last=False)
            self._mapped -= old.nbytes  # unmapped when nobody has a view on it any more
        return view

    # -- sending --

    def send(self, kind: int, header: dict[str, Any], payloads: Sequence[Payload] = ()) -> None:
        """Sends one frame; large payloads go into shared memory when there is room."""
        self.send_bytes(self.pack(kind, header, payloads))

    def send_bytes(self, data: bytes) -> None:
        """Sends frames that are bytes already."""
        with self.lock:
            self.sock.sendall(data)

    def send_patiently(self, data: bytes, timeout_ms: int) -> bool:
        """Sends unless the node takes nothing at all for `timeout_ms`; then gives False."""
        with self.lock:
            try:
                sent = self.sock.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self.sock, select.POLLOUT)
                if not poll.poll(timeout_ms):
                    return False
                sent = self.sock.send(data)
            if sent < len(data):
                self.sock.sendall(data[sent:])
            return True

    def pack(self, kind: int, header: dict[str, Any], payloads: Sequence[Payload]) -> bytes:
        """The frame's bytes."""
        if not payloads:
            return frame_bytes(kind, _json.encode(header))
        entries = []
        parts: list[Any] = []
        for payload in payloads:
            entry: dict[str, Any] = {
                "t": _SHORT.get(payload.content_type, payload.content_type),
                "n": payload.size,
            }
            name = self._share(payload) if payload.size >= SHARED_MIN else None
            if name is None:
                parts.extend(payload.parts)
            else:
                entry["shm"] = name
            entries.append(entry)
        header["p"] = entries
        size = sum(map(len, parts))
        if size > FRAME_MAX:
            raise PayloadTooLarge(f"values of {size} bytes do not fit a frame or shared memory")
        return frame_bytes(kind, _json.encode(header), b"".join(parts))

    def _share(self, payload: Payload) -> str | None:
        """Writes a payload to a file for the node; None when there is no room."""
        if self._shm is None:
            return None
        name = f"w-{self._worker}-{next(self._made)}"
        path = os.path.join(self._shm, name)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            _write_all(fd, payload.parts)
        except OSError as error:
            os.unlink(path)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
                raise
            return None
        finally:
            os.close(fd)
        return name


def _write_all(fd: int, parts: Sequence[Any]) -> None:
    for part in parts:
        view = memoryview(part)
        while view.nbytes:
            view = view[os.write(fd, view) :]


def _parse(view: memoryview) -> Frame:
    kind = view[4]
    end = 9 + int.from_bytes(view[5:9], "little")
    if end > len(view):
        raise EOFError("the node sent a header longer than its frame")
    header, _ = _decode(str(view[9:end], "utf-8"))
    return kind, header, bytes(view[end:])
