from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from datetime import UTC, datetime

import pytest
import tidemill
from door import Door
from tidemill import client as client_module
from tidemill import dev

app = tidemill.App("far")


class OwnError(Exception):
    pass


@app.function
def add(a, b=0):
    return a + b


@app.function
def combine(*parts):
    return list(parts)


@app.function
def one(value):
    return value


@app.function
def boom():
    raise OwnError("far away")


@app.function
def exits():
    raise SystemExit(3)


@app.function
def numbers(n):
    yield from range(n)
    yield (1, 2)
    yield {"content_type": "x", "base64": "AA=="}
    if n == 3:
        raise OwnError("at the end")


named = app.flow("named", add >> one)


@pytest.fixture
def door():
    made = Door(app)
    yield made
    made.close()


@pytest.fixture
def client(door):
    before = client_module.set_default_client(None)
    with tidemill.connect(door.url, "secret") as made:
        yield made
    client_module.set_default_client(before)


def test_calls(client, door):
    assert add.remote(1, b=2) == 3
    assert one.remote((1, {2})) == (1, {2})
    assert one.remote(b"raw") == b"raw"
    assert one.remote("x" * 300_000) == "x" * 300_000
    assert client.call("far", "add", 1, b=4) == 5
    assert client.call(app, "combine") == []
    headers = [seen[2] for seen in door.seen]
    assert all(h["Tidemill-Client"] == "python" for h in headers)
    assert len({h["Idempotency-Key"] for h in headers}) == len(headers)


def test_one_connection_serves_many_calls(client, door):
    for i in range(20):
        add.remote(i)
    assert len({seen[3] for seen in door.seen}) == 1


def test_large_results(client):
    np = pytest.importorskip("numpy")
    array = np.arange(1 << 17)
    back = one.remote(array)
    assert (back == array).all() and not back.flags.writeable


def test_exceptions(client):
    with pytest.raises(OwnError, match="far away") as caught:
        boom.remote()
    assert isinstance(caught.value.__cause__, tidemill.RemoteTraceback)
    assert "in boom" in str(caught.value.__cause__)
    with pytest.raises(tidemill.FunctionError) as failed:
        exits.remote()
    assert failed.value.type == "SystemExit" and failed.value.code == "function-failed"
    assert (failed.value.request, failed.value.traceback) == ("req-7", "somewhere")
    with pytest.raises(tidemill.NotFound, match="did you mean abc") as missing:
        client.call("far", "absent")
    assert missing.value.code == "unknown-function"


def test_wrong_token_and_no_node(door):
    with pytest.raises(tidemill.Unauthorized):
        tidemill.Client(door.url, "wrong").call("far", "add", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(tidemill.ConnectionFailed, match="tidemill up"):
            tidemill.Client(url, "x").call("far", "add", 1)


def test_spawn(client, door):
    call = add.spawn(1, b=1)
    assert call.id == "req-0" and client.request(call.id)["state"] == "running"
    assert call.get() == 2 and call.get() == 2
    polls = [seen for seen in door.seen if seen[1].endswith("/result")]
    assert len(polls) == 3 and "wait=" in polls[0][2]["Prefer"]
    call = add.spawn(1)
    door.results[call.id][0] = 10**6
    with pytest.raises(tidemill.Timeout):
        call.get(timeout=0.05)
    door.results[call.id][0] = 0
    assert call.get(timeout=5) == 1
    call = add.spawn(1)
    call.cancel()
    with pytest.raises(tidemill.Error, match="cancelled"):
        call.get()
    with pytest.raises(OwnError):
        boom.spawn().get()
    assert numbers.spawn(1).get() == [0, (1, 2), {"content_type": "x", "base64": "AA=="}]
    tidemill.enqueue(add, 1)
    assert door.seen[-1][2]["Prefer"] == "respond-async"


def test_map_is_ordered_bounded_and_lazy(client, door):
    assert list(add.map(range(40), concurrency=4)) == list(range(40))
    assert len({seen[3] for seen in door.seen}) <= 4
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = add.map(endless(), concurrency=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()
    assert len(taken) <= 9
    with pytest.raises(TypeError):
        list(add.map([1, None]))
    with pytest.raises(ValueError):
        add.map([], concurrency=0)


def test_streams(client, door):
    assert list(numbers.remote(2)) == [0, 1, (1, 2), {"content_type": "x", "base64": "AA=="}]
    items = numbers.remote_gen(3)
    assert [next(items) for _ in range(5)][:3] == [0, 1, 2]
    with pytest.raises(OwnError, match="at the end"):
        next(items)
    assert next(iter(client.call("far", "numbers", 0))) == (1, 2)
    door.drop_next = 1
    with pytest.raises(tidemill.ConnectionFailed, match="before its request was committed"):
        list(numbers.remote(1))


def test_async(client, door):
    door.slow = 0.1

    async def main():
        began = time.monotonic()
        assert await asyncio.gather(*(add.remote.aio(i) for i in range(8))) == list(range(8))
        assert time.monotonic() - began < 0.7
        assert [x async for x in add.map.aio(range(6), concurrency=3)] == list(range(6))
        expected = [0, (1, 2), {"content_type": "x", "base64": "AA=="}]
        assert [x async for x in numbers.remote_gen.aio(1)] == expected
        assert [x async for x in numbers.remote.aio(1)] == expected
        assert await add.spawn(3).get.aio() == 3

    asyncio.run(main())


def test_flows(client, door):
    assert named.remote(1, b=2) == 3
    loose = add >> (one | one) >> combine
    assert loose.remote(2) == [2, 2]
    assert loose.remote(3) == [3, 3]
    puts = [seen[1] for seen in door.seen if seen[0] == "PUT"]
    assert puts == [f"/v1/apps/far/flows/{loose.adhoc_name()}"]
    door.flows.clear()  # the node was started anew
    assert loose.remote(4) == [4, 4]
    assert loose.spawn(5).get() == [5, 5]


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n5"


def test_a_connection_closed_while_idle_is_not_an_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        requests = []

        def serve():
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                requests.append(sock.recv(65536))
                sock.sendall(ANSWER)
                sock.close()

        threading.Thread(target=serve, daemon=True).start()
        made = tidemill.Client(f"http://127.0.0.1:{server.getsockname()[1]}", "t")
        for _ in range(3):
            assert made.call("far", "add", 1) == 5
            time.sleep(0.05)  # for the end of the connection to arrive
        assert len(requests) == 3


def test_a_call_that_may_have_run_is_sent_again_with_its_key():
    with socket.create_server(("127.0.0.1", 0)) as server:
        requests = []

        def serve():
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                requests.append(sock.recv(65536))
                sock.close()

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        made = tidemill.Client(url, "t", retry=tidemill.Retry(2, 0.01))
        with pytest.raises(tidemill.ConnectionFailed):
            made.call("far", "add", 1)
        assert len(requests) == 3 and len(set(requests)) == 1


def test_state(client):
    state = client.state("far")
    state.register("r/1").set({"a": 1})
    assert state.register("r/1").get() == {"a": 1}
    state.register("r/2").set((1, 2))
    assert state.register("r/2").get() == (1, 2)
    state.register("odd").set({"type": "counter", "value": 3})
    assert state.register("odd").get() == {"type": "counter", "value": 3}
    assert state.register("none").get("dflt") == "dflt"
    state.counter("c").add(5)
    state.counter("c").add()
    assert state.counter("c").get() == 6
    state.multi("m").set([1])
    assert state.multi("m").get() == [[1]]
    state.max("hi").put(2.5)
    state.min("lo").put("a")
    state.flag("f").raise_()
    assert (state.max("hi").get(), state.min("lo").get(), state.flag("f").get()) == (2.5, "a", True)
    assert state.flag("f0").get() is False and state.counter("c0").get() == 0
    for value in ("a", "b", (1,), {"content_type": "x", "base64": "AA=="}):
        state.set("s").add(value)
    state.set("s").remove("b")
    assert state.set("s").has("a") and state.set("s").has((1,)) and not state.set("s").has("b")
    assert len(state.set("s").get()) == 3
    state.log("l").append(1, keep=2)
    state.log("l").append(b"2", keep=2)
    state.log("l").append(3, keep=2)
    assert state.log("l").get() == [b"2", 3]
    for score, id in ((1, "a"), (3, "b"), (2, "c")):
        state.top("t", of=2).put(score, id)
    assert state.top("t").get() == [(3, "b"), (2, "c")]
    record = state.map("rec")
    record.counter("n").add(3)
    record.register("v").set((1,))
    record.set("tags").add("x")
    record.register("gone").set(1)
    record.remove("gone")
    assert record.get() == {"n": 3, "v": (1,), "tags": {"x"}}
    assert record.counter("n").get() == 3 and record.set("tags").has("x")
    assert record.counter("absent").get() == 0
    assert list(state.keys("r")) == ["r/1", "r/2", "rec"]
    state.register("r/1").expire(at=datetime(2001, 1, 1, tzinfo=UTC))
    state.delete("r/2")
    assert list(state.keys("r")) == ["rec"]
    with pytest.raises(tidemill.WrongType):
        state.register("c").get()
    with pytest.raises(tidemill.WrongType):
        state.counter("l").get()
    assert asyncio.run(state.counter("c").get.aio()) == 6


def test_deploy(client, door, tmp_path):
    assert app.deploy()["app"] == "far"
    assert door.deployed["far"]["entry"]["module"] == "test_client"
    file = tmp_path / "filed.py"
    file.write_text("import tidemill\nx = tidemill.App('filed')\n@x.function\ndef f(): pass\n")
    client.deploy(file)
    assert door.deployed["filed"]["entry"] == {"kind": "module", "module": "filed", "app": "x"}
    file.write_text("1/0")
    with pytest.raises(tidemill.BadManifest, match="ZeroDivisionError"):
        client.deploy(str(file))


def test_dev_deploys_after_changes(client, door, tmp_path):
    file = tmp_path / "loop.py"
    text = "import tidemill\napp = tidemill.App('loop')\n@app.function\ndef f(): pass\n"
    file.write_text(text)
    said, rounds = [], []

    def pause():
        rounds.append(1)
        if len(rounds) == 2:
            file.write_text("broken(")
        if len(rounds) == 4:
            file.write_text(text + "# done\n")

    assert dev.watch(str(file), client, said.append, pause, rounds=6) == "loop"
    assert len(said) == 3
    assert said[0].startswith("deployed loop v") and "SyntaxError" in said[1]
    assert said[2].startswith("deployed loop v")


def test_logs(client, door):
    lines = list(client.logs("far", function="add", after=3, follow=True))
    assert [line["text"] for line in lines] == ["line 0", "line 1", "line 2"]
    assert lines[0]["app"] == "far" and lines[0]["after"] == "3" and lines[0]["follow"] == "true"


def test_where_the_node_is(monkeypatch, tmp_path):
    for name in ("TIDEMILL_URL", "TIDEMILL_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TIDEMILL_DATA", str(tmp_path))
    assert client_module.find_url() == "http://127.0.0.1:7070"
    assert client_module.find_token() is None
    node = {"http": "127.0.0.1:9", "redis": None, "pid": 1}
    (tmp_path / "node.json").write_text(json.dumps(node))
    (tmp_path / "token").write_text("t\n")
    assert client_module.find_url() == "http://127.0.0.1:9"
    assert client_module.find_token() == "t"
    monkeypatch.setenv("TIDEMILL_URL", "http://elsewhere:1")
    monkeypatch.setenv("TIDEMILL_TOKEN", "u")
    assert (client_module.find_url(), client_module.find_token()) == ("http://elsewhere:1", "u")
