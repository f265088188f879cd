"""The Redis doors that `store.py` measures: a node's and a Redis server's, and their clients.

Each server runs on one processor and its client on another. What a server used is read from
/proc, its client's time from the client process. Nothing here knows a row or a target.
"""

from __future__ import annotations

import contextlib
import csv
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import READY_S, BenchError, launch_node, stop_process

TICKS = os.sysconf("SC_CLK_TCK")
# All that is measured is in memory on both sides.
MEMORY_BYTES = 8 << 30
LOAD_S = 120.0
SETTLE_S = 10.0
QUIET_S = 0.1
CLIENT_S = 600.0
GLANCE_S = 0.002
BATCH = 500


def cores() -> tuple[int, int]:
    """The server's processor and the client's."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def pinned(core: int) -> list[str]:
    """What goes before a command so that it stays on a processor."""
    return ["taskset", "-c", str(core)]


PACKAGES = {"redis-server": "redis-server", "redis-benchmark": "redis-tools"}


def is_there(program: str) -> bool:
    """Whether a program of Redis is installed; if not, a line says how to get it."""
    if shutil.which(program) is not None:
        return True
    line = f"skipped: what needs {program}; on Debian `apt-get install {PACKAGES[program]}` has it"
    print(line, file=sys.stderr, flush=True)
    return False


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# -- servers ---------------------------------------------------------------------------------------


@dataclass
class Server:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int
    token: str | None
    begun: float

    def cpu_s(self) -> float:
        """Processor time so far, of all threads."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_bytes(self) -> int:
        """Memory in use."""
        with open(f"/proc/{self.process.pid}/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmRSS"].split()[0]) * 1024

    def settle(self) -> None:
        """Waits until it does nothing any more: work put off is done before others are measured."""
        deadline = time.monotonic() + SETTLE_S
        before = self.cpu_s()
        while time.monotonic() < deadline:
            time.sleep(QUIET_S)
            now = self.cpu_s()
            if now - before <= 1 / TICKS:
                return
            before = now

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


Start = Callable[[Path], Server]


def start_node(directory: Path, durability: str, port: int = 0) -> Server:
    """A node whose Redis door has a port of its own."""
    port = port or free_port()
    flags = ["--redis-listen", f"127.0.0.1:{port}", "--durability", durability]
    settings = {"TIDEMILL_STORE_MEMORY_BYTES": str(MEMORY_BYTES)}
    begun = time.monotonic()
    before = pinned(cores()[0])
    process, _ = launch_node(directory, flags=flags, before=before, settings=settings)
    server = Server(process, port, None, begun)
    wait_ready(server, directory, "node.log", directory / "data" / "token")
    return server


def start_redis(directory: Path, *flags: str) -> Server:
    """A Redis server with these flags, its files in this directory."""
    port = free_port()
    command = [*pinned(cores()[0]), "redis-server"]
    command += ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), *flags]
    begun = time.monotonic()
    with (directory / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    server = Server(process, port, None, begun)
    wait_ready(server, directory, "redis.log", None)
    return server


def wait_ready(server: Server, directory: Path, log: str, token: Path | None) -> None:
    """Until it answers PING with PONG, which Redis does once it has loaded its files."""
    deadline = server.begun + LOAD_S
    while True:
        with contextlib.suppress(OSError, Refused):
            if token is not None:
                server.token = token.read_text().strip()
            with connected(server) as pipe:
                if pipe.ask(b"PING") == b"+PONG":
                    return
        if server.process.poll() is not None or time.monotonic() > deadline:
            server.kill()
            text = (directory / log).read_text(errors="replace")
            raise BenchError(f"a server did not start:\n{text}")
        time.sleep(GLANCE_S)


@contextlib.contextmanager
def running(start: Start, directory: Path) -> Iterator[Server]:
    """A server for as long as the block runs."""
    directory.mkdir()
    server = start(directory)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            stop_process(server.process)


# -- clients ---------------------------------------------------------------------------------------


class Refused(Exception):
    """The server does not serve yet."""


class Pipe:
    """One connection; as little client as Python can be."""

    def __init__(self, port: int, token: str | None) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=READY_S)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._sock.makefile("rb")
        if token is not None and self.ask(b"AUTH", token.encode()) != b"+OK":
            raise Refused

    def close(self) -> None:
        """Ends the connection."""
        self._file.close()
        self._sock.close()

    def ask(self, *words: bytes) -> bytes:
        """One command; its answer, a bulk string without its length."""
        self._sock.sendall(encode(*words))
        line = self._file.readline().rstrip(b"\r\n")
        if not line or line.startswith(b"-LOADING"):
            raise Refused
        if line.startswith(b"-"):
            raise BenchError(f"the server answered {line.decode(errors='replace')}")
        if line.startswith(b"$") and line != b"$-1":
            return self._file.read(int(line[1:]) + 2)[:-2]
        return line

    def set_all(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Sets keys, many in one go."""
        batch: list[bytes] = []
        for name, value in pairs:
            batch.append(encode(b"SET", name, value))
            if len(batch) == BATCH:
                self._send(batch)
                batch.clear()
        self._send(batch)

    def _send(self, batch: list[bytes]) -> None:
        self._sock.sendall(b"".join(batch))
        for _ in batch:
            if (line := self._file.readline()) != b"+OK\r\n":
                raise BenchError(f"the server answered {line!r}")


def encode(*words: bytes) -> bytes:
    """A command as an array of bulk strings."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


@contextlib.contextmanager
def connected(server: Server) -> Iterator[Pipe]:
    """A connection for as long as the block runs."""
    pipe = Pipe(server.port, server.token)
    try:
        yield pipe
    finally:
        pipe.close()


@dataclass
class Load:
    """What one run of a client gave."""

    rate: float
    """Operations a second."""
    cpu_s: float
    """Processor time of the server for one operation."""
    client: float
    """The part of its time in which the client was busy."""


@dataclass
class Work:
    """What redis-benchmark is asked to do."""

    words: tuple[str, ...]
    connections: int
    pipeline: int
    keys: int
    size: int


def rate_of(csv_text: str) -> float:
    """Operations a second from what `redis-benchmark --csv` prints."""
    lines = list(csv.reader(csv_text.splitlines()))
    if len(lines) < 2 or "rps" not in lines[0]:
        raise BenchError(f"redis-benchmark printed no result:\n{csv_text}")
    return float(lines[-1][lines[0].index("rps")])


def load(server: Server, work: Work, count: int) -> Load:
    """Runs redis-benchmark. The server's time goes until it has done what it put off."""
    command = [*pinned(cores()[1]), "redis-benchmark"]
    command += ["-p", str(server.port), "-n", str(count), "-c", str(work.connections), "--csv"]
    command += ["-P", str(work.pipeline), "-r", str(work.keys), "-d", str(work.size)]
    if server.token is not None:
        command += ["-a", server.token]
    used, client, begun = server.cpu_s(), client_cpu_s(), time.monotonic()
    done = subprocess.run(
        [*command, *work.words], capture_output=True, text=True, timeout=CLIENT_S, check=False
    )
    took = time.monotonic() - begun
    if done.returncode:
        raise BenchError(f"redis-benchmark failed:\n{done.stderr}{done.stdout}")
    busy = (client_cpu_s() - client) / took
    server.settle()
    # What is too short to be seen took no more than a tick.
    used = max(server.cpu_s() - used, 1 / TICKS)
    return Load(rate_of(done.stdout), used / count, busy)


def client_cpu_s() -> float:
    """Processor time of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# -- what the rows measure -------------------------------------------------------------------------


def name_of(number: int) -> bytes:
    """The key that redis-benchmark makes of a number."""
    return b"key:%012d" % number


def values(count: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values that do not compress and differ from each other."""
    noise = os.urandom(size + 65536)
    for number in range(count):
        at = number * 7919 % 65536
        yield name_of(number), noise[at : at + size]


def growth_bytes(start: Start, directory: Path, keys: int, size: int, rest_s: float) -> float:
    """By how much a key makes a server grow, once it has done all that it put off, which it
    begins within `rest_s`; 0 does not wait for that."""
    with running(start, directory) as server, connected(server) as pipe:
        server.settle()
        before = server.rss_bytes()
        pipe.set_all(values(keys, size))
        if rest_s:
            time.sleep(rest_s)
            wait_resting(server)
        return (server.rss_bytes() - before) / keys


def wait_resting(server: Server) -> None:
    """Until its memory changes no more."""
    deadline = time.monotonic() + LOAD_S
    seen: list[int] = []
    while time.monotonic() < deadline:
        time.sleep(1.0)
        seen = [*seen[-3:], server.rss_bytes()]
        if len(seen) == 4 and max(seen) - min(seen) <= statistics.mean(seen) / 1000:
            return


class Restarted:
    """A server that is filled, killed with kill -9, and started again on the same directory."""

    def __init__(self, start: Start, directory: Path, keys: int, size: int) -> None:
        self._start, self._directory, self._keys, self._size = start, directory, keys, size
        directory.mkdir()

    def measure_ns(self) -> float:
        """From the start of the process to its answers to PING and to GET of a known key."""
        server = self._start(self._directory)
        try:
            with connected(server) as pipe:
                pipe.set_all(values(self._keys, self._size))
                probe = name_of(self._keys // 2)
                known = pipe.ask(b"GET", probe)
            server.kill()
            server = self._start(self._directory)
            while True:
                with contextlib.suppress(Refused), connected(server) as pipe:
                    found = pipe.ask(b"GET", probe)
                    break
            took = time.monotonic() - server.begun
            if found != known or len(known) != self._size:
                raise BenchError("a key that was set is not there after kill -9")
        finally:
            server.kill()
        return took * 1e9
