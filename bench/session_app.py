"""What `session.py` measures over HTTP: a function that reads four keys and writes two."""

from __future__ import annotations

import tidemill
from tidemill import state

app = tidemill.App("session")


@app.function
def four_and_two(number: int) -> int:
    """Four reads, two writes."""
    seen = [state.register(f"key/{(number * 7 + i) % 1000}").get() for i in range(4)]
    for i in range(2):
        state.register(f"key/{(number * 11 + i) % 1000}").set(number)
    return len(seen)
