"""An app with a bit of everything."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import sys
import time
from typing import Any

import tidemill
from tidemill import state

app = tidemill.App("kitchen")


@dataclasses.dataclass(frozen=True)
class Dish:
    name: str
    price: int


class Burnt(Exception):
    """An exception with a constructor of its own."""

    def __init__(self, dish: str, minutes: int) -> None:
        super().__init__(f"{dish} burnt after {minutes} minutes")
        self.dish = dish
        self.minutes = minutes

    def __reduce__(self) -> tuple[Any, ...]:
        return (Burnt, (self.dish, self.minutes))


class Stubborn(Exception):
    """An exception that does not pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("not this one")


# -- calls --


@app.function
def add(a: int, b: int = 10) -> int:
    return a + b


@app.function
async def add_async(a: int, b: int = 10) -> int:
    await asyncio.sleep(0)
    return a + b


@app.function
def count_to(n: int):
    yield from range(n)


@app.function
async def count_async(n: int):
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@app.function
def each(values: list[Any]):
    yield from values


@app.function
def count_then_fail(n: int):
    for i in range(n):
        state.counter("yielded").add()
        yield i
    raise Burnt("soup", n)


@app.function
def echo(*args: Any, **kwargs: Any) -> Any:
    return [*args, kwargs] if kwargs or len(args) != 1 else args[0]


@app.function
def describe(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}"


@app.function
def burn(dish: str) -> None:
    state.counter("burnt").add()
    raise Burnt(dish, 7)


@app.function
def fail_plainly() -> None:
    raise KeyError("salt")


@app.function
def fail_stubbornly() -> None:
    raise Stubborn("no")


@app.function
def leave() -> None:
    sys.exit(3)


@app.function
def die() -> None:
    os._exit(9)


@app.function(timeout=0.5)
def sleep_too_long() -> None:
    time.sleep(60)


@app.function
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.function
def nap(seconds: float) -> list[float]:
    begun = time.time()
    time.sleep(seconds)
    return [begun, time.time()]


@app.function
async def sleep_async(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@app.function
def note_then_sleep(key: str) -> None:
    state.counter(key).add()
    time.sleep(60)


@app.function
def ask_for(n: int) -> list[int]:
    """Children of one request: remote, spawn, map, a generator."""
    call = add.spawn(n, 1)
    return [add.remote(n), call.get(), *add.map(range(n), concurrency=2), *count_to.remote_gen(n)]


@app.function
async def ask_async(n: int) -> list[int]:
    call = await add_async.spawn.aio(n, 1)
    one = await add_async.remote.aio(n)
    mapped = [x async for x in add.map.aio(range(n), concurrency=2)]
    return [one, await call.get.aio(), *mapped, *[x async for x in count_async.remote_gen.aio(n)]]


@app.function
def catch_child() -> str:
    state.counter("parent").add()
    try:
        burn.remote("rice")
    except Burnt as error:
        return f"{error.dish} {error.minutes} {state.counter('burnt').get()}"
    return "nothing burnt"


@app.function
def child_sees() -> int:
    state.counter("shared").add(3)
    bump.remote("shared")
    return state.counter("shared").get()


@app.function
def bump(key: str) -> int:
    state.counter(key).add()
    return state.counter(key).get()


@app.function
def forever() -> None:
    forever.remote()


@app.function
def later(key: str, fail: bool = False) -> str:
    tidemill.enqueue(bump, key)
    if fail:
        raise Burnt("cake", 1)
    return tidemill.request.id


@app.function
def who() -> dict[str, Any]:
    request = tidemill.request
    return {
        "id": request.id,
        "app": request.app,
        "attempt": request.attempt,
        "deadline": request.deadline,
        "caller": request.caller,
        "key": request.key,
        "trace": request.trace,
    }


# -- values --


@app.function
def write_into(array: Any) -> None:
    array[0] = 1


@app.function
def total(array: Any) -> tuple[int, bool]:
    return int(array.sum()), bool(array.flags.writeable)


@app.function
def doubled(array: Any) -> Any:
    return array * 2


@app.function
def keep(key: str, value: Any) -> None:
    state.register(key).set(value)


@app.function
def dish(name: str) -> Dish:
    return Dish(name, len(name))


@app.function
def price(dish: Dish) -> int:
    return dish.price


# -- state --


@app.function
def write_all() -> dict[str, Any]:
    """Writes each type once; what it reads of its own writes."""
    state.register("register").set({"a": [1, 2.5, None]})
    state.multi("multi").set("one")
    state.counter("counter").add(40)
    state.counter("counter").add(2)
    state.max("max").put(3)
    state.max("max").put(2)
    state.min("min").put("b")
    state.min("min").put("a")
    state.flag("flag").raise_()
    state.set("set").add("x")
    state.set("set").add("y")
    state.set("set").remove("x")
    record = state.map("map")
    record.register("name").set("ada")
    record.counter("visits").add(5)
    record.set("tags").add("new")
    record.flag("seen").raise_()
    record.max("best").put(9.5)
    record.register("gone").set(1)
    record.remove("gone")
    for i in range(5):
        state.log("log").append(i, keep=3)
    for i in range(5):
        state.top("top", of=3).put(i, f"id{i}")
    return read_here()


def read_here() -> dict[str, Any]:
    return read_from(state)


def read_from(space: Any) -> dict[str, Any]:
    """What each of the keys of `write_all` holds."""
    return {
        "register": space.register("register").get(),
        "multi": space.multi("multi").get(),
        "counter": space.counter("counter").get(),
        "max": space.max("max").get(),
        "min": space.min("min").get(),
        "flag": space.flag("flag").get(),
        "set": sorted(space.set("set").get()),
        "has": [space.set("set").has("x"), space.set("set").has("y")],
        "map": space.map("map").get(),
        "field": space.map("map").counter("visits").get(),
        "log": space.log("log").get(),
        "top": space.top("top", of=3).get(),
    }


@app.function
def read_all() -> dict[str, Any]:
    return read_here()


def write_value(space: Any, value: Any) -> None:
    space.register("r").set(value)
    space.log("l").append(value, keep=1)
    space.multi("m").set(value)
    space.map("f").register("v").set(value)


def read_value(space: Any) -> list[Any]:
    return [
        space.register("r").get(),
        space.log("l").get(),
        space.multi("m").get(),
        space.map("f").get(),
    ]


@app.function
def rewrite(value: Any) -> list[Any]:
    before = read_value(state)
    write_value(state, value)
    assert read_value(state) == before
    return before


@app.function
def keys(prefix: str = "") -> list[str]:
    return list(state.keys(prefix))


@app.function
def write_keys(names: list[str]) -> list[str]:
    for name in names:
        state.counter(name).add()
    return list(state.keys())


@app.function
def delete(key: str) -> int:
    state.delete(key)
    return state.counter(key).get()


@app.function
def expire(key: str, after: float) -> None:
    state.counter(key).add()
    state.counter(key).expire(after=after)


@app.function
def write_then_fail() -> None:
    write_all.local()
    raise Burnt("everything", 1)


@app.function
def confuse(key: str) -> None:
    state.counter(key).add()
    state.set(key).add("x")


@app.function
def slow_read(key: str, seconds: float) -> tuple[int, int]:
    """A snapshot does not move, however long one looks at it."""
    first = state.counter(key).get()
    time.sleep(seconds)
    return first, state.counter(key).get() + len(state.set("other").get())


# -- flows --


@app.function
def square(x: int) -> int:
    return x * x


@app.function
def negate(x: int) -> int:
    return -x


@app.function
def pair(*parts: Any) -> list[Any]:
    return list(parts)


@app.function
def tally(x: Any) -> Any:
    state.counter("tally").add()
    return x


@app.function
def spoil(values: list[int]) -> list[int]:
    values.append(99)
    return values


@app.function(memory="256MB")
def elsewhere(x: int) -> int:
    """In another group of workers: what it hands on leaves the process."""
    return x + 1000


chain = app.flow("chain", add >> square >> negate)
fork = app.flow("fork", add >> (square | negate | elsewhere) >> pair)
nested = app.flow(
    "nested", add >> ((square >> (negate | tally) >> pair) | (negate >> tally)) >> pair
)
failing = app.flow("failing", tally >> burn)
copied = app.flow("copied", echo >> (spoil | spoil | echo) >> pair)


@app.function
def call_flows(x: int) -> list[Any]:
    return [chain.remote(x), (add >> square).remote(x), fork.spawn(x).get()]


# -- classes and logs --


@app.cls
class Oven:
    """Warm once for each worker."""

    def __init__(self) -> None:
        self.warmed = 0
        self.baked = 0

    @tidemill.enter
    def warm(self) -> None:
        self.warmed += 1

    def bake(self, dish: str) -> dict[str, Any]:
        self.baked += 1
        state.counter("baked").add()
        return {"dish": dish, "warmed": self.warmed, "baked": self.baked, "pid": os.getpid()}

    async def bake_slowly(self, dish: str, seconds: float) -> dict[str, Any]:
        await asyncio.sleep(seconds)
        return self.bake(dish)


@app.function
def talk(word: str) -> str:
    print(f"print {word}")
    print(f"error {word}", file=sys.stderr)
    logging.getLogger("kitchen").warning("log %s", word)
    return tidemill.request.id


@app.function
def pid() -> int:
    return os.getpid()
