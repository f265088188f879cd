"""The pytest plugin: the fixture `tidemill_node`, a client of a real node.

The node's program is `TIDEMILL_BIN`, else `tidemill` on the path; without it tests that ask for
the fixture are skipped. It runs for the session, in a data directory of its own, and is the
default client while it does, so that `f.remote(...)` goes to it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_START_SECONDS = 30.0
_STOP_SECONDS = 15.0


def find_binary() -> str | None:
    """The node's program."""
    return os.environ.get("TIDEMILL_BIN") or shutil.which("tidemill")


def start_node(binary: str, directory: Path) -> tuple[subprocess.Popen[bytes], str, str]:
    """Starts a node; gives its process, address and token once it is ready."""
    ready = directory / "ready.json"
    data = directory / "data"
    log = (directory / "node.log").open("wb")
    command = [
        binary, "up", "--data", str(data), "--listen", "127.0.0.1:0",
        "--ready-file", str(ready), "--durability", "memory", "--python", sys.executable,
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMILL_")}
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    log.close()
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            address = json.loads(ready.read_text())["http"]
            return process, f"http://{address}", (data / "token").read_text().strip()
        except (OSError, ValueError, KeyError):
            pass
        if process.poll() is not None or time.monotonic() > end:
            stop_node(process)
            text = (directory / "node.log").read_text(errors="replace")
            raise RuntimeError(f"the node did not start: {' '.join(command)}\n{text}")
        time.sleep(0.01)


def stop_node(process: subprocess.Popen[bytes]) -> None:
    """Asks the node to stop, and makes it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def tidemill_node(tmp_path_factory: Any) -> Iterator[Any]:
    """A `tidemill.Client` of a node that runs for the test session; `.deploy(app)` to begin."""
    from tidemill.client import Client, set_default_client

    binary = find_binary()
    if binary is None:
        pytest.skip("no tidemill program: set TIDEMILL_BIN or put it on the path")
    process, url, token = start_node(binary, tmp_path_factory.mktemp("tidemill"))
    client = Client(url, token)
    before = set_default_client(client)
    try:
        yield client
    finally:
        set_default_client(before)
        client.close()
        stop_node(process)
