#!/usr/bin/env python3
"""Drives the clone on a part of the real graph, and counts what no timeline should show.

    python examples/retwis/drive.py --bin target/release/tidemill [--level causal|eventual|both]
        [--users 500] [--requests 10000] [--clients 8] [--json FILE]

Each level runs on a node of its own. The report goes to stdout, progress to stderr. Exits 1 when
a `causal` timeline shows a reply without its parent or lacks its reader's own post.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tidemill

sys.path.append(str(Path(__file__).resolve().parents[1] / "reviews"))

import checker
import graph
from node import Node, NodeError

APP = Path(__file__).with_name("retwis.py")
LEVELS = ("causal", "eventual")
# What a client does next, of 100: a timeline, a post with a reply to it, a post, a follow.
MIX = {"timeline": 65, "conversation": 20, "post": 10, "follow": 5}


@dataclass
class Run:
    """What one level gave."""

    level: str
    seconds: float = 0.0
    latencies_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    timelines: int = 0
    orphans: int = 0
    missing: int = 0
    written: int = 0
    counted: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(map(len, self.latencies_ms.values()))

    def report(self) -> dict[str, Any]:
        """The same as JSON."""
        latencies = {
            name: {
                "count": len(each),
                "p50_ms": quantile(each, 0.5),
                "p99_ms": quantile(each, 0.99),
            }
            for name, each in sorted(self.latencies_ms.items())
        }
        return {
            "level": self.level, "requests": self.requests, "seconds": self.seconds,
            "per_second": self.requests / max(self.seconds, 1e-9), "latencies": latencies,
            "timelines": self.timelines, "replies_without_parent": self.orphans,
            "own_posts_missing": self.missing, "posts": self.written,
            "posts_counted": self.counted, "failures": self.failures,
        }  # fmt: skip


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that `part` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


class Clients:
    """Threads that behave like users, each a session of its own."""

    def __init__(self, client: tidemill.Client, people: dict[int, list[int]], run: Run) -> None:
        self._client = client
        self._run = run
        self._users = list(people)
        self._following = {user: {user, *others} for user, others in people.items()}
        self._followers: dict[int, list[int]] = {user: [] for user in people}
        for user, others in people.items():
            for other in others:
                self._followers[other].append(user)
        # Who follows many reads many walls; who is followed by many is answered.
        self._readers = [1 + len(people[user]) for user in self._users]
        self._authors = [1 + len(self._followers[user]) for user in self._users]
        self._left = 0
        self._lock = threading.Lock()

    def run(self, requests: int, clients: int) -> None:
        """So many requests from so many threads."""
        self._left = requests
        threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True)
            for number in range(clients)
        ]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._run.seconds = time.monotonic() - begun

    def _takes(self, count: int) -> bool:
        with self._lock:
            self._left -= count
            return self._left >= 0

    def _work(self, number: int) -> None:
        chance = random.Random(number)
        session = self._client.session(level=self._run.level)
        names, weights = list(MIX), list(MIX.values())
        acts: dict[str, Callable[[tidemill.Client, random.Random], None]] = {
            "timeline": self._timeline,
            "conversation": self._conversation,
            "post": self._post,
            "follow": self._follow,
        }
        try:
            while self._takes(1):
                acts[chance.choices(names, weights)[0]](session, chance)
        except Exception as error:
            with self._lock:
                self._left = 0
                self._run.failures.append(f"{type(error).__name__}: {error}")

    def _call(self, session: tidemill.Client, function: str, *args: Any) -> Any:
        begun = time.perf_counter()
        result = session.call("retwis", function, *args)
        elapsed_ms = (time.perf_counter() - begun) * 1000
        with self._lock:
            self._run.latencies_ms[function].append(elapsed_ms)
        return result

    def _look(self, session: tidemill.Client, user: int) -> list[Any]:
        shown: list[Any] = self._call(session, "timeline", user)
        visible = self._following[user]
        with self._lock:
            self._run.timelines += 1
            self._run.orphans += len(checker.orphans(shown, visible))
        return shown

    def _timeline(self, session: tidemill.Client, chance: random.Random) -> None:
        self._look(session, chance.choices(self._users, self._readers)[0])

    def _post(self, session: tidemill.Client, chance: random.Random) -> None:
        user = chance.choices(self._users, self._authors)[0]
        self._wrote(self._call(session, "post", user, "what is new"))

    def _conversation(self, session: tidemill.Client, chance: random.Random) -> None:
        """A post, a follower's reply to it, and a look at what the follower sees then."""
        user = chance.choices(self._users, self._authors)[0]
        posted = self._wrote(self._call(session, "post", user, "who knows this?"))
        other = chance.choice(self._followers[user] or [user])
        if not self._takes(2):
            return
        answered = self._wrote(self._call(session, "reply", other, user, posted["id"], "I do"))
        shown = self._look(session, other)
        with self._lock:
            self._run.missing += checker.is_missing(shown, answered)

    def _follow(self, session: tidemill.Client, chance: random.Random) -> None:
        """Whom one follows already: the graph stays as it is, so that timelines can be judged."""
        user = chance.choice(self._users)
        other = chance.choice(sorted(self._following[user]))
        self._call(session, "follow", user, other)

    def _wrote(self, post: Any) -> Any:
        with self._lock:
            self._run.written += 1
        return post


def drive(
    client: tidemill.Client, level: str, people: dict[int, list[int]], requests: int, clients: int
) -> Run:
    """Loads the graph into a node with the app, and runs one level on it."""
    run = Run(level)
    edges = list(people.items())
    for at in range(0, len(edges), 50):
        client.call("retwis", "follow_all", edges[at : at + 50])
    Clients(client, people, run).run(requests, clients)
    run.counted = client.state("retwis").counter("posts").get()
    return run


def on_a_node(program: Path, level: str, people: dict[int, list[int]], options: Any) -> Run:
    """The same with a fresh node."""
    with tempfile.TemporaryDirectory(prefix="tidemill-retwis-") as name:
        node = Node(program, Path(name) / "data")
        try:
            with tidemill.connect(node.url, token=node.token) as client:
                client.deploy(APP)
                return drive(client, level, people, options.requests, options.clients)
        finally:
            node.stop()


def show(runs: Sequence[Run]) -> str:
    """The report, in Markdown."""
    heads = ["", *(run.level for run in runs)]
    rows: list[list[str]] = [
        ["requests", *(f"{run.requests:,}" for run in runs)],
        ["requests a second", *(f"{run.requests / max(run.seconds, 1e-9):,.0f}" for run in runs)],
    ]
    for name in sorted({name for run in runs for name in run.latencies_ms}):
        each = [run.latencies_ms[name] for run in runs]
        values = (f"{quantile(ms, 0.5):.1f} / {quantile(ms, 0.99):.1f} ms" for ms in each)
        rows.append([f"`{name}` p50 / p99", *values])
    rows += [
        ["timelines", *(f"{run.timelines:,}" for run in runs)],
        ["replies without their parent", *(f"**{run.orphans:,}**" for run in runs)],
        ["own posts missing", *(f"**{run.missing:,}**" for run in runs)],
        ["posts written / counted", *(f"{run.written:,} / {run.counted:,}" for run in runs)],
    ]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, required=True, help="the tidemill program")
    parser.add_argument("--level", choices=(*LEVELS, "both"), default="both")
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    people = graph.neighbourhood(graph.whole(), options.users)
    edges = sum(map(len, people.values()))
    print(f"{len(people)} users, {edges} edges, {options.clients} clients", file=sys.stderr)
    runs = []
    for level in LEVELS if options.level == "both" else (options.level,):
        print(f"{level}: {options.requests} requests", file=sys.stderr, flush=True)
        try:
            runs.append(on_a_node(options.bin, level, people, options))
        except NodeError as error:
            print(error, file=sys.stderr)
            return 1
    print(show(runs))
    if options.json is not None:
        options.json.write_text(json.dumps([run.report() for run in runs], indent=1) + "\n")
    failures = [failure for run in runs for failure in run.failures]
    for failure in failures:
        print(f"a client failed: {failure}", file=sys.stderr)
    broken = any(
        run.orphans or run.missing or run.written != run.counted
        for run in runs
        if run.level == "causal"
    )
    return 1 if broken or failures else 0


if __name__ == "__main__":
    sys.exit(main())
