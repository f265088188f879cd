"""Loading an app into a worker: from a bundle's module, or from its pickle."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import sys
from typing import Any

from tidemill import _codec
from tidemill._app import App


def load_app(header: dict[str, Any]) -> App:
    """The app of a `load` frame. Raises what the user's code raises, or says what is missing."""
    os.environ.update({str(k): str(v) for k, v in (header.get("env") or {}).items()})
    root = header["root"]
    os.chdir(root)
    if root not in sys.path:
        sys.path.insert(0, root)
    importlib.invalidate_caches()
    entry = header["entry"]
    if entry.get("kind") == "pickle":
        app = _from_pickle(header["app"], os.path.join(root, "functions.pkl"))
    else:
        app = _from_module(entry["module"], entry.get("app", "app"))
    missing = [name for name in header.get("functions", ()) if name not in app.functions]
    if missing:
        raise LookupError(f"app {app.name} has no function {', '.join(missing)}")
    return app


def _from_module(name: str, attribute: str) -> App:
    _codec.alias_entry(name)
    module = importlib.import_module(name)
    app = getattr(module, attribute, None)
    if not isinstance(app, App):
        raise LookupError(f"module {name} has no tidemill.App named {attribute!r}")
    return app


def _from_pickle(name: str, path: str) -> App:
    app = App(name)  # first, so that functions which refer to it find it
    with open(path, "rb") as file:
        members: dict[str, Any] = pickle.load(file)
    for member_name, member in members.items():
        if inspect.isclass(member):
            app.cls(name=member_name)(member)
        else:
            app.function(name=member_name)(member)
    return app
