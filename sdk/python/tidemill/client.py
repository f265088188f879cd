"""The client: calls, state, deploys and logs over HTTP (docs/http.md).

Outside of functions `f.remote(...)` goes through the default client, which is the one made last
by `tidemill.connect`, or else one for the node that `TIDEMILL_URL` or the data directory name.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from tidemill import _codec, _context
from tidemill._app import App, _check_durability, _check_level
from tidemill._handles import Space
from tidemill._http import Http
from tidemill._kv import HttpState
from tidemill._remote import HttpRuntime, lines, raise_problem
from tidemill._retry import Retry
from tidemill.errors import BadManifest

DEFAULT_URL = "http://127.0.0.1:7070"

# The SDK may be on the path of this process only, so the one that bundles is told where it is.
_BUNDLE = """
import sys
sys.path.append(sys.argv.pop(1))
from tidemill.deploy import main
sys.exit(main(sys.argv[1:]))
"""


def data_directory() -> str:
    """Where a node on this machine keeps its address and token."""
    return os.environ.get("TIDEMILL_DATA") or os.path.expanduser("~/.tidemill")


def find_url() -> str:
    """The node's address: `TIDEMILL_URL`, the data directory's `node.json`, or the default."""
    url = os.environ.get("TIDEMILL_URL")
    if url:
        return url
    try:
        with open(os.path.join(data_directory(), "node.json"), encoding="utf-8") as file:
            address = json.load(file).get("http")
    except (OSError, ValueError, AttributeError):
        return DEFAULT_URL
    return f"http://{address}" if address else DEFAULT_URL


def find_token() -> str | None:
    """The token: `TIDEMILL_TOKEN`, or the data directory's `token`."""
    token = os.environ.get("TIDEMILL_TOKEN")
    if token:
        return token
    try:
        with open(os.path.join(data_directory(), "token"), encoding="utf-8") as file:
            return file.read().strip() or None
    except OSError:
        return None


class Client:
    """A node, seen from outside. Safe to use from several threads.

    A client is a session: whatever it has read or written, its next call sees at least that.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retry: Retry | None = None,
    ) -> None:
        headers = {"Tidemill-Client": "python"}
        token = token if token is not None else find_token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._runtime = HttpRuntime(Http(url or find_url(), headers), retry)

    def session(self, *, level: str | None = None, durability: str | None = None) -> Client:
        """Another session: a client of the same node over the same connections.

        It asks for `level` (`causal`, `eventual`) and `durability` (`durable`, `memory`) in all its
        calls and writes. What one session has seen does not bind another.
        """
        made = Client.__new__(Client)
        made._runtime = self._runtime.session(_terms(level, durability))
        return made

    @property
    def url(self) -> str:
        """The node's address."""
        return self._runtime.http.url

    def __repr__(self) -> str:
        return f"<Client {self.url}>"

    def close(self) -> None:
        """Closes idle connections and threads."""
        self._runtime.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state(self, app: App | str) -> Space:
        """The state of an app, with the methods of `tidemill.state`; each write is a commit."""
        return Space(HttpState(self._runtime.send, _app_name(app)))

    def call(self, app: App | str, function: str, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a function or flow by name. A generator gives an iterator of its items."""
        path = f"/v1/call/{quote(_app_name(app))}/{quote(function)}"
        return self._runtime.post_call(path, _codec.encode_call(args, kwargs))

    def deploy(self, target: App | str | os.PathLike[str]) -> dict[str, Any]:
        """Deploys an app, a Python file (`FILE[:attr]`) or a bundle (`.zip`)."""
        if isinstance(target, App):
            from tidemill._bundle import build

            return self._deploy(target.name, build(target).archive())
        path = os.fspath(target)
        if path.endswith(".zip"):
            with open(path, "rb") as file:
                archive = file.read()
        else:
            archive = _make_bundle(path)
        return self._deploy(_archive_app(archive), archive)

    def apps(self) -> Any:
        """The apps of the node."""
        return json.loads(self._runtime.send("GET", "/v1/apps").body)

    def app(self, app: App | str) -> dict[str, Any]:
        """Manifest, version and workers of one app."""
        return self._json("GET", f"/v1/apps/{quote(_app_name(app))}")

    def remove(self, app: App | str, *, state: str = "keep") -> None:
        """Removes an app; `state="delete"` its state too."""
        self._runtime.send("DELETE", f"/v1/apps/{quote(_app_name(app))}?state={quote(state)}")

    def request(self, id: str) -> dict[str, Any]:
        """What became of one request."""
        return self._json("GET", f"/v1/requests/{quote(id)}")

    def requests(self, **filters: Any) -> Any:
        """Recent requests; filters are `app`, `state`, `limit`."""
        return json.loads(self._runtime.send("GET", "/v1/requests" + _query(filters)).body)

    def node(self) -> dict[str, Any]:
        """Version, uptime and settings of the node."""
        return self._json("GET", "/v1/node")

    def logs(
        self,
        app: App | str | None = None,
        *,
        request: str | None = None,
        function: str | None = None,
        after: int | None = None,
        limit: int | None = None,
        follow: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Lines of output, as dicts; with `follow` it goes on as they come."""
        filters = {
            "app": None if app is None else _app_name(app),
            "request": request,
            "function": function,
            "after": after,
            "limit": limit,
            "follow": "true" if follow else None,
        }
        status, headers, pieces = self._runtime.http.open_stream(
            "GET", "/v1/logs" + _query(filters)
        )
        if status >= 400:
            raise_problem(status, headers, b"".join(pieces))
        return (json.loads(line) for line in lines(pieces) if line.strip())

    def _json(self, method: str, path: str) -> dict[str, Any]:
        return json.loads(self._runtime.send(method, path).body)  # type: ignore[no-any-return]

    def _deploy(self, app: str, archive: bytes) -> dict[str, Any]:
        headers = "Content-Type: application/zip\r\n"
        answer = self._runtime.send("PUT", f"/v1/apps/{quote(app)}", headers, (archive,))
        known = self._runtime.known_flows
        known.difference_update([place for place in known if place[0] == app])
        return json.loads(answer.body) if answer.body else {}


def _terms(level: str | None, durability: str | None) -> str:
    """Header lines; refused here where the caller sees it."""
    lines = ""
    if _check_level(level) is not None:
        lines += f"Tidemill-Level: {level}\r\n"
    if _check_durability(durability) is not None:
        lines += f"Tidemill-Durability: {durability}\r\n"
    return lines


def _app_name(app: App | str) -> str:
    return app.name if isinstance(app, App) else app


def _query(filters: dict[str, Any]) -> str:
    given = {name: value for name, value in filters.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def _make_bundle(target: str) -> bytes:
    """Bundles in a process of its own, so that the app's import leaves nothing here."""
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "bundle.zip")
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        made = subprocess.run(
            [sys.executable, "-c", _BUNDLE, package, target, "-o", out],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if made.returncode:
            raise BadManifest(f"{target} can not be bundled:\n{made.stderr.rstrip()}")
        with open(out, "rb") as file:
            return file.read()


def _archive_app(archive: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return str(json.loads(opened.read("tidemill.json"))["app"])
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise BadManifest(f"no bundle with a tidemill.json that names its app: {error}") from None


# -- the default client ----------------------------------------------------------------------------

_default: Client | None = None
_default_lock = threading.Lock()


def connect(
    url: str | None = None, token: str | None = None, *, retry: Retry | None = None
) -> Client:
    """A client of the node at `url`; it becomes the default one.

    Without `url`: `TIDEMILL_URL`, else the address in `node.json` in the data directory
    (`TIDEMILL_DATA`, else `~/.tidemill`), else `http://127.0.0.1:7070`. Without `token`:
    `TIDEMILL_TOKEN`, else the file `token` in the data directory. Nothing is sent yet.
    `retry` says how calls are sent again whose answer was lost; each takes effect once.
    """
    global _default
    client = Client(url, token, retry=retry)
    _default = client
    return client


def set_default_client(client: Client | None) -> Client | None:
    """Makes `client` the default one; gives the one before."""
    global _default
    before, _default = _default, client
    return before


def default_client() -> Client:
    """The default client, made on first use."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = Client()
    return _default


def _default_runtime() -> HttpRuntime:
    return (_default or default_client())._runtime


_context.default_client = _default_runtime
