"""Tests of the SDK against a real node.

The node's program is the one `TIDEMILL_BIN` names, else `tidemill` on the path, else the newest
one that cargo has built. Without any of them these tests fail: they are there to run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tidemill
import tidemill.testing
from tidemill._pytest import start_node, stop_node

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SDK = HERE.parent

sys.path.insert(0, str(HERE / "apps"))


def find_program() -> Path | None:
    """The program to test."""
    named = os.environ.get("TIDEMILL_BIN")
    if named:
        return Path(named)
    found = shutil.which("tidemill")
    if found:
        return Path(found)
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    built = [target / profile / "tidemill" for profile in ("release", "ci")]
    there = [path for path in built if path.is_file()]
    return max(there, key=lambda path: path.stat().st_mtime, default=None)


@pytest.fixture(scope="session", autouse=True)
def program() -> Path:
    """The program of the node; `tidemill_node` starts it."""
    found = find_program()
    if found is None or not os.access(found, os.X_OK):
        pytest.fail(
            f"no tidemill program to test (looked at {found}): build it with `scripts/run build`, "
            "put it on the path, or name it with TIDEMILL_BIN",
            pytrace=False,
        )
    os.environ["TIDEMILL_BIN"] = str(found)
    return found


@pytest.fixture
def node(tidemill_node: tidemill.Client) -> tidemill.Client:
    """The session's node, by a shorter name."""
    return tidemill_node


@pytest.fixture
def kitchen(tidemill_node: tidemill.Client) -> Any:
    """The module of the app `kitchen`, deployed, its state empty."""
    import kitchen

    tidemill_node.deploy(kitchen.app)
    clear(tidemill_node, "kitchen")
    return kitchen


def clear(client: tidemill.Client, app: str) -> None:
    """Deletes all state of an app."""
    state = client.state(app)
    for key in list(state.keys()):
        state.delete(key)


class Either(NamedTuple):
    """An app's module, and its state as seen from outside of functions."""

    kitchen: Any
    outside: Any


@pytest.fixture(params=["node", "local"])
def either(request: Any, tidemill_node: tidemill.Client) -> Iterator[Either]:
    """The app `kitchen` with empty state: on the node, and in this process."""
    import kitchen

    if request.param == "node":
        tidemill_node.deploy(kitchen.app)
        clear(tidemill_node, "kitchen")
        yield Either(kitchen, tidemill_node.state("kitchen"))
    else:
        with tidemill.testing.local(kitchen.app) as local:
            yield Either(kitchen, local.state(kitchen.app))


def eventually(check: Callable[[], Any], seconds: float = 40.0) -> Any:
    """Waits until `check` gives something true, and gives it."""
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < end, f"it never came about; last seen: {found!r}"
        time.sleep(0.02)


@contextmanager
def own_node(program: Path, directory: Path) -> Iterator[tidemill.Client]:
    """A node of one's own, with its data in `directory/data`."""
    process, url, token = start_node(str(program), directory)
    try:
        with tidemill.Client(url, token) as client:
            yield client
    finally:
        stop_node(process)


def run_python(
    client: tidemill.Client, arguments: list[str], directory: Path, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own, with this node as its default one."""
    environment = {
        **os.environ,
        "TIDEMILL_URL": client.url,
        "TIDEMILL_TOKEN": token_of(client),
        "PYTHONPATH": str(SDK),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def data_directory(client: tidemill.Client) -> Path:
    """Where the node keeps its data."""
    return Path(client.node()["data_directory"])


def token_of(client: tidemill.Client) -> str:
    """The node's token."""
    return (data_directory(client) / "token").read_text().strip()
