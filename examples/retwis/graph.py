"""A real directed graph of people: the PGP web of trust of 2009, its strongly connected part.

The file beside this one is gzip; for node 0, 1, 2, … it holds a little-endian number of 16 bits,
how many edges leave the node, and then that many targets, rising.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

FILE = Path(__file__).with_name("pgp-web-of-trust.u16le.gz")


def parse(data: bytes) -> list[list[int]]:
    """Whom each user follows."""
    if len(data) % 2:
        raise ValueError("the graph's file ends in the middle of a number")
    numbers = struct.unpack(f"<{len(data) // 2}H", data)
    edges: list[list[int]] = []
    at = 0
    while at < len(numbers):
        count = numbers[at]
        targets = list(numbers[at + 1 : at + 1 + count])
        if len(targets) != count:
            raise ValueError(f"the graph's file ends within node {len(edges)}")
        edges.append(targets)
        at += 1 + count
    return edges


def whole() -> list[list[int]]:
    """Everybody."""
    return parse(gzip.decompress(FILE.read_bytes()))


def neighbourhood(edges: Sequence[Sequence[int]], count: int) -> dict[int, list[int]]:
    """The `count` users nearest to whoever is followed most, and whom of each other they follow."""
    followers = [0] * len(edges)
    for targets in edges:
        for target in targets:
            followers[target] += 1
    first = max(range(len(edges)), key=lambda user: followers[user])
    chosen = {first: None}
    open_ = [first]
    for user in open_:
        for other in edges[user]:
            if len(chosen) == count:
                break
            if other not in chosen:
                chosen[other] = None
                open_.append(other)
    return {user: [other for other in edges[user] if other in chosen] for user in chosen}
