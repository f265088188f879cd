"""A tiny HTTP door for tests of the client: calls run in local mode, state is the model."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tidemill import _codec, _context, _failure
from tidemill._app import find_app
from tidemill._flow import Flow, _Leaf, _Par, _Seq
from tidemill._handles import Space
from tidemill._kv import wrap
from tidemill.errors import Error, FunctionError, NotFound
from tidemill.testing import Local

STATUS = {
    "unauthorized": 401, "unknown-app": 404, "unknown-function": 404, "unknown-key": 404,
    "unknown-request": 404, "wrong-type": 409, "function-failed": 500,
}  # fmt: skip


class Door:
    def __init__(self, *apps):
        self.local = Local(apps)
        self.results = {}
        self.flows = {}
        self.seen = []
        self.deployed = {}
        self.drop_next = 0
        self.slow = 0.0
        # What becomes of the next calls: a function of the handler, or None for the usual.
        self.mishaps = []
        self.ran = []
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def handle_any(self):
                door.handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def handle(self, http):
        body = http.rfile.read(int(http.headers.get("content-length") or 0))
        url = urlsplit(http.path)
        parts = [unquote(p) for p in url.path.split("/")[2:]]
        query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        self.seen.append((http.command, http.path, dict(http.headers.items()), http.client_address))
        try:
            if http.headers.get("authorization") != "Bearer secret":
                raise Error("no token", code="unauthorized")
            getattr(self, f"on_{parts[0]}")(http, http.command, parts[1:], query, body)
        except Exception as error:
            self.problem(http, error)

    def send(self, http, status, content_type, body, **headers):
        http.send_response(status)
        http.send_header("Content-Type", content_type)
        http.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            http.send_header(name.replace("_", "-"), value)
        http.end_headers()
        http.wfile.write(body)

    def json(self, http, value, status=200):
        self.send(http, status, "application/json", json.dumps(value).encode())

    def problem(self, http, error, **headers):
        found = self.found(error)
        body = json.dumps(found).encode()
        status = STATUS.get(found["code"], 500)
        self.send(http, status, "application/problem+json", body, **headers)

    def found(self, error):
        if isinstance(error, FunctionError):
            exception = {"type": error.type, "message": error.message, "traceback": "somewhere"}
            return {"code": error.code, "request": "req-7", "exception": exception}
        if isinstance(error, Error):
            return {"code": error.code, "detail": error.detail, "suggestions": ["abc"]}
        described, pickled = _failure.describe(error)
        if pickled is not None:
            described["pickle"] = base64.b64encode(bytes(pickled.data)).decode()
        return {"code": "function-failed", "request": "req-7", "exception": described}

    def on_call(self, http, method, parts, query, body):
        app, name = parts
        mishap = self.mishaps.pop(0) if self.mishaps else None
        if mishap is not None:
            mishap(self, http)
            return
        self.ran.append(name)
        time.sleep(self.slow)
        content_type = http.headers.get("content-type", "application/json")
        args, kwargs = _codec.decode_call(content_type, body)
        if name in self.flows:
            target = self.flows[name]
        else:
            known = find_app(app)
            target = known.flows.get(name) or known.functions.get(name)
        if target is None:
            raise NotFound(f"no function {name}", code="unknown-function")
        token = _context.current.set(None)
        outcome = self.local.attempt(target, tuple(args), kwargs)
        _context.current.reset(token)
        if "respond-async" in http.headers.get("prefer", ""):
            id = f"req-{len(self.results)}"
            self.results[id] = [2, outcome]
            self.send(http, 202, "application/json", b"{}", Location=f"/v1/requests/{id}")
        elif outcome.streamed:
            self.stream(http, outcome)
        else:
            self.answer(http, outcome)

    def answer(self, http, outcome):
        if outcome.error is not None:
            self.problem(http, outcome.error)
            return
        if outcome.streamed:  # a generator that was not streamed gives a list
            self.json(http, [wrap(item) for item in outcome.items])
            return
        result = outcome.result or _codec.encode(None)
        body = bytes(result.data)
        self.send(http, 200, result.content_type, body, Tidemill_Request="req-1")

    def stream(self, http, outcome):
        http.send_response(200)
        http.send_header("Content-Type", "text/event-stream")
        http.send_header("Transfer-Encoding", "chunked")
        http.end_headers()
        text = "".join(f"event: item\ndata: {json.dumps(wrap(p))}\n\n" for p in outcome.items)
        if outcome.error is not None:
            text += f"event: failed\ndata: {json.dumps(self.found(outcome.error))}\n\n"
        elif not self.drop_next:
            text += "event: committed\ndata: {}\n\n"
        data = text.encode()
        for i in range(0, len(data), 7):  # pieces that end anywhere
            piece = data[i : i + 7]
            http.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        http.wfile.write(b"0\r\n\r\n")

    def on_requests(self, http, method, parts, query, body):
        if parts[0] not in self.results:
            raise NotFound("no such request", code="unknown-request")
        waiting = self.results[parts[0]]
        if method == "DELETE":
            waiting[1].error = Error("stopped", code="cancelled")
            self.json(http, {})
        elif len(parts) == 1:
            self.json(http, {"id": parts[0], "state": "running"})
        elif waiting[0] > 0:
            waiting[0] -= 1
            self.json(http, {}, 202)
        else:
            self.answer(http, waiting[1])

    def on_apps(self, http, method, parts, query, body):
        if len(parts) == 3:
            self.flows[parts[2]] = Flow(rebuild(find_app(parts[0]), json.loads(body)))
            self.json(http, {})
        elif method == "PUT":
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                self.deployed[parts[0]] = json.loads(archive.read("tidemill.json"))
            self.json(http, {"app": parts[0], "version": f"v{len(body)}"})
        else:
            self.json(http, [])

    def on_logs(self, http, method, parts, query, body):
        lines = "".join(json.dumps({"text": f"line {i}", **query}) + "\n" for i in range(3))
        self.send(http, 200, "application/x-ndjson", lines.encode())

    def on_kv(self, http, method, parts, query, body):
        space = Space(self.local.state(parts[0])._backend)
        backend = space._state()
        if len(parts) == 1:
            after = query.get("after")
            page = backend.read({"scan": query["prefix"], "after": after, "limit": 2})
            keys = [{"key": k, "type": t} for k, t in page["keys"]]
            self.json(http, {"keys": keys, "next": page["next"]})
            return
        key = parts[1]
        if method == "GET":
            view = backend.read({"k": key, "t": None})
            if view is None:
                raise NotFound("no key", code="unknown-key")
            if view.type == "register" and query.get("view") != "json":
                self.send(http, 200, view.value.content_type, bytes(view.value.data))
            else:
                self.json(http, show(view))
        elif method == "DELETE":
            backend.write({"k": key, "o": "delete"})
            self.json(http, {})
        elif method == "PUT":
            payload = _codec.payload(http.headers["content-type"], body)
            backend.write({"k": key, "o": "register.set", "p": payload})
            self.json(http, {})
        else:
            backend.write(operation(key, json.loads(body)))
            self.json(http, {})


def rebuild(app, ir):
    """Any flow of the tests is a chain, or a head, branches and a combining step."""
    leaves = [_Leaf(app.functions[step["call"]]) for step in ir["steps"]]
    if all(len(step["in"]) == 1 and step["in"] in (["input"], [step["id"] - 1])
           for step in ir["steps"]):  # fmt: skip
        return _Seq(tuple(leaves))
    return _Seq((leaves[0], _Par(tuple(leaves[1:-1])), leaves[-1]))


def show(view):
    value = view.value
    if view.type == "register":
        value = wrap(value)
    elif view.type in ("multi", "set", "log"):
        value = [wrap(p) for p in view.values]
    elif view.type == "map":
        value = {name: show(field) for name, field in view.fields.items()}
    elif view.type == "top":
        value = [{"score": s, "id": i} for s, i in value]
    return {"type": view.type, "value": value}


def operation(key, found):
    from tidemill._kv import unwrap

    kind, verb, value = found.get("type"), found["op"], found.get("value")
    op = {"k": key}
    if verb == "remove" and kind == "map":
        return {**op, "o": "map.remove", "f": found["field"]}
    if verb == "expire":
        return {**op, "o": "expire", "at_ms": value}
    if kind == "map":
        kind = found["field_type"]
        op["f"] = found["field"]
    op["o"] = f"{kind}.{verb}"
    if kind in ("register", "multi", "set", "log"):
        op["p"] = unwrap(value)
    elif kind == "top":
        op.update(value, of=found["of"])
    elif value is not None:
        op["v"] = value
    if "keep" in found:
        op["keep"] = found["keep"]
    return op
