"""What `anomalies.py` measures: two functions that write and read the same two keys.

`first` looks at both keys, writes one and calls `second`, which writes the other and looks again.
"""

from __future__ import annotations

from typing import Any

import tidemill
from tidemill import state

app = tidemill.App("anomalies")


def both(pair: str) -> list[Any]:
    """What the two keys hold."""
    return [state.register(f"{pair}/a").get(), state.register(f"{pair}/b").get()]


@app.function
def first(pair: str, tag: str) -> list[list[Any]]:
    """The request: what was seen before its first write, and after its last."""
    before = both(pair)
    state.register(f"{pair}/a").set(tag)
    return [before, second.remote(pair, tag)]


@app.function
def second(pair: str, tag: str) -> list[Any]:
    """The other half, on another worker."""
    state.register(f"{pair}/b").set(tag)
    return both(pair)
