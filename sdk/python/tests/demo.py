"""The app that the worker tests run in real worker processes."""

import asyncio
import logging
import os
import random
import subprocess
import sys
import threading
import time

import tidemill
from tidemill import state

try:
    import numpy
    import numpy.random
except ImportError:
    numpy = None

print("demo is imported")
app = tidemill.App("demo")
LOADED_IN = os.getpid()
log = logging.getLogger("demo.log")


class DemoError(Exception):
    def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code


class Awkward(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a}{b}")


@app.function
def echo(*args, **kwargs):
    return {"args": list(args), "kwargs": kwargs}


@app.function
def one(value):
    return value


@app.function
def describe(value):
    return [type(value).__name__, getattr(value, "readonly", None)]


@app.function
def add(a, b):
    return a + b


@app.function
def pids():
    return [os.getpid(), LOADED_IN, os.getpgrp()]


@app.function
def rand():
    return [random.random(), numpy.random.random() if numpy else None]


@app.function
def boom(kind):
    if kind == "value":
        raise ValueError("no good")
    if kind == "own":
        raise DemoError(7, "seven")
    if kind == "awkward":
        raise Awkward("a", "b")
    if kind == "exit":
        sys.exit(3)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "memory":
        return bytearray(1 << 60)
    if kind == "recursion":
        return boom("recursion")
    if kind == "result":
        return threading.Lock()
    raise RuntimeError(kind)


@app.function
def write_then_boom():
    state.counter("w").add(5)
    raise ValueError("after the write")


@app.function
def types():
    state.register("r").set({"a": [1, None]})
    state.multi("m").set(3)
    state.counter("c").add()
    state.counter("c").add(41)
    state.max("hi").put(3)
    state.max("hi").put(9.5)
    state.min("lo").put("b")
    state.min("lo").put("a")
    state.flag("f").raise_()
    state.set("s").add(1)
    state.set("s").add((1, 2))
    state.set("s").add("x")
    state.set("s").discard("x")
    record = state.map("rec")
    record.register("name").set("ada")
    record.counter("n").add(2)
    record.set("tags").add("t")
    record.flag("ok").raise_()
    record.max("hi").put(4)
    record.min("lo").put(1)
    record.multi("mv").set("z")
    record.register("gone").set(1)
    record.remove("gone")
    for i in range(5):
        state.log("l").append(i, keep=3)
    top = state.top("t", of=2)
    for i, name in enumerate(["a", "b", "c"]):
        top.put(i, name)
    return read_types.local()


@app.function
def read_types():
    record = state.map("rec")
    return {
        "r": state.register("r").get(),
        "none": state.register("nope").get("dflt"),
        "m": state.multi("m").get(),
        "c": state.counter("c").get(),
        "c0": state.counter("c0").get(),
        "hi": state.max("hi").get(),
        "lo": state.min("lo").get(),
        "hi0": state.max("hi0").get(),
        "f": state.flag("f").get(),
        "f0": state.flag("f0").get(),
        "s": state.set("s").get(),
        "has": [state.set("s").has((1, 2)), state.set("s").has("x")],
        "rec": record.get(),
        "n": record.counter("n").get(),
        "tag": record.set("tags").has("t"),
        "l": state.log("l").get(),
        "t": state.top("t", of=2).get(),
        "keys": list(state.keys()),
        "keys_r": list(state.keys("r")),
    }


@app.function
def repeat_reads(times):
    handle = state.counter("rr")
    seen = [handle.get() for _ in range(times)]
    handle.add()
    return [*seen, handle.get()]


@app.function
def wrong_type():
    state.register("wt").set(1)
    return state.counter("wt").get()


@app.function
def delete_all():
    state.delete("r")
    state.counter("c").delete()
    state.map("rec").counter("n").delete()
    state.register("exp").set(1)
    state.register("exp").expire(after=-1)
    return [state.register("r").get(), state.counter("c").get(), state.map("rec").get()]


@app.function
def many_writes(n):
    for i in range(n):
        state.counter(f"many/{i:05}").add(i)


@app.function
def list_keys(prefix):
    return list(state.keys(prefix))


@app.function
def put(key, value):
    state.register(key).set(value)


@app.function
def child(n):
    state.counter("kids").add(n)
    return state.counter("kids").get()


@app.function
def parent():
    state.counter("kids").add(100)
    before = state.counter("kids").get()
    inner = child.remote(1)
    return [before, inner, state.counter("kids").get()]


@app.function
def catch_child():
    try:
        boom.remote("own")
    except DemoError as error:
        return [type(error).__name__, error.code, type(error.__cause__).__name__]


@app.function
def pass_on():
    boom.remote("value")


@app.function
def spawner():
    calls = [child.spawn(n) for n in (1, 2, 3)]
    got = [call.get() for call in calls]
    again = calls[0].get()
    return [len(got), again == got[0], state.counter("kids").get()]


@app.function
def slow(seconds, value=None):
    time.sleep(seconds)
    return value


@app.function
def wait_briefly():
    call = slow.spawn(0.6, "late")
    try:
        call.get(timeout=0.05)
    except tidemill.Timeout:
        return ["timeout", call.get()]


@app.function
def mapper(n):
    return list(one.map(range(n), concurrency=3))


@app.function
def map_some():
    for value in one.map(iter(range(100)), concurrency=2):
        if value == 3:
            return value


@app.function
def queuer(x):
    tidemill.enqueue(child, x)
    return "queued"


@app.function
def flow_inside(x):
    return (double >> (one | double) >> add).remote(x)


@app.function
def double(x):
    return x * 2


@app.function
def mutate(items):
    items.append("mutated")
    return items


@app.function
def make_list(x):
    return [x]


@app.function
def info():
    r = tidemill.request
    return {
        "id": r.id, "attempt": r.attempt, "key": r.key, "trace": r.trace, "caller": r.caller,
        "deadline": r.deadline, "app": r.app,
    }  # fmt: skip


@app.function
def chatty():
    print("hello", "out")
    print("to err", file=sys.stderr)
    sys.stdout.write("par")
    sys.stdout.write("tial\nno end")
    sys.stdout.buffer.write(b"raw\n")
    log.warning("careful %s", 1)
    log.info("informed")
    print("odd \udc80 text")
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()


@app.function
def flood(n):
    for _ in range(n):
        print("x" * 1023)


@app.function
def spin():
    end = time.monotonic() + 20
    while time.monotonic() < end:
        pass
    return "not cancelled"


@app.function
def forker():
    pid = os.fork()
    if pid == 0:
        return "child"  # must not reach the node
    os.waitpid(pid, 0)
    return "parent"


@app.function
def leave_child():
    subprocess.Popen(["sleep", "30"])


@app.function
def crash():
    os.kill(os.getpid(), 9)


@app.function
def threads_read():
    state.counter("thr").add(3)
    out = []

    def work(i):
        out.append((i, state.register(f"k{i}").get("none"), one.remote(i)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    mine = one.remote("main")
    for thread in threads:
        thread.join()
    return [mine, sorted(out)]


@app.function
def numbers(n):
    yield from range(n)
    if n == 3:
        raise ValueError("at the end")


@app.function
async def anumbers(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i * 10


@app.function
def uses_generator():
    return [list(numbers.remote(2)), list(numbers.remote_gen(4)), list(numbers.remote(0))]


@app.function
async def agather(n):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    results = await asyncio.gather(*(slow.remote.aio(0.2, i) for i in range(n)))
    ticker.cancel()
    return [results, ticks > 3]


@app.function
async def astate():
    state.counter("as").add(2)
    a = await state.counter("as").get.aio()
    b = state.counter("as").get()
    c = await child.remote.aio(1)
    return [a, b, c]


@app.function
async def asleep(seconds):
    await asyncio.sleep(seconds)


@app.function
async def amap(n):
    return [x async for x in one.map.aio(range(n), concurrency=2)]


@app.function
async def aspawn():
    call = child.spawn(4)
    return await call.get.aio()


@app.function
async def aspawn_twice():
    call = slow.spawn(0.3, "late")
    try:
        await call.get.aio(timeout=0.05)
    except tidemill.Timeout:
        both = await asyncio.gather(call.get.aio(), call.get.aio())
        return [*both, await call.get.aio(), call.get()]


@app.function
async def aleak():
    asyncio.create_task(asyncio.sleep(30))  # noqa: RUF006 - left behind on purpose
    return "left"


@app.function
async def agen_use():
    return [x async for x in numbers.remote_gen.aio(2)]


@app.function
async def aboom():
    await boom.remote.aio("own")


@app.cls(memory="1GB")
class Model:
    entered = 0

    @tidemill.enter
    def warm(self):
        self.entered += 1
        self.pid = os.getpid()
        self.calls = 0

    def predict(self, x):
        self.calls += 1
        return [x, self.entered, self.calls, self.pid == os.getpid()]

    async def apredict(self, x):
        await asyncio.sleep(0)
        return [x, self.entered]

    def _hidden(self):
        return None


@app.function
def via_class(x):
    return [Model().predict.remote(x), Model.predict.remote(x)]


def bump(path, value):
    with open(path, "a") as file:
        file.write("x")
    return value


@tidemill.step
def bump_two(path):
    return bump(path, 2)


@tidemill.step("three")
async def bump_three(path):
    await asyncio.sleep(0)
    return bump(path, 3)


@app.function
async def steps(path):
    one = tidemill.step("one", bump, path, value=(1, "a"))
    again = tidemill.step("one", bump, path, 1.5)
    return [one, again, bump_two(path), await bump_three(path), bump_two.__name__]
