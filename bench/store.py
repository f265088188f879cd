#!/usr/bin/env python3
"""The store beside Redis by the same client, and within one process beside a map with locks.

    python bench/store.py [--quick] [--rounds N] [--rows WORD,...] [--alone] [-o json] [--json FILE]

Each server has one processor and its client another, so a client may be what limits a rate. Where
it was busy for more than 85 % of its time, the server's processor time for an operation decides
the row, and the table says so. Both sides keep everything in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from doors import (
    Load,
    Restarted,
    Server,
    Start,
    Work,
    connected,
    growth_bytes,
    is_there,
    load,
    running,
    start_node,
    start_redis,
    values,
)
from harness import (
    BenchError,
    Rounds,
    Size,
    find_program,
    has_priority,
    in_turns,
    machine,
    ratios,
)

K = TypeVar("K")
BUSY = 0.85
OURS, REDIS = "Tidemill", "Redis"
NOT_KEPT = ("--save", "", "--appendonly", "no")
KEPT = ("--save", "", "--appendonly", "yes")
SYNCED = (*KEPT, "--appendfsync", "always")
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Amount:
    """How much of the store is measured."""

    run_s: float
    """How long a client runs in a round."""
    keys: int
    small_keys: int
    """Keys whose memory is measured."""
    large_keys: int
    """Keys of 1 KiB in the store that is restarted."""
    rest_s: float
    """How long a server may take until it begins what it put off."""


FULL_AMOUNT = Amount(1.2, 100_000, 1_000_000, 1_000_000, 12.0)
QUICK_AMOUNT = Amount(0.05, 1_000, 5_000, 2_000, 0.0)
FULL = Size(rounds=5, warm=0, count=0, quick=False)
QUICK = Size(rounds=2, warm=0, count=0, quick=True)


# -- what decides ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What a ratio of ours to the other side's ought to be; all that is given has to hold."""

    rate_least: float | None = None
    cpu_most: float | None = None
    least: float | None = None
    most: float | None = None
    limit: float | None = None
    """The greatest value, in the row's unit."""

    def text(self, unit: str) -> str:
        """For the table."""
        parts = [
            (self.rate_least, "rate ≥ {:g}×"), (self.cpu_most, "CPU ≤ {:g}×"),
            (self.least, "≥ {:g}×"), (self.most, "≤ {:g}×"), (self.limit, "≤ {:g} " + unit),
        ]  # fmt: skip
        return " and ".join(form.format(value) for value, form in parts if value is not None)


@dataclass
class Line:
    """One line of the table."""

    row: str
    beside: str
    ratios: list[float]
    """Of rates or values, one a round; none where the other side is not there."""
    sides: dict[str, Any]
    """What was measured, by round."""
    unit: str
    target: str = ""
    decided_by: str = ""
    held: bool | None = None
    cpu_ratios: list[float] = field(default_factory=list)
    client: float | None = None
    """The busy share of the client, on the side where it was busier."""
    limit_part: float | None = None
    """What part of the greatest value was taken."""


def judge(target: Target, rate: float, cpu: float, client: float) -> tuple[str, bool | None]:
    """What decides a row of the door, and whether it is held. A rate that the client limited
    decides nothing; then a rate of x times is asked for as 1/x of the processor time."""
    limited = client > BUSY
    cpu_most = target.cpu_most
    if limited and cpu_most is None and target.rate_least is not None:
        cpu_most = 1 / target.rate_least
    parts: list[tuple[str, bool]] = []
    if target.rate_least is not None and not limited:
        parts.append(("rate", rate >= target.rate_least))
    if cpu_most is not None:
        parts.append(("CPU", cpu <= cpu_most))
    if not parts:
        return "", None
    return " and ".join(name for name, _ in parts), all(held for _, held in parts)


def door_line(row: DoorRow, found: dict[str, list[Load]]) -> Line:
    """A row of the door from what its sides gave."""
    sides = {name: [asdict(one) for one in loads] for name, loads in found.items()}
    client = max(statistics.median(one.client for one in loads) for loads in found.values())
    line = Line(row.name, REDIS, [], sides, "1/s", row.target.text(""), client=client)
    if REDIS in found:
        pairs = list(zip(found[OURS], found[REDIS], strict=True))
        line.ratios = [ours.rate / other.rate for ours, other in pairs]
        line.cpu_ratios = [ours.cpu_s / other.cpu_s for ours, other in pairs]
        rate, cpu = statistics.median(line.ratios), statistics.median(line.cpu_ratios)
        line.decided_by, line.held = judge(row.target, rate, cpu, client)
    return line


def value_line(
    row: str, beside: str, unit: str, target: Target, ours: list[float], other: list[float] | None
) -> Line:
    """A row of plain numbers."""
    sides = {"ours": ours} if other is None else {"ours": ours, "beside": other}
    line = Line(row, beside, [], sides, unit, target.text(unit))
    if other is not None:
        line.ratios = ratios(Rounds({"ours": ours, "beside": other}), "ours", "beside")
    checks = []
    if target.limit is not None:
        line.limit_part = statistics.median(ours) / target.limit
        checks.append(line.limit_part <= 1)
    if line.ratios:
        ratio = statistics.median(line.ratios)
        checks += [ratio >= target.least] if target.least is not None else []
        checks += [ratio <= target.most] if target.most is not None else []
    if checks:
        line.held, line.decided_by = all(checks), unit
    return line


# -- the rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DoorRow:
    """A row by redis-benchmark."""

    name: str
    words: tuple[str, ...]
    target: Target
    size: int = 16
    connections: int = 50
    pipeline: int = 16
    durability: str = "memory"

    def work(self, amount: Amount) -> Work:
        """For the client."""
        return Work(self.words, self.connections, self.pipeline, amount.keys, self.size)


SIZES = {"16 B": 16, "256 B": 256, "4 KiB": 4096}
SET, GET, INCR = ("-t", "set"), ("-t", "get"), ("-t", "incr")
PING, PING_INLINE, HOT = ("-t", "ping_mbulk"), ("-t", "ping_inline"), ("INCR", "hot")
LEAN = Target(rate_least=1.0, cpu_most=0.67)
EVEN = Target(rate_least=1.0, cpu_most=1.0)


def rows_of_door() -> Iterator[DoorRow]:
    """All of them."""
    for text, size in SIZES.items():
        yield DoorRow(f"SET {text} pipeline 16", SET, Target(rate_least=1.5), size)
    for text, size in SIZES.items():
        yield DoorRow(f"GET {text} pipeline 16", GET, LEAN, size)
    yield DoorRow("INCR pipeline 16", INCR, LEAN)
    yield DoorRow("INCR of one key pipeline 16", HOT, Target(cpu_most=0.67))
    for name, words in (("GET", GET), ("SET", SET)):
        for text, size in SIZES.items():
            yield DoorRow(f"{name} {text} no pipeline", words, EVEN, size, pipeline=1)
    for connections, least in ((64, 1.5), (1, 1.0)):
        for text, size in SIZES.items():
            name = f"SET {text} durable {connections} connection{'s' * (connections > 1)}"
            target = Target(rate_least=least)
            yield DoorRow(name, SET, target, size, connections, 1, "durable")


DOOR_ROWS = list(rows_of_door())


@dataclass(frozen=True)
class InnerRow:
    """A row within one process: two sides of `tidemill-bench-store`."""

    group: str
    side: str
    beside: str
    target: Target
    unit: str


ADDS = ("adds", "adds in requests of 256", "adds in requests of 4096")
MERGES = {
    adds: [
        InnerRow(
            "merges", f"{adds}, {n} threads", f"DashMap adds, {n} threads", Target(least=1.0), "1/s"
        )
        for n in (1, 2, 4)
    ]
    for adds in ADDS
}
WIDENS = {adds: f"{adds}: the ratio of 4 threads" for adds in ADDS}
ONE, FREE, TWO = "zipf, 1 shard, 1 core", "zipf, 1 shard, 2 cores", "zipf, 2 shards, 2 cores"
ZIPF = ("zipf-1-1", "zipf-1-2", "zipf-2-2")
"""Groups that are run in turns, each in a process and a store of its own a round."""
INNER_ROWS = [
    InnerRow("zipf", TWO, ONE, Target(least=1.7), "1/s"),
    InnerRow("zipf", TWO, FREE, Target(), "1/s"),
    InnerRow("zipf", FREE, ONE, Target(), "1/s"),
    InnerRow("read", "read at a new snapshot, p50", "DashMap get, p50", Target(most=3.0), "ns"),
    InnerRow("read", "read at a new snapshot, p99", "DashMap get, p99", Target(limit=2000), "ns"),
    InnerRow("read", "read at a shared snapshot, p50", "DashMap get, p50", Target(), "ns"),
    *(row for rows in MERGES.values() for row in rows),
]
PING_ROW = "PING pipeline 16"
RESTART_ROW = "restart with 1 GB after kill -9"
SMALL_ROW = "memory of a key of 16 B"


# -- measuring -------------------------------------------------------------------------------------


@dataclass
class Bench:
    """One run of this program."""

    size: Size
    amount: Amount
    words: list[str]
    """Only rows whose name has one of these."""
    redis: bool
    client: bool
    patience_s: float
    """How long, for each row, rounds that others disturbed are repeated."""
    directory: Path
    lines: list[Line] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    repeated: int = 0

    def wants(self, *names: str) -> bool:
        """Whether a row with one of these names is asked for."""
        some = any(word.lower() in name.lower() for word in self.words for name in names)
        return some or not self.words

    def fresh(self) -> Path:
        """A directory that is not there yet."""
        return Path(tempfile.mkdtemp(dir=self.directory)) / "server"

    def add(self, line: Line) -> None:
        """A row is done."""
        self.lines.append(line)
        print(seen(line), file=sys.stderr, flush=True)

    def turns(self, sides: dict[K, Callable[[], Any]], rounds: int) -> dict[K, list[Any]]:
        """What the sides gave in turns."""
        size = Size(rounds, 0, 0, self.size.quick)
        found = in_turns(sides, size, self.patience_s)
        self.foreign += found.foreign
        self.repeated += found.repeated
        return found.values

    def starts(self, durability: str, *redis: str) -> dict[str, Start]:
        """How the servers of a row are started."""
        starts: dict[str, Start] = {
            OURS: functools.partial(start_node, durability=durability),
        }
        if self.redis:
            starts[REDIS] = lambda directory: start_redis(directory, *redis)
        return starts

    def loaded(self, row: DoorRow, server: Server) -> Callable[[], Load]:
        """A side of a row of the door: its keys are there, and it is warm."""
        work = row.work(self.amount)
        with connected(server) as pipe:
            pipe.set_all(values(self.amount.keys, row.size))
        first = load(server, work, work.connections * work.pipeline * 10)
        count = max(int(first.rate * self.amount.run_s), work.connections * work.pipeline)
        load(server, work, count)
        return lambda: load(server, work, count)

    def door(self, row: DoorRow) -> None:
        """A row by redis-benchmark."""
        kept = SYNCED if row.durability == "durable" else NOT_KEPT
        with contextlib.ExitStack() as stack:
            sides = {}
            for name, start in self.starts(row.durability, *kept).items():
                server = stack.enter_context(running(start, self.fresh()))
                sides[name] = self.loaded(row, server)
            self.add(door_line(row, self.turns(sides, self.size.rounds)))

    def floor(self) -> None:
        """What a GET costs that asks for nothing."""
        asked = {"PING": PING, "inline PING": PING_INLINE, "GET": GET}
        rows = [DoorRow(name, words, Target()) for name, words in asked.items()]
        with contextlib.ExitStack() as stack:
            sides = {}
            for name, start in self.starts("memory", *NOT_KEPT).items():
                server = stack.enter_context(running(start, self.fresh()))
                for row in rows:
                    sides[name, row.name] = self.loaded(row, server)
            found = self.turns(sides, self.size.rounds)
        for name, ping in sides:
            if ping == "GET":
                continue
            pair = found[name, ping], found[name, "GET"]
            line = Line(f"{ping} pipeline 16 {name}", "GET 16 B", [], {}, "1/s")
            line.sides = {"ours": list(map(asdict, pair[0])), "beside": list(map(asdict, pair[1]))}
            line.ratios = [a.rate / b.rate for a, b in zip(*pair, strict=True)]
            line.cpu_ratios = [a.cpu_s / b.cpu_s for a, b in zip(*pair, strict=True)]
            line.client = max(statistics.median(one.client for one in side) for side in pair)
            self.add(line)

    def restart(self) -> None:
        """A store of 1 GB."""
        keys = self.amount.large_keys
        sides: dict[str, Callable[[], float]] = {
            name: Restarted(start, self.fresh(), keys, 1024).measure_ns
            for name, start in self.starts("memory", *KEPT).items()
        }
        found = self.turns(sides, min(self.size.rounds, 3))
        seconds = {name: [value / 1e9 for value in side] for name, side in found.items()}
        beside = f"{REDIS}, append-only file"
        self.add(
            value_line(
                RESTART_ROW, beside, "s", Target(limit=2.0), seconds[OURS], seconds.get(REDIS)
            )
        )

    def small(self) -> None:
        """The memory of a small key."""
        amount = self.amount

        def side(start: Start) -> Callable[[], float]:
            return lambda: growth_bytes(start, self.fresh(), amount.small_keys, 16, amount.rest_s)

        starts = self.starts("memory", *NOT_KEPT)
        sides = {name: side(start) for name, start in starts.items()}
        found = self.turns(sides, min(self.size.rounds, 2))
        other = found.get(REDIS)
        self.add(value_line(SMALL_ROW, REDIS, "B", Target(most=1.2), found[OURS], other))

    def measured(self, rounds: int, *groups: str) -> dict[str, list[float]]:
        """What the program beside this file says."""
        program = find_program("tidemill-bench-store", "TIDEMILL_BENCH_STORE")
        command = [str(program), "--rounds", str(rounds), *groups]
        done = subprocess.run(
            command + ["--quick"] * self.size.quick, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchError(done.stderr)
        found: dict[str, list[float]] = json.loads(done.stdout)["sides"]
        return found

    def inner(self) -> None:
        """The rows within one process."""
        wanted = [row for row in INNER_ROWS if self.wants(row.side)]
        widens = [adds for adds in ADDS if self.wants(WIDENS[adds])]
        wanted += [row for adds in widens for row in MERGES[adds] if row not in wanted]
        if not wanted:
            return
        groups = dict.fromkeys(row.group for row in wanted)
        sides: dict[str, list[float]] = {}
        if groups.pop("zipf", self) is None:
            for number in range(self.size.rounds):
                for group in ZIPF if number % 2 == 0 else reversed(ZIPF):
                    for name, values in self.measured(1, group).items():
                        sides.setdefault(name, []).extend(values)
        if groups:
            sides |= self.measured(self.size.rounds, *groups)
        for row in wanted:
            if row.side in sides and row.beside in sides:
                ours, other = sides[row.side], sides[row.beside]
                self.add(value_line(row.side, row.beside, row.unit, row.target, ours, other))
            else:
                print(f"skipped: {row.side}, beside {row.beside}", file=sys.stderr)
        for adds in widens:
            few, _, many = (ratios(Rounds(sides), row.side, row.beside) for row in MERGES[adds])
            self.add(value_line(WIDENS[adds], "that of 1 thread", "", Target(least=1.0), many, few))

    def measure(self) -> None:
        """Everything that is asked for."""
        for row in DOOR_ROWS:
            if self.client and self.wants(row.name):
                self.door(row)
        if self.client and self.wants(PING_ROW):
            self.floor()
        if self.wants(RESTART_ROW):
            self.restart()
        if self.wants(SMALL_ROW):
            self.small()
        self.inner()


# -- the report ------------------------------------------------------------------------------------

HEADS = ("row", "beside", "ratio", "least–most", "CPU", "least–most", "client", "target",
         "decided by", "")  # fmt: skip
VERDICT = {None: "", True: "held", False: "**missed**"}


def spread(found: list[float]) -> tuple[str, str]:
    """The median, and the least and the greatest."""
    if not found:
        return "", ""
    return f"{statistics.median(found):.2f}×", f"{min(found):.2f}–{max(found):.2f}"


def table(lines: list[Line]) -> str:
    """In Markdown. It has no times, since those say more about the machine."""
    written = [HEADS, ("---",) * len(HEADS)]
    for line in lines:
        part = line.limit_part
        target = line.target + (f", it takes {part:.2f} of that" if part is not None else "")
        client = "" if line.client is None else f"{line.client:.0%}"
        cells = (line.row, line.beside, *spread(line.ratios), *spread(line.cpu_ratios), client)
        written.append((*cells, target, line.decided_by, VERDICT[line.held]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in written)


def seen(line: Line) -> str:
    """What was measured, for who watches."""
    found = []
    for name, side in line.sides.items():
        if side and isinstance(side[0], dict):
            rate, cpu, client = (
                statistics.median(one[key] for one in side) for key in ("rate", "cpu_s", "client")
            )
            found.append(f"{name} {rate:,.0f}/s, {cpu * 1e6:.2f} µs CPU, client {client:.0%}")
        else:
            found.append(f"{name} {statistics.median(side):,.2f} {line.unit}")
    verdict = " ".join(filter(None, [line.decided_by, VERDICT[line.held].strip("*")]))
    return f"{line.row}: {'; '.join(found)}" + (f": {verdict}" if verdict else "")


def report(bench: Bench, load_before: tuple[float, float, float]) -> dict[str, Any]:
    """Everything as JSON."""
    return {
        "program": "store",
        "date": datetime.date.today().isoformat(),
        "quick": bench.size.quick,
        "rounds": bench.size.rounds,
        "real_time_priority": has_priority(),
        "machine": machine(),
        "load_average_before": load_before,
        "load_average_after": os.getloadavg(),
        "foreign_share": bench.foreign,
        "rounds_repeated": bench.repeated,
        "rows": [asdict(line) for line in bench.lines],
    }


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench/store.py")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds a row")
    parser.add_argument(
        "--rows", default="", metavar="WORD,...", help="only rows whose name has one of these"
    )
    parser.add_argument(
        "--patience", type=float, default=PATIENCE_S, metavar="SECONDS",
        help="how long, for each row, rounds that others disturbed are repeated",
    )  # fmt: skip
    parser.add_argument("--alone", action="store_true", help="without Redis beside")
    parser.add_argument("-o", choices=["table", "json"], default="table", help="what to print")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="the disk to measure on [the temporary one]"
    )
    return parser.parse_args()


def run() -> int:
    """Measures and reports."""
    asked = options()
    size = QUICK if asked.quick else FULL
    size = Size(max(1, asked.rounds or size.rounds), 0, 0, size.quick)
    redis = not asked.alone and is_there("redis-server")
    client = is_there("redis-benchmark")
    words = [word.strip() for word in asked.rows.split(",") if word.strip()]
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-", dir=asked.directory) as name:
        amount = QUICK_AMOUNT if asked.quick else FULL_AMOUNT
        bench = Bench(size, amount, words, redis, client, asked.patience, Path(name))
        try:
            bench.measure()
        except BenchError as error:
            print(f"bench/store.py: {error}", file=sys.stderr)
            return 1
    if not bench.lines:
        print("bench/store.py: no row was measured; --rows names parts of names", file=sys.stderr)
        return 1
    whole = report(bench, load_before)
    if asked.json is not None:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps(whole, indent=1) if asked.o == "json" else table(bench.lines))
    foreign = max(bench.foreign, default=0.0)
    print(
        f"other processes took at most {foreign:.0%} of the machine in a round; "
        f"{bench.repeated} rounds were repeated",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(run())
