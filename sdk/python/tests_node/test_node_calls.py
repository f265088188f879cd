"""Calls of a real node: what only a node does."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import tidemill
from conftest import eventually


def test_local_calls_stay_here(kitchen):
    assert kitchen.add(1, b=1) == 2
    assert kitchen.add.local(1, 1) == 2
    assert asyncio.run(kitchen.add_async.local(1, 1)) == 2
    assert list(kitchen.count_to(2)) == [0, 1]


def test_a_call_by_name(node, kitchen):
    assert node.call("kitchen", "add", 1, b=2) == 3
    assert list(node.call("kitchen", "count_to", 2)) == [0, 1]
    with pytest.raises(tidemill.NotFound) as caught:
        node.call("kitchen", "ad", 1)
    assert caught.value.code == "unknown-function"
    assert "add" in str(caught.value)


def test_what_a_request_knows_of_itself(node, kitchen):
    who = kitchen.who.remote()
    assert (who["app"], who["attempt"]) == ("kitchen", 1)
    assert 0 < who["deadline"] <= 60
    assert who["caller"]["tenant"] == "default"
    assert who["key"]
    assert who["trace"].startswith("00-")
    summary = node.request(who["id"])
    assert (summary["function"], summary["state"]) == ("who", "succeeded")
    assert who["id"] in [request["id"] for request in node.requests(app="kitchen")["requests"]]


def test_spawned_calls_run_at_the_same_time(kitchen):
    calls = [kitchen.nap.spawn(1.0) for _ in range(3)]
    spans = [call.get() for call in calls]
    assert max(begun for begun, _ in spans) < min(ended for _, ended in spans)
    assert calls[0].get() == spans[0]


def test_a_wait_that_runs_out_can_be_tried_again(kitchen):
    call = kitchen.sleep.spawn(0.5)
    with pytest.raises(tidemill.Timeout):
        call.get(timeout=0.05)
    assert call.get(timeout=20) == 0.5


def test_many_calls_from_many_threads(kitchen, node):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: kitchen.bump.remote("hits"), range(200)))
    assert node.state("kitchen").counter("hits").get() == 200
    assert all(1 <= result <= 200 for result in results)


def test_map_takes_from_an_endless_source(kitchen):
    def endless():
        n = 0
        while True:
            yield n
            n += 1

    results = kitchen.add.map(endless(), concurrency=4)
    assert [next(results) for _ in range(5)] == [10, 11, 12, 13, 14]
    results.close()


def test_a_map_stops_at_the_first_failure(kitchen):
    results = kitchen.square.map([1, 2, "x", 4])
    assert next(results) == 1
    assert next(results) == 4
    with pytest.raises(TypeError):
        next(results)


@pytest.mark.parametrize("name", ["sleep", "sleep_async"])
def test_a_call_can_be_cancelled(node, kitchen, name):
    call = getattr(kitchen, name).spawn(60)
    eventually(lambda: node.request(call.id)["state"] == "running")
    call.cancel()
    with pytest.raises(tidemill.Cancelled) as caught:
        call.get(timeout=20)
    assert caught.value.code == "cancelled"
    assert node.request(call.id)["state"] == "cancelled"
    assert kitchen.add.remote(1) == 11


def test_a_cancelled_request_leaves_nothing(node, kitchen):
    call = kitchen.note_then_sleep.spawn("noted")
    time.sleep(0.2)
    call.cancel()
    with pytest.raises(tidemill.Cancelled):
        call.get(timeout=20)
    assert list(node.state("kitchen").keys()) == []


def test_a_function_over_its_time_is_stopped(kitchen):
    begun = time.monotonic()
    with pytest.raises(tidemill.Timeout) as caught:
        kitchen.sleep_too_long.remote()
    assert caught.value.code == "timed-out"
    assert isinstance(caught.value, TimeoutError)
    assert time.monotonic() - begun < 20
    assert kitchen.add.remote(1) == 11


def test_an_exception_brings_its_traceback(kitchen):
    with pytest.raises(kitchen.Burnt) as caught:
        kitchen.burn.remote("toast")
    cause = caught.value.__cause__
    assert isinstance(cause, tidemill.RemoteTraceback)
    assert "kitchen.py" in cause.text
    assert "in burn" in cause.text
    assert "Burnt: toast burnt after 7 minutes" in str(cause)


def test_an_exception_that_does_not_pickle_comes_as_text(kitchen):
    with pytest.raises(tidemill.FunctionError) as caught:
        kitchen.fail_stubbornly.remote()
    assert caught.value.type == "kitchen.Stubborn"
    assert caught.value.message == "no"
    assert "in fail_stubbornly" in caught.value.traceback
    assert caught.value.code == "function-failed"


def test_a_worker_that_dies_is_one_failed_request(kitchen):
    with pytest.raises(tidemill.WorkerCrashed) as caught:
        kitchen.die.remote()
    assert caught.value.code == "worker-crashed"
    assert kitchen.add.remote(1) == 11


def test_calls_without_end_are_stopped(kitchen):
    with pytest.raises(tidemill.CallTooDeep) as caught:
        kitchen.forever.remote()
    assert caught.value.code == "call-too-deep"


def test_a_wrong_token_is_refused(node):
    with tidemill.Client(node.url, "wrong") as other, pytest.raises(tidemill.Unauthorized):
        other.apps()


def test_nobody_there():
    with tidemill.Client("http://127.0.0.1:9", "x") as other, pytest.raises(ConnectionError):
        other.apps()


def test_a_generator_that_fails_raises_at_its_end(node, kitchen):
    items = kitchen.count_then_fail.remote_gen(3)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(kitchen.Burnt):
        next(items)
    assert node.state("kitchen").counter("yielded").get() == 0


def test_a_generator_spawned_gives_a_list(kitchen):
    assert kitchen.count_to.spawn(3).get() == [0, 1, 2]
    assert list(kitchen.count_to.map([1, 2])) == [[0], [0, 1]]


def test_a_snapshot_does_not_move(node, kitchen):
    state = node.state("kitchen")
    state.counter("k").add(1)
    call = kitchen.slow_read.spawn("k", 0.6)
    time.sleep(0.2)
    state.counter("k").add(100)
    state.set("other").add("x")
    assert call.get() == (1, 1)


def test_enqueued_calls_run_after_the_commit(node, kitchen):
    state = node.state("kitchen")
    kitchen.later.remote("done")
    eventually(lambda: state.counter("done").get() == 1)
    with pytest.raises(kitchen.Burnt):
        kitchen.later.remote("never", fail=True)
    tidemill.enqueue(kitchen.bump, "outside")
    eventually(lambda: state.counter("outside").get() == 1)
    assert state.counter("never").get() == 0


def test_output_is_kept_for_each_request(node, kitchen):
    first, second = kitchen.talk.remote("one"), kitchen.talk.remote("two")
    lines = eventually(
        lambda: [*found] if len(found := list(node.logs(request=first))) >= 3 else None
    )
    assert {(line["stream"], line["text"]) for line in lines} == {
        ("stdout", "print one"),
        ("stderr", "error one"),
        ("log", "log one"),
    }
    logged = next(line for line in lines if line["stream"] == "log")
    assert (logged["level"], logged["logger"]) == ("WARNING", "kitchen")
    assert {line["function"] for line in lines} == {"talk"}
    assert all("two" in line["text"] for line in node.logs(request=second))
    texts = [line["text"] for line in node.logs("kitchen", function="talk", limit=6)]
    assert len(texts) == 6


def test_following_logs(node, kitchen):
    lines = node.logs("kitchen", function="talk", follow=True, limit=0)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, lines)
        eventually(lambda: kitchen.talk.remote("now") and coming.done())
        assert "now" in coming.result(timeout=20)["text"]
