"""The same two functions as a plain process over Redis: a call a line, on stdin and stdout.

python anomalies_plain.py PORT
"""

from __future__ import annotations

import json
import socket
import sys


class Redis:
    """One connection, and only what is needed of it."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._sock.makefile("rb")

    def ask(self, *words: str) -> str | None:
        """A command and its answer: a status or a string."""
        parts = [f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]
        self._sock.sendall("".join(parts).encode("ascii"))
        line = self._file.readline()
        if line.startswith(b"-") or not line:
            raise SystemExit(f"Redis answered {line!r}")
        if not line.startswith(b"$"):
            return line[1:-2].decode("ascii")
        length = int(line[1:])
        return None if length < 0 else self._file.read(length + 2)[:-2].decode("ascii")


def main() -> None:
    """Serves until its input ends."""
    redis = Redis(int(sys.argv[1]))

    def both(pair: str) -> list[str | None]:
        return [redis.ask("GET", f"{pair}/a"), redis.ask("GET", f"{pair}/b")]

    for line in sys.stdin:
        function, pair, tag = json.loads(line)
        if function == "first":
            seen = both(pair)
            redis.ask("SET", f"{pair}/a", tag)
        else:
            redis.ask("SET", f"{pair}/b", tag)
            seen = both(pair)
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
