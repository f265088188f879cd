"""`python -m tidemill.deploy FILE[:attr] -o bundle.zip`: makes the bundle of an app.

Runs the file to see what the app registers. `--print-manifest` writes the manifest to stdout.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from tidemill import _bundle
from tidemill._app import App


def locate(file: str) -> tuple[str, str]:
    """The root directory and the dotted module name of a file, its packages included."""
    path = os.path.abspath(file)
    directory, base = os.path.split(path)
    parts = [] if base == "__init__.py" else [os.path.splitext(base)[0]]
    while os.path.isfile(os.path.join(directory, "__init__.py")):
        directory, package = os.path.split(directory)
        parts.insert(0, package)
    return directory, ".".join(parts)


def load(target: str) -> App:
    """The app of `FILE[:attr]`. Without `attr` it is `app`, or the only one there is.

    Workers will import this file, though the app may be made in one that it imports.
    """
    file, _, attribute = target.partition(":")
    if not os.path.isfile(file):
        raise FileNotFoundError(f"no such file: {file}")
    root, name = locate(file)
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"{file} can not be imported: {name!r} is no module name")
    if root not in sys.path:
        sys.path.insert(0, root)
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    if not os.path.samefile(getattr(module, "__file__", None) or os.devnull, file):
        raise ImportError(f"{file}: another module is called {name}; rename the file")
    app = _choose(module, file, attribute)
    app.module, app.file = name, file
    return app


def _choose(module: ModuleType, file: str, attribute: str) -> App:
    if attribute:
        found = getattr(module, attribute, None)
        if not isinstance(found, App):
            raise LookupError(f"{file} has no tidemill.App named {attribute}")
        return found
    apps = {id(v): (k, v) for k, v in vars(module).items() if isinstance(v, App)}
    here = getattr(module, "app", None)
    if isinstance(here, App):
        return here
    if len(apps) != 1:
        names = ", ".join(sorted(k for k, _ in apps.values())) or "none"
        raise LookupError(f"{file} must have one tidemill.App (found: {names}); name it FILE:attr")
    return next(iter(apps.values()))[1]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tidemill.deploy", description="Makes the bundle of an app."
    )
    parser.add_argument("target", metavar="FILE[:attr]", help="the app's file")
    parser.add_argument("-o", "--output", help="where to write the bundle (a zip archive)")
    parser.add_argument(
        "--print-manifest", action="store_true", help="write the manifest to stdout"
    )
    options = parser.parse_args(argv)
    if options.output is None and not options.print_manifest:
        parser.error("say -o FILE, --print-manifest, or both")
    stdout = sys.stdout
    sys.stdout = sys.stderr  # what the app prints is not data
    try:
        bundle = _bundle.build(load(options.target))
    finally:
        sys.stdout = stdout
    if options.output is not None:
        with open(options.output, "wb") as file:
            file.write(bundle.archive())
    if options.print_manifest:
        print(json.dumps(bundle.manifest, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
