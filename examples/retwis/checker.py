"""What a timeline must never show. Pure.

Of two posts that a reader may see, a reply and what it answers, the second was there before the
first was written. A timeline that shows the reply alone was put together from two states.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from retwis import SHOWN, Post


def orphans(shown: Sequence[Post], visible: Set[int]) -> list[Post]:
    """Replies without their parents. `visible` are the users whose posts the timeline shows."""
    ids = {post["id"] for post in shown}
    # What is older than the last one shown may be left out where the timeline is full.
    oldest = shown[-1]["time"] if len(shown) >= SHOWN else 0.0
    found = []
    for post in shown:
        parent = post["parent"]
        if parent is None or parent["user"] not in visible or parent["id"] in ids:
            continue
        if parent["time"] > oldest:
            found.append(post)
    return found


def is_missing(shown: Sequence[Post], own: Post) -> bool:
    """Whether a timeline lacks a post that its reader had written before."""
    if any(post["id"] == own["id"] for post in shown):
        return False
    return len(shown) < SHOWN or own["time"] > shown[-1]["time"]
