"""The same programs on a node and in `tidemill.testing.local`, with the same outcome."""

from __future__ import annotations

import asyncio
import datetime

import pytest
import tidemill

EVERYTHING = {
    "register": {"a": [1, 2.5, None]},
    "multi": ["one"],
    "counter": 42,
    "max": 3,
    "min": "a",
    "flag": True,
    "set": ["y"],
    "has": [False, True],
    "map": {"name": "ada", "visits": 5, "tags": {"new"}, "seen": True, "best": 9.5},
    "field": 5,
    "log": [2, 3, 4],
    "top": [(4, "id4"), (3, "id3"), (2, "id2")],
}


def test_calls_with_and_without_keywords(either):
    assert either.kitchen.add.remote(1) == 11
    assert either.kitchen.add.remote(1, b=2) == 3
    assert either.kitchen.add.remote(a=1, b=2) == 3
    assert either.kitchen.add_async.remote(1, 2) == 3
    assert either.kitchen.add.spawn(1).get() == 11
    assert list(either.kitchen.add.map([1, 2, 3], concurrency=2)) == [11, 12, 13]
    assert list(either.kitchen.count_to.remote(3)) == [0, 1, 2]
    assert list(either.kitchen.count_async.remote_gen(3)) == [0, 1, 2]


def test_coroutines(either):
    kitchen = either.kitchen

    async def run():
        call = await kitchen.add.spawn.aio(1, 1)
        return [
            await kitchen.add.remote.aio(1),
            await call.get.aio(),
            [x async for x in kitchen.add.map.aio([1, 2])],
            [x async for x in kitchen.count_to.remote_gen.aio(2)],
        ]

    assert asyncio.run(run()) == [11, 2, [11, 12], [0, 1]]


def test_children_of_a_request(either):
    assert either.kitchen.ask_for.remote(3) == [13, 4, 10, 11, 12, 0, 1, 2]
    assert either.kitchen.ask_async.remote(2) == [12, 3, 10, 11, 0, 1]
    assert either.kitchen.child_sees.remote() == 4
    assert either.outside.counter("shared").get() == 4


def test_a_childs_failure_can_be_caught_and_leaves_nothing(either):
    assert either.kitchen.catch_child.remote() == "rice 7 0"
    assert either.outside.counter("parent").get() == 1
    assert either.outside.counter("burnt").get() == 0


def test_exceptions_arrive_as_themselves(either):
    with pytest.raises(either.kitchen.Burnt) as caught:
        either.kitchen.burn.remote("toast")
    assert (caught.value.dish, caught.value.minutes) == ("toast", 7)
    with pytest.raises(KeyError, match="salt"):
        either.kitchen.fail_plainly.remote()
    with pytest.raises(tidemill.FunctionError) as caught:
        either.kitchen.leave.remote()
    assert caught.value.type == "SystemExit"


@pytest.mark.parametrize(
    "value",
    [
        None,
        -(2**70),
        0.1,
        float("inf"),
        "ünï\u0000",
        b"\x00\xff" * 10,
        (1, (2, [3])),
        {1, 2},
        frozenset({"a"}),
        {1: "one", (2,): "two"},
        datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
        datetime.timedelta(days=1),
        [None, True, {"a": [1, {"b": ()}]}],
        complex(1, 2),
        range(5),
    ],
    ids=repr,
)
def test_values_come_back_as_they_were(either, value):
    back = either.kitchen.echo.remote(value)
    assert back == value
    assert type(back) is type(value)


ODD = {"content_type": "application/octet-stream", "base64": "AA=="}


@pytest.mark.parametrize("value", [ODD, {**ODD, "base64": 1}, {**ODD, "more": 1}, b"\x00", (1,)])
def test_values_that_look_like_the_doors_own_form(either, value):
    assert list(either.kitchen.each.remote_gen([value])) == [value]
    assert either.kitchen.each.spawn([value]).get() == [value]
    expected = [value, [value], [value], {"v": value}]
    either.kitchen.write_value(either.outside, value)
    assert either.kitchen.read_value(either.outside) == expected
    assert either.kitchen.rewrite.remote(value) == expected
    assert either.kitchen.read_value(either.outside) == expected


def test_state_of_every_type_from_inside_and_outside(either):
    assert either.kitchen.write_all.remote() == EVERYTHING
    assert either.kitchen.read_all.remote() == EVERYTHING
    from_outside = either.kitchen.read_from(either.outside)
    assert from_outside == EVERYTHING


def test_state_written_from_outside_is_read_inside(either):
    outside = either.outside
    outside.register("register").set({"a": [1, 2.5, None]})
    outside.multi("multi").set("one")
    outside.counter("counter").add(42)
    outside.max("max").put(3)
    outside.min("min").put("a")
    outside.flag("flag").raise_()
    outside.set("set").add("x")
    outside.set("set").add("y")
    outside.set("set").discard("x")
    record = outside.map("map")
    record.register("name").set("ada")
    record.counter("visits").add(5)
    record.set("tags").add("new")
    record.flag("seen").raise_()
    record.max("best").put(9.5)
    record.register("gone").set(1)
    record.register("gone").delete()
    for i in range(5):
        outside.log("log").append(i, keep=3)
        outside.top("top", of=3).put(i, f"id{i}")
    assert either.kitchen.read_all.remote() == EVERYTHING


def test_absent_keys_have_plain_answers(either):
    nothing = {
        "register": None,
        "multi": [],
        "counter": 0,
        "max": None,
        "min": None,
        "flag": False,
        "set": [],
        "has": [False, False],
        "map": {},
        "field": 0,
        "log": [],
        "top": [],
    }
    assert either.kitchen.read_all.remote() == nothing
    assert either.kitchen.read_from(either.outside) == nothing


def test_a_request_that_fails_leaves_nothing(either):
    with pytest.raises(either.kitchen.Burnt):
        either.kitchen.write_then_fail.remote()
    assert list(either.outside.keys()) == []


def test_keys_are_listed_in_order_with_the_requests_own(either):
    either.outside.counter("b/2").add()
    assert either.kitchen.write_keys.remote(["b/1", "a", "c"]) == ["a", "b/1", "b/2", "c"]
    assert either.kitchen.keys.remote("b/") == ["b/1", "b/2"]
    assert list(either.outside.keys("b/")) == ["b/1", "b/2"]
    assert list(either.outside.items("a")) == [("a", "counter")]


def test_deleted_and_expired_keys_are_gone(either):
    either.outside.counter("k").add(5)
    assert either.kitchen.delete.remote("k") == 0
    assert list(either.outside.keys()) == []
    assert either.kitchen.bump.remote("k") == 1
    either.kitchen.expire.remote("soon", -1)
    assert either.outside.counter("soon").get() == 0
    either.kitchen.expire.remote("late", 3600)
    assert either.outside.counter("late").get() == 1


def test_a_key_keeps_its_type(either):
    with pytest.raises(tidemill.WrongType):
        either.kitchen.confuse.remote("k")
    assert list(either.outside.keys()) == []
    either.outside.counter("k").add()
    with pytest.raises(tidemill.WrongType):
        either.outside.set("k").add("x")
    with pytest.raises(tidemill.WrongType):
        either.outside.set("k").get()


def test_flows(either):
    kitchen = either.kitchen
    assert kitchen.chain.remote(1, b=2) == -9
    assert kitchen.fork.remote(1) == [121, -11, 1011]
    assert kitchen.nested.remote(1, 1) == [[4 * -1, 4], -2]
    assert kitchen.nested.remote(2, b=1) == [[-9, 9], -3]
    assert (kitchen.add >> kitchen.square).remote(2) == 144
    assert kitchen.chain.spawn(0).get() == -100
    assert list(kitchen.chain.map([0, 1])) == [-100, -121]
    assert kitchen.call_flows.remote(1) == [-121, 121, [121, -11, 1011]]
    assert either.outside.counter("tally").get() == 4


def test_branches_do_not_see_each_other(either):
    assert either.kitchen.copied.remote([1]) == [[1, 99], [1, 99], [1]]


def test_a_flow_that_fails_leaves_nothing(either):
    with pytest.raises(either.kitchen.Burnt):
        either.kitchen.failing.remote("x")
    assert list(either.outside.keys()) == []


def test_unknown_names(either):
    made = tidemill.App("kitchen_unknown")

    @made.function
    def nothing() -> None: ...

    with pytest.raises(tidemill.NotFound) as caught:
        nothing.remote()
    assert caught.value.code == "unknown-app"
