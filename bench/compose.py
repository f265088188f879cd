#!/usr/bin/env python3
"""Two functions of 1 KB in and out, one after the other, beside one; and Ray's and Dask's pairs.

    python bench/compose.py [--quick] [--json FILE]

The functions have no state, so nothing is committed and durability does not matter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
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
    in_turns,
    median_ns,
    node,
    peer,
    ray_started,
    run,
)

ROWS = [
    Row("f >> g", "f", most=1.2),
    Row("f >> g by the SDK", "f by the SDK", most=1.2),
    Row("Ray, two actor calls", "Ray, one actor call"),
    Row("Ray, two tasks", "Ray, one task"),
    Row("Dask, two futures", "Dask, one future"),
    Row("f >> g by the SDK", "Ray, two actor calls"),
    Row("f >> g by the SDK", "Ray, two tasks"),
    Row("f >> g by the SDK", "Dask, two futures"),
]


def of_node(there: Node, size: Size) -> dict[str, Measure]:
    """Ours, over plain HTTP and by the SDK."""
    http = RawHttp(there.address)
    one, two = call_request(there, "echo"), call_request(there, "twice")
    flow = app.echo >> app.echo_again
    assert http.call(one) == http.call(two) == flow.remote(BODY) == BODY
    return {
        "f": lambda: median_ns(lambda: http.call(one), size),
        "f >> g": lambda: median_ns(lambda: http.call(two), size),
        "f by the SDK": lambda: median_ns(lambda: app.echo.remote(BODY), size),
        "f >> g by the SDK": lambda: median_ns(lambda: flow.remote(BODY), size),
    }


def fewer(size: Size) -> Size:
    """Of what takes milliseconds, fewer calls say as much."""
    return dataclasses.replace(size, warm=size.warm // 5, count=max(5, size.count // 5))


def same(value: bytes) -> bytes:
    """Its argument."""
    return value


def of_ray(ray: Any, size: Size) -> dict[str, Measure]:
    """Ray's: the second call takes the reference that the first one gives."""

    class Echo:
        def echo(self, value: bytes) -> bytes:
            return value

    task = ray.remote(same)
    f, g = ray.remote(Echo).remote(), ray.remote(Echo).remote()
    assert ray.get(g.echo.remote(f.echo.remote(BODY))) == BODY

    def two_actors() -> Any:
        return ray.get(g.echo.remote(f.echo.remote(BODY)))

    return {
        "Ray, one actor call": lambda: median_ns(lambda: ray.get(f.echo.remote(BODY)), size),
        "Ray, two actor calls": lambda: median_ns(two_actors, size),
        "Ray, one task": lambda: median_ns(lambda: ray.get(task.remote(BODY)), fewer(size)),
        "Ray, two tasks": lambda: median_ns(
            lambda: ray.get(task.remote(task.remote(BODY))), fewer(size)
        ),
    }


@contextlib.contextmanager
def dask_client(size: Size) -> Iterator[Any]:
    """Dask on two processes, or None where a quick run goes on without it."""
    distributed = peer("distributed", size)
    if distributed is None:
        yield None
        return
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        yield client


def of_dask(client: Any, size: Size) -> dict[str, Measure]:
    """Dask's. `pure=False`: each call is made, not remembered."""

    def one() -> Any:
        return client.submit(same, BODY, pure=False).result()

    def two() -> Any:
        first = client.submit(same, BODY, pure=False)
        return client.submit(same, first, pure=False).result()

    assert one() == two() == BODY
    return {
        "Dask, one future": lambda: median_ns(one, fewer(size)),
        "Dask, two futures": lambda: median_ns(two, fewer(size)),
    }


def measure(size: Size, report: Report) -> None:
    """Fills the report."""
    with ray_started(size) as ray, dask_client(size) as dask, node() as there:
        there.client.deploy(app.app)
        sides = of_node(there, size)
        if ray is not None:
            sides |= of_ray(ray, size)
        if dask is not None:
            sides |= of_dask(dask, size)
        report.add(in_turns(sides, size), ROWS)


if __name__ == "__main__":
    sys.exit(run("compose", "nothing is written, so no durability", measure))
