#!/usr/bin/env python3
"""Starting: a new worker from its app's template, and a node on an empty directory.

    python bench/start.py [--quick] [--json FILE]

A worker's start is what the first call of an app without workers takes longer than the next one.
A node is ready when its ready file is there; the bare server when it has printed its address.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bench_app as app
from harness import (
    READY_S,
    BenchError,
    Measure,
    Node,
    Report,
    Row,
    Size,
    echo_program,
    in_turns,
    launch_node,
    node,
    run,
    started,
    stop_process,
)

ROWS = [
    Row("worker from its template", "python -c pass", limit=30.0, unit="ms"),
    Row("node on an empty directory", "axum echo", limit=500.0, unit="ms"),
]
WARM_CALLS = 5
STARTS = 5
IDLE_S = 10.0
GLANCE_S = 0.0005


def timed_ns(act: Any) -> float:
    """The time of one call."""
    begun = time.perf_counter_ns()
    act()
    return float(time.perf_counter_ns() - begun)


def worker_ns(there: Node) -> float:
    """One start of a worker."""
    deadline = time.monotonic() + IDLE_S
    while there.client.app("fleeting")["workers"]:
        if time.monotonic() > deadline:
            raise BenchError("an idle worker did not end")
        time.sleep(0.005)
    cold = timed_ns(app.touch.remote)
    warm = statistics.median(timed_ns(app.touch.remote) for _ in range(WARM_CALLS))
    return cold - warm


def python_ns() -> float:
    """A Python that does nothing."""
    return timed_ns(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))


def node_ns() -> float:
    """From the start of a node to its ready file."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        begun = time.perf_counter_ns()
        process, ready = launch_node(Path(name))
        try:
            deadline = time.monotonic() + READY_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError("the node did not start")
                time.sleep(GLANCE_S)
            took = time.perf_counter_ns() - begun
            assert json.loads(ready.read_text())["http"]
        finally:
            stop_process(process)
    return float(took)


def echo_ns() -> float:
    """From the start of the bare server to its address."""
    begun = time.perf_counter_ns()
    with started(echo_program(), "http"):
        return float(time.perf_counter_ns() - begun)


def median_of(act: Measure, size: Size) -> Measure:
    """The median of a few, as one round."""
    return lambda: statistics.median(act() for _ in range(1 if size.quick else STARTS))


def measure(size: Size, report: Report) -> None:
    """Fills the report."""
    with node() as there:
        there.client.deploy(app.fleeting)
        app.touch.remote()
        sides: dict[str, Measure] = {
            "worker from its template": lambda: worker_ns(there),
            "python -c pass": python_ns,
            "node on an empty directory": node_ns,
            "axum echo": echo_ns,
        }
        sides = {name: median_of(act, size) for name, act in sides.items()}
        report.add(in_turns(sides, size), ROWS)


if __name__ == "__main__":
    sys.exit(run("start", "commits are durable; none is made while a start is timed", measure))
