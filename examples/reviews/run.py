#!/usr/bin/env python3
"""Runs the reviews example: starts a node, deploys the app, feeds it, shows and checks the results.

    python examples/reviews/run.py --bin target/release/tidemill [--limit N] [--wasm] [--keep]

Results go to stdout, progress to stderr. Exits 1 when a total differs from plain.py's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import feed
import plain
import tidemill
from node import Node, NodeError, make_fresh

ROOT = Path(__file__).resolve().parents[2]
APP = Path(__file__).with_name("app.py")


class Progress:
    """A bar on a terminal; elsewhere a line every few seconds."""

    LINE_S = 3.0
    BAR_S = 0.1
    WIDTH = 32

    def __init__(self, total: int) -> None:
        self.total = total
        self.begun = time.monotonic()
        self.tty = sys.stderr.isatty()
        self.shown = self.begun

    def show(self, done: int, last: bool = False) -> None:
        """Shows how far it is, unless it was shown a moment ago."""
        now = time.monotonic()
        if not last and now - self.shown < (self.BAR_S if self.tty else self.LINE_S):
            return
        self.shown = now
        rate = done / max(now - self.begun, 1e-9)
        part = done / max(self.total, 1)
        line = f"{part:4.0%}  {done:,} of {self.total:,} texts, {rate:,.0f}/s"
        if self.tty:
            full = int(part * self.WIDTH)
            bar = "#" * full + "." * (self.WIDTH - full)
            print(f"\r[{bar}] {line} ", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


@dataclass
class Fed:
    """How the feeding went."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    failure: BaseException | None = None

    def percentile(self, part: float) -> float:
        """A latency in milliseconds: the smallest that `part` of the requests did not exceed."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def deploy(client: tidemill.Client, *, wasm: bool) -> None:
    """Deploys the app, its hot steps in Python or in WebAssembly."""
    os.environ["REVIEWS_STEPS"] = "wasm" if wasm else "python"
    client.deploy(APP)


def feed_all(client: tidemill.Client, reviews: list[feed.Review], clients: int) -> Fed:
    """Sends each review as one request, from so many threads at the same time."""
    fed = Fed()
    progress = Progress(len(reviews))
    waiting: Iterator[feed.Review] = iter(reviews)
    lock = threading.Lock()

    def work() -> None:
        while fed.failure is None:
            with lock:
                review = next(waiting, None)
            if review is None:
                return
            begun = time.perf_counter()
            try:
                client.call("reviews", "review", *review)
            except BaseException as error:
                fed.failure = error
                return
            fed.latencies_ms.append((time.perf_counter() - begun) * 1000)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(Progress.BAR_S) if threads[0].is_alive() else time.sleep(Progress.BAR_S)
        progress.show(len(fed.latencies_ms))
    fed.seconds = time.monotonic() - begun
    progress.show(len(fed.latencies_ms), last=True)
    return fed


def prepare(client: tidemill.Client) -> None:
    """Puts what the functions look things up in into the app's state."""
    space = client.state("reviews")
    for name, value in (("lexicon", feed.lexicon()), ("blocked", feed.blocked())):
        body = json.dumps(value, sort_keys=True).encode()
        space.register(name).set(value)
        # After the value: whoever sees the digest sees what it is of.
        space.register(f"{name}/digest").set(hashlib.sha256(body).hexdigest())


def read(client: tidemill.Client, sources: list[str]) -> plain.Totals:
    """The totals as the node has them: small ones over HTTP, large ones by a function there."""
    space = client.state("reviews")
    return plain.Totals(
        words=client.call("reviews", "word_counts"),
        sources={source: space.map(f"source/{source}").get() for source in sources},
        watermarks={source: space.max(f"watermark/{source}").get() for source in sources},
        most_negative=[(int(score), name) for score, name in space.top("most-negative").get()],
        reviews=client.call("reviews", "records"),
    )


def differences(expected: Any, actual: Any, path: str = "") -> Iterator[str]:
    """Where two totals differ, one line each."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for name in sorted(expected.keys() | actual.keys()):
            here = f"{path}/{name}"
            if name not in actual:
                yield f"{here}: missing, expected {expected[name]!r}"
            elif name not in expected:
                yield f"{here}: {actual[name]!r}, expected nothing"
            else:
                yield from differences(expected[name], actual[name], here)
    elif expected != actual:
        yield f"{path}: {actual!r}, expected {expected!r}"


def show(totals: plain.Totals) -> None:
    """Prints the results."""
    common = sorted(totals["words"].items(), key=lambda item: (-item[1], item[0]))[:12]
    print(f"\nMost used of {len(totals['words']):,} words")
    print("  " + ", ".join(f"{word} {n:,}" for word, n in common))
    print("\nSources: mean score beside the mean human rating, and how the two correlate")
    columns = ("texts", "words", "masked", "score", "rating", "correlation", "highest number")
    print(
        f"  {'':6}"
        + "".join(f"{column:>16}" if " " in column else f"{column:>12}" for column in columns)
    )
    for source, sums in totals["sources"].items():
        texts = sums["texts"]
        print(
            f"  {source:6}{texts:12,}{sums['words']:12,}{sums['masked']:12,}"
            f"{sums['score'] / texts / 1000:+12.2f}{sums['rating'] / texts / 1000:+12.2f}"
            f"{plain.correlation(sums):+12.2f}{totals['watermarks'][source]:16,}"
        )
    print("\nMost negative")
    for badness, name in totals["most_negative"]:
        body = totals["reviews"][name]["text"]
        print(f"  {-badness / 1000:+6.1f}  {name:12}  {body[:72]}{'…' if len(body) > 72 else ''}")


def show_where_next(node: Node, program: Path, kept: bool) -> None:
    """What to look at after this."""
    print("\nWhere to look next")
    if kept:
        token = f"{node.data}/token"
        print(f"  the node is at {node.url}, process {node.process.pid}; its token is in {token}")
        print(f"  {program} --data {node.data} kv get reviews word/the")
        print(f"  {program} --data {node.data} request ls")
        print(f'  curl -H "Authorization: Bearer $(cat {token})" {node.url}/v1/requests?limit=5')
        print(f"  kill {node.process.pid}   # stops it; the state stays in {node.data}")
    else:
        print(f"  {program} up --data {node.data}   # a node with this state again")
        print("  KEEP=1 scripts/run   # leaves the node running")
    print(f"  {APP.relative_to(ROOT)}   the app; its README says what to change first")
    print(f"  {node.log}   what the node said")


def drive(node: Node, options: argparse.Namespace) -> int:
    """Deploys, feeds, reads and compares."""
    client = tidemill.connect(node.url, token=node.token)
    deploy(client, wasm=options.wasm)
    prepare(client)
    reviews = list(feed.sample(options.limit))
    print(f"{len(reviews):,} texts from {options.clients} clients to {node.url}", file=sys.stderr)
    fed = feed_all(client, reviews, options.clients)
    if fed.failure is not None:
        kind = type(fed.failure).__name__
        print(f"a request failed: {kind}: {fed.failure}", file=sys.stderr)
        print(f"the node's last lines:\n{node.tail()}", file=sys.stderr)
        return 1
    totals = read(client, list(feed.SOURCES))
    if not options.brief:
        show(totals)
    print(
        f"\n{len(reviews):,} requests in {fed.seconds:.1f} s, {len(reviews) / fed.seconds:,.0f} a"
        f" second; latency as the clients saw it: p50 {fed.percentile(0.5):.1f} ms,"
        f" p99 {fed.percentile(0.99):.1f} ms"
    )
    expected = plain.totals(reviews, feed.lexicon(), feed.blocked())
    found = list(differences(expected, totals))
    print(
        f"against the plain program, {len(totals['words']):,} word counts and"
        f" {len(totals['reviews']):,} records: {'DIFFERENT' if found else 'EQUAL'}"
    )
    for line in found[:20]:
        print(f"  {line}")
    if len(found) > 20:
        print(f"  and {len(found) - 20:,} more")
    return 1 if found else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--bin", type=Path, default=ROOT / "target/release/tidemill", help="the node's program"
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT / ".cache/demo", help="data directory, made anew"
    )
    parser.add_argument("--limit", type=int, help="reviews of each source (default: all)")
    parser.add_argument("--clients", type=int, default=8, help="requests at the same time")
    parser.add_argument("--wasm", action="store_true", help="mask and count in WebAssembly")
    parser.add_argument("--keep", action="store_true", help="leave the node running")
    parser.add_argument("--brief", action="store_true", help="print speed and check only")
    options = parser.parse_args()
    # Being told to end is like an interrupt: the node ends too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        make_fresh(options.data)
        node = Node(options.bin, options.data)
    except (NodeError, OSError) as error:
        print(f"run: {error}", file=sys.stderr)
        return 1
    kept = False
    try:
        status = drive(node, options)
        kept = options.keep
        if not options.brief:
            show_where_next(node, options.bin, kept)
        return status
    except KeyboardInterrupt:
        return 130
    finally:
        if not kept:
            node.stop()


if __name__ == "__main__":
    sys.exit(main())
