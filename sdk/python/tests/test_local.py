from __future__ import annotations

import asyncio
import threading

import pytest
import tidemill
from demo import app as demo_app
from tidemill import state, testing

app = tidemill.App("locally")


@app.function
def visit(name, fail=False):
    state.counter("visits").add()
    state.set("names").add(name)
    if fail:
        raise ValueError(name)
    return state.counter("visits").get()


@app.function
def outer(fail):
    state.counter("visits").add(10)
    try:
        visit.remote("inner", fail=fail)
    except ValueError:
        pass
    return state.counter("visits").get()


@app.function
def spawns():
    kept = visit.spawn("kept")
    visit.spawn("unawaited")
    cancelled = visit.spawn("cancelled")
    cancelled.cancel()
    return kept.get()


@app.function
def queue(x):
    tidemill.enqueue(visit, x)
    if x == "fail":
        raise ValueError(x)
    return state.counter("visits").get()


@app.function
def count(n):
    for i in range(n):
        state.counter("visits").add()
        yield i
    if n == 3:
        raise ValueError("third")


@app.function
async def both():
    return await asyncio.gather(visit.remote.aio("a"), visit.remote.aio("b"))


@app.function
def take(value, other=None):
    return [value, other]


@app.function
def lock():
    return threading.Lock()


@app.function
def spoil(values):
    values.append(0)
    return values


@app.function
def gather(*parts):
    return list(parts)


@pytest.fixture
def local():
    with testing.local(app) as made:
        yield made


def test_requests_are_atomic(local):
    assert visit.remote("ada") == 1
    with pytest.raises(ValueError):
        visit.remote("bob", fail=True)
    assert state.counter("visits").get() == 1
    assert local.state(app).set("names").get() == {"ada"}
    local.state(app).register("r").set(1)
    assert list(local.state("locally").keys()) == ["names", "r", "visits"]


def test_children_join_or_do_not(local):
    assert outer.remote(False) == 11
    assert outer.remote(True) == 21
    assert state.counter("visits").get() == 21


def test_spawn_inside(local):
    assert spawns.remote() == 1
    assert state.set("names").get() == {"kept", "unawaited"}


def test_enqueue(local):
    assert queue.remote("later") == 0
    assert state.set("names").get() == {"later"}
    with pytest.raises(ValueError):
        queue.remote("fail")
    assert state.set("names").get() == {"later"}
    tidemill.enqueue(visit, "outside")
    assert state.counter("visits").get() == 2


def test_generators(local):
    assert list(count.remote(2)) == [0, 1]
    items = count.remote_gen(3)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="third"):
        next(items)
    assert state.counter("visits").get() == 2
    with pytest.raises(TypeError):
        visit.remote_gen("x")


def test_async(local):
    assert sorted(both.remote()) in ([1, 1], [1, 2])  # siblings see each other or do not

    async def main():
        assert await take.remote.aio(1) == [1, None]
        assert [x async for x in take.map.aio([1, 2])] == [[1, None], [2, None]]
        assert [x async for x in count.remote_gen.aio(2)] == [0, 1]
        call = await take.spawn.aio(3)
        assert await call.get.aio() == [3, None]

    asyncio.run(main())


def test_values_travel(local):
    value = [1]
    assert take.remote(value, other=(2,))[0] is not value
    assert take.remote(tidemill.ref("nothing")) == [None, None]
    local.state(app).register("m").set({"w": 1})
    assert take.remote(1, other=tidemill.ref("m")) == [1, {"w": 1}]
    with pytest.raises(TypeError):
        lock.remote()


def test_wrong_types_are_told(local):
    visit.remote("x")
    with pytest.raises(tidemill.WrongType, match=r"test_local\.py"):
        local.state(app).register("visits").set(1)


def test_branches_get_values_of_their_own(local):
    flow = spoil >> (spoil | spoil) >> gather
    assert flow.remote([1]) == [[1, 0, 0], [1, 0, 0]]
    assert ((spoil | spoil) >> gather).remote([1]) == [[1, 0], [1, 0]]


def test_other_apps_are_not_here(local):
    with pytest.raises(tidemill.NotFound):
        demo_app.functions["one"].remote(1)


def test_the_model_agrees_with_the_worker():
    with testing.local(demo_app):
        types = demo_app.functions["types"]
        assert types.remote() == demo_app.functions["read_types"].remote()
        assert demo_app.functions["delete_all"].remote()[:2] == [None, 0]
        assert demo_app.functions["parent"].remote() == [100, 101, 101]
        assert demo_app.functions["via_class"].remote(1)[0][0] == 1
        info = demo_app.functions["info"].remote()
        assert info["app"] == "demo" and info["deadline"] > 0
