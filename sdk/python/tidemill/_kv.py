"""State over HTTP (docs/http.md, "State as JSON"): the backend of `client.state(app)`."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tidemill import _codec
from tidemill._codec import BYTES, JSON, Payload
from tidemill._context import View
from tidemill._http import Response
from tidemill.errors import BadKey, NotFound, WrongType

_WRAPPED = {"content_type", "base64"}
_NAMES = {"map.remove": "remove"}

Send = Callable[..., Response]


def wrap(payload: Payload) -> Any:
    """A value inside JSON: itself, or `{"content_type", "base64"}`."""
    if payload.content_type == JSON:
        value = payload.decode()
        if not _is_wrapped(value):
            return value
    return {
        "content_type": payload.content_type,
        "base64": base64.b64encode(payload.data).decode("ascii"),
    }


def unwrap(value: Any) -> Payload:
    """The inverse of `wrap`."""
    if _is_wrapped(value):
        data = base64.b64decode(value["base64"])
        return _codec.payload(value["content_type"], data)
    return _codec.payload(JSON, json.dumps(value).encode())


def _is_wrapped(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == _WRAPPED
        and all(isinstance(part, str) for part in value.values())
    )


class HttpState:
    """One app's state through the HTTP door. Each write is a commit of its own."""

    def __init__(self, send: Send, app: str) -> None:
        self._send = send
        self._base = f"/v1/kv/{quote(app, safe='')}"

    def _path(self, key: str) -> str:
        if not key:  # its path would be that of all keys
            raise BadKey("the key is empty: give it 1 to 2048 bytes")
        return f"{self._base}/{quote(key, safe='')}"

    def write(self, op: dict[str, Any]) -> None:
        """Does one operation."""
        path = self._path(op["k"])
        name: str = op["o"]
        value: Any = op.get("p")
        if name == "delete":
            self._send("DELETE", path, accept=(404,))
        elif name == "register.set" and "f" not in op:
            headers = f"Content-Type: {value.content_type}\r\n"
            self._send("PUT", path, headers, value.parts)
        else:
            body = json.dumps(self._operation(op), allow_nan=False).encode()
            self._send("POST", path, "Content-Type: application/json\r\n", (body,))

    def _operation(self, op: dict[str, Any]) -> dict[str, Any]:
        name: str = op["o"]
        if name == "map.remove":
            return {"type": "map", "op": "remove", "field": op["f"]}
        if name == "expire":
            made = {"op": "expire", "value": op["at_ms"]}
            if op.get("_t"):
                made["type"] = op["_t"]
            return made
        kind, _, verb = name.partition(".")
        made = {"type": kind, "op": verb}
        if "f" in op:
            made = {"type": "map", "field": op["f"], "field_type": kind, "op": verb}
        if "p" in op:
            made["value"] = wrap(op["p"])
        elif kind == "top":
            made["value"] = {"score": op["score"], "id": op["id"]}
            made["of"] = op["of"]
        elif "v" in op:
            made["value"] = op["v"]
        if "keep" in op:
            made["keep"] = op["keep"]
        return made

    def read(self, get: dict[str, Any]) -> Any:
        """Answers one get."""
        if "scan" in get:
            return self._scan(get)
        path = self._path(get["k"])
        kind = get.get("t")
        if kind == "register":
            try:
                answer = self._send("GET", path)
            except NotFound:
                return None
            return self._register(get["k"], answer)
        try:
            answer = self._send("GET", path + "?view=json")
        except NotFound:
            return None if "has" not in get else False
        view = _parse(json.loads(answer.body))
        if kind is not None and view.type != kind:
            raise WrongType(f"{get['k']} holds a {view.type}, not a {kind}")
        if "has" in get:
            element: Payload = get["has"]
            return any(_same(element, other) for other in view.values)
        if "f" in get:
            return view.fields.get(get["f"])
        return view

    def _register(self, key: str, answer: Response) -> View:
        content_type = answer.headers.get("content-type", BYTES)
        if content_type == JSON:
            # A register with such a value looks like another type; the JSON view tells.
            value = _codec.decode(JSON, answer.body)
            if isinstance(value, dict) and value.keys() == {"type", "value"}:
                view = _parse(json.loads(self._send("GET", self._path(key) + "?view=json").body))
                if view.type != "register":
                    raise WrongType(f"{key} holds a {view.type}, not a register")
                return view
        view = View("register")
        view.value = _codec.payload(content_type, answer.body)
        return view

    def _scan(self, get: dict[str, Any]) -> dict[str, Any]:
        path = f"{self._base}?prefix={quote(get['scan'], safe='')}&limit={get['limit']}"
        if get["after"] is not None:
            path += f"&after={quote(str(get['after']), safe='')}"
        page = json.loads(self._send("GET", path).body)
        return {
            "keys": [(entry["key"], entry["type"]) for entry in page["keys"]],
            "next": page.get("next"),
        }

    async def read_aio(self, get: dict[str, Any]) -> Any:
        """The same in a thread."""
        return await asyncio.to_thread(self.read, get)


def _same(a: Payload, b: Payload) -> bool:
    if a.content_type != b.content_type:
        return False
    if a.content_type == JSON:  # it went through another encoder
        return bool(json.loads(bytes(a.data)) == json.loads(bytes(b.data)))
    return bytes(a.data) == bytes(b.data)


def _parse(answer: dict[str, Any]) -> View:
    view = View(answer["type"])
    value = answer["value"]
    if view.type == "register":
        view.value = unwrap(value)
    elif view.type in ("multi", "set", "log"):
        view.values = [unwrap(item) for item in value]
    elif view.type == "map":
        view.fields = {name: _parse(field) for name, field in value.items()}
    elif view.type == "top":
        view.value = [(item["score"], item["id"]) for item in value]
    else:
        view.value = value
    return view
