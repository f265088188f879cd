#!/usr/bin/env python3
"""One call of a function that returns its argument of 1 KB, beside Ray and a bare HTTP server.

    python bench/calls.py [--quick] [--json FILE]

The function has no state, so nothing is committed and durability does not matter.
"""

from __future__ import annotations

import sys
from typing import Any

import bench_app as app
from harness import (
    BODY,
    Measure,
    Node,
    RawHttp,
    Report,
    Row,
    Size,
    call_request,
    echo_program,
    in_turns,
    median_load_ns,
    median_ns,
    node,
    post_request,
    ray_started,
    run,
    started,
)

ROWS = [
    Row("HTTP from Python", "Ray actor", most=0.5),
    Row("SDK", "Ray actor", most=0.8),
    Row("load client, node", "load client, axum echo", most=6.0),
    Row("HTTP from Python", "HTTP from Python, axum echo"),
    Row("SDK", "HTTP from Python"),
]


def ray_call(ray: Any) -> Any:
    """A call of an actor that does the same."""

    class Echo:
        def echo(self, value: bytes) -> bytes:
            return value

    actor = ray.remote(Echo).remote()
    return lambda: ray.get(actor.echo.remote(BODY))


def sides_of(there: Node, echo: str, ray: Any, size: Size) -> dict[str, Measure]:
    """What takes turns."""
    to_node, to_echo = RawHttp(there.address), RawHttp(echo)
    asked = call_request(there, "echo")
    # The bare server gets the same bytes, headers that it ignores included.
    bare = post_request(echo, "/v1/call/bench/echo", there.token, BODY, "application/octet-stream")
    assert to_node.call(asked) == to_echo.call(bare) == app.echo.remote(BODY) == BODY
    sides: dict[str, Measure] = {
        "HTTP from Python": lambda: median_ns(lambda: to_node.call(asked), size),
        "SDK": lambda: median_ns(lambda: app.echo.remote(BODY), size),
        "load client, node": lambda: median_load_ns(there.address, asked, size),
        "load client, axum echo": lambda: median_load_ns(echo, bare, size),
        "HTTP from Python, axum echo": lambda: median_ns(lambda: to_echo.call(bare), size),
    }
    if ray is not None:
        call = ray_call(ray)
        assert call() == BODY
        sides["Ray actor"] = lambda: median_ns(call, size)
    return sides


def measure(size: Size, report: Report) -> None:
    """Fills the report."""
    with ray_started(size) as ray, started(echo_program(), "http") as echo, node() as there:
        there.client.deploy(app.app)
        report.add(in_turns(sides_of(there, echo, ray, size), size), ROWS)


if __name__ == "__main__":
    sys.exit(run("calls", "nothing is written, so no durability", measure))
