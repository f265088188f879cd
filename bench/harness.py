"""What the benchmarks share: sides measured in turns, ratios, the table, the processes beside.

A *side* is something that is measured: its `measure` gives one number, the median of one round
or one sample. Sides take turns within every round (A B A B, then B A B A), so that what slows
the machine slows all of them. What is reported is the median, over the rounds, of the ratio of
two sides in the same round.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import tidemill

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
READY_S = 30.0
STOP_S = 15.0
# A round in which processes that are not ours took more of the machine than this is repeated.
FOREIGN_MAX = 0.10
# How long to wait, in all, for a machine that others use to become quiet.
PATIENCE_S = 120.0
BODY = bytes(range(256)) * 4

K = TypeVar("K")
T = TypeVar("T")
Measure = Callable[[], float]


class BenchError(Exception):
    """The benchmark cannot run; the message says what to do."""


@dataclass
class Size:
    """How much is measured."""

    rounds: int
    warm: int
    count: int
    quick: bool


FULL = Size(rounds=9, warm=100, count=500, quick=False)
QUICK = Size(rounds=2, warm=3, count=10, quick=True)


# -- programs --------------------------------------------------------------------------------------


def find_program(name: str, variable: str) -> Path:
    """A built program: the one that `variable` names, or a release build, or that of the tests.
    `TIDEMILL_BENCH_PROFILE` names the only profile that counts: tests say it, so that they never
    run what an older tree left in a target directory that is kept."""
    named = os.environ.get(variable)
    if named:
        return Path(named)
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    only = os.environ.get("TIDEMILL_BENCH_PROFILE")
    built = [target / profile / name for profile in ([only] if only else ["release", "ci"])]
    for program in built:
        if program.is_file():
            return program
    raise BenchError(f"there is no {name} under {target}; run `make bench`, or set {variable}")


def node_program() -> Path:
    """The node."""
    return find_program("tidemill", "TIDEMILL_BIN")


def echo_program() -> Path:
    """The bare server."""
    return find_program("bench-echo", "TIDEMILL_BENCH_ECHO")


def load_program() -> Path:
    """The load client."""
    return find_program("bench-load", "TIDEMILL_BENCH_LOAD")


@contextlib.contextmanager
def started(*command: str | Path) -> Iterator[str]:
    """A `bench-echo` for as long as the block runs; gives the line it prints when it is ready."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        if not line:
            raise BenchError(f"{command[0]} did not start")
        yield line
    finally:
        process.stdin.close()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def launch_node(
    directory: Path,
    flags: Sequence[str] = (),
    before: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> tuple[subprocess.Popen[bytes], Path]:
    """Starts a node on a directory; gives it and its ready file. `before` goes before the
    command, `settings` are variables of its environment."""
    ready = directory / "ready.json"
    command: list[str | Path] = [*before, node_program(), "up", "--data", directory / "data"]
    command += ["--listen", "127.0.0.1:0", "--ready-file", ready, "--python", sys.executable]
    command += flags
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMILL_")}
    environment |= settings or {}
    with (directory / "node.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    return process, ready


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Asks it to end, and makes it."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class Node:
    """A node that runs, and its client."""

    address: str
    token: str
    client: tidemill.Client


@contextlib.contextmanager
def node() -> Iterator[Node]:
    """A node with default settings (durable commits) on a fresh directory."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        directory = Path(name)
        process, ready = launch_node(directory)
        try:
            deadline = time.monotonic() + READY_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    text = (directory / "node.log").read_text(errors="replace")
                    raise BenchError(f"the node did not start:\n{text}")
                time.sleep(0.01)
            address = json.loads(ready.read_text())["http"]
            token = (directory / "data" / "token").read_text().strip()
            with tidemill.connect(f"http://{address}", token) as client:
                yield Node(address, token, client)
        finally:
            stop_process(process)


def peer(name: str, size: Size) -> Any:
    """A package to measure beside. Only a quick run goes on without it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if size.quick:
            print(f"skipped: the rows beside {name}, which is not installed", flush=True)
            return None
        raise BenchError(
            f"{name} is not installed ({error}); run `python scripts/bootstrap.py bench`"
        ) from None


@contextlib.contextmanager
def ray_started(size: Size) -> Iterator[Any]:
    """Ray on two processors, or None where a quick run goes on without it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray runs its workers with less priority than everything else unless told not to.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray = peer("ray", size)
    if ray is None:
        yield None
        return
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield ray
    finally:
        ray.shutdown()


# -- clients ---------------------------------------------------------------------------------------


def post_request(address: str, path: str, token: str, body: bytes, content_type: str) -> bytes:
    """A POST as raw bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def call_request(node: Node, function: str, body: bytes = BODY) -> bytes:
    """A call of a function of the app, with bytes as its argument."""
    path = f"/v1/call/bench/{function}"
    return post_request(node.address, path, node.token, body, "application/octet-stream")


class RawHttp:
    """One kept-alive connection; as little client as Python can be."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._sock = socket.create_connection((host, int(port)), timeout=30)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, request: bytes) -> bytes:
        """Sends a request and gives the body of the answer, which must be a 200."""
        sock = self._sock
        sock.sendall(request)
        data = sock.recv(65536)
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        head = data[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            raise BenchError(f"the server answered {data[:2000]!r}")
        at = head.index(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        while len(data) < end + 4 + length:
            data += self._more()
        return data[end + 4 :]

    def _more(self) -> bytes:
        more = self._sock.recv(65536)
        if not more:
            raise BenchError("the server closed the connection")
        return more


def median_ns(act: Callable[[], Any], size: Size) -> float:
    """The median time of one call."""
    for _ in range(size.warm):
        act()
    clock = time.perf_counter_ns
    found = []
    for _ in range(size.count):
        begun = clock()
        act()
        found.append(clock() - begun)
    return float(statistics.median(found))


def median_load_ns(address: str, request: bytes, size: Size) -> float:
    """The same by the load client, a process of its own."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        command = [str(load_program()), address, file.name, str(size.warm), str(size.count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(done.stderr)
    return float(json.loads(done.stdout)["p50_ns"])


def load_ns_a_call(address: str, request: bytes, size: Size, connections: int) -> float:
    """The time of all calls divided by their number, with so many connections at once."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        numbers = (size.warm, size.count, connections)
        command = [str(load_program()), address, file.name, *map(str, numbers)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(done.stderr)
    return float(json.loads(done.stdout)["ns_a_call"])


# -- rounds ----------------------------------------------------------------------------------------


def cpu_of_all_s() -> float:
    """Processor time of all processes."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, soft, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def cpu_of_own_s() -> float:
    """Processor time of this process and all below it, those that have ended included."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
            parents[int(name)] = int(fields[1])
            used[int(name)] = sum(map(int, fields[11:15]))
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own and pid not in own}:
        own |= more
    return sum(used.get(pid, 0) for pid in own) / os.sysconf("SC_CLK_TCK")


class Foreign:
    """How much of the machine processes that are not ours take."""

    def __init__(self) -> None:
        self._begun = time.monotonic(), cpu_of_all_s(), cpu_of_own_s()

    def share(self) -> float:
        """Since this was made: 0 for none, 1 for all processors."""
        begun, all_s, own_s = self._begun
        wall_s = (time.monotonic() - begun) * (os.cpu_count() or 1)
        foreign_s = (cpu_of_all_s() - all_s) - (cpu_of_own_s() - own_s)
        return max(0.0, foreign_s / wall_s)


@dataclass
class Rounds(Generic[K, T]):
    """What the rounds gave: a value a side and round, and the disturbance of each round."""

    values: dict[K, list[T]]
    foreign: list[float] = field(default_factory=list)
    repeated: int = 0


def has_priority() -> bool:
    """Whether we run with real-time priority (`chrt --rr 1 …`), so that others cannot disturb."""
    return os.sched_getscheduler(0) in (os.SCHED_RR, os.SCHED_FIFO)


def in_turns(
    sides: Mapping[K, Callable[[], T]], size: Size, patience_s: float = PATIENCE_S
) -> Rounds[K, T]:
    """Measures all sides in each round. Disturbed rounds are repeated while patience lasts."""
    rounds: Rounds[K, T] = Rounds({name: [] for name in sides})
    patience_end = time.monotonic() + (0.0 if size.quick or has_priority() else patience_s)
    forward = True
    while len(rounds.foreign) < size.rounds:
        foreign = Foreign()
        names = list(sides) if forward else list(sides)[::-1]
        measured = {name: sides[name]() for name in names}
        share = foreign.share()
        if share > FOREIGN_MAX and time.monotonic() < patience_end:
            rounds.repeated += 1
            continue
        forward = not forward
        rounds.foreign.append(share)
        for name, value in measured.items():
            rounds.values[name].append(value)
    return rounds


def ratios(rounds: Rounds[str, float], side: str, beside: str) -> list[float]:
    """One ratio a round."""
    pairs = zip(rounds.values[side], rounds.values[beside], strict=True)
    return [value / other for value, other in pairs]


# -- the report ------------------------------------------------------------------------------------


@dataclass
class Row:
    """One line of the table: a side, what it is measured beside, and what it ought to be.

    `most` is the greatest ratio that is wanted; `limit` the greatest value, in the side's unit.
    """

    side: str
    beside: str
    most: float | None = None
    limit: float | None = None
    unit: str = "µs"


def machine() -> dict[str, Any]:
    """What all this runs on."""
    return {
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


SCALE = {"µs": 1e3, "ms": 1e6}


class Report:
    """Rows, printed as a table and kept as JSON."""

    def __init__(self, program: str, size: Size, durability: str) -> None:
        self._size = size
        self._load_before = os.getloadavg()
        self._rows: list[dict[str, Any]] = []
        self._sides: dict[str, list[float]] = {}
        self._foreign: list[float] = []
        self._repeated = 0
        self._head = {
            "program": program,
            "date": datetime.date.today().isoformat(),
            "quick": size.quick,
            "rounds": size.rounds,
            "calls_in_a_round": size.count,
            "durability": durability,
            "real_time_priority": has_priority(),
            "machine": machine(),
        }

    def add(self, rounds: Rounds[str, float], rows: list[Row]) -> None:
        """Takes the rows for whose sides there is a measurement."""
        self._sides.update(rounds.values)
        self._foreign += rounds.foreign
        self._repeated += rounds.repeated
        for row in rows:
            if row.side in rounds.values and row.beside in rounds.values:
                self._rows.append(self._filled(rounds, row))

    def _filled(self, rounds: Rounds[str, float], row: Row) -> dict[str, Any]:
        each = ratios(rounds, row.side, row.beside)
        value = statistics.median(rounds.values[row.side]) / SCALE[row.unit]
        other = statistics.median(rounds.values[row.beside]) / SCALE[row.unit]
        ratio = statistics.median(each)
        held = None
        if row.most is not None or row.limit is not None:
            held = (row.most is None or ratio <= row.most) and (
                row.limit is None or value <= row.limit
            )
        return {
            "side": row.side, "beside": row.beside, "unit": row.unit,
            "value": value, "beside_value": other,
            "ratio": ratio, "ratio_least": min(each), "ratio_most": max(each),
            "target_ratio": row.most, "target_value": row.limit, "held": held,
        }  # fmt: skip

    def finish(self, json_path: Path | None) -> None:
        """Prints the table and writes the JSON."""
        print()
        heads = ("side", "beside", "ratio", "least–most", "sides", "target", "")
        lines = [heads] + [_line(row) for row in self._rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
        for line in lines:
            print("  ".join(f"{text:<{w}}" for text, w in zip(line, widths, strict=True)).rstrip())
        foreign = max(self._foreign, default=0.0)
        load = " ".join(f"{value:.1f}" for value in (*self._load_before, *os.getloadavg()))
        print(
            f"\nload averages before and after {load}; other processes took at most "
            f"{foreign:.0%} of the machine in a round; {self._repeated} rounds were repeated"
        )
        if json_path is not None:
            whole = {
                **self._head,
                "load_average_before": self._load_before,
                "load_average_after": os.getloadavg(),
                "foreign_share": self._foreign,
                "rounds_repeated": self._repeated,
                "rows": self._rows,
                "sides_ns": self._sides,
            }
            json_path.parent.mkdir(parents=True, exist_ok=True)
            json_path.write_text(json.dumps(whole, indent=1) + "\n")


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    targets = []
    if row["target_ratio"] is not None:
        targets.append(f"≤ {row['target_ratio']:g}×")
    if row["target_value"] is not None:
        targets.append(f"≤ {row['target_value']:g} {row['unit']}")
    verdict = {None: "", True: "held", False: "MISSED"}[row["held"]]
    return (
        row["side"],
        row["beside"],
        f"{row['ratio']:.2f}×",
        f"{row['ratio_least']:.2f}–{row['ratio_most']:.2f}",
        f"{row['value']:.1f} : {row['beside_value']:.1f} {row['unit']}",
        " and ".join(targets),
        verdict,
    )


def run(name: str, durability: str, measure: Callable[[Size, Report], None]) -> int:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(prog=f"bench/{name}.py")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    report = Report(name, size, durability)
    print(f"{name}: {size.rounds} rounds; {durability}", flush=True)
    try:
        measure(size, report)
    except BenchError as error:
        print(f"bench/{name}.py: {error}", file=sys.stderr)
        return 1
    report.finish(options.json)
    return 0
