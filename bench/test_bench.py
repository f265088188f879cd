"""Each benchmark runs on a small size, so that none of them rots; what it reports is checked."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import harness
import pytest
from harness import BenchError, Foreign, Report, Rounds, Row, in_turns

PROGRAMS = ["calls", "compose", "state", "start"]
PEERS = {"Ray": "ray", "Dask": "distributed"}


@pytest.fixture(scope="session", autouse=True)
def echo_is_built() -> None:
    """The bare server and the load client, made with cargo where they are not there."""
    try:
        harness.echo_program()
        harness.load_program()
    except BenchError:
        command = ["cargo", "build", "--profile", "ci", "--locked", "-p", "tidemill-bench-echo"]
        subprocess.run(command, cwd=harness.ROOT, check=True)


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
