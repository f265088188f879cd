#!/usr/bin/env python3
"""Reading state: small keys inside a function, and an 8 MB array that a function is handed.

    python bench/state.py [--quick] [--json FILE]

Reads only, of what is in memory; what is read was written with durable commits before.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bench_app as app
import numpy
import tidemill
from harness import (
    Measure,
    Node,
    Report,
    Row,
    Size,
    echo_program,
    in_turns,
    median_ns,
    node,
    ray_started,
    run,
    started,
)
from tidemill._wire import REPLY, STATE, frame_bytes

VALUE = "v" * 64
LARGE_BYTES = 8 << 20
SMALL_BYTES = 1 << 10

ROWS = [
    Row("state read in a function", "Unix socket, blocking", limit=60.0),
    Row("state read in a function", "Unix socket, tokio"),
    Row("8 MB by reference", "1 KB by reference", most=1.2),
    Row("8 MB by reference", "Ray, 8 MB by reference", most=1.0),
    Row("1 KB by reference", "Ray, 1 KB by reference"),
]


def frames() -> tuple[bytes, int]:
    """What one read sends, and how many bytes follow the length of its answer."""
    asked = {"ops": [], "get": [{"s": 0, "k": "key/500", "t": "register"}], "seq": 500}
    value = json.dumps(VALUE).encode()
    answered = {"re": 500, "r": [{"t": "register", "p": 0}], "p": [{"t": "j", "n": len(value)}]}
    compact = (",", ":")
    question = frame_bytes(STATE, json.dumps(asked, separators=compact))
    answer = frame_bytes(REPLY, json.dumps(answered, separators=compact), value)
    return question, len(answer) - 4


@contextmanager
def ping_pong(mode: str) -> Iterator[Any]:
    """A call that sends as much as a read sends to a bare partner, and receives as much."""
    question, size = frames()
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "socket")
        with started(echo_program(), mode, path, str(size)), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            buffer = bytearray(65536)

            def call() -> None:
                sock.sendall(question)
                have = sock.recv_into(buffer)
                while have < 4 + size:
                    have += sock.recv_into(memoryview(buffer)[have:])

            yield call
            sock.close()


def of_node(there: Node, size: Size) -> dict[str, Measure]:
    """Ours."""
    space = there.client.state("bench")
    for name, bytes_ in (("large", LARGE_BYTES), ("small", SMALL_BYTES)):
        space.register(name).set(numpy.arange(bytes_ // 8, dtype=numpy.float64))
    assert app.fill.remote(VALUE) == app.READS
    large, small = tidemill.ref("large"), tidemill.ref("small")
    assert app.first.remote(large) == app.first.remote(small) == 0.0
    return {
        # Every key is read once a request; the first request has warmed what there is to warm.
        "state read in a function": lambda: app.read_all.remote() * 1e9 / app.READS,
        "8 MB by reference": lambda: median_ns(lambda: app.first.remote(large), size),
        "1 KB by reference": lambda: median_ns(lambda: app.first.remote(small), size),
    }


def of_ray(ray: Any, size: Size) -> dict[str, Measure]:
    """Ray's: arrays in its object store, handed to an actor by reference."""

    class First:
        def first(self, array: Any) -> float:
            return float(array[0])

    actor = ray.remote(First).remote()
    large = ray.put(numpy.arange(LARGE_BYTES // 8, dtype=numpy.float64))
    small = ray.put(numpy.arange(SMALL_BYTES // 8, dtype=numpy.float64))
    assert ray.get(actor.first.remote(large)) == ray.get(actor.first.remote(small)) == 0.0
    return {
        "Ray, 8 MB by reference": lambda: median_ns(
            lambda: ray.get(actor.first.remote(large)), size
        ),
        "Ray, 1 KB by reference": lambda: median_ns(
            lambda: ray.get(actor.first.remote(small)), size
        ),
    }


def measure(size: Size, report: Report) -> None:
    """Fills the report."""
    with (
        ray_started(size) as ray,
        ping_pong("unix") as blocking,
        ping_pong("unix-tokio") as tokio,
        node() as there,
    ):
        there.client.deploy(app.app)
        sides = of_node(there, size)
        sides["Unix socket, blocking"] = lambda: median_ns(blocking, size)
        sides["Unix socket, tokio"] = lambda: median_ns(tokio, size)
        if ray is not None:
            sides |= of_ray(ray, size)
        report.add(in_turns(sides, size), ROWS)


if __name__ == "__main__":
    sys.exit(run("state", "reads only, of state that durable commits wrote", measure))
