"""The clone on a small part of the graph, its checker, and the graph's file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import checker
import drive
import graph
import pytest
import tidemill
from retwis import SHOWN, Post

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "examples" / "reviews"))

from node import Node, find_program  # noqa: E402

USERS = 40
REQUESTS = 150


def made(id: str, user: int, at: float, to: Post | None = None) -> Post:
    """A post of the test."""
    parent: Any = None
    if to is not None:
        parent = {"id": to["id"], "user": to["user"], "time": to["time"]}
    return {"id": id, "user": user, "time": at, "text": "", "parent": parent}


def test_a_reply_alone_is_found() -> None:
    question = made("q", 1, 1.0)
    answer = made("a", 2, 2.0, question)
    assert checker.orphans([answer, question], {1, 2}) == []
    assert checker.orphans([answer], {1, 2}) == [answer]
    assert checker.orphans([answer], {2}) == [], "the reader does not follow who asked"
    later = [made(str(n), 3, 3.0 + n) for n in range(SHOWN - 1)][::-1]
    assert checker.orphans([*later, answer], {1, 2, 3}) == [], "it is beyond the end"
    assert checker.orphans([*later[1:], answer], {1, 2, 3}) == [answer]


def test_an_own_post_that_is_not_there_is_found() -> None:
    mine, other = made("m", 1, 5.0), made("o", 2, 6.0)
    assert not checker.is_missing([other, mine], mine)
    assert checker.is_missing([other], mine)
    assert not checker.is_missing([other] * SHOWN, mine), "there are enough newer ones"


def test_the_graph_is_whole() -> None:
    edges = graph.whole()
    assert (len(edges), sum(map(len, edges))) == (39_796, 301_498)
    followers = [0] * len(edges)
    for targets in edges:
        assert targets == sorted(targets)
        for target in targets:
            followers[target] += 1
    assert (max(followers), max(map(len, edges))) == (965, 1_507)
    some = graph.neighbourhood(edges, USERS)
    assert len(some) == USERS
    assert all(other in some for others in some.values() for other in others)
    with pytest.raises(ValueError, match="node 1"):
        graph.parse(b"\x00\x00\x02\x00\x00\x00")


def test_no_causal_timeline_shows_a_reply_alone(tmp_path: Path) -> None:
    people = graph.neighbourhood(graph.whole(), USERS)
    node = Node(find_program(), tmp_path / "data")
    try:
        client = tidemill.connect(node.url, token=node.token)
        client.deploy(drive.APP)
        run = drive.drive(client, "causal", people, REQUESTS, 4)
        assert run.failures == [] and run.timelines > 0
        assert (run.orphans, run.missing) == (0, 0)
        assert run.written == run.counted > 0
        again = drive.drive(client, "eventual", people, REQUESTS, 4)
        assert again.failures == []
        assert run.written + again.written == again.counted, "no addition is lost"
        report = drive.show([run, again])
        assert "replies without their parent" in report and "`timeline` p50 / p99" in report
    finally:
        node.stop()
