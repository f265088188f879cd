#!/usr/bin/env python3
"""Components: over HTTP beside a bare server, and inside a node beside the engine alone.

    python bench/wasm.py [--quick] [--json FILE]

The component is that of the platform's tests, with 1 KB in and out. The rows within the node are by
the crate `wasm` beside this file, a process a round. workerd takes part where it is on the path or
named by WORKERD (`npm install workerd`). Nothing is written but in the rows of state, where writes
are buffered.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from harness import (
    BODY,
    HERE,
    BenchError,
    Measure,
    Node,
    RawHttp,
    Report,
    Row,
    Size,
    call_request,
    echo_program,
    find_program,
    in_turns,
    load_ns_a_call,
    median_load_ns,
    node,
    post_request,
    run,
    started,
)

COMPONENTS = HERE.parent / "crates/wasm/tests/data"
FIXTURE = COMPONENTS / "fixture.wasm"
CLIENTS = 16
# Most nanoseconds above what stands beside it.
MORE_NS = {"a warm call": 3_000, "a flow of ten": 100_000}
READ_NS, ADD_NS, FRESH_NS, FIRST_NS = 1_000, 1_500, 40_000, 5_000_000

OVER_HTTP = [
    Row("component", "axum echo", most=1.5),
    Row(f"component, {CLIENTS} clients", f"axum echo, {CLIENTS} clients", most=2.0),
    Row("wasi:http component", "axum echo"),
    Row("one that calls another", "component", most=1.2),
]
INSIDE = [
    Row("a warm call", "wasmtime, warm"),
    Row("a fresh instance", "wasmtime, fresh"),
    Row("two composed", "a warm call"),
    Row("a flow of ten", "a warm call"),
]
ROWS = [*OVER_HTTP, *INSIDE]
# Only where it is there.
BESIDE_WORKERD = Row("component", "workerd")
FIELDS = {
    "a warm call": "call_warm_ns",
    "wasmtime, warm": "wasmtime_warm_ns",
    "a fresh instance": "call_fresh_ns",
    "wasmtime, fresh": "wasmtime_fresh_ns",
    "two composed": "two_ns",
    "a flow of ten": "flow_of_ten_ns",
    "a read": "read_ns",
    "an add": "add_ns",
}


def measured(*words: object) -> dict[str, Any]:
    """What the program beside this file says."""
    program = find_program("tidemill-bench-wasm", "TIDEMILL_BENCH_WASM")
    command = [str(program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Inside:
    """Runs of the program: one gives a value to each side, since they take turns within it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.runs: list[dict[str, Any]] = []
        self.left: set[str] = set()

    def side(self, name: str) -> Measure:
        """The next value of a side."""

        def take() -> float:
            if name not in self.left:
                self.runs.append(measured("calls", FIXTURE, self.count))
                self.left = set(FIELDS)
            self.left.remove(name)
            return float(self.runs[-1][FIELDS[name]])

        return take


def bundle(app: str, functions: list[dict[str, Any]], component: Path) -> bytes:
    """An app of one component."""
    manifest = {"manifest": 1, "app": app, "runtime": {"kind": "wasm"}, "functions": functions}
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("tidemill.json", json.dumps(manifest))
        archive.write(component, "c.wasm")
    return out.getvalue()


def deploy(there: Node) -> None:
    """Both apps."""
    plain = [{"name": name, "component": "c.wasm"} for name in ("echo", "call")]
    web = [{"name": "web", "component": "c.wasm", "kind": "http"}]
    with tempfile.TemporaryDirectory() as name:
        for app, functions, component in (
            ("bench", plain, FIXTURE),
            ("web", web, COMPONENTS / "http.wasm"),
        ):
            file = Path(name) / f"{app}.zip"
            file.write_bytes(bundle(app, functions, component))
            there.client.deploy(file)


WORKERD = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = (
    serviceWorkerScript = "addEventListener('fetch', event => event.respondWith("
      "event.request.arrayBuffer().then(body => new Response(body))))",
    compatibilityDate = "2024-01-01"))],
  sockets = [(name = "http", address = "%s", http = (), service = "main")]);
"""


@contextlib.contextmanager
def workerd_started() -> Iterator[str | None]:
    """A workerd that gives bodies back, or None where there is none."""
    program = os.environ.get("WORKERD") or shutil.which("workerd")
    if program is None:
        print("skipped: the row beside workerd, which is not installed", flush=True)
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "echo.capnp"
        config.write_text(WORKERD % address)
        process = subprocess.Popen([program, "serve", str(config)])
        try:
            host, port = address.split(":")
            for _ in range(500):
                with contextlib.suppress(OSError), socket.create_connection((host, int(port))):
                    break
                time.sleep(0.01)
            else:
                raise BenchError("workerd did not start")
            yield address
        finally:
            process.terminate()
            process.wait()


def over_http(there: Node, echo: str, workerd: str | None, size: Size) -> dict[str, Measure]:
    """What takes turns over HTTP."""
    asked = call_request(there, "echo")
    kind = "application/octet-stream"
    # The bare server gets the same bytes, headers that it ignores included.
    bare = post_request(echo, "/v1/call/bench/echo", there.token, BODY, kind)
    web = post_request(there.address, "/http/web/echo", there.token, BODY, kind)
    nested = post_request(
        there.address,
        "/v1/call/bench/call",
        there.token,
        json.dumps([["echo", "x" * len(BODY)]]).encode(),
        "application/json",
    )
    to_node = RawHttp(there.address)
    assert to_node.call(asked) == to_node.call(web) == BODY
    assert json.loads(to_node.call(nested)) == "x" * len(BODY)

    def load(address: str, request: bytes) -> Callable[[], float]:
        return lambda: median_load_ns(address, request, size)

    def loads(address: str, request: bytes) -> Callable[[], float]:
        return lambda: load_ns_a_call(address, request, size, CLIENTS)

    sides: dict[str, Measure] = {
        "component": load(there.address, asked),
        "axum echo": load(echo, bare),
        "wasi:http component": load(there.address, web),
        "one that calls another": load(there.address, nested),
        OVER_HTTP[1].side: loads(there.address, asked),
        OVER_HTTP[1].beside: loads(echo, bare),
    }
    if workerd is not None:
        sides["workerd"] = load(workerd, post_request(workerd, "/", "none", BODY, kind))
    return sides


def verdict(what: str, found_ns: float, most_ns: float) -> None:
    """One line about a bound that is a time: what part of it was taken."""
    held = "held" if found_ns <= most_ns else "MISSED"
    print(f"{what}: ≤ {most_ns / 1000:g} µs, it takes {found_ns / most_ns:.2f} of that, {held}")


def measure(size: Size, report: Report) -> None:
    """All rows."""
    with started(echo_program(), "http") as echo, workerd_started() as workerd, node() as there:
        deploy(there)
        rows = OVER_HTTP if workerd is None else [*OVER_HTTP, BESIDE_WORKERD]
        report.add(in_turns(over_http(there, echo, workerd, size), size), rows)
    inside = Inside(100 if size.quick else 5_000)
    names = dict.fromkeys(name for row in INSIDE for name in (row.side, row.beside))
    report.add(in_turns({name: inside.side(name) for name in names}, size), INSIDE)

    def middle(field: str) -> float:
        values = sorted(float(found[field]) for found in inside.runs)
        return values[len(values) // 2]

    for row in INSIDE:
        if row.side in MORE_NS:
            more = middle(FIELDS[row.side]) - middle(FIELDS[row.beside])
            verdict(f"{row.side}, above {row.beside}", more, MORE_NS[row.side])
    fresh = middle("call_fresh_ns") - middle("call_warm_ns")
    verdict("a fresh instance, above a warm call", fresh, FRESH_NS)
    verdict("a read of state", middle("read_ns"), READ_NS)
    verdict("a counter's add, buffered", middle("add_ns"), ADD_NS)
    first = measured("restart", FIXTURE)
    verdict("the first call after a restart", first["first_ns"], FIRST_NS)
    idle = measured("idle", FIXTURE, 20 if size.quick else 1_000)
    print(f"{idle['apps']} deployed apps that rest: {idle['bytes_an_app']} bytes each")


if __name__ == "__main__":
    sys.exit(run("wasm", "nothing is written but in buffers", measure))
