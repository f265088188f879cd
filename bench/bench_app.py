"""The functions that the benchmarks call. None of them does more than its name says."""

from __future__ import annotations

import time
from typing import Any

import tidemill
from tidemill import state

app = tidemill.App("bench")
# Workers of this app end as soon as they idle, so that each call after a pause starts one.
fleeting = tidemill.App("fleeting")

READS = 1000


@app.function
def echo(value: Any) -> Any:
    """Its argument."""
    return value


@app.function
def echo_again(value: Any) -> Any:
    """Its argument."""
    return value


app.flow("twice", echo >> echo_again)


@app.function
def fill(value: str) -> int:
    """Writes the keys that `read_all` reads."""
    for number in range(READS):
        state.register(f"key/{number}").set(value)
    return READS


@app.function
def read_all() -> float:
    """Seconds that reading every key took. Each is read once, so the SDK has none at hand."""
    registers = [state.register(f"key/{number}") for number in range(READS)]
    begun = time.perf_counter()
    for register in registers:
        register.get()
    return time.perf_counter() - begun


@app.function
def keep(value: bytes) -> None:
    """Writes what `kept` reads."""
    state.register("kept").set(value)


@app.function
def kept() -> Any:
    """Reads one key."""
    return state.register("kept").get()


@app.function
def count() -> None:
    """Writes one key."""
    state.counter("count").add(1)


@app.function
def first(array: Any) -> float:
    """The first element of an array."""
    return float(array[0])


@fleeting.function(idle_timeout=0.02)
def touch() -> int:
    """Nothing."""
    return 1
