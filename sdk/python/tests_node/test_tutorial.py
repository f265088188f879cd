"""docs/tutorial.md, followed to the letter: its files are written, its commands run in order.

A block ```` ```python title=NAME ```` is the file NAME; with a `+` behind NAME it is added to it.
In ```` ```console ```` a line that begins with `$ ` is a command for bash, and what follows is what
it prints: `...` stands for any text within a line, and a line that is only `...` for any lines. The
port in the text is the usual one; here it is any that is free.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, SDK

TUTORIAL = ROOT / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```(\w+)(?: title=([\w.]+\+?))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = "127.0.0.1:7070"
_SECONDS = 60


class Shell:
    """One bash for the whole page, so that variables and jobs last."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """What the command prints, on stdout and stderr."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho =done=\n".encode())
        self._process.stdin.flush()
        out = b""
        end = time.monotonic() + _SECONDS
        while not out.endswith(b"=done=\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], end - time.monotonic())
            assert ready, f"{command} does not end; so far: {out.decode()}"
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            assert piece, f"bash ended at {command}: {out.decode()}"
            out += piece
        return out.decode().removesuffix("=done=\n")

    def close(self) -> None:
        """Ends it with everything it started."""
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.communicate(timeout=_SECONDS)


def blocks(text: str) -> list[tuple[int, str, str | None, str]]:
    """`(line, language, title, content)` of each block."""
    return [
        (text.count("\n", 0, match.start()) + 1, match[1], match[2], match[3])
        for match in _BLOCK.finditer(text)
    ]


def commands(content: str) -> list[tuple[str, str]]:
    """`(command, output)` of a console block. A command goes on after a backslash."""
    found: list[tuple[str, str]] = []
    lines = content.splitlines(keepends=True)
    while lines:
        line = lines.pop(0)
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\\n"):
                command += lines.pop(0)
            found.append((command.rstrip("\n"), ""))
        else:
            command, output = found[-1]
            found[-1] = (command, output + line)
    return found


def pattern(output: str) -> re.Pattern[str]:
    """What the output must match."""
    parts = []
    for line in output.splitlines(keepends=True):
        if line == "...\n":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".*?".join(re.escape(piece) for piece in line.split("...")))
    return re.compile("".join(parts) + r"\Z")


@pytest.mark.parametrize(
    ("output", "given", "fits"),
    [
        ("a\n", "a\n", True),
        ("a\n", "ab\n", False),
        ("a ... c\n", "a b b c\n", True),
        ("a ... c\n", "a\nc\n", False),
        ("a\n...\nc\n", "a\nb\nb\nc\n", True),
        ("a\n...\n", "a\n", True),
        ("", "a\n", False),
        ("a.b\n", "axb\n", False),
    ],
)
def test_wildcards(output, given, fits):
    assert (pattern(output).match(given) is not None) == fits


def address(path: Path) -> str:
    """Where the node listens, once it does."""
    end = time.monotonic() + _SECONDS
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.01)
    return str(json.loads(path.read_text())["http"])


def test_the_tutorial(program, tmp_path):
    home = tmp_path / "home"
    programs = tmp_path / "bin"
    work = tmp_path / "work"
    for directory in (home, programs, work):
        directory.mkdir()
    (programs / "tidemill").symlink_to(program.resolve())
    environment = {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        # Another node may be at the usual port; a free one is found through node.json.
        "TIDEMILL_HTTP_LISTEN": "127.0.0.1:0",
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(SDK),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    shell = Shell(work, environment)
    ran = 0
    place = PLACE
    try:
        for line, language, title, content in blocks(TUTORIAL.read_text()):
            if title is not None:
                with (work / title.rstrip("+")).open("a" if title.endswith("+") else "w") as file:
                    file.write(content)
            elif language == "console":
                for command, output in commands(content):
                    given = shell.run(command.replace(PLACE, place))
                    if command.endswith("&"):
                        place = address(home / ".tidemill" / "node.json")
                        given += shell.run("sleep 0.2")
                    given = given.replace(place, PLACE)
                    fits = pattern(output).match(given)
                    assert fits, f"line {line}: $ {command}\n{given}\ninstead of\n{output}"
                    ran += 1
    finally:
        shell.close()
    assert ran > 10
