"""A small Twitter: who follows whom, walls of posts and replies, timelines.

State, with users by number:

    following/<user>   set       whom the user follows
    followers/<user>   set       who follows the user
    wall/<user>        log       the user's newest posts, each a `Post`
    posts              counter   posts and replies of all
    replies/<post>     counter   replies to one post

Posting writes nothing but the author's own wall; a timeline is put together when it is read, from
the walls of all whom its reader follows.
"""

from __future__ import annotations

import time
from typing import TypedDict

import tidemill
from tidemill import state

# So many posts of a wall are kept, and so many are shown in a timeline.
WALL = 100
SHOWN = 50

app = tidemill.App("retwis")


class Parent(TypedDict):
    """What a reply answers."""

    id: str
    user: int
    time: float


class Post(TypedDict):
    """A post, or a reply to one."""

    id: str
    user: int
    time: float
    text: str
    parent: Parent | None


@app.function
def follow(user: int, other: int) -> None:
    """From now on the user's timeline shows the other's posts."""
    state.set(f"following/{user}").add(other)
    state.set(f"followers/{other}").add(user)


@app.function
def follow_all(edges: list[tuple[int, list[int]]]) -> None:
    """The same for many: whom each of these users follows."""
    for user, others in edges:
        for other in others:
            follow.local(user, other)


@app.function
def post(user: int, text: str) -> Post:
    """A post on the user's wall."""
    return _put(user, text, None)


@app.function
def reply(user: int, to_user: int, to: str, text: str) -> Post:
    """A post that answers another one, which must be on its author's wall."""
    found = [each for each in state.log(f"wall/{to_user}").get() if each["id"] == to]
    if not found:
        raise LookupError(f"user {to_user} has no post {to} on the wall")
    parent: Parent = {"id": to, "user": to_user, "time": found[0]["time"]}
    state.counter(f"replies/{to}").add()
    return _put(user, text, parent)


def _put(user: int, text: str, parent: Parent | None) -> Post:
    made: Post = {
        "id": tidemill.request.id,
        "user": user,
        "time": time.time(),
        "text": text,
        "parent": parent,
    }
    state.log(f"wall/{user}").append(made, keep=WALL)
    state.counter("posts").add()
    return made


@app.function
def timeline(user: int) -> list[Post]:
    """The newest posts of the user and of all whom the user follows, the newest first."""
    posts: list[Post] = []
    for other in (user, *sorted(state.set(f"following/{user}").get())):
        posts += state.log(f"wall/{other}").get()
    posts.sort(key=lambda each: (each["time"], each["id"]), reverse=True)
    return posts[:SHOWN]
