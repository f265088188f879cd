"""Which calls are sent again, when, and with which key."""

import asyncio
import re
import socket
import time

import pytest
import tidemill
from door import Door
from tidemill import client as client_module
from tidemill._remote import quoted
from tidemill._retry import Retry, is_passing
from tidemill.errors import ConnectionFailed, Error, Overloaded, Timeout, from_code

app = tidemill.App("again")


@app.function
def double(x):
    return 2 * x


@app.function
def refuses():
    raise ValueError("the function says so")


@app.function
def counts(n):
    yield from range(n)


def lost(door, http):
    http.connection.shutdown(socket.SHUT_RDWR)


def answers(status, code=None, **headers):
    def answer(door, http):
        body = b"" if code is None else b'{"code": "%s", "detail": "so"}' % code.encode()
        door.send(http, status, "application/problem+json", body, **headers)

    return answer


@pytest.fixture
def door():
    made = Door(app)
    yield made
    made.close()


@pytest.fixture
def client(door):
    before = client_module.set_default_client(None)
    with tidemill.connect(door.url, "secret", retry=Retry(3, 0.01, 0.02)) as made:
        yield made
    client_module.set_default_client(before)


def keys(door):
    return [seen[2]["Idempotency-Key"] for seen in door.seen if seen[0] == "POST"]


PASSING = [
    lost,
    answers(503, "overloaded"),
    answers(503, "shutting-down"),
    answers(503, "storage-failed"),
    answers(409, "request-in-flight", Retry_After="0"),
    answers(502),
    answers(503),
    answers(504),
]


@pytest.mark.parametrize("mishap", PASSING)
def test_a_call_that_may_not_have_arrived_is_sent_again_with_its_key(client, door, mishap):
    assert double.remote(1) == 2
    door.mishaps = [mishap, mishap]
    assert double.remote(4) == 8
    first, *rest = keys(door)
    assert len(rest) == 3 and len(set(rest)) == 1 and rest[0] != first
    made = re.fullmatch(r'"tm1-([0-9a-f]{12})-[0-9a-f]{32}"', first)
    assert abs(int(made[1], 16) - time.time() * 1000) < 60_000
    door.mishaps = [mishap]
    assert list(counts.remote(3)) == [0, 1, 2]
    assert asyncio.run(double.remote.aio(3)) == 6


@pytest.mark.parametrize(
    "mishap",
    [
        answers(502, "worker-crashed"),
        answers(502, "out-of-memory"),
        answers(504, "timed-out"),
        answers(422, "request-mismatch"),
        answers(410, "request-expired"),
        answers(500),
    ],
)
def test_what_the_node_says_of_the_call_is_not_asked_again(client, door, mishap):
    door.mishaps = [mishap, mishap]
    with pytest.raises(tidemill.Error):
        double.remote(1)
    assert len(keys(door)) == 1


def test_an_exception_of_the_function_is_not_asked_again(client, door):
    with pytest.raises(ValueError, match="the function says so"):
        refuses.remote()
    assert door.ran == ["refuses"]


def test_a_call_is_given_up_after_its_retries(client, door):
    door.mishaps = [answers(503, "overloaded")] * 4
    with pytest.raises(Overloaded):
        double.remote(1)
    assert len(keys(door)) == 4
    assert double.remote(1) == 2


def test_items_that_have_come_are_not_asked_for_again(client, door):
    door.drop_next = True
    with pytest.raises(ConnectionFailed, match="before its request was committed"):
        list(counts.remote(3))
    assert door.ran == ["counts"]


def test_a_node_that_never_was_is_not_waited_for():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            tidemill.Client(url, "secret", retry=Retry(5, 60, 60)) as client,
            pytest.raises(ConnectionFailed, match="tidemill up"),
        ):
            client.call("again", "double", 1)


def test_a_call_whose_node_died_is_started_again(client, door):
    call = double.spawn(5)
    door.results.clear()
    assert call.get(10) == 10
    assert len(set(keys(door))) == 1 and len(keys(door)) == 2


def test_an_own_key_names_the_calls_within(client, door):
    with tidemill.idempotency_key('order "7"\\'):
        double.remote(1)
        asyncio.run(double.remote.aio(1))
    double.remote(1)
    first, second, third = keys(door)
    assert first == second == '"order \\"7\\"\\\\"' and third.startswith('"tm1-')
    assert quoted("a") == '"a"'
    for bad in ["", "x" * 256, "é", "a\n"]:
        with pytest.raises(ValueError), tidemill.idempotency_key(bad):
            pass


def test_pauses_double_with_chance_and_obey_the_node():
    retry = Retry(4, 1.0, 3.0)
    error = ConnectionFailed("gone")
    assert [retry.pause(error, n, 0.0) for n in range(5)] == [0.5, 1.0, 1.5, 1.5, None]
    assert retry.pause(error, 0, 1.0) == 1.0
    told = from_code("overloaded", "busy")
    told.status, told.retry_after = 503, 7.0
    assert retry.pause(told, 0, 0.0) == 7.0
    assert retry.pause(ValueError(), 0, 0.0) is None
    assert is_passing(Timeout("no answer"))
    for wrong in [(-1, 0, 0), (1, -1, 0), (1, 2, 1)]:
        with pytest.raises(ValueError):
            Retry(*wrong)


def test_errors_that_no_node_answered_are_not_passing():
    assert not is_passing(Overloaded("raised"))
    assert not is_passing(Error("?", code="http-503"))
