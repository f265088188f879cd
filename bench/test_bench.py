"""Each benchmark runs on a small size, so that none of them rots; what it reports is checked."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import doors
import harness
import pytest
import store
from doors import Load
from harness import BenchError, Foreign, Report, Rounds, Row, in_turns
from store import Target

PROGRAMS = ["calls", "compose", "state", "start", "once", "session", "wasm"]
PEERS = {"Ray": "ray", "Dask": "distributed"}


@pytest.fixture(scope="session", autouse=True)
def programs_are_built() -> None:
    """The bare server, the load client and the programs of two benchmarks, made with cargo where
    they are not there."""
    try:
        harness.echo_program()
        harness.load_program()
        harness.find_program("tidemill-bench-session", "TIDEMILL_BENCH_SESSION")
        harness.find_program("tidemill-bench-wasm", "TIDEMILL_BENCH_WASM")
    except BenchError:
        names = ("echo", "session", "wasm")
        packages = [word for name in names for word in ("-p", f"tidemill-bench-{name}")]
        command = ["cargo", "build", "--profile", "ci", "--locked", *packages]
        subprocess.run(command, cwd=harness.ROOT, check=True)


def test_only_the_profile_that_was_asked_for_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for profile in ("release", "ci"):
        (tmp_path / profile).mkdir()
        (tmp_path / profile / "some").touch()
    monkeypatch.setenv("CARGO_TARGET_DIR", str(tmp_path))
    monkeypatch.delenv("TIDEMILL_BENCH_PROFILE", raising=False)
    assert harness.find_program("some", "TIDEMILL_NO_SUCH") == tmp_path / "release" / "some"
    monkeypatch.setenv("TIDEMILL_BENCH_PROFILE", "ci")
    assert harness.find_program("some", "TIDEMILL_NO_SUCH") == tmp_path / "ci" / "some"
    (tmp_path / "ci" / "some").unlink()
    with pytest.raises(BenchError, match="there is no some"):
        harness.find_program("some", "TIDEMILL_NO_SUCH")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_small_run_reports_every_row(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, f"{name}.py", "--quick", "--json", str(out)]
    done = subprocess.run(
        command, cwd=harness.HERE, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["program"] == name and found["quick"] is True
    rows = {(row["side"], row["beside"]): row for row in found["rows"]}
    for row in rows_of(name):
        absent = [p for p in PEERS if is_of(p, row) and not is_there(PEERS[p])]
        if absent:
            assert f"skipped: the rows beside {PEERS[absent[0]]}" in done.stdout
            continue
        ratio = rows[row.side, row.beside]["ratio"]
        assert math.isfinite(ratio) and ratio != 0, row
        assert row.side in done.stdout


def test_a_small_run_counts_anomalies_and_finds_none_at_causal(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "anomalies.py", "--quick", "--json", str(out)]
    done = subprocess.run(
        command, cwd=harness.HERE, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    causal, eventual, *plain = json.loads(out.read_text())["sides"]
    assert (causal["own_writes_missed"], causal["fractured"]) == (0, 0)
    for side in (causal, eventual, *plain):
        assert side["requests"] == 200 and side["kills"] > 0
    assert len(plain) == (shutil.which("redis-server") is not None)


def rows_of(name: str) -> list[Row]:
    """The rows that a benchmark declares."""
    rows = __import__(name).ROWS
    assert rows
    return list(rows)


def is_of(peer: str, row: Row) -> bool:
    """Whether a row needs this peer."""
    return peer in row.side or peer in row.beside


def is_there(package: str) -> bool:
    """Whether a package can be imported."""
    code = f"import {package}"
    return subprocess.run([sys.executable, "-c", code], stderr=-3, check=False).returncode == 0


def test_a_real_run_asks_for_its_peers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchError, match=r"bootstrap\.py bench"):
        harness.peer("no_such_package", harness.FULL)
    assert harness.peer("no_such_package", harness.QUICK) is None
    assert "skipped" in capsys.readouterr().out


def test_sides_take_turns_and_ratios_are_of_one_round() -> None:
    order: list[str] = []
    values = iter([1.0, 2.0, 8.0, 2.0])

    def side(name: str) -> harness.Measure:
        def measure() -> float:
            order.append(name)
            return next(values)

        return measure

    rounds = in_turns({"a": side("a"), "b": side("b")}, harness.QUICK)
    assert order == ["a", "b", "b", "a"]
    assert rounds.values == {"a": [1.0, 2.0], "b": [2.0, 8.0]}
    assert harness.ratios(rounds, "a", "b") == [0.5, 0.25]


def test_a_disturbed_round_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.9, 0.0, 0.05])
    monkeypatch.setattr(Foreign, "share", lambda _: next(shares))
    size = harness.Size(rounds=2, warm=0, count=1, quick=False)
    rounds = in_turns({"a": lambda: 1.0}, size)
    assert rounds.repeated == 1
    assert rounds.foreign == [0.0, 0.05]


def test_the_time_of_our_own_processes_is_told_from_that_of_strangers() -> None:
    busy = "import time; end = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass"
    begun = harness.cpu_of_own_s()
    subprocess.run([sys.executable, "-c", busy], check=True)
    ours = harness.cpu_of_own_s() - begun
    assert ours > 0.1
    # The shell ends at once, so that its child is nobody's of ours any more.
    begun, all_begun = harness.cpu_of_own_s(), harness.cpu_of_all_s()
    subprocess.run(["sh", "-c", f"{sys.executable} -c '{busy}' > /dev/null &"], check=True)
    time.sleep(0.7)
    assert harness.cpu_of_own_s() - begun < 0.1
    assert harness.cpu_of_all_s() - all_begun > 0.1


def test_targets_are_held_or_missed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rounds = Rounds({"ours": [2000.0, 4000.0, 3000.0], "theirs": [1000.0, 1000.0, 1000.0]}, [0.0])
    report = Report("test", harness.QUICK, "none")
    report.add(
        rounds,
        [
            Row("ours", "theirs", most=3.0),
            Row("ours", "theirs", most=2.9),
            Row("ours", "theirs", limit=3.0),
            Row("ours", "theirs", limit=2.9),
            Row("ours", "absent", most=1.0),
        ],
    )
    report.finish(tmp_path / "out.json")
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["held"] for row in rows] == [True, False, True, False]
    assert [row["ratio"] for row in rows] == [3.0] * 4
    assert capsys.readouterr().out.count("MISSED") == 2


# -- the store beside Redis ------------------------------------------------------------------------

RAN = '"test","rps","avg_latency_ms","p50_latency_ms"\n"{}","812345.62","1.007","0.799"\n'


@pytest.fixture(scope="session")
def inner_is_built() -> None:
    """The program that drives the store in process."""
    try:
        harness.find_program("tidemill-bench-store", "TIDEMILL_BENCH_STORE")
    except BenchError:
        command = ["cargo", "build", "--profile", "ci", "--locked", "-p", "tidemill-bench-store"]
        subprocess.run(command, cwd=harness.ROOT, check=True)


def test_a_small_run_of_the_store_needs_no_redis(inner_is_built: None, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    rows = "SET 16 B p,SET 16 B durable 64,PING,restart,memory,zipf,read,adds"
    command = [sys.executable, "store.py", "--quick", "--alone", "--rows", rows]
    done = subprocess.run(
        [*command, "--json", str(out)],
        cwd=harness.HERE, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["row"]: row for row in json.loads(out.read_text())["rows"]}
    assert found[store.RESTART_ROW]["held"] is not None
    assert found[store.SMALL_ROW]["sides"]["ours"][0] > 0
    for row in (row for row in store.INNER_ROWS if row.group != "zipf"):
        assert found[row.side]["ratios"] and min(found[row.side]["ratios"]) > 0
    if shutil.which("redis-benchmark"):
        loads = found["SET 16 B durable 64 connections"]["sides"][store.OURS]
        assert len(loads) == 2 and min(one["rate"] for one in loads) > 0
        assert found["PING pipeline 16 Tidemill"]["cpu_ratios"]
    else:
        assert "skipped: what needs redis-benchmark" in done.stderr
    assert f"| {store.RESTART_ROW} |" in done.stdout


def test_the_rate_of_a_client_is_read_from_its_table() -> None:
    assert doors.rate_of(RAN.format("SET")) == 812345.62
    assert doors.rate_of(RAN.format('INCR ""hot""')) == 812345.62
    for bad in ("", RAN.splitlines()[0], "Could not connect"):
        with pytest.raises(BenchError, match="no result"):
            doors.rate_of(bad)


@pytest.mark.parametrize(
    ("target", "rate", "cpu", "client", "decided"),
    [
        # A client with time to spare: the rate decides, and the processor where it is asked for.
        (Target(rate_least=1.5), 1.5, 9.0, 0.85, ("rate", True)),
        (Target(rate_least=1.5), 1.4, 0.1, 0.5, ("rate", False)),
        (Target(rate_least=1.0, cpu_most=0.67), 1.0, 0.67, 0.5, ("rate and CPU", True)),
        (Target(rate_least=1.0, cpu_most=0.67), 2.0, 0.7, 0.5, ("rate and CPU", False)),
        (Target(rate_least=1.0, cpu_most=0.67), 0.9, 0.5, 0.5, ("rate and CPU", False)),
        # A busy one: only the processor time, as much less as the rate ought to be more.
        (Target(rate_least=1.0, cpu_most=0.67), 0.9, 0.6, 0.86, ("CPU", True)),
        (Target(rate_least=1.5), 1.0, 0.66, 0.9, ("CPU", True)),
        (Target(rate_least=1.5), 9.0, 0.67, 0.9, ("CPU", False)),
        (Target(cpu_most=0.67), 0.1, 0.6, 0.1, ("CPU", True)),
        (Target(), 1.0, 1.0, 1.0, ("", None)),
    ],
)
def test_what_decides_a_row(
    target: Target, rate: float, cpu: float, client: float, decided: tuple[str, bool | None]
) -> None:
    assert store.judge(target, rate, cpu, client) == decided


def test_a_row_is_of_medians_and_of_the_busier_client() -> None:
    row = store.DoorRow("SET", store.SET, Target(rate_least=1.5))
    ours = [Load(400.0, 1.0, 0.3), Load(300.0, 2.0, 0.4), Load(100.0, 6.0, 0.2)]
    other = [Load(200.0, 2.0, 0.9), Load(100.0, 2.0, 0.8), Load(100.0, 2.0, 0.9)]
    line = store.door_line(row, {store.OURS: ours, store.REDIS: other})
    assert line.ratios == [2.0, 3.0, 1.0] and line.cpu_ratios == [0.5, 1.0, 3.0]
    assert (line.client, line.decided_by, line.held) == (0.9, "CPU", False)
    assert store.table([line]).splitlines()[-1] == (
        "| SET | Redis | 2.00× | 1.00–3.00 | 1.00× | 0.50–3.00 | 90% | rate ≥ 1.5× | CPU "
        "| **missed** |"
    )
    alone = store.door_line(row, {store.OURS: ours})
    assert (alone.ratios, alone.held) == ([], None)


def test_a_row_of_plain_numbers_is_held_by_all_that_is_asked() -> None:
    def held(target: Target, other: list[float] | None) -> bool | None:
        return store.value_line("row", "beside", "s", target, [1.0, 3.0, 2.0], other).held

    assert held(Target(limit=2.0), None) is True
    assert held(Target(limit=1.9), None) is False
    assert held(Target(most=2.0), [1.0, 1.0, 1.0]) is True
    assert held(Target(most=2.0, limit=1.9), [1.0, 1.0, 1.0]) is False
    assert held(Target(least=2.1), [1.0, 1.0, 1.0]) is False
    assert held(Target(most=2.0), None) is None
    line = store.value_line("row", "beside", "s", Target(limit=4.0), [1.0], None)
    assert "≤ 4 s, it takes 0.25 of that" in store.table([line])


def test_what_a_server_uses_is_read_of_all_its_threads() -> None:
    code = textwrap.dedent("""
        import threading, time
        def work():
            while time.thread_time() < 0.2: pass
        thread = threading.Thread(target=work)
        thread.start(); thread.join(); print(flush=True); input()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        server = doors.Server(process, 0, None, 0.0)
        used_s, used_bytes = server.cpu_s(), server.rss_bytes()
        process.kill()
    assert used_s > 0.15
    assert 1 << 20 < used_bytes < 1 << 30
