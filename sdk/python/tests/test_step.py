"""`tidemill.step` in workers and in local mode."""

from __future__ import annotations

import asyncio
from pathlib import Path

import demo
import pytest
import tidemill
from tidemill import state, testing

EXPECTED = [(1, "a"), 1.5, 2, 3, "bump_two"]


def test_a_worker_does_each_step_once(node, tmp_path):
    mark = str(tmp_path / "mark")
    for _ in range(2):
        assert node.value("steps", mark) == EXPECTED
    assert Path(mark).read_text() == "xxxx"
    assert set(node.recorded) == {("one", 0), ("one", 1), ("bump_two", 0), ("three", 0)}


def test_local_mode_runs_steps(tmp_path):
    mark = str(tmp_path / "mark")
    with testing.local(demo.app):
        assert demo.steps.remote(mark) == EXPECTED
    assert Path(mark).read_text() == "xxxx"


app = tidemill.App("stepping")


@app.function
def inner():
    return 1


@app.function
async def wrong(case):
    async def slow():
        return 1

    if case == "write":
        return tidemill.step("s", lambda: state.counter("n").add(1))
    if case == "call":
        return tidemill.step("s", lambda: inner.remote())
    if case == "enqueue":
        return tidemill.step("s", lambda: tidemill.enqueue(inner))
    if case == "nested":
        return tidemill.step("s", lambda: tidemill.step("t", int))
    if case == "awaitable":
        return tidemill.step("s", lambda: slow())
    if case == "value":
        return tidemill.step("s", lambda: (i for i in ()))
    return tidemill.step("s", 7)


@pytest.mark.parametrize(
    ("case", "kind", "message"),
    [
        ("write", RuntimeError, "state is written inside of step 's'"),
        ("call", RuntimeError, "a function is called inside of step 's'"),
        ("enqueue", RuntimeError, "a function is called inside of step 's'"),
        ("nested", RuntimeError, "step 't' begins inside of step 's'"),
        ("awaitable", TypeError, "make it async"),
        ("value", TypeError, "can not be recorded"),
        ("other", TypeError, "not given a function"),
    ],
)
def test_what_a_step_may_not_do(case, kind, message):
    with testing.local(app), pytest.raises(kind, match=message):
        wrong.remote(case)


def test_a_step_belongs_to_a_function():
    for call in [lambda: tidemill.step("s", int), demo.bump_two]:
        with pytest.raises(RuntimeError, match="inside functions only"):
            call()
    with pytest.raises(RuntimeError, match="inside functions only"):
        asyncio.run(demo.bump_three("x"))
    with pytest.raises(TypeError, match="begins with its name"):
        tidemill.step(int, int)
