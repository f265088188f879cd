"""Worker processes: how many there are, what they keep, and when they end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import tidemill
from conftest import data_directory, eventually, own_node, token_of


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

    @app.function(idle_timeout=2)
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
    limits = node.node()["settings"]["runtime"]["limits"]
    assert len(Path(mark).read_text()) == 1 + limits["crash_retries"]


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


def test_a_copy_of_the_directory_is_a_backup(program, tmp_path):
    for place in ("old", "new"):
        (tmp_path / place).mkdir()
    with own_node(program, tmp_path / "old") as old:
        old.state("backup").register("big").set(bytes(1 << 20))
        old.state("backup").counter("n").add(7)
        token = token_of(old)
    shutil.copytree(tmp_path / "old" / "data", tmp_path / "new" / "data")
    with own_node(program, tmp_path / "new") as new:
        assert token_of(new) == token
        assert new.state("backup").counter("n").get() == 7
        assert new.state("backup").register("big").get() == bytes(1 << 20)


def test_a_second_node_on_a_directory_is_refused(program, tmp_path):
    with own_node(program, tmp_path) as node:
        command = [program, "up", "--data", data_directory(node), "--listen", "127.0.0.1:0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 3
        assert node.url.removeprefix("http://") in done.stderr
        assert node.node()["version"]


def test_a_durable_node_keeps_what_it_answered_when_it_is_killed(program, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMILL_")}
    for count in range(3):
        ready = tmp_path / f"ready{count}"
        command = [program, "up", "--data", tmp_path / "data", "--listen", "127.0.0.1:0"]
        command += ["--ready-file", ready]
        node = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            eventually(ready.exists)
            url = f"http://{json.loads(ready.read_text())['http']}"
            with tidemill.Client(url, (tmp_path / "data" / "token").read_text().strip()) as client:
                state = client.state("killed")
                assert state.counter("n").get() == count * 20
                for _ in range(20):
                    state.counter("n").add()
        finally:
            node.kill()
            node.wait()


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
