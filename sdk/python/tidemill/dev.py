"""`python -m tidemill.dev FILE[:attr]`: deploys an app, and again whenever its source changes.

Output of the app's functions goes to stdout, what happens here to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from tidemill._bundle import sources
from tidemill.client import Client
from tidemill.deploy import locate
from tidemill.errors import ConnectionFailed, Error

_PERIOD_SECONDS = 0.3
_RECONNECT_SECONDS = 1.0


def fingerprint(file: str) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of change of the files that make the bundle."""
    _, module = locate(file)
    root, paths = sources(file, module)
    found = []
    for path in paths:
        try:
            status = os.stat(os.path.join(root, path))
        except FileNotFoundError:
            continue
        found.append((path, status.st_size, status.st_mtime_ns))
    return tuple(found)


def watch(
    target: str,
    client: Client,
    say: Callable[[str], object],
    pause: Callable[[], object] = lambda: time.sleep(_PERIOD_SECONDS),
    rounds: int | None = None,
) -> str | None:
    """Deploys now and after each change; gives the app's name when `rounds` are over."""
    file = target.partition(":")[0]
    seen = None
    app = None
    while rounds is None or rounds > 0:
        now = fingerprint(file)
        if now != seen:
            seen = now
            try:
                deployed = client.deploy(target)
                app = deployed.get("app", app)
                say(f"deployed {app} {deployed.get('version', '')}".rstrip())
            except Error as error:
                say(str(error))
        if rounds is not None:
            rounds -= 1
        pause()
    return app


def _follow(client: Client, app: str) -> None:
    while True:
        try:
            for line in client.logs(app, follow=True, limit=0):
                print(f"{line.get('function', '')}: {line.get('text', '')}", flush=True)
        except ConnectionFailed:
            pass
        except Error as error:
            print(error, file=sys.stderr)
        time.sleep(_RECONNECT_SECONDS)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tidemill.dev", description="Deploys an app whenever its source changes."
    )
    parser.add_argument("target", metavar="FILE[:attr]", help="the app's file")
    options = parser.parse_args(argv)
    file = options.target.partition(":")[0]
    if not os.path.isfile(file):
        parser.error(f"no such file: {file}")
    client = Client()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    app = watch(options.target, client, say, rounds=1)
    if app is not None:
        threading.Thread(target=_follow, args=(client, app), daemon=True).start()
    try:
        watch(options.target, client, say)
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
