#!/usr/bin/env python3
"""The same totals as the app, by a plain single-process program: what the app is checked against.

python examples/reviews/plain.py [--limit N]
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypedDict

import feed
import text


class Totals(TypedDict):
    """What all reviews come to."""

    words: dict[str, int]
    sources: dict[str, dict[str, int]]
    watermarks: dict[str, int]
    most_negative: list[tuple[int, str]]
    """(how negative in thousandths, name), the worst first."""
    reviews: dict[str, dict[str, Any]]


def totals(reviews: Iterable[feed.Review], lexicon: text.Lexicon, entries: list[str]) -> Totals:
    """The totals of these reviews."""
    blocked = text.index_blocked(entries)
    words: Counter[str] = Counter()
    sources: dict[str, Counter[str]] = {}
    watermarks: dict[str, int] = {}
    records: dict[str, dict[str, Any]] = {}
    for review in reviews:
        cleaned = text.clean(review.text)
        masked, hits = text.mask(cleaned, blocked)
        found = text.words(cleaned)
        score = text.score(found, lexicon)
        words.update(found)
        counts = text.source_counts(review.rating, score, len(found), hits)
        # Not update() of an empty counter: a sum that is zero must stay.
        total = sources.setdefault(review.source, Counter())
        for name, value in counts.items():
            total[name] += value
        watermarks[review.source] = max(watermarks.get(review.source, 0), text.number(review.id))
        records[review.name] = {
            "text": masked,
            "rating": review.rating,
            "score": score,
            "words": len(found),
            "masked": hits,
        }
    worst = heapq.nlargest(
        text.MOST_NEGATIVE, ((-record["score"], name) for name, record in records.items())
    )
    return Totals(
        words=dict(words),
        sources={source: dict(total) for source, total in sources.items()},
        watermarks=watermarks,
        most_negative=worst,
        reviews=records,
    )


def correlation(source: dict[str, int]) -> float:
    """Pearson's correlation of score and rating, from the sums that a source keeps."""
    n = source["texts"]
    joint = n * source["rating_score"] - source["rating"] * source["score"]
    ratings = n * source["rating_squared"] - source["rating"] ** 2
    scores = n * source["score_squared"] - source["score"] ** 2
    return joint / (ratings * scores) ** 0.5 if ratings > 0 and scores > 0 else 0.0


def main() -> None:
    """Prints the totals as JSON, without the single reviews."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--limit", type=int, help="reviews of each source (default: all)")
    options = parser.parse_args()
    result = totals(feed.sample(options.limit), feed.lexicon(), feed.blocked())
    shown = {name: value for name, value in result.items() if name != "reviews"}
    print(json.dumps(shown, indent=1, sort_keys=True, ensure_ascii=False))


if __name__ == "__main__":
    main()
