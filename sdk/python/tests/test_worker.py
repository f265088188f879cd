"""Functions in real worker processes, forked from a real template."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import demo
import pytest
import tidemill
from node import FakeNode, Shared
from tidemill import _codec


def read(path):
    return Path(path).read_text()


def one_step(function, *args):
    return [{"id": 0, "function": function, "call": 0}], [_codec.encode_call(args, {})]


def test_echo_and_keywords(node):
    assert node.value("echo", 1, "a", None, k=[1.5]) == {
        "args": [1, "a", None],
        "kwargs": {"k": [1.5]},
    }
    assert node.value("echo") == {"args": [], "kwargs": {}}
    assert node.value("one", (1, {2})) == (1, {2})
    assert node.value("one", b"raw") == b"raw"


def test_any_other_content_type_is_the_one_argument(node):
    steps = [{"id": 0, "function": "one", "call": 0}]
    payload = _codec.payload("image/png", b"\x89PNG")
    assert node.run(steps, [payload]).value() == b"\x89PNG"
    text = _codec.payload("text/plain; charset=utf-8", b"hi")
    assert node.run(steps, [text]).value() == "hi"


def test_workers_are_forks_of_the_loaded_template(node):
    a, b = node.fork(), node.fork()
    steps = [{"id": 0, "function": "pids", "call": 0}]
    first = node.run(steps, [_codec.encode_call((), {})], peer=a).value()
    second = node.run(steps, [_codec.encode_call((), {})], peer=b).value()
    assert first[1] == second[1] == node.process.pid
    assert len({first[0], second[0], node.process.pid}) == 3
    assert first[0] == first[2]  # a session of its own
    steps[0]["function"] = "rand"
    values = [node.run(steps, [_codec.encode_call((), {})], peer=p).value() for p in (a, b)]
    assert values[0][0] != values[1][0]
    assert values[0][1] is None or values[0][1] != values[1][1]
    assert a.hello["language"] == "python"


def test_done_says_what_it_used(node):
    header = node.call("one", 1).header
    assert header["cpu_us"] >= 0
    assert header["rss_bytes"] > 1 << 20
    assert "dirty" not in header


def test_load_failure_has_the_traceback(tmp_path):
    (tmp_path / "broken.py").write_text("import tidemill\napp = tidemill.App('x')\n1/0\n")
    entry = {"kind": "module", "module": "broken", "app": "app"}
    with FakeNode(tmp_path, entry, []) as node:
        assert node.loaded["error"]["code"] == "load-failed"
        assert "ZeroDivisionError" in node.loaded["error"]["traceback"]
    (tmp_path / "fine.py").write_text("import tidemill\napp = tidemill.App('x')\n")
    entry["module"] = "fine"
    with FakeNode(tmp_path, entry, ["absent"]) as node:
        assert "absent" in node.loaded["error"]["message"]


def test_calling_at_import_is_refused_with_advice(tmp_path):
    (tmp_path / "eager.py").write_text(
        "import tidemill\napp = tidemill.App('x')\n@app.function\ndef f(): pass\nf.remote()\n"
    )
    with FakeNode(tmp_path, {"kind": "module", "module": "eager", "app": "app"}, ["f"]) as node:
        assert "__main__" in node.loaded["error"]["message"]


def test_env_is_set_before_the_import(tmp_path):
    (tmp_path / "envy.py").write_text(
        "import os, tidemill\napp = tidemill.App('x')\nV = os.environ['MODE']\n"
        "@app.function\ndef f(): return [V, os.environ.get('TIDEMILL_TOKEN'), os.getcwd()]\n"
    )
    entry = {"kind": "module", "module": "envy", "app": "app"}
    with FakeNode(tmp_path, entry, ["f"], app="x", env={"MODE": "fast"}) as node:
        assert node.value("f") == ["fast", None, str(tmp_path)]


def test_a_worker_without_template(tmp_path):
    (tmp_path / "lone.py").write_text(
        "import tidemill\napp = tidemill.App('x')\n@app.function\ndef f(a): return a + 1\n"
    )
    entry = {"kind": "module", "module": "lone", "app": "app"}
    with FakeNode(tmp_path, entry, ["f"], app="x", role="worker") as node:
        steps = [{"id": 0, "function": "f", "call": 0}]
        assert node.run(steps, [_codec.encode_call((1,), {})], peer=node.template).value() == 2
        node.template.send(6, {})
        assert node.process.wait(10) == 0


# -- exceptions --


def test_an_exception_travels_as_itself(node):
    outcome = node.call("boom", "own")
    assert outcome.error["code"] == "function-failed"
    assert outcome.error["type"] == "demo.DemoError"
    error = outcome.exception()
    assert type(error) is demo.DemoError and error.args == (7, "seven") and error.code == 7
    assert isinstance(error.__cause__, tidemill.RemoteTraceback)
    assert "in boom" in str(error.__cause__) and "_run.py" not in str(error.__cause__)


def test_an_exception_that_does_not_pickle_travels_as_text(node):
    error = node.call("boom", "awkward").exception()
    assert type(error) is tidemill.FunctionError
    assert (error.type, error.message) == ("demo.Awkward", "ab")
    assert "in boom" in error.traceback


@pytest.mark.parametrize(
    ("kind", "name"),
    [("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt"), ("memory", "MemoryError"),
     ("recursion", "RecursionError"), ("value", "ValueError")],
)  # fmt: skip
def test_every_way_to_fail_leaves_the_worker_working(node, kind, name):
    peer = node.fork()
    steps = [{"id": 0, "function": "boom", "call": 0}]
    outcome = node.run(steps, [_codec.encode_call((kind,), {})], peer=peer)
    assert outcome.error["code"] == "function-failed"
    assert outcome.error["type"] == name
    assert isinstance(outcome.exception(), Exception)
    steps[0]["function"] = "one"
    assert node.run(steps, [_codec.encode_call((5,), {})], peer=peer).value() == 5


def test_a_result_that_can_not_travel(node):
    error = node.call("boom", "result").exception()
    assert type(error) is TypeError and "result of boom can not travel" in str(error)


def test_wrong_arguments(node):
    assert isinstance(node.call("add", 1).exception(), TypeError)


# -- state --


def test_all_types_of_state(node):
    expected = {
        "r": {"a": [1, None]}, "none": "dflt", "m": [3], "c": 42, "c0": 0, "hi": 9.5, "lo": "a",
        "hi0": None, "f": True, "f0": False, "s": {1, (1, 2)}, "has": [True, False],
        "rec": {"name": "ada", "n": 2, "tags": {"t"}, "ok": True, "hi": 4, "lo": 1, "mv": ["z"]},
        "n": 2, "tag": True, "l": [2, 3, 4], "t": [(2, "c"), (1, "b")],
        "keys": ["c", "f", "hi", "l", "lo", "m", "r", "rec", "s", "t"], "keys_r": ["r", "rec"],
    }  # fmt: skip
    assert node.value("types") == expected  # its own writes
    assert node.value("read_types") == expected  # committed


def test_a_failed_request_leaves_nothing(node):
    outcome = node.call("write_then_boom")
    assert outcome.error is not None and "ops" not in outcome.header
    assert node.model.live("w") is None


def test_writes_name_their_line(node):
    ops = node.call("put", "k", 1).ops
    assert ops[0]["at"].startswith("demo.py:")


def test_reads_of_a_snapshot_are_asked_once(node):
    outcome = node.call("repeat_reads", 50)
    assert outcome.value() == [0] * 50 + [1]
    assert outcome.gets == 2  # once before and once after the own write


def test_reads_of_the_eventual_level_are_asked_each_time(node):
    steps = [{"id": 0, "function": "repeat_reads", "call": 0}]
    outcome = node.run(steps, [_codec.encode_call((5,), {})], level="eventual")
    assert outcome.gets == 6


def test_each_step_reads_for_itself(node):
    steps = [
        {"id": 0, "function": "repeat_reads", "call": 0},
        {"id": 1, "function": "repeat_reads", "call": 0},
    ]
    outcome = node.run(steps, [_codec.encode_call((3,), {})], [0, 1])
    assert outcome.gets == 4  # branches that share a worker have views of their own


def test_wrong_type(node):
    error = node.call("wrong_type").exception()
    assert type(error) is tidemill.WrongType and error.code == "wrong-type"


def test_delete_and_expire(node):
    node.value("types")
    assert node.value("delete_all")[:2] == [None, 0]
    assert "n" not in node.value("delete_all")[2]
    assert node.model.live("exp") is None


def test_many_writes_do_not_wait_for_the_end(node):
    outcome = node.call("many_writes", 2500)
    assert sum(1 for kind, _ in outcome.frames if kind == "state") == 2
    assert len(node.value("list_keys", "many/")) == 2500


def test_one_frame_each_way_for_a_plain_write(node):
    assert [kind for kind, _ in node.call("put", "k", [1]).frames] == ["done"]


# -- references and shared memory --


def test_refs_are_resolved_at_the_snapshot(node):
    node.value("put", "model", {"w": [1, 2]})
    assert node.value("echo", tidemill.ref("model"), k=tidemill.ref("absent", app="demo")) == {
        "args": [{"w": [1, 2]}],
        "kwargs": {"k": None},
    }
    error = node.call("one", tidemill.ref("model", app="other")).exception()
    assert isinstance(error, ValueError)


def test_large_values_go_through_shared_memory(node):
    np = pytest.importorskip("numpy")
    array = np.arange(1 << 18, dtype=np.float64)
    back = node.value("one", array)
    assert (back == array).all()
    assert node.value("describe", b"x" * (1 << 20)) == ["memoryview", True]
    assert node.value("one", b"x" * (1 << 20)) == b"x" * (1 << 20)
    assert list(node.shm.glob("w-*")) == []  # the node has taken every file
    node.value("put", "big", array)
    assert (node.value("one", tidemill.ref("big")) == array).all()


def test_the_same_name_is_mapped_once(node):
    peer = node.fork()
    steps = [{"id": 0, "function": "describe", "call": 0}]
    big = Shared("v-same", _codec.encode(b"y" * 100_000))
    assert node.run(steps, [big], peer=peer).value() == ["memoryview", True]
    first = mappings(peer, "v-same")
    assert len(first) == 1
    assert node.run(steps, [big], peer=peer).value() == ["memoryview", True]
    assert mappings(peer, "v-same") == first


def mappings(peer, name):
    lines = read(f"/proc/{peer.hello['pid']}/maps").splitlines()
    return [line for line in lines if name in line]


# -- calls --


def test_children_belong_to_the_request(node):
    assert node.value("parent") == [100, 101, 101]
    assert node.model.live("kids").value == 101


def test_an_exception_of_a_child(node):
    assert node.value("catch_child") == ["DemoError", 7, "RemoteTraceback"]
    error = node.call("pass_on").exception()
    assert type(error) is ValueError
    text = str(error.__cause__)
    assert "in boom" in text and "in pass_on" in text  # both processes


def test_spawn(node):
    assert node.value("spawner") == [3, True, 6]
    assert node.value("wait_briefly") == ["timeout", "late"]


def test_map_keeps_order_and_bounds(node):
    assert node.value("mapper", 10) == list(range(10))
    outcome = node.call("map_some")
    assert outcome.value() == 3
    calls = [h for kind, h in outcome.frames if kind == "call"]
    cancels = [h for kind, h in outcome.frames if kind == "wait" and h.get("cancel")]
    assert len(calls) <= 6 and len(cancels) >= 1


def test_enqueue_waits_for_the_commit(node):
    outcome = node.call("queuer", 5)
    assert outcome.value() == "queued"
    ((function, payload),) = node.enqueued
    assert function == "child" and payload.decode() == [5]


def test_flow_inside_a_function(node):
    outcome = node.call("flow_inside", 3)
    assert outcome.value() == 6 + 12
    (call,) = [h for kind, h in outcome.frames if kind == "call"]
    assert call["flow"]["output"] == 3 and "function" not in call


def test_threads_of_a_function(node):
    mine, rest = node.value("threads_read")
    assert mine == "main"
    assert rest == [(i, "none", i) for i in range(6)]


# -- fragments of several steps --


def test_steps_hand_on_in_one_process(node):
    steps = [
        {"id": 0, "function": "make_list", "call": 0},
        {"id": 1, "function": "mutate", "in": [{"s": 0}]},
        {"id": 2, "function": "one", "in": [{"s": 0}]},
        {"id": 3, "function": "echo", "in": [{"s": 1}, {"s": 2}, {"p": 1}]},
    ]
    payloads = [_codec.encode_call((1,), {}), _codec.encode("p")]
    outcome = node.run(steps, payloads, [3, 2])
    assert outcome.value(0)["args"] == [[1, "mutated"], [1], "p"]
    assert outcome.value(1) == [1]  # what a sibling changed is not seen
    assert outcome.begins == [1, 2, 3]


def test_a_step_whose_call_is_an_output(node):
    steps = [
        {"id": 0, "function": "one", "call": 0},
        {"id": 1, "function": "add", "call": {"s": 0}},
    ]
    assert node.run(steps, [_codec.encode_call(([3, 4],), {})]).value() == 7


def test_the_failing_step_is_named(node):
    steps = [
        {"id": 0, "function": "one", "call": 0},
        {"id": 5, "function": "boom", "in": [{"s": 0}]},
    ]
    outcome = node.run(steps, [_codec.encode_call(("value",), {})])
    assert outcome.header["step"] == 5


# -- the request --


def test_request_info(node):
    found = node.value("info")
    assert found["id"].startswith("r") and found["attempt"] == 1 and found["key"] is None
    assert found["caller"] == {"tenant": "default", "subject": "test"}
    assert 50 < found["deadline"] <= 60 and found["app"] == "demo"


# -- output --


def test_output_is_captured(node):
    outcome = node.call("chatty")
    assert outcome.text("stdout") == [
        "hello out", "partial", "no endraw", "odd ? text", "from a thread",
    ]  # fmt: skip
    assert outcome.text("stderr") == ["to err"]
    logs = [(h["level"], h["logger"], h["text"]) for h in outcome.logs if h["stream"] == "log"]
    assert logs == [("WARNING", "demo.log", "careful 1"), ("INFO", "demo.log", "informed")]
    assert {h["step"] for h in outcome.logs} == {0}


def test_output_is_bounded(node):
    outcome = node.call("flood", 1500)
    assert len(outcome.text("stdout")) == 1024
    assert f"{(1500 - 1024) * 1024} bytes of output were dropped" in outcome.text("stderr")[-1]


# -- cancellation --


def cancelled(node, peer, function, *args, after=0.2):
    steps = [{"id": 0, "function": function, "call": 0}]
    request = node.start(peer, steps, [_codec.encode_call(args, {})])
    time.sleep(after)
    began = time.monotonic()
    node.cancel(peer, request)
    outcome = node.serve(peer, [])
    return outcome, time.monotonic() - began


@pytest.mark.parametrize("function", ["spin", "slow", "asleep"])
def test_cancel_stops_the_request(node, function):
    peer = node.fork()
    args = () if function == "spin" else (20,)
    outcome, took = cancelled(node, peer, function, *args)
    assert outcome.error["code"] == "cancelled" and took < 5
    steps = [{"id": 0, "function": "one", "call": 0}]
    assert node.run(steps, [_codec.encode_call((5,), {})], peer=peer).value() == 5


def test_cancel_while_waiting_for_a_child(node):
    peer = node.fork()
    steps = [{"id": 0, "function": "parent", "call": 0}]
    request = node.start(peer, steps, [_codec.encode_call((), {})])
    kind, _, _ = peer.read()
    assert kind == "state"  # never answered
    node.cancel(peer, request)
    assert node.serve(peer, []).error["code"] == "cancelled"


def test_a_late_cancel_hits_nobody(node):
    peer = node.fork()
    steps = [{"id": 0, "function": "slow", "call": 0}]
    node.start(peer, steps, [_codec.encode_call((0.3, "done"), {})])
    time.sleep(0.1)
    node.cancel(peer, "another request")
    assert node.serve(peer, []).value() == "done"
    os.kill(peer.hello["pid"], signal.SIGUSR1)  # while idle
    assert node.run(steps, [_codec.encode_call((0, "next"), {})], peer=peer).value() == "next"


# -- processes --


def test_a_forked_child_does_not_speak(node):
    peer = node.fork()
    steps = [{"id": 0, "function": "forker", "call": 0}]
    call = _codec.encode_call((), {})
    for _ in range(3):
        assert node.run(steps, [call], peer=peer).value() == "parent"


def test_children_left_behind_make_it_dirty(own_node):
    assert own_node.call("leave_child").header["dirty"] is True


def test_the_template_says_how_workers_end(own_node):
    node = own_node
    peer = node.fork()
    node.start(peer, [{"id": 0, "function": "crash", "call": 0}], [_codec.encode_call((), {})])
    with pytest.raises(EOFError):
        node.serve(peer, [])
    assert node.exited() == {"worker": peer.hello["worker"], "signal": 9}
    peer = node.fork()
    peer.send(6, {})
    assert node.exited() == {"worker": peer.hello["worker"], "status": 0}
    assert node.value("one", 1) == 1


def gone(pid):
    try:
        return read(f"/proc/{pid}/stat").split()[2] in "ZX"
    except FileNotFoundError:
        return True


def wait_gone(pid):
    end = time.monotonic() + 5
    while not gone(pid):
        assert time.monotonic() < end, "the process lives on"
        time.sleep(0.02)


def test_closing_the_socket_ends_the_worker_and_its_children(own_node):
    peer = own_node.fork()
    own_node.start(
        peer, [{"id": 0, "function": "leave_child", "call": 0}], [_codec.encode_call((), {})]
    )
    own_node.serve(peer, [])
    pid = peer.hello["pid"]
    children = read(f"/proc/{pid}/task/{pid}/children").split()
    assert len(children) == 1
    peer.close()
    wait_gone(pid)
    wait_gone(int(children[0]))


def test_closing_the_template_ends_busy_workers(own_node):
    peer = own_node.fork()
    own_node.start(peer, *one_step("spin"))
    own_node.template.close()
    assert own_node.process.wait(5) == 0
    wait_gone(peer.hello["pid"])


def test_closing_the_template_ends_what_workers_left_behind(own_node):
    peer = own_node.fork()
    own_node.start(peer, *one_step("leave_child"))
    own_node.serve(peer, [])
    pid = peer.hello["pid"]
    (child,) = read(f"/proc/{pid}/task/{pid}/children").split()
    own_node.template.close()
    wait_gone(int(child))


def test_killing_the_template_ends_busy_workers(own_node):
    peer = own_node.fork()
    own_node.start(peer, *one_step("spin"))
    own_node.process.kill()
    own_node.process.wait()
    wait_gone(peer.hello["pid"])


# -- generators, coroutines, classes --


def test_generators_stream(node):
    outcome = node.call("numbers", 4)
    assert outcome.items == [0, 1, 2, 3] and outcome.value() is None
    outcome = node.call("numbers", 3)
    assert outcome.items == [0, 1, 2] and isinstance(outcome.exception(), ValueError)
    assert node.call("anumbers", 3).items == [0, 10, 20]
    assert node.value("uses_generator") == [[0, 1], [0, 1, 2, 3], []]


def test_coroutines_do_not_block_the_loop(node):
    began = time.monotonic()
    results, ticked = node.value("agather", 4)
    assert results == [0, 1, 2, 3] and ticked
    assert time.monotonic() - began < 4


def test_state_and_calls_in_coroutines(node):
    assert node.value("astate") == [2, 2, 1]
    assert node.value("amap", 7) == list(range(7))
    assert node.value("aspawn") == 5
    assert node.value("aspawn_twice") == ["late"] * 4
    assert node.value("agen_use") == [0, 1]
    assert type(node.call("aboom").exception()) is demo.DemoError


def test_tasks_left_behind_end_with_the_request(node):
    began = time.monotonic()
    assert node.value("aleak") == "left"
    assert time.monotonic() - began < 5


def test_classes_stay_warm(node):
    peer = node.fork()
    steps = [{"id": 0, "function": "Model.predict", "call": 0}]
    call = _codec.encode_call((1,), {})
    assert node.run(steps, [call], peer=peer).value() == [1, 1, 1, True]
    assert node.run(steps, [call], peer=peer).value() == [1, 1, 2, True]
    steps[0]["function"] = "Model.apredict"
    assert node.run(steps, [call], peer=peer).value() == [1, 1]
    assert [x[0] for x in node.value("via_class", 9)] == [9, 9]
