"""Reviews: each text is cleaned, then masked, counted and scored side by side, then filed.

    clean >> (mask | count | score) >> combine

is one flow, and one request of it is one transaction: the counters, the records and the list
of the most negative texts move together or not at all.

State:

    word/<w>               counter    how often a word was seen
    source/<name>          map        counters: texts, words, masked, sums of ratings and scores
    watermark/<name>       max        the highest review number seen
    review/<source>/<id>   map        registers: the masked text, its rating and score, counts
    most-negative          top        the ten most negative texts
    lexicon, blocked       register   set once by the driver, with <name>/digest
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

import text
import tidemill
from tidemill import state

T = TypeVar("T")

app = tidemill.App("reviews")


class Review(TypedDict):
    """A text on its way through the flow."""

    source: str
    id: str
    rating: int
    text: str


class Masked(Review):
    """The same with the blocked words masked."""

    masked: int


# What a worker has prepared already, with the digest that it was prepared from.
_prepared: dict[str, tuple[str, Any]] = {}


def resource(name: str, prepare: Callable[[Any], T]) -> T:
    """A large value from state, read and prepared once in each worker.

    A request only reads its digest, so a new value is seen by the next request.
    """
    digest = state.register(f"{name}/digest").get()
    if digest is None:
        raise LookupError(f"the state has no {name!r}; run.py sets it before it feeds texts")
    held = _prepared.get(name)
    if held is None or held[0] != digest:
        held = _prepared[name] = (digest, prepare(state.register(name).get()))
    return held[1]


@app.function
def clean(source: str, id: str, rating: int, body: str) -> Review:
    """One form for each character, lower case, single spaces."""
    return {"source": source, "id": id, "rating": rating, "text": text.clean(body)}


def step(fn: Callable[..., Any]) -> tidemill.Function[..., Any, Any]:
    """A hot step: the function, or with REVIEWS_STEPS=wasm the component of its name.

    `steps.wasm` is sdk/rust/reviews, and gives the same results.
    """
    if os.environ.get("REVIEWS_STEPS") == "wasm":
        return app.component(fn.__name__, "steps.wasm", doc=fn.__doc__ or "")
    return app.function(fn)


@step
def mask(review: Review) -> Masked:
    """Masks the blocked words."""
    masked, hits = text.mask(review["text"], resource("blocked", text.index_blocked))
    return {**review, "text": masked, "masked": hits}


@step
def count(review: Review) -> int:
    """Counts each word, and returns how many there were."""
    words = text.words(review["text"])
    for word, n in Counter(words).items():
        state.counter(f"word/{word}").add(n)
    return len(words)


@app.function
def score(review: Review) -> int:
    """The text's score against the lexicon, in thousandths."""
    return text.score(text.words(review["text"]), resource("lexicon", dict))


@app.function
def combine(review: Masked, words: int, score: int) -> dict[str, int]:
    """Files the review, and adds it to its source's totals."""
    source, name = review["source"], f"{review['source']}/{review['id']}"
    totals = state.map(f"source/{source}")
    for field, n in text.source_counts(review["rating"], score, words, review["masked"]).items():
        totals.counter(field).add(n)
    state.max(f"watermark/{source}").put(text.number(review["id"]))
    record = state.map(f"review/{name}")
    record.register("text").set(review["text"])
    record.register("rating").set(review["rating"])
    record.register("masked").set(review["masked"])
    record.register("words").set(words)
    record.register("score").set(score)
    state.top("most-negative", of=text.MOST_NEGATIVE).put(-score, name)
    return {"words": words, "masked": review["masked"], "score": score}


review = app.flow("review", clean >> (mask | count | score) >> combine)


@app.function
def word_counts() -> dict[str, int]:
    """Every word with its count, all at one moment: reading beside the data, in one call."""
    return {key.removeprefix("word/"): state.counter(key).get() for key in state.keys("word/")}


@app.function
def records() -> dict[str, dict[str, Any]]:
    """Every review by its name, all at one moment."""
    return {key.removeprefix("review/"): state.map(key).get() for key in state.keys("review/")}
