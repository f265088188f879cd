"""State on a real node, where the model in `tidemill.testing` can say nothing."""

from __future__ import annotations

import datetime
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import tidemill
from conftest import eventually


def test_concurrent_writes_all_count(node, kitchen):
    state = node.state("kitchen")

    def write(i: int) -> None:
        kitchen.bump.remote("shared/counter")
        state.set("shared/set").add(i)
        state.max("shared/max").put(i)
        state.map("shared/map").counter("n").add()
        state.log("shared/log").append(i)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    assert state.counter("shared/counter").get() == 64
    assert state.set("shared/set").get() == set(range(64))
    assert state.max("shared/max").get() == 63
    assert state.map("shared/map").get() == {"n": 64}
    assert sorted(state.log("shared/log").get()) == list(range(64))


def test_multi_keeps_values_written_at_the_same_time(node):
    app = tidemill.App("multi")

    @app.function
    def choose(value: str) -> list[str]:
        import time

        before = tidemill.state.multi("choice").get()
        time.sleep(1.0)
        tidemill.state.multi("choice").set(value)
        return before

    app.deploy(node)
    calls = [choose.spawn("tea"), choose.spawn("coffee")]
    assert [call.get() for call in calls] == [[], []]
    state = node.state(app)
    assert sorted(state.multi("choice").get()) == ["coffee", "tea"]
    state.multi("choice").set("water")
    assert state.multi("choice").get() == ["water"]


def test_an_add_wins_over_a_remove_it_has_not_seen(node):
    app = tidemill.App("sets")

    @app.function
    def remove_slowly() -> None:
        import time

        assert tidemill.state.set("s").has("x")
        tidemill.state.set("s").remove("x")
        time.sleep(1.0)

    app.deploy(node)
    state = node.state(app)
    state.set("s").add("x")
    call = remove_slowly.spawn()
    eventually(lambda: node.request(call.id)["state"] == "running")
    time.sleep(0.3)
    state.set("s").add("x")
    call.get()
    assert state.set("s").has("x")
    state.set("s").remove("x")
    assert not state.set("s").has("x")


def test_a_request_appears_all_at_once(node):
    app = tidemill.App("atomic")

    @app.function
    def both() -> None:
        tidemill.state.counter("a").add()
        tidemill.state.counter("b").add()

    @app.function
    def look() -> list[int]:
        return [tidemill.state.counter("a").get(), tidemill.state.counter("b").get()]

    app.deploy(node)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            both.remote()

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        seen = [look.remote() for _ in range(150)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(a == b for a, b in seen), [pair for pair in seen if pair[0] != pair[1]]
    assert seen == sorted(seen)
    assert seen[-1][0] > seen[0][0]


def test_keys_expire(node, kitchen):
    state = node.state("kitchen")
    kitchen.expire.remote("soon", 0.3)
    assert kitchen.keys.remote() == ["soon"]
    eventually(lambda: state.counter("soon").get() == 0)
    eventually(lambda: kitchen.keys.remote() == [])
    assert kitchen.bump.remote("soon") == 1
    state.counter("soon").expire(at=datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
    assert list(state.keys()) == []
    state.counter("later").add()
    state.counter("later").expire(after=0.2)
    state.counter("later").expire()
    time.sleep(0.4)
    assert state.counter("later").get() == 1


def test_many_keys_are_listed_page_by_page(node, kitchen):
    names = [f"n/{i:05}" for i in range(2500)]
    kitchen.write_keys.remote(names)
    assert list(node.state("kitchen").keys("n/")) == names
    assert kitchen.keys.remote("n/") == names


def test_keys_may_hold_anything_but_nothing(node, kitchen):
    odd = "a b/c?d=é%2F#~\n"
    node.state("kitchen").counter(odd).add()
    assert kitchen.bump.remote(odd) == 2
    assert kitchen.keys.remote("a b") == [odd]
    for key in ("", "x" * 3000):
        with pytest.raises(tidemill.BadKey):
            node.state("kitchen").counter(key).add()
        with pytest.raises(tidemill.BadKey):
            kitchen.bump.remote(key)


def test_a_wrong_type_names_the_line(node, kitchen):
    with pytest.raises(tidemill.WrongType) as caught:
        kitchen.confuse.remote("k")
    text = str(caught.value)
    assert "counter" in text
    assert "set" in text
    assert "kitchen.py:" in text


def test_apps_do_not_see_each_other(node, kitchen):
    other = tidemill.App("neighbour")

    @other.function
    def look() -> list[str]:
        return list(tidemill.state.keys())

    other.deploy(node)
    node.state("kitchen").counter("mine").add()
    assert look.remote() == []


def test_at_the_level_eventual_each_write_stands_for_itself(node):
    app = tidemill.App("eventual", level="eventual", durability="memory")

    @app.function
    def fails(key: str) -> None:
        tidemill.state.counter(key).add(2)
        tidemill.state.set(key + "/s").add("x")
        raise ValueError(f"{tidemill.state.counter(key).get()} after its own write")

    @app.function(level="causal")
    def fails_whole(key: str) -> None:
        fails.local(key)

    app.deploy(node)
    with pytest.raises(ValueError, match="2 after its own write"):
        node.call("eventual", "fails", "a")
    assert node.state("eventual").counter("a").get() == 2
    assert node.state("eventual").set("a/s").has("x")
    with pytest.raises(ValueError, match="2 after"):
        node.call("eventual", "fails_whole", "b")
    assert node.state("eventual").counter("b").get() == 0
    with pytest.raises(ValueError, match="2 after"):
        node.session(level="causal").call("eventual", "fails", "c")
    assert node.state("eventual").counter("c").get() == 0
    with pytest.raises(ValueError, match="2 after"):
        node.session(level="eventual").call("eventual", "fails_whole", "d")
    assert node.state("eventual").counter("d").get() == 2


def test_a_client_is_a_session(node, kitchen):
    one, two = node.session(), node.session()
    runtime = one._runtime
    assert runtime._seen == "" and "Session" not in runtime._asks()
    one.state("kitchen").counter("seen").add()
    written = runtime._seen
    assert written != "" and written in runtime._asks()
    assert two._runtime._seen == ""
    assert one.state("kitchen").counter("seen").get() == 1
    assert runtime._seen >= written
    runtime.saw(written[:-1])
    runtime.saw("0")
    assert runtime._seen >= written, "an older answer that comes late changes nothing"


def test_a_session_that_the_node_does_not_know_begins_anew(node):
    client = node.session()
    client._runtime.saw("1" + "f" * 56)
    with pytest.raises(tidemill.BadSessionToken):
        client.state("kitchen").counter("seen").get()
    client.state("kitchen").counter("seen").get()
    assert client._runtime._seen != ""


def test_writes_from_outside_take_a_level_and_a_durability(node):
    for level in ("causal", "eventual"):
        space = node.session(level=level, durability="memory").state("terms")
        space.counter(level).add(3)
        assert space.counter(level).get() == 3
    with pytest.raises(ValueError, match="strict"):
        node.session(level="strict")


def test_a_delete_wins_over_a_write_that_has_not_seen_it(node):
    app = tidemill.App("deletes")

    @app.function
    def add_slowly() -> int:
        import time

        tidemill.state.counter("n").get()
        time.sleep(0.8)
        tidemill.state.counter("n").add()
        return tidemill.state.counter("n").get()

    app.deploy(node)
    state = node.state(app)
    state.counter("n").add(5)
    call = add_slowly.spawn()
    time.sleep(0.3)
    state.counter("n").delete()
    assert call.get() == 6
    assert state.counter("n").get() == 0
    state.counter("n").add()
    assert state.counter("n").get() == 1
