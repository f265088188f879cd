"""The app that the runtime's tests call."""

import logging
import os
import subprocess
import sys
import time

import tidemill
from tidemill import state

app = tidemill.App("sample")


@app.function
def echo(*args, **kwargs):
    return {"args": list(args), "kwargs": kwargs} if kwargs or len(args) != 1 else args[0]


@app.function
def fail(message="no"):
    state.counter("failed").add(1)
    raise ValueError(message)


@app.function
def speak(text):
    print(text)
    print(text, file=sys.stderr)
    logging.getLogger("voice").warning("logged %s", text)


@app.function
def add(key, amount=1):
    before = state.counter(key).get()
    state.counter(key).add(amount)
    return [before, state.counter(key).get()]


@app.function
def add_then_fail(key):
    state.counter(key).add(1)
    raise RuntimeError("after the write")


@app.function
def wrong_type(key):
    state.counter(key).add(1)
    try:
        state.register(key).set("text")
        state.register(key).get()
    except tidemill.Error:
        pass
    return "went on"


@app.function
def every_type():
    state.register("r").set({"a": [1, None]})
    state.multi("m").set("x")
    state.counter("c").add(-3)
    state.max("hi").put(7)
    state.min("lo").put(2.5)
    state.flag("f").raise_()
    state.set("s").add("b")
    state.set("s").add("a")
    state.map("mp").counter("n").add(4)
    state.map("mp").register("who").set("me")
    state.log("l").append("one")
    state.log("l").append("two", keep=1)
    state.top("t", of=2).put(3, "low")
    state.top("t", of=2).put(9, "high")
    state.top("t", of=2).put(5, "mid")
    return read_every_type()


@app.function
def read_every_type():
    return {
        "r": state.register("r").get(),
        "m": state.multi("m").get(),
        "c": state.counter("c").get(),
        "hi": state.max("hi").get(),
        "lo": state.min("lo").get(),
        "f": state.flag("f").get(),
        "s": sorted(state.set("s").get()),
        "mp": state.map("mp").get(),
        "l": state.log("l").get(),
        "t": [list(entry) for entry in state.top("t", of=2).get()],
        "keys": sorted(state.keys("")),
    }


@app.function
def first(x):
    state.log("order").append("first")
    return x + 1


@app.function
def second(x):
    state.log("order").append("second")
    return x * 2


@app.function
def third(x):
    state.log("order").append("third")
    return x * 3


@app.function
def join(a, b):
    return [a, b, list(state.log("order").get())]


app.flow("diamond", first >> (second | third) >> join)


@app.function
def sees_sibling(x):
    return list(state.log("order").get())


app.flow("blind", first >> (second | sees_sibling) >> join)


@app.function
def sleep(seconds):
    time.sleep(seconds)
    return seconds


app.flow("slow", first >> (sleep | sleep) >> join)


@app.function
def call_children(n):
    state.counter("children").add(1)
    one = add.remote("children")
    calls = [add.spawn("children", i) for i in range(n)]
    rest = [call.get() for call in calls]
    return {"one": one, "rest": rest, "sum": state.counter("children").get()}


@app.function
def catches():
    state.counter("caught").add(1)
    try:
        add_then_fail.remote("caught")
    except RuntimeError as error:
        return [str(error), state.counter("caught").get()]


@app.function
def forgets():
    add_then_fail.spawn("forgotten")
    return "never"


@app.function
def maps(n):
    return list(echo.map(range(n)))


@app.function
def recurse(n):
    return recurse.remote(n + 1)


@app.function(timeout=0.5)
def endless():
    state.counter("endless").add(1)
    while True:
        pass


@app.function(timeout=0.5)
def stubborn():
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


@app.function(memory="96MB")
def hog():
    held = []
    while True:
        held.append(bytearray(8 << 20))
        time.sleep(0.002)


@app.function
def die():
    os._exit(3)


@app.function
def shot():
    os.kill(os.getpid(), 9)


@app.function
def dies_once(key):
    state.counter(key).add(1)
    if tidemill.request.attempt == 1:
        os._exit(3)
    return tidemill.request.attempt


@app.function(retries=2)
def fails_twice():
    state.counter("tries").add(1)
    if tidemill.request.attempt < 3:
        raise ValueError(tidemill.request.attempt)
    return tidemill.request.attempt


@app.function
def chatter():
    line = "x" * 1000
    for _ in range(200_000):
        print(line)
    return "done"


@app.function
def forks():
    if os.fork() == 0:
        return "child"
    subprocess.Popen(["sleep", "60"])
    return os.getpid()


@app.function
def pid():
    return os.getpid()


@app.function
def count_to(n):
    for i in range(n):
        state.counter("counted").add(1)
        yield i


@app.function
def count_then_fail(n):
    for i in range(n):
        state.counter("uncounted").add(1)
        yield i
    raise ValueError("enough")


@app.function
def later(key):
    tidemill.enqueue(add, key, 5)
    return state.counter(key).get()


@app.function
def send():
    state.counter("sent").add(1)
    tidemill.enqueue(add, "received", 1)


@app.function
def later_then_fail(key):
    tidemill.enqueue(add, key, 5)
    raise ValueError("no")


@app.function(max_concurrency=1)
def alone():
    started = time.time()
    time.sleep(0.05)
    return [started, time.time()]


@app.function
def size(value):
    return [type(value).__name__, len(value)]


@app.function
def big(n):
    return b"x" * n


@app.function
def keep_big(n):
    state.register("big").set(b"y" * n)


@app.function
async def asynchronous(n):
    import asyncio

    results = await asyncio.gather(*(echo.remote.aio(i) for i in range(n)))
    return list(results)


def note(mark, text="x"):
    with open(mark, "a") as file:
        file.write(text)


def wait_for_go(mark):
    while not os.path.exists(mark + ".go"):
        time.sleep(0.005)


@app.function
def held(key, mark):
    """Counts one, says so, and waits to be let go."""
    before = state.counter(key).get()
    state.counter(key).add(1)
    note(mark)
    wait_for_go(mark)
    return before


@app.function
def noted_failure(key, mark):
    state.counter(key).add(1)
    note(mark)
    raise ValueError("no")


@app.function
def held_items(key, n, mark):
    for i in range(n):
        state.counter(key).add(1)
        yield i
    note(mark)
    wait_for_go(mark)


@app.function
def large_items(key, n):
    for _ in range(n):
        yield b"x" * (1 << 20)
    state.counter(key).add(1)


@app.function
def falls_until(attempt, key):
    """A child of a request that dies below it, until the attempt."""
    state.counter(key).add(10)
    if tidemill.request.attempt < attempt:
        os._exit(3)
    return tidemill.request.attempt


@app.function(retries=2)
def fails_and_falls(mark):
    note(mark, f"{tidemill.request.attempt} ")
    match tidemill.request.attempt:
        case 1 | 3:
            raise ValueError("as a function fails")
        case 2:
            os._exit(3)
    return tidemill.request.attempt


@app.function
def falls_in_child(attempt, key, mark):
    state.counter(key).add(1)
    note(mark, f"{tidemill.request.attempt} {tidemill.request.id} {state.counter(key).get()}\n")
    if tidemill.request.attempt == 1:
        wait_for_go(mark)
    try:
        return falls_until.remote(attempt, key)
    except tidemill.Error as error:
        return error.code


def pay(mark, amount):
    note(mark, f"{amount} ")
    return (amount, "paid")


@tidemill.step
def look_up(mark):
    note(mark, "l ")
    return {"rate": 2}


@tidemill.step("fetch")
async def fetch(mark):
    note(mark, "f ")
    return b"f" * 100_000


@app.function
def pays(key, mark, deaths):
    """Pays twice, one after the other, and dies in between and after."""
    first = tidemill.step("pay", pay, mark, amount=1)
    if tidemill.request.attempt <= deaths:
        os._exit(3)
    second = tidemill.step("pay", pay, mark, 2)
    state.counter(key).add(first[0] + second[0])
    if tidemill.request.attempt <= deaths + 1:
        os._exit(3)
    assert type(first) is tuple
    return [first[0], second[0], look_up(mark)["rate"]]


@app.function
async def pays_async(mark, fails):
    size = len(await fetch(mark))
    receipt = tidemill.step("pay", pay, mark, 1)
    if fails:
        raise ValueError("after the steps")
    return [size, receipt[0]]


@app.function
def pays_in_children(mark):
    calls = [pay_one.spawn(mark, amount) for amount in (3, 4)]
    paid = [*sorted(call.get() for call in calls), pay_one.remote(mark, 5)]
    if tidemill.request.attempt == 1:
        os._exit(3)
    return paid


@app.function
def pay_one(mark, amount):
    return tidemill.step("pay", pay, mark, amount)[0]


@app.function(retries=2)
def step_fails(mark):
    def once():
        note(mark)
        if tidemill.request.attempt == 1:
            raise ValueError("not recorded")
        return tidemill.request.attempt

    first = tidemill.step("once", once)
    if tidemill.request.attempt == 2:
        raise ValueError("after")
    return first


@app.function
def wrong_steps():
    def message(call):
        try:
            call()
        except (RuntimeError, TypeError, tidemill.Error) as error:
            return str(error)

    return [
        message(lambda: tidemill.step("w", lambda: state.counter("n").add(1))),
        message(lambda: tidemill.step("c", lambda: echo.remote(1))),
        message(lambda: tidemill.step("s", lambda: tidemill.step("t", int))),
        message(lambda: tidemill.step("x" * 256, int)),
        message(lambda: tidemill.step("v", lambda: (i for i in ()))),
        message(lambda: tidemill.step("b", lambda: bytes(9 << 20))),
        message(lambda: tidemill.step("ok", lambda: state.counter("n").get())),
    ]
