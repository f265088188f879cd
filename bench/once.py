#!/usr/bin/env python3
"""A retry with a key, answered by its record, beside a call that only reads; a write with a key
beside one without.

    python bench/once.py [--quick] [--json FILE]

All over one kept-alive connection, with the same answer of 1 KB. Commits are durable.
"""

from __future__ import annotations

import itertools
import sys

import bench_app as app
from harness import (
    BODY,
    Measure,
    Node,
    RawHttp,
    Report,
    Row,
    Size,
    in_turns,
    median_ns,
    node,
    post_request,
    run,
)

ROWS = [
    Row("a retry", "a call that only reads", most=1.0),
    Row("a write with a key", "a write without a key"),
]


def keyed(request: bytes, key: str) -> bytes:
    """The same request with a key."""
    return request.replace(b"\r\n", f'\r\nIdempotency-Key: "{key}"\r\n'.encode(), 1)


def sides_of(there: Node, size: Size) -> dict[str, Measure]:
    """What takes turns."""
    http = RawHttp(there.address)

    def request(function: str) -> bytes:
        path = f"/v1/call/bench/{function}"
        return post_request(there.address, path, there.token, b"[]", "application/json")

    app.keep.remote(BODY)
    reading, counting = request("kept"), request("count")
    retry = keyed(reading, "retry")
    assert http.call(reading) == http.call(retry) == http.call(retry) == BODY
    numbers = itertools.count()
    return {
        "a retry": lambda: median_ns(lambda: http.call(retry), size),
        "a call that only reads": lambda: median_ns(lambda: http.call(reading), size),
        "a write with a key": lambda: median_ns(
            lambda: http.call(keyed(counting, f"write-{next(numbers)}")), size
        ),
        "a write without a key": lambda: median_ns(lambda: http.call(counting), size),
    }


def measure(size: Size, report: Report) -> None:
    """Fills the report."""
    with node() as there:
        there.client.deploy(app.app)
        report.add(in_turns(sides_of(there, size), size), ROWS)


if __name__ == "__main__":
    sys.exit(run("once", "durable", measure))
