"""Bundles: the manifest and the zip archive that a deploy sends.

An app in a file travels as source: its package, or the Python files beside it. An app in a
notebook, a REPL, or in a function has no file to import it from and travels as a pickle of its
functions. The same source makes the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

from tidemill._app import App, Method
from tidemill._component import Component
from tidemill._version import __version__
from tidemill.errors import BadManifest, PayloadTooLarge

MANIFEST = "tidemill.json"
PICKLE = "functions.pkl"
SIZE_MAX = 50 << 20

_SKIPPED = frozenset({
    "__pycache__", "node_modules", "venv", "env", "build", "dist", "site-packages",
})  # fmt: skip
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Bundle:
    """A manifest, and the archive with it inside."""

    def __init__(self, app: str, manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        self.app = app
        self.manifest = manifest
        self.files = files

    def archive(self) -> bytes:
        """The zip archive; the same content gives the same bytes."""
        text = json.dumps(self.manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            _add(archive, MANIFEST, text.encode())
            for name in sorted(self.files):
                _add(archive, name, self.files[name])
        return out.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3
    entry.external_attr = 0o100644 << 16
    archive.writestr(entry, data, compresslevel=6)


def build(app: App) -> Bundle:
    """The bundle of an app as it stands."""
    entry, files = _entry(app)
    if not app.functions:
        raise BadManifest(f"app {app.name} has no functions")
    for function in app.functions.values():
        if isinstance(function, Component):
            files[function.bundled] = function.read()
    return Bundle(app.name, _manifest(app, entry), files)


def manifest(app: App) -> dict[str, Any]:
    """The manifest (docs/manifest.md) of an app as it stands."""
    return build(app).manifest


def _manifest(app: App, entry: dict[str, Any]) -> dict[str, Any]:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {
        "manifest": 1,
        "app": app.name,
        "runtime": {"kind": "python", "python": python, "sdk": __version__},
        "entry": entry,
        "level": app.level,
        "durability": app.durability,
        "functions": [function.to_manifest() for function in app.functions.values()],
        "flows": [{"name": name, "flow": flow.compile()} for name, flow in app.flows.items()],
    }


def _entry(app: App) -> tuple[dict[str, Any], dict[str, bytes]]:
    module = _module_of(app)
    attribute = None if module is None else _attribute(module, app)
    if module is None or attribute is None or app.file is None:
        return {"kind": "pickle"}, {PICKLE: _pickle(app), **_cloudpickle_sources()}
    root, paths = sources(app.file, app.module)
    return (
        {"kind": "module", "module": app.module, "app": attribute},
        _read(root, paths),
    )


def _module_of(app: App) -> Any:
    if app.file is None or not os.path.isfile(app.file):
        return None
    module = sys.modules.get(app.module)
    if module is None or _attribute(module, app) is None:
        main = sys.modules.get("__main__")
        if main is not None and getattr(main, "__file__", None) == app.file:
            return main
    return module


def _attribute(module: Any, app: App) -> str | None:
    names = [name for name, value in vars(module).items() if value is app]
    return "app" if "app" in names else min(names, default=None)


def sources(file: str, module: str) -> tuple[str, list[str]]:
    """The root directory of a module and the paths, relative to it, that make its bundle."""
    file = os.path.abspath(file)
    depth = module.count(".") + (os.path.basename(file) == "__init__.py")
    root = os.path.dirname(file)
    for _ in range(depth):
        root = os.path.dirname(root)
    if depth:
        return root, sorted(_walk(root, module.partition(".")[0]))
    paths = set()
    for entry in os.scandir(root):
        if entry.is_file() and entry.name.endswith(".py") and not entry.name.startswith("."):
            paths.add(entry.name)
        elif entry.is_dir() and _wanted(entry.path) and _is_package(entry.path):
            paths.update(_walk(root, entry.name))
    paths.update(_imported(root))
    return root, sorted(paths)


def _imported(root: str) -> Iterator[str]:
    """Modules in use from directories below the root that are no packages."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        relative = os.path.relpath(os.path.abspath(file), root)
        parts = relative.split(os.sep)
        if ".." in parts or not all(_wanted_name(part) for part in parts[:-1]):
            continue
        if all(_wanted(os.path.join(root, *parts[:i])) for i in range(1, len(parts))):
            yield relative


def _walk(root: str, directory: str) -> Iterator[str]:
    for base, names, files in os.walk(os.path.join(root, directory)):
        names[:] = [name for name in names if _wanted(os.path.join(base, name))]
        for name in files:
            if not name.endswith((".pyc", ".pyo")) and not name.startswith("."):
                yield os.path.relpath(os.path.join(base, name), root)


def _wanted_name(name: str) -> bool:
    return not name.startswith(".") and name not in _SKIPPED and not name.endswith(".egg-info")


def _wanted(directory: str) -> bool:
    if not _wanted_name(os.path.basename(directory)):
        return False
    return not os.path.exists(os.path.join(directory, "pyvenv.cfg"))


def _is_package(directory: str) -> bool:
    return os.path.isfile(os.path.join(directory, "__init__.py"))


def _read(root: str, paths: list[str]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    size = 0
    for path in paths:
        with open(os.path.join(root, path), "rb") as file:
            data = file.read(SIZE_MAX + 1)
        size += len(data)
        if size > SIZE_MAX:
            raise PayloadTooLarge(
                f"the files of {root} are above {SIZE_MAX >> 20} MB; put the app into a "
                "directory of its own, and data into state"
            )
        files[path.replace(os.sep, "/")] = data
    return files


def _cloudpickle_sources() -> dict[str, bytes]:
    """What it takes to read `functions.pkl`: the very version that wrote it."""
    import cloudpickle

    directory = os.path.dirname(os.path.abspath(cloudpickle.__file__))
    paths = sorted(_walk(os.path.dirname(directory), "cloudpickle"))
    return _read(os.path.dirname(directory), [path for path in paths if path.endswith(".py")])


def _pickle(app: App) -> bytes:
    import cloudpickle

    members: dict[str, Any] = {name: cls.cls for name, cls in app.classes.items()}
    for name, function in app.functions.items():
        if not isinstance(function, Method | Component):
            members[name] = function.fn
    # The module where a nested app lives does not travel, so what is taken from it must.
    module = None if app.module == "__main__" else sys.modules.get(app.module)
    if module is None:
        return cloudpickle.dumps(members, protocol=5)  # type: ignore[no-any-return]
    cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(members, protocol=5)  # type: ignore[no-any-return]
    finally:
        cloudpickle.unregister_pickle_by_value(module)
