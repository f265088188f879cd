"""A few hundred texts of each source through a node come to the plain program's totals."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import feed
import plain
import pytest
import run
import tidemill
from node import Node, NodeError, find_program, make_fresh

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300
CLIENTS = 8


@pytest.fixture(scope="module", params=["python", "wasm"])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tidemill.Client]:
    """A client of a fresh node with the app, its hot steps in either language."""
    node = Node(find_program(), tmp_path_factory.mktemp("reviews") / "data")
    try:
        client = tidemill.connect(node.url, token=node.token)
        run.deploy(client, wasm=request.param == "wasm")
        run.prepare(client)
        yield client
    finally:
        node.stop()


def test_the_totals_are_those_of_the_plain_program(client: tidemill.Client) -> None:
    reviews = list(feed.sample(LIMIT))
    assert {review.source for review in reviews} == set(feed.SOURCES)
    assert len(reviews) == LIMIT * len(feed.SOURCES)
    fed = run.feed_all(client, reviews, CLIENTS)
    assert fed.failure is None
    assert len(fed.latencies_ms) == len(reviews)
    expected = plain.totals(reviews, feed.lexicon(), feed.blocked())
    assert len(expected["words"]) > 1000
    assert sum(source["masked"] for source in expected["sources"].values()) > 0
    found = list(run.differences(expected, run.read(client, list(feed.SOURCES))))
    assert found == []


def test_a_difference_is_seen() -> None:
    expected = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert list(run.differences(expected, {"a": {"b": 1, "c": 2}, "d": [1]})) == []
    assert list(run.differences(expected, {"a": {"b": 3, "e": 4}, "d": []})) == [
        "/a/b: 3, expected 1",
        "/a/c: missing, expected 2",
        "/a/e: 4, expected nothing",
        "/d: [], expected [1]",
    ]


def test_data_in_use_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    with (tmp_path / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        with pytest.raises(NodeError, match="4711"):
            make_fresh(tmp_path)
    make_fresh(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_a_nodes_data_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(NodeError):
        make_fresh(tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "dear"
    (tmp_path / "token").write_text("t")
    make_fresh(tmp_path)
    assert list(tmp_path.iterdir()) == []
