#!/usr/bin/env python3
"""Requests at both levels, many callers at once, and what versions of a hot key take.

    python bench/session.py [--quick] [--json FILE]

The first rows are at the session's interface, without HTTP and without functions: the crate
`session` beside this file, a process a measurement. The last row is a call over HTTP of a function
that reads four keys and writes two. Durability is `memory` where a row does not say `durable`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from harness import HERE, Report, Row, Size, find_program, in_turns, median_ns, node, run

ROWS = [
    Row("4 reads, 2 writes, causal", "4 reads, 2 writes, eventual", most=1.3),
    Row("a durable commit, 64 callers", "a durable commit, 1 caller", most=0.1),
    Row("over HTTP, causal", "over HTTP, eventual", most=1.1),
]
CALLERS = 64
COMMITS_A_FLUSH_LEAST = 20


def measured(*words: object) -> dict[str, Any]:
    """What the program beside this file says."""
    program = find_program("tidemill-bench-session", "TIDEMILL_BENCH_SESSION")
    command = [str(program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(size: Size, report: Report) -> None:
    """All rows."""
    requests, millis = (200, 50) if size.quick else (20_000, 1000)
    flushes: list[float] = []

    def request(level: str) -> Callable[[], float]:
        return lambda: float(measured("request", level, requests)["p50_ns"])

    def commits(callers: int) -> Callable[[], float]:
        def one() -> float:
            found = measured("commits", callers, millis)
            if callers == CALLERS:
                flushes.append(found["commits_a_flush"])
            return float(found["ns_a_commit"])

        return one

    with node() as running:
        running.client.deploy(HERE / "session_app.py")

        def call(level: str) -> Callable[[], float]:
            client = running.client.session(level=level, durability="memory")
            numbers = count()
            return lambda: median_ns(
                lambda: client.call("session", "four_and_two", next(numbers)), size
            )

        sides = {
            ROWS[0].side: request("causal"),
            ROWS[0].beside: request("eventual"),
            ROWS[1].side: commits(CALLERS),
            ROWS[1].beside: commits(1),
            ROWS[2].side: call("causal"),
            ROWS[2].beside: call("eventual"),
        }
        report.add(in_turns(sides, size), ROWS)
    mean = sum(flushes) / len(flushes)
    verdict = "held" if mean >= COMMITS_A_FLUSH_LEAST else "MISSED"
    print(f"commits a flush, {CALLERS} callers: {mean:.1f} (≥ {COMMITS_A_FLUSH_LEAST}, {verdict})")
    writers, rounds = (50, 3) if size.quick else (1000, 10)
    found = measured("versions", writers, rounds)
    value = found["value_bytes"]
    for name, what in (("bytes_a_version", "in memory"), ("log_bytes_a_version", "in the log")):
        each = [bytes_ - value for bytes_ in found[name]]
        half = (rounds + 1) // 2
        first, last = sum(each[:half]) / half, sum(each[-half:]) / half
        print(
            f"bytes a version beside its {value}-byte value, {what}, {writers} writers: "
            f"{first:.0f} in the first half of {rounds} rounds, {last:.0f} in the last"
        )
    print(
        f"bytes of the key before and after them: {found['bytes_before']}, {found['bytes_after']}"
    )


if __name__ == "__main__":
    sys.exit(run("session", "memory, and durable where it says so", measure))
