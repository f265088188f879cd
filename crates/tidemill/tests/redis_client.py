"""The Redis door by redis-py: `redis_client.py HOST:PORT TOKEN`, with each protocol."""

from __future__ import annotations

import sys
import threading

import redis


def check(client: redis.Redis, protocol: int) -> None:
    """What a program asks of Redis, and gets."""
    assert client.ping()
    assert client.set("a", "1") is True
    assert client.set("a", "2", nx=True) is None
    assert client.get("a") == b"1"
    assert client.set("a", b"\xff\x00", ex=100) is True
    assert client.get("a") == b"\xff\x00"
    assert 0 < client.ttl("a") <= 100
    assert client.mset({"b": 1, "c": 2})
    assert client.mget("b", "c", "d") == [b"1", b"2", None]
    assert client.incrby("b", 41) == 42
    assert client.delete("a", "b", "d") == 2
    assert client.hset("h", mapping={"x": 1, "y": "z"}) == 2
    assert client.hgetall("h") == {b"x": b"1", b"y": b"z"}
    assert client.hincrby("h", "x", 2) == 3
    assert dict(client.hscan_iter("h")) == {b"x": b"3", b"y": b"z"}
    assert client.sadd("s", "m", "n") == 2
    assert set(client.smembers("s")) == {b"m", b"n"}
    assert client.sismember("s", "m")
    entry = client.xadd("x", {"field": "value"}, maxlen=10)
    found = client.xrange("x")
    assert [tuple(found[0])] == [(entry, {b"field": b"value"})], found
    assert sorted(client.scan_iter(match="?", count=2)) == [b"c", b"h", b"s", b"x"]
    assert client.dbsize() == 4
    try:
        client.incr("h")
    except redis.ResponseError as error:
        assert "WRONGTYPE" in str(error)
    else:
        raise AssertionError("a hash was counted with")
    pipe = client.pipeline(transaction=False)
    for number in range(100):
        pipe.set("p", number)
        pipe.get("p")
    assert pipe.execute()[1::2] == [str(number).encode() for number in range(100)]
    client.delete(*client.keys("*"))
    transactions(client)
    count_together(client)
    assert client.info("server")["redis_mode"] == "standalone"
    assert client.client_list()[0]["resp"] == str(protocol)
    assert client.delete("n") == 1


def transactions(client: redis.Redis) -> None:
    """Pipelines that are transactions: answered together, all or none."""
    pipe = client.pipeline(transaction=True)
    pipe.set("a", 1).incr("a", 2).hset("h", mapping={"f": 1}).hincrby("h", "f", 4).get("a")
    assert pipe.execute() == [True, 3, 1, 5, b"3"]
    pipe.set("a", 9).execute_command("GET")
    try:
        pipe.execute()
    except redis.exceptions.ExecAbortError:
        raise AssertionError("the first mistake is told") from None
    except redis.ResponseError as error:
        assert "wrong number of arguments" in str(error)
    else:
        raise AssertionError("a transaction with a mistake was run")
    assert client.get("a") == b"3"
    try:
        client.pipeline().watch("a")
    except redis.ResponseError as error:
        assert "WATCH is not there" in str(error)
    else:
        raise AssertionError("a key is watched")
    assert client.delete("a", "h") == 2


def count_together(client: redis.Redis) -> None:
    """Threads that count lose nothing, and one of them gets the lock."""
    won: list[bool] = []

    def work() -> None:
        for _ in range(50):
            client.incr("n")
            client.pipeline(transaction=True).incr("n").execute()
        won.append(bool(client.set("lock", 1, nx=True)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get("n") == b"400"
    assert sorted(won) == [False, False, False, True]
    client.delete("lock")


def main() -> None:
    """Both protocols, and a wrong password."""
    address, token = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    for protocol in (2, 3):
        with redis.Redis(host=host, port=int(port), password=token, protocol=protocol) as client:
            check(client, protocol)
    try:
        redis.Redis(host=host, port=int(port), password="wrong").ping()
    except redis.AuthenticationError:
        return
    raise AssertionError("a wrong token was taken")


main()
