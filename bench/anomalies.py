#!/usr/bin/env python3
"""Anomalies: requests of two functions that write and read the same two keys, while what runs them
is killed at random. Tidemill at both levels, and the same functions as plain processes over Redis.

    python bench/anomalies.py [--quick] [--requests N] [--kills N] [--json FILE]

Each request writes both keys of one pair, so whoever sees the pair outside of a request must see
one request's tag on both keys. Two things are counted:

- *read-your-writes*: after its writes a request sees another tag than its own;
- *fractured reads*: before its writes a request sees two different tags.

Everything is in memory on all sides (`durability` `memory`; Redis without its files). A client
whose executor died tries the whole request again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import tidemill
from doors import is_there, running, start_redis
from harness import READY_S, BenchError, launch_node, machine, stop_process

HERE = Path(__file__).resolve().parent
CLIENTS = 8
EXECUTORS = 8
PAIRS = 50
# A request is tried so often; a client that needs more has met something else than kills.
TRIES_MAX = 50


@dataclass
class Found:
    """What one side gave."""

    side: str
    requests: int = 0
    kills: int = 0
    tried_again: int = 0
    own_writes_missed: int = 0
    fractured: int = 0
    seconds: float = 0.0


class Lost(Exception):
    """The executor died; the request may be tried again."""


class Side(Protocol):
    """Something that runs requests, and whose executors can be killed."""

    def request(self, client: int, pair: str, tag: str) -> tuple[list[Any], list[Any]]:
        """What it saw before its first write and after its last. Raises `Lost`."""
        ...

    def executors(self) -> list[int]:
        """The processes that run functions."""
        ...


def drive(name: str, side: Side, requests: int, kills: int) -> Found:
    """So many requests from all clients, and about so many kills meanwhile."""
    found = Found(name)
    lock = threading.Lock()
    failures: list[BaseException] = []
    numbers = iter(range(requests))
    weights = [1 / (1 + number) for number in range(PAIRS)]
    ended = threading.Event()

    def work(client: int) -> None:
        chance = random.Random(client)
        while not failures:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            pair, tag = f"pair{chance.choices(range(PAIRS), weights)[0]}", f"r{number}"
            for _ in range(TRIES_MAX):
                try:
                    before, after = side.request(client, pair, tag)
                    break
                except Lost:
                    with lock:
                        found.tried_again += 1
            else:
                raise BenchError(f"{name}: a request failed {TRIES_MAX} times")
            with lock:
                found.requests += 1
                found.fractured += before[0] != before[1]
                found.own_writes_missed += after != [tag, tag]

    def guarded(client: int) -> None:
        try:
            work(client)
        except BaseException as error:
            failures.append(error)

    def kill() -> None:
        chance = random.Random(7)
        next_at = 0.0
        while not ended.wait(0.001):
            if found.requests < next_at or not (pids := side.executors()):
                continue
            next_at = found.requests + chance.expovariate(kills / requests)
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
                found.kills += 1

    threads = [threading.Thread(target=guarded, args=(client,)) for client in range(CLIENTS)]
    killer = threading.Thread(target=kill)
    begun = time.monotonic()
    for thread in (*threads, killer):
        thread.start()
    for thread in threads:
        thread.join()
    found.seconds = time.monotonic() - begun
    ended.set()
    killer.join()
    if failures:
        raise failures[0]
    return found


# -- Tidemill --------------------------------------------------------------------------------------


class Node:
    """A node at one level. Its workers are killed; it repeats what they ran, up to twice."""

    def __init__(self, client: tidemill.Client, level: str, pid: int) -> None:
        self._sessions = [client.session(level=level) for _ in range(CLIENTS)]
        self._pid = pid

    def request(self, client: int, pair: str, tag: str) -> tuple[list[Any], list[Any]]:
        """A call."""
        try:
            before, after = self._sessions[client].call("anomalies", "first", pair, tag)
        except tidemill.WorkerCrashed as error:
            raise Lost from error
        return before, after

    def executors(self) -> list[int]:
        """Workers: the children of the node's children."""
        templates = children([self._pid])
        return children(templates)


def children(pids: Sequence[int]) -> list[int]:
    """The child processes of these."""
    found: list[int] = []
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                listed = Path(f"/proc/{pid}/task/{task}/children")
                with contextlib.suppress(OSError):
                    found += map(int, listed.read_text().split())
    return found


@contextlib.contextmanager
def node(level: str) -> Iterator[Side]:
    """A node with the app."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        directory = Path(name)
        process, ready = launch_node(directory, flags=["--durability", "memory"])
        try:
            deadline = time.monotonic() + READY_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    text = (directory / "node.log").read_text(errors="replace")
                    raise BenchError(f"the node did not start:\n{text}")
                time.sleep(0.01)
            address = json.loads(ready.read_text())["http"]
            token = (directory / "data" / "token").read_text().strip()
            with tidemill.connect(f"http://{address}", token) as client:
                client.deploy(HERE / "anomalies_app.py")
                yield Node(client, level, process.pid)
        finally:
            stop_process(process)


# -- plain processes over Redis --------------------------------------------------------------------


class Executor:
    """A process with the functions."""

    def __init__(self, port: int) -> None:
        program = str(HERE / "anomalies_plain.py")
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", program, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, *words: str) -> list[Any]:
        """Runs a function."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(words) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError as error:
            raise Lost from error
        if not line.endswith("\n"):
            raise Lost
        seen: list[Any] = json.loads(line)
        return seen

    def close(self) -> None:
        """Ends it, dead or alive."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


class Plain:
    """Executors over one Redis server. Each function of a request runs on whichever is free."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Condition()
        self._free = [Executor(port) for _ in range(EXECUTORS)]
        self._all = list(self._free)

    def _run(self, *words: str) -> list[Any]:
        with self._lock:
            while not self._free:
                self._lock.wait()
            executor = self._free.pop(0)
        try:
            return executor.call(*words)
        except Lost:
            dead, executor = executor, Executor(self._port)
            with self._lock:
                self._all[self._all.index(dead)] = executor
            dead.close()
            raise
        finally:
            with self._lock:
                self._free.append(executor)
                self._lock.notify()

    def request(self, client: int, pair: str, tag: str) -> tuple[list[Any], list[Any]]:
        """One function after the other."""
        return self._run("first", pair, tag), self._run("second", pair, tag)

    def executors(self) -> list[int]:
        """Its processes."""
        with self._lock:
            return [executor.process.pid for executor in self._all]

    def close(self) -> None:
        """Ends them all."""
        for executor in self._all:
            executor.close()


@contextlib.contextmanager
def plain() -> Iterator[Side]:
    """Plain processes over a Redis server."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:

        def start(directory: Path) -> Any:
            return start_redis(directory, "--save", "", "--appendonly", "no")

        with running(start, Path(name) / "redis") as server:
            side = Plain(server.port)
            try:
                yield side
            finally:
                side.close()


# -- the report ------------------------------------------------------------------------------------


def table(all_found: Sequence[Found]) -> str:
    """What was found, in Markdown."""
    heads = ["", "requests", "kills", "tried again by clients", "read-your-writes", "fractured"]
    lines = [heads, ["---"] * len(heads)]
    for found in all_found:
        counts = (found.requests, found.kills, found.tried_again)
        numbers = [f"{count:,}" for count in counts]
        anomalies = [f"**{count:,}**" for count in (found.own_writes_missed, found.fractured)]
        lines.append([found.side, *numbers, *anomalies])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench/anomalies.py")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=200, help="about so many on each side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    requests, kills = (200, 10) if options.quick else (options.requests, options.kills)
    sides: dict[str, Callable[[], contextlib.AbstractContextManager[Side]]] = {
        "Tidemill, causal": lambda: node("causal"),
        "Tidemill, eventual": lambda: node("eventual"),
    }
    if is_there("redis-server"):
        sides["plain processes over Redis"] = plain
    all_found = []
    try:
        for name, begin in sides.items():
            print(f"{name}: {requests} requests", file=sys.stderr, flush=True)
            with begin() as side:
                all_found.append(drive(name, side, requests, kills))
    except BenchError as error:
        print(f"bench/anomalies.py: {error}", file=sys.stderr)
        return 1
    print(table(all_found))
    if options.json is not None:
        whole = {
            "program": "anomalies", "quick": options.quick, "machine": machine(),
            "sides": [asdict(found) for found in all_found],
        }  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
    causal = all_found[0]
    return 1 if causal.own_writes_missed or causal.fractured else 0


if __name__ == "__main__":
    sys.exit(main())
