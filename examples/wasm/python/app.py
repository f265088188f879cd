"""Four functions in one component: deploy it under each of their names.

`wit_world` is what componentize-py makes of the platform's WIT, and `text` is the reviews
example's own module, unchanged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import text
import wit_world
from componentize_py_types import Err
from wit_world.imports import counter, register, request
from wit_world.imports.types import Error, Payload

JSON = "application/json"


def echo(value: Any) -> Any:
    """Gives its input back."""
    return value


def add(key: str) -> int:
    """Adds 1 to a counter, and gives the new sum."""
    # What does not fit the type of an import traps: check what comes from outside.
    if not isinstance(key, str):
        raise Err(Error("bad-value", "give the counter's key, a text"))
    counter.add(key, 1)
    return counter.get(key)


def mask(review: dict[str, Any]) -> dict[str, Any]:
    """Masks the blocked words of a review."""
    masked, hits = text.mask(review["text"], blocked())
    return {**review, "text": masked, "masked": hits}


def count(review: dict[str, Any]) -> int:
    """Counts each word of a review, and gives how many there were."""
    words = text.words(review["text"])
    for word, n in Counter(words).items():
        counter.add(f"word/{word}", n)
    return len(words)


# Prepared once in each instance, by the digest that it was prepared from.
_prepared: dict[bytes, text.Blocked] = {}


def blocked() -> text.Blocked:
    """The index of blocked words; read from state when the digest is a new one."""
    digest = held("blocked/digest").body
    if digest not in _prepared:
        _prepared.clear()
        _prepared[digest] = text.index_blocked(json.loads(held("blocked").body))
    return _prepared[digest]


def held(key: str) -> Payload:
    """What a register holds."""
    payload = register.get(key)
    if payload is None:
        raise Err(Error("not-ready", f"the state has no {key!r}"))
    return payload


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "echo": echo,
    "add": add,
    "mask": mask,
    "count": count,
}


class WitWorld(wit_world.WitWorld):
    """The world's exports."""

    def handle(self, input: Payload) -> Payload:
        """Runs the function that has the name of the call."""
        name = request.current().function
        function = FUNCTIONS.get(name)
        if function is None:
            raise Err(Error("unknown-function", f"{name} is none of {', '.join(FUNCTIONS)}"))
        # Any exception but Err is a trap, which says nothing.
        try:
            return Payload(JSON, json.dumps(function(json.loads(input.body))).encode())
        except Err:
            raise
        except Exception as error:
            raise Err(Error("function-failed", f"{type(error).__name__}: {error}")) from error
