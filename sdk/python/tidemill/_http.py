"""A small HTTP/1.1 client: kept-alive connections, one write and one read for a small call.

The standard library's client spends more on a response's headers than a small call takes; this
one does what the node's door needs and no more: content-length and chunked bodies, streams,
TLS by `https`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from tidemill.errors import ConnectionFailed, Timeout

_RECEIVE = 64 << 10
_HEAD_MAX = 256 << 10
_JOIN_MAX = 256 << 10
_IDLE_MAX = 64


class Response:
    """A status, headers with lower-case names, and the whole body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes | bytearray) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class _Unsent(Exception):
    """The connection broke before the request was whole, so nobody has acted on it."""


class _Connection:
    __slots__ = ("poll", "rest", "reusable", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.rest = b""
        self.reusable = True
        self.poll = select.poll()
        self.poll.register(sock, select.POLLIN)

    def is_stale(self) -> bool:
        """Whether the other side has closed it, or sent what nobody asked for."""
        return bool(self.poll.poll(0))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    def send(self, head: bytes, body: Any) -> None:
        try:
            size = sum(map(len, body))
            if size <= _JOIN_MAX:
                self.sock.sendall(b"".join((head, *body)))
            else:
                self.sock.sendall(head)
                for part in body:
                    self.sock.sendall(part)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _Unsent(str(error)) from error

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the response; what follows them stays in `rest`."""
        data = self.rest
        end = data.find(b"\r\n\r\n")
        while end < 0:
            more = self.sock.recv(_RECEIVE)
            if not more:
                raise ConnectionFailed("the node closed the connection without an answer")
            data += more
            if len(data) > _HEAD_MAX:
                raise ConnectionFailed("the answer's headers have no end")
            end = data.find(b"\r\n\r\n")
        self.rest = data[end + 4 :]
        lines = data[:end].decode("latin-1").split("\r\n")
        try:
            status = int(lines[0].split(" ", 2)[1])
        except (IndexError, ValueError):
            raise ConnectionFailed("what answers there does not speak HTTP") from None
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if 100 <= status < 200:
            return self.head()
        if headers.get("connection", "").lower() == "close":
            self.reusable = False
        return status, headers

    def body(self, status: int, headers: dict[str, str]) -> bytes | bytearray:
        if status in (204, 304):
            return b""
        length = headers.get("content-length")
        if length is not None:
            return self._exactly(int(length))
        return b"".join(self.chunks(headers))

    def _exactly(self, size: int) -> bytes | bytearray:
        if len(self.rest) >= size:
            body, self.rest = self.rest[:size], self.rest[size:]
            return body
        whole = bytearray(size)
        view = memoryview(whole)
        at = len(self.rest)
        view[:at] = self.rest
        self.rest = b""
        while at < size:
            count = self.sock.recv_into(view[at:])
            if count == 0:
                raise ConnectionFailed("the node closed the connection in the middle of an answer")
            at += count
        return whole

    def chunks(self, headers: dict[str, str]) -> Iterator[bytes]:
        """The body in pieces, as they come."""
        if headers.get("transfer-encoding", "").lower() != "chunked":
            length = headers.get("content-length")
            if length is not None:
                yield bytes(self._exactly(int(length)))
                return
            self.reusable = False
            if self.rest:
                yield self.rest
                self.rest = b""
            while piece := self.sock.recv(_RECEIVE):
                yield piece
            return
        while True:
            size = int(self._line().split(b";")[0], 16)
            if size == 0:
                while self._line():
                    pass
                return
            piece = bytes(self._exactly(size))
            self._exactly(2)
            yield piece

    def _line(self) -> bytes:
        while b"\r\n" not in self.rest:
            more = self.sock.recv(_RECEIVE)
            if not more:
                raise ConnectionFailed("the node closed the connection in the middle of an answer")
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\r\n")
        return line


class Http:
    """Requests to one node."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        if "//" not in url:
            url = f"http://{url}"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not a node's address: {url!r}")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        lines = [f"Host: {parts.netloc}", *(f"{k}: {v}" for k, v in headers.items())]
        self._common = "".join(f"{line}\r\n" for line in lines)
        self._idle: list[_Connection] = []
        self._has_connected = False
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Closes the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def request(
        self,
        method: str,
        path: str,
        headers: str = "",
        body: Any = (),
        timeout: float | None = None,
    ) -> Response:
        """One request. `headers` are lines that end in CRLF, `body` parts of bytes."""
        connection = self._start(method, path, headers, body, timeout)
        try:
            status, found = connection.head()
            data = connection.body(status, found)
        except TimeoutError as error:
            connection.close()
            raise Timeout(f"{self.url} did not answer in time") from error
        except OSError as error:
            connection.close()
            if isinstance(error, ConnectionFailed):
                raise
            raise ConnectionFailed(f"{self.url}: {error}") from error
        except BaseException:
            connection.close()
            raise
        self._give_back(connection)
        return Response(status, found, data)

    def open_stream(
        self, method: str, path: str, headers: str = "", body: Any = ()
    ) -> tuple[int, dict[str, str], Iterator[bytes]]:
        """One request whose body comes in pieces. Closing the iterator ends the request."""
        connection = self._start(method, path, headers, body, None)
        try:
            status, found = connection.head()
        except OSError as error:
            connection.close()
            if isinstance(error, ConnectionFailed):
                raise
            raise ConnectionFailed(f"{self.url}: {error}") from error
        return status, found, self._pieces(connection, found)

    def _pieces(self, connection: _Connection, headers: dict[str, str]) -> Iterator[bytes]:
        whole = False
        try:
            yield from connection.chunks(headers)
            whole = True
        except OSError as error:
            if isinstance(error, ConnectionFailed):
                raise
            raise ConnectionFailed(f"{self.url}: {error}") from error
        finally:
            if whole:
                self._give_back(connection)
            else:
                connection.close()

    def _start(
        self, method: str, path: str, headers: str, body: Any, timeout: float | None
    ) -> _Connection:
        size = sum(map(len, body))
        length = f"Content-Length: {size}\r\n" if size or method in ("POST", "PUT") else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._common}{headers}{length}\r\n".encode("latin-1")
        # A connection that idled may be closed by the node at any moment. When sending breaks
        # the request never was whole, so sending it again on a new one is safe.
        connection = self._take()
        try:
            connection.sock.settimeout(timeout)
            connection.send(head, body)
            return connection
        except _Unsent:
            early = self._early_answer(connection)
            if early is not None:
                return early
            connection.close()
        except OSError as error:
            connection.close()
            raise ConnectionFailed(f"{self.url}: {error}") from error
        connection = self._connect()
        try:
            connection.sock.settimeout(timeout)
            connection.send(head, body)
        except _Unsent as error:
            early = self._early_answer(connection)
            if early is not None:
                return early
            connection.close()
            raise ConnectionFailed(f"{self.url}: {error}") from error
        except OSError as error:
            connection.close()
            raise ConnectionFailed(f"{self.url}: {error}") from error
        return connection

    @staticmethod
    def _early_answer(connection: _Connection) -> _Connection | None:
        """A node may answer (too large, say) and close before it has read the whole body."""
        try:
            connection.rest = connection.sock.recv(_RECEIVE)
        except OSError:
            return None
        connection.reusable = False
        return connection if connection.rest else None

    def _take(self) -> _Connection:
        if self._pid != os.getpid():  # connections do not survive a fork
            self._pid = os.getpid()
            self._idle = []
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect()
            if not connection.is_stale():
                return connection
            connection.close()

    def _give_back(self, connection: _Connection) -> None:
        if connection.reusable and not connection.rest and len(self._idle) < _IDLE_MAX:
            self._idle.append(connection)
        else:
            connection.close()

    def _connect(self) -> _Connection:
        try:
            sock = socket.create_connection((self._host, self._port), timeout=10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self._host)
        except OSError as error:
            failed = ConnectionFailed(
                f"no node at {self.url} ({error}); start one with: tidemill up"
            )
            # One that was there may be coming back; one that never was is most likely a mistake.
            failed.is_final = not self._has_connected
            raise failed from error
        self._has_connected = True
        return _Connection(sock)
