"""A node as a child process, for as long as an example runs."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

READY_S = 60
STOP_S = 30


class NodeError(Exception):
    """The node did not start; the message says where to look."""


def make_fresh(data: Path) -> None:
    """Empties a node's data directory, and refuses to empty anything else."""
    if data.exists():
        if any(data.iterdir()) and not (data / "token").is_file():
            raise NodeError(f"{data} is not the data of a node; name another directory with --data")
        for lock in data.rglob("LOCK"):
            refuse_if_held(lock)
        shutil.rmtree(data)
    data.mkdir(parents=True)


def refuse_if_held(lock: Path) -> None:
    """A node holds its lock file for as long as it runs."""
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "unknown"
            raise NodeError(
                f"a node runs on {lock.parent} (process {holder}); stop it, or use another --data"
            ) from None


def find_program() -> Path:
    """The node's program: `TIDEMILL_BIN`, or else what was built last under `target`."""
    named = os.environ.get("TIDEMILL_BIN")
    if named:
        return Path(named)
    root = Path(__file__).resolve().parents[2]
    target = Path(os.environ.get("CARGO_TARGET_DIR") or root / "target")
    built = [target / profile / "tidemill" for profile in ("ci", "release", "debug")]
    found = [program for program in built if program.is_file()]
    if not found:
        raise NodeError(
            "there is no tidemill program; run `scripts/run build`, or set TIDEMILL_BIN"
        )
    return max(found, key=lambda program: program.stat().st_mtime)


class Node:
    """Starts `tidemill up` on a data directory and waits until it is ready."""

    def __init__(self, program: Path, data: Path) -> None:
        self.data = data
        self.log = data.with_name(f"{data.name}.log")
        self._ready = data.with_name(f"{data.name}.ready")
        self._ready.unlink(missing_ok=True)
        # Port 0: the node picks a free one, and the ready file says which.
        command: list[str | Path] = [program, "up", "--data", data, "--listen", "127.0.0.1:0"]
        command += ["--python", sys.executable, "--ready-file", self._ready]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # An interrupt at the terminal is for the driver, which then stops the node.
                start_new_session=True,
            )
        try:
            self.url = f"http://{self._address()}"
        except BaseException:
            self.stop()
            raise

    @property
    def token(self) -> str:
        """The bearer token that the node has made."""
        return (self.data / "token").read_text().strip()

    def _address(self) -> str:
        """Where the node listens, once it serves."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                ended = self.process.returncode
                raise NodeError(f"the node ended with {ended}: see {self.log}\n{self.tail()}")
            if self._ready.exists():
                return str(json.loads(self._ready.read_text())["http"])
            time.sleep(0.02)
        raise NodeError(f"the node was not ready after {READY_S} s: see {self.log}\n{self.tail()}")

    def tail(self, lines: int = 20) -> str:
        """The last lines of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Asks it to stop, and makes sure that it has."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
