"""Worker processes: how many there are, what they keep, and when they end."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import eventually, own_node

import tidemill


def test_a_class_is_made_once_for_each_worker(kitchen, node):
    with ThreadPoolExecutor(4) as pool:
        baked = list(pool.map(lambda i: kitchen.Oven.bake.remote(f"{i}"), range(40)))
    assert {bake["warmed"] for bake in baked} == {1}
    for pid in {bake["pid"] for bake in baked}:
        numbers = sorted(bake["baked"] for bake in baked if bake["pid"] == pid)
        first = numbers[0]
        assert numbers == list(range(first, first + len(numbers)))
    assert node.state("kitchen").counter("baked").get() == 40


def test_methods_are_called_by_class_or_instance(kitchen, node):
    assert kitchen.Oven().bake.remote("pie")["dish"] == "pie"
    assert node.call("kitchen", "Oven.bake", "tart")["dish"] == "tart"
    assert kitchen.Oven.bake_slowly.remote("stew", 0.01)["dish"] == "stew"


def test_workers_are_kept_warm_and_let_go(node):
    app = tidemill.App("sizes")

    @app.function(min_workers=2, idle_timeout=0.5)
    def kept() -> str:
        return "kept"

    app.deploy(node)
    eventually(lambda: node.app("sizes")["workers"] == 2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: kept.remote(), range(50)))
    eventually(lambda: node.app("sizes")["workers"] == 2)

    app = tidemill.App("sizes_idle")

    @app.function(idle_timeout=0.5)
    def passing(_: int) -> int:
        time.sleep(0.1)
        return 1

    app.deploy(node)
    assert list(passing.map(range(8), concurrency=4)) == [1] * 8
    assert node.app("sizes_idle")["workers"] >= 1
    eventually(lambda: node.app("sizes_idle")["workers"] == 0)
    assert passing.remote(0) == 1


def test_max_concurrency_holds(node):
    app = tidemill.App("narrow")

    @app.function(max_concurrency=1)
    def alone() -> list[float]:
        begun = time.time()
        time.sleep(0.05)
        return [begun, time.time()]

    app.deploy(node)
    with ThreadPoolExecutor(4) as pool:
        spans = sorted(pool.map(lambda _: alone.remote(), range(8)))
    for before, after in pairwise(spans):
        assert before[1] <= after[0]


def test_what_fails_is_tried_again_as_often_as_asked(node, tmp_path):
    app = tidemill.App("retried")
    mark = str(tmp_path / "mark")

    @app.function(retries=2)
    def shaky(until: int) -> int:
        import os

        with open(mark, "a") as file:
            file.write("x")
        tidemill.state.counter("ran").add()
        if os.path.getsize(mark) < until:
            raise ValueError("not yet")
        return tidemill.request.attempt

    app.deploy(node)
    assert shaky.remote(3) == 3
    assert node.state(app).counter("ran").get() == 1
    Path(mark).unlink()
    with pytest.raises(ValueError, match="not yet"):
        shaky.remote(4)
    assert Path(mark).read_text() == "xxx"
    assert node.state(app).counter("ran").get() == 1


def test_a_crash_is_tried_again_by_the_node(node, tmp_path):
    app = tidemill.App("crashing")
    mark = str(tmp_path / "mark")

    @app.function
    def fragile(until: int) -> int:
        import os

        with open(mark, "a") as file:
            file.write("x")
        if os.path.getsize(mark) < until:
            os._exit(1)
        return tidemill.request.attempt

    app.deploy(node)
    assert fragile.remote(2) == 2
    Path(mark).unlink()
    with pytest.raises(tidemill.WorkerCrashed):
        fragile.remote(100)
    assert len(Path(mark).read_text()) == 1 + node.node()["settings"]["runtime"]["limits"][
        "crash_retries"
    ]


def test_too_much_memory_ends_the_worker(node):
    app = tidemill.App("hungry")

    @app.function(memory="150MB")
    def eat(megabytes: int) -> int:
        held = [bytearray(b"x" * (1 << 20)) for _ in range(megabytes)]
        time.sleep(3)
        return len(held)

    app.deploy(node)
    with pytest.raises(tidemill.OutOfMemory) as caught:
        eat.remote(600)
    assert caught.value.code == "out-of-memory"


def test_state_and_apps_outlive_the_node(program, tmp_path):
    app = tidemill.App("lasting")

    @app.function
    def bump() -> int:
        counter = tidemill.state.counter("n")
        counter.add()
        return counter.get()

    with own_node(program, tmp_path) as first:
        first.deploy(app)
        assert first.call("lasting", "bump") == 1
    (tmp_path / "ready.json").unlink(missing_ok=True)
    with own_node(program, tmp_path) as second:
        assert second.call("lasting", "bump") == 2
        assert second.state("lasting").counter("n").get() == 2


def test_no_process_outlives_the_node(program, tmp_path):
    app = tidemill.App("orphans")

    @app.function
    def pid() -> int:
        import os

        return os.getpid()

    with own_node(program, tmp_path) as node:
        node.deploy(app)
        worker = node.call("orphans", "pid")
        assert Path(f"/proc/{worker}").exists()
    eventually(lambda: not Path(f"/proc/{worker}").exists())


def test_without_a_program_the_tests_fail(tmp_path):
    """Not skipped: nobody should take silence for success."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", str(here / "test_node_calls.py")],
        env={
            "PATH": str(tmp_path),
            "CARGO_TARGET_DIR": str(tmp_path),
            "PYTHONPATH": str(here.parent),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "no tidemill program to test" in done.stdout
